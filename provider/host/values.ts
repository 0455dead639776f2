/**
 * Stands for a value that is not computed yet: during a preview, an output of a resource that does not exist.
 * A symbol, so that no schema and no comparison can take it for a real value.
 */
export const Unknown: unique symbol = Symbol("not yet computed");
export type Unknown = typeof Unknown;

/** What a property may hold once secrets are unwrapped. */
export type Value = null | boolean | number | string | Unknown | readonly Value[] | Properties;

export interface Properties {
  readonly [key: string]: Value;
}

/** Where a value sits in a bag of properties, from the outside in. */
export type Path = readonly (string | number)[];

/** A path as Pulumi writes it: `allow[2].to`, `rules["allow-dns"]`. */
export function formatPath(path: Path): string {
  let text = "";
  for (const part of path) {
    if (typeof part === "number") text += `[${part}]`;
    else if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(part)) text += `[${JSON.stringify(part)}]`;
    else text += text === "" ? part : `.${part}`;
  }
  return text;
}

export const isProperties = (value: unknown): value is Properties =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const isList = (value: unknown): value is readonly Value[] => Array.isArray(value);

/** Every path at which a value is not computed yet. */
export function unknownPaths(value: Value, at: Path = []): Path[] {
  if (value === Unknown) return [at];
  if (isList(value)) return value.flatMap((item, index) => unknownPaths(item, [...at, index]));
  if (isProperties(value))
    return Object.entries(value).flatMap(([key, item]) => unknownPaths(item, [...at, key]));
  return [];
}

/** A deep copy that its owner may write to. */
export function copyValue(value: Value): Value {
  if (isList(value)) return value.map(copyValue);
  if (isProperties(value)) return copyProperties(value);
  return value;
}

export const copyProperties = (properties: Properties): Record<string, Value> =>
  Object.fromEntries(Object.entries(properties).map(([key, value]) => [key, copyValue(value)]));
