import { Type, type Static, type TObject, type TSchema, type TUnsafe } from "typebox";
import { inputSchema } from "../../provider/check/input-schema.ts";
import type { ResourceKind } from "../../provider/resource.ts";

/** As much of JSON Schema as the transformations below look at. */
export interface JsonSchema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly description?: string;
}

/** A schema as plain JSON, free of TypeBox's own marks. */
export const plain = (schema: TSchema): JsonSchema => JSON.parse(JSON.stringify(schema)) as JsonSchema;

type Parts<T> = {
  [K in keyof T]?: T[K] extends readonly unknown[] ? T[K] : T[K] extends object ? Parts<T[K]> : T[K];
};

/** The same object with every property optional, at every depth but inside lists, which replace as a whole. */
export function partsOf<T extends TObject, K extends keyof Static<T> & string = never>(
  kind: { readonly inputs: T },
  without: readonly K[] = [],
): TUnsafe<Omit<Parts<Static<T>>, K>> {
  return Type.Unsafe<Omit<Parts<Static<T>>, K>>(allOptional(plain(blockSchema(kind, without))));
}

/**
 * The inputs of a kind but those that every kind has: what a block of a node holds. Unknown fields are refused, as the provider does.
 * @param without inputs that follow from something else in the site file
 */
export function blockSchema(kind: { readonly inputs: TObject }, without: readonly string[] = []): TObject {
  const whole = inputSchema(kind as ResourceKind);
  const elsewhere = ["connection", "onDelete", ...without];
  const properties = Object.fromEntries(
    Object.entries(whole.properties as Record<string, TSchema>).filter(([name]) => !elsewhere.includes(name)),
  );
  const required = (whole.required as readonly string[]).filter((name) => name in properties);
  return { ...whole, properties, required } as unknown as TObject;
}

function allOptional(schema: JsonSchema): JsonSchema {
  if (schema.properties === undefined) return schema;
  const { required: _, ...rest } = schema;
  return { ...rest, properties: mapValues(schema.properties, allOptional) };
}

/** Allows null for every optional property of an object; list items are whole values, so nothing in them can be removed. */
export function nullable(schema: JsonSchema, removable: boolean): JsonSchema {
  const inner: JsonSchema =
    schema.properties === undefined
      ? schema.items === undefined || removable
        ? schema
        : { ...schema, items: nullable(schema.items, false) }
      : {
          ...schema,
          properties: Object.fromEntries(
            Object.entries(schema.properties).map(([key, value]) => [
              key,
              nullable(value, !(schema.required ?? []).includes(key)),
            ]),
          ),
        };
  if (!removable) return inner;
  const { description, ...rest } = inner;
  return {
    ...(description === undefined ? {} : { description }),
    anyOf: [rest, { type: "null" }],
  } as JsonSchema;
}

const mapValues = <A, B>(record: Readonly<Record<string, A>>, map: (value: A) => B): Record<string, B> =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value)]));
