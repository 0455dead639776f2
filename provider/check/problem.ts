import type { ErrorObject } from "ajv";
import { nearest } from "./nearest.ts";

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
}

/** Longer texts are not quoted: nobody reads them, and a key pasted into the wrong field would be shown. */
const longestQuote = 80;

/** Longer patterns are not quoted where a description says the same for people. */
const longestPattern = 60;

/**
 * What was expected, what was given, and a hint.
 * @param hidden Whether the value is a secret, of which nothing may be shown.
 */
export function describeProblem(error: ErrorObject, hidden: boolean): string {
  const schema = (error.parentSchema ?? {}) as JsonSchema;
  const parameters = error.params as Readonly<Record<string, unknown>>;
  const given = describeValue(error.data, hidden);
  switch (error.keyword) {
    case "required": {
      const missing = String(parameters["missingProperty"]);
      const property = schema.properties?.[missing];
      return `required, but not given; expected ${expectation(property ?? {})}${about(property)}`;
    }
    case "additionalProperties":
      return unknownField(String(parameters["additionalProperty"]), Object.keys(schema.properties ?? {}));
    case "anyOf":
    case "oneOf":
    case "enum":
    case "const":
    case "type":
      return `expected ${expectation(schema)}, got ${given}${hint(schema, error.data, hidden)}${about(schema)}`;
    case "pattern":
      return String(parameters["pattern"]).length > longestPattern && schema.description !== undefined
        ? `not of the expected form, got ${given}${about(schema)}`
        : `expected a string that matches ${String(parameters["pattern"])}, got ${given}${about(schema)}`;
    case "minItems":
    case "minLength": {
      const what = error.keyword === "minItems" ? "item" : "character";
      const limit = Number(parameters["limit"]);
      return `expected at least ${limit} ${what}${limit === 1 ? "" : "s"}, got ${given}${about(schema)}`;
    }
    default:
      // minimum, maxLength, uniqueItems, ...: ajv's own words name the limit, and no value.
      return `${error.message ?? `fails '${error.keyword}'`}, got ${given}${about(schema)}`;
  }
}

function unknownField(name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  const suggestion = near === undefined ? "" : `; did you mean '${near}'?`;
  return `unknown field${suggestion} (known: ${known.join(", ")})`;
}

function hint(schema: JsonSchema, data: unknown, hidden: boolean): string {
  if (hidden || typeof data !== "string" || data.length > longestQuote) return "";
  const takesNumber = (each: JsonSchema): boolean =>
    each.type === "integer" || (each.anyOf ?? []).some(takesNumber);
  if (/^\d+$/.test(data) && takesNumber(schema)) return "; write the number without quotes";
  const near = nearest(
    data,
    choices(schema).filter((choice) => typeof choice === "string"),
  );
  return near === undefined ? "" : `; did you mean '${near}'?`;
}

function choices(schema: JsonSchema): readonly unknown[] {
  if (schema.enum !== undefined) return schema.enum;
  if (schema.const !== undefined) return [schema.const];
  return (schema.anyOf ?? []).flatMap(choices);
}

function expectation(schema: JsonSchema): string {
  const all = choices(schema);
  const complete = schema.anyOf === undefined || schema.anyOf.every((branch) => choices(branch).length > 0);
  if (all.length > 0 && complete) {
    return all.length === 1
      ? JSON.stringify(all[0])
      : `one of ${all.map((value) => JSON.stringify(value)).join(", ")}`;
  }
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(alternative))].join(" or ");
  if (schema.type === undefined) return "a value";
  const types = typeof schema.type === "string" ? [schema.type] : schema.type;
  return types.map(withArticle).join(" or ");
}

/** One of several: what its type alone does not say is what tells it from the others, and from the value that was given. */
function alternative(schema: JsonSchema): string {
  const { type, minimum, maximum, description } = schema;
  const limits = minimum === undefined || maximum === undefined ? "" : ` from ${minimum} to ${maximum}`;
  const form = type === "string" && description !== undefined ? about(schema) : "";
  return `${expectation(schema)}${limits}${form}`;
}

/** The property's own description, which says shape and unit. */
const about = (schema: JsonSchema | undefined): string =>
  schema?.description === undefined ? "" : ` (${schema.description.replace(/\.$/, "")})`;

function describeValue(value: unknown, hidden: boolean): string {
  if (hidden) return "a secret value";
  if (value === null) return "null";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  switch (typeof value) {
    case "string":
      return value.length > longestQuote || value.includes("PRIVATE KEY")
        ? `a string of ${value.length} characters`
        : `the string ${JSON.stringify(value)}`;
    case "number":
    case "boolean":
      return String(value);
    default:
      return withArticle(typeof value);
  }
}

const withArticle = (noun: string): string =>
  noun === "null" ? noun : `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
