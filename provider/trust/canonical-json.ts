/*
 * The JSON Canonicalization Scheme (RFC 8785), and a parser that takes only texts which can be read in one way. What is signed is the canonical form of a
 * document, so that white space and the order of fields, which editors and merges change, don't count.
 */

/** A value that JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/**
 * The canonical form of a value: no white space, keys sorted by their UTF-16 code units, numbers and strings as ECMAScript writes them (RFC 8785, 3.2).
 * @throws TypeError for what has no canonical form: `undefined`, functions, numbers that are not finite, lone surrogates, objects of a class.
 */
export function canonicalJson(value: unknown): string {
  switch (typeof value) {
    case "boolean":
      return String(value);
    case "number":
      if (!Number.isFinite(value)) throw new TypeError(`${value} can't be written as JSON`);
      return JSON.stringify(value);
    case "string":
      // JSON.stringify would write a lone surrogate as an escape, which RFC 8785 (3.2.2.2) does not allow.
      if (!value.isWellFormed())
        throw new TypeError("a text with half a surrogate pair can't be written as JSON");
      return JSON.stringify(value);
    case "object":
      return canonicalObject(value);
    default:
      throw new TypeError(`a value of type ${typeof value} can't be written as JSON`);
  }
}

function canonicalObject(value: object | null): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    throw new TypeError("only plain objects and lists can be written as JSON");
  }
  // The default order of `sort` is that of UTF-16 code units.
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, item]) => `${canonicalJson(key)}:${canonicalJson(item)}`).join(",")}}`;
}

/** A JSON text that is not valid, or that two readers could understand differently. */
export class AmbiguousJson extends Error {
  override readonly name = "AmbiguousJson";
}

/** A string, or a run of white space between other tokens. */
const stringsAndSpaces = /"(?:[^"\\]|\\.)*"|[ \t\r\n]+/g;

/**
 * Parses JSON that can be read in one way only. `JSON.parse` takes the last of two equal keys, where a person, or another program, may go by the first; and it takes
 * any spelling of a number or a letter. Here a key given twice, a number out of range (`1e999`, `0.10`) or a needless escape (`\u0041`) is an error.
 * White space and the order of keys are free.
 * @throws AmbiguousJson
 */
export function parseUnambiguousJson(text: string): Json {
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch (error) {
    throw new AmbiguousJson(`not valid JSON: ${(error as Error).message}`, { cause: error });
  }
  // Written again, it has each key once and one spelling of everything; a text that said more differs.
  const compact = text.replaceAll(stringsAndSpaces, (token) => (token.startsWith('"') ? token : ""));
  const again = JSON.stringify(value);
  if (compact === again) return value;
  let at = 0;
  while (compact[at] === again[at]) at += 1;
  throw new AmbiguousJson(
    `can be read in two ways near ${JSON.stringify(compact.slice(Math.max(0, at - 30), at + 30))}: a key is given twice, or a value is spelt unusually`,
  );
}
