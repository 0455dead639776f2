import type { TSchema } from "typebox";
import { isList, isProperties, type Path, type Properties, type Value } from "./values.ts";

/** Shorter strings are not looked for in other texts: they would be found by chance, and hide nothing. */
const shortestNeedle = 6;

interface JsonSchema {
  readonly secret?: boolean;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly patternProperties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly items?: JsonSchema | readonly JsonSchema[];
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly allOf?: readonly JsonSchema[];
}

/** The places in `value` that the schema marks with `secret: true`. */
export function annotatedSecrets(schema: TSchema, value: Properties): Path[] {
  return annotated(schema, value, []);
}

function annotated(schema: JsonSchema, value: Value | undefined, at: Path): Path[] {
  if (value === undefined || value === null) return [];
  if (schema.secret === true) return [at];
  const found = [...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.allOf ?? [])].flatMap(
    (branch) => annotated(branch, value, at),
  );
  if (isList(value)) {
    const items = schema.items;
    value.forEach((item, index) => {
      const itemSchema = isTuple(items) ? items[index] : items;
      if (itemSchema !== undefined) found.push(...annotated(itemSchema, item, [...at, index]));
    });
  } else if (isProperties(value)) {
    for (const [key, item] of Object.entries(value)) {
      const itemSchema =
        schema.properties?.[key] ??
        Object.entries(schema.patternProperties ?? {}).find(([pattern]) =>
          new RegExp(pattern, "u").test(key),
        )?.[1] ??
        (typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined);
      if (itemSchema !== undefined) found.push(...annotated(itemSchema, item, [...at, key]));
    }
  }
  return found;
}

const isTuple = (items: JsonSchema["items"]): items is readonly JsonSchema[] => Array.isArray(items);

/** The value at a path, and how much of the path is there. */
function resolve(value: Value, path: Path): { readonly value: Value; readonly depth: number } {
  let current: Value = value;
  for (const [depth, part] of path.entries()) {
    const next: Value | undefined =
      isList(current) && typeof part === "number"
        ? current[part]
        : isProperties(current) && typeof part === "string"
          ? current[part]
          : undefined;
    if (next === undefined) return { value: current, depth };
    current = next;
  }
  return { value: current, depth: path.length };
}

/** Every string in the values at `paths`. */
export function secretTexts(properties: Properties, paths: readonly Path[]): string[] {
  const texts: string[] = [];
  const collect = (value: Value): void => {
    if (typeof value === "string") texts.push(value);
    else if (isList(value)) value.forEach(collect);
    else if (isProperties(value)) Object.values(value).forEach(collect);
  };
  for (const path of paths) {
    const found = resolve(properties, path);
    if (found.depth === path.length) collect(found.value);
  }
  return texts;
}

/**
 * Where outputs must be wrapped although no schema says so:
 * - at the place of a secret input of the same name, or the deepest part of that place which is there (lists may have been reordered);
 * - wherever the text of a secret input turns up, also as the name of a property (then the whole object around it).
 */
export function inheritedSecrets(
  outputs: Properties,
  inputs: Properties,
  inputSecrets: readonly Path[],
): Path[] {
  const found: Path[] = [];
  for (const path of inputSecrets) {
    const { depth } = resolve(outputs, path);
    if (depth > 0) found.push(path.slice(0, depth));
  }
  const needles = secretTexts(inputs, inputSecrets).filter((text) => text.length >= shortestNeedle);
  if (needles.length === 0) return found;
  const tainted = (text: string): boolean => needles.some((needle) => text.includes(needle));
  const search = (value: Value, at: Path): void => {
    if (typeof value === "string") {
      if (tainted(value)) found.push(at);
    } else if (isList(value)) value.forEach((item, index) => search(item, [...at, index]));
    else if (isProperties(value)) {
      if (Object.keys(value).some(tainted) && at.length > 0) found.push(at);
      else for (const [key, item] of Object.entries(value)) search(item, [...at, key]);
    }
  };
  search(outputs, []);
  return found;
}

/**
 * Takes the secrets that this process has seen out of any text that leaves it other than as a wrapped property: errors, check failures, logs.
 * The last line of defence: no code path puts secrets into messages on purpose.
 */
export class Redactor {
  #needles: readonly string[] = [];

  learn(texts: readonly string[]): void {
    const needles = new Set(this.#needles);
    for (const text of texts) {
      // A key file may show up in parts; its armour lines are no secret, and telling.
      const lines = text.split("\n").map((line) => line.trim());
      const parts = lines.filter((line) => line.length >= 16 && !line.startsWith("-----"));
      for (const raw of [text, text.trim(), ...parts]) {
        if (raw.length < shortestNeedle) continue;
        needles.add(raw);
        needles.add(JSON.stringify(raw).slice(1, -1));
        needles.add(Buffer.from(raw).toString("base64"));
        needles.add(Buffer.from(raw).toString("hex"));
      }
    }
    if (needles.size !== this.#needles.length)
      this.#needles = [...needles].sort((a, b) => b.length - a.length);
  }

  scrub(text: string): string {
    return this.#needles.reduce((rest, needle) => rest.replaceAll(needle, "[secret]"), text);
  }
}
