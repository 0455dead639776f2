/** One property that is not as it must be. */
export interface Difference {
  /** Property path as Pulumi writes it, e.g. `rules["allow-dns"]` or `activeAreas`. */
  readonly path: string;
  readonly kind: "add" | "delete" | "update";
  readonly observed: unknown;
  readonly desired: unknown;
}

/**
 * Compares what must hold with what was observed. Objects are compared property by property (a key of `desired` that is missing is an `add`, one
 * that is different an `update`); inside a compared object, keys that are only observed are a `delete`. At the top level what is only observed is
 * not compared: kinds report more than they enforce. Arrays and scalars are compared as values.
 */
export function diffState(desired: object, observed: object): Difference[] {
  const have = observed as Readonly<Record<string, unknown>>;
  return Object.entries(desired).flatMap(([key, want]) => differences(key, want, have[key]));
}

function differences(path: string, want: unknown, have: unknown): Difference[] {
  if (isRecord(want) && isRecord(have)) {
    const keys = [...new Set([...Object.keys(want), ...Object.keys(have)])];
    return keys.flatMap((key) => differences(`${path}${step(key)}`, want[key], have[key]));
  }
  if (equal(want, have)) return [];
  const kind = have === undefined ? "add" : want === undefined ? "delete" : "update";
  return [{ path, kind, observed: have, desired: want }];
}

const step = (key: string): string =>
  /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function equal(a: unknown, b: unknown): boolean {
  if (Array.isArray(a) && Array.isArray(b))
    return a.length === b.length && a.every((item, i) => equal(item, b[i]));
  if (isRecord(a) && isRecord(b)) {
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => key in b && equal(a[key], b[key]));
  }
  return a === b;
}
