import { Type, type TObject } from "typebox";
import { describe, expect, test } from "vitest";
import type { Devices } from "../../../../provider/device/device.ts";
import { packageSchema } from "../../../../provider/host/schema.ts";
import type { Handler } from "../../../../provider/host/handler.ts";
import { lifecycle } from "../../../../provider/lifecycle.ts";
import { kinds } from "../../../../provider/registry.ts";

interface Spec {
  readonly type?: string;
  readonly $ref?: string;
  readonly description?: string;
  readonly items?: Spec;
  readonly additionalProperties?: Spec;
  readonly oneOf?: readonly Spec[];
}
interface Schema {
  readonly types: Record<
    string,
    { properties?: Record<string, Spec>; enum?: { name?: string; value: unknown }[] }
  >;
  readonly resources: Record<
    string,
    { inputProperties: Record<string, Spec>; properties: Record<string, Spec> }
  >;
}

const options = { name: "edgeseal", version: "1.0.0", description: "x" };
const schemaOf = (inputs: TObject): Schema => {
  const handler = { token: "edgeseal:m:Kind", description: "A kind.", inputs, state: Type.Object({}) };
  return JSON.parse(packageSchema({ ...options, handlers: [handler as unknown as Handler] })) as Schema;
};
const inputOf = (schema: TObject["properties"][string]) => {
  const made = schemaOf(Type.Object({ it: schema }));
  return { spec: made.resources["edgeseal:m:Kind"]?.inputProperties["it"], types: made.types };
};

describe("TypeBox in the words of a package schema", () => {
  test.each([
    ["a string", Type.String(), { type: "string" }],
    ["a list", Type.Array(Type.Boolean()), { type: "array", items: { type: "boolean" } }],
    [
      "a map",
      Type.Record(Type.String(), Type.Number()),
      { type: "object", additionalProperties: { type: "number" } },
    ],
    ["a value or null", Type.Union([Type.Integer(), Type.Null()]), { type: "integer" }],
    [
      "one or the other",
      Type.Union([Type.String(), Type.Integer()]),
      { oneOf: [{ type: "string" }, { type: "integer" }] },
    ],
    ["anything", Type.Unknown(), { $ref: "pulumi.json#/Any" }],
    ["a single literal", Type.Literal("x"), { type: "string" }],
  ])("%s", (_, schema, spec) => {
    expect(inputOf(schema).spec).toEqual(spec);
  });

  test.each([
    ["literals", Type.Union([Type.Literal("signed-boot"), Type.Literal("none")])],
    ["an enum", Type.Enum(["signed-boot", "none"])],
  ])("an enumeration of %s gets a name, and names for its values", (_, schema) => {
    const { spec, types } = inputOf(schema);
    expect(spec).toEqual({ $ref: "#/types/edgeseal:m:KindIt" });
    expect(types["edgeseal:m:KindIt"]?.enum).toEqual([
      { name: "SignedBoot", value: "signed-boot" },
      { name: "None", value: "none" },
    ]);
  });

  test("equal objects are one type, different ones in one place are two", () => {
    const point = (more: { readonly title: string; readonly description?: string }) =>
      Type.Object({ x: Type.Integer() }, more);
    const { types } = schemaOf(
      Type.Object({
        a: point({ title: "Point" }),
        b: Type.Optional(point({ title: "Point" })),
        c: point({ title: "Point", description: "other" }),
      }),
    );
    expect(Object.keys(types)).toEqual(["edgeseal:index:Point", "edgeseal:index:Point2"]);
  });

  test("what it has no words for is an error that names the place", () => {
    expect(() => inputOf({ type: "tuple" })).toThrow("m:KindIt: a package schema can't say the type 'tuple'");
  });
});

describe("the schema of all kinds", () => {
  const noDevices = (): Promise<Devices> => Promise.reject(new Error("no device is needed for a schema"));
  const handlers = kinds.map((kind) => lifecycle(kind, noDevices));
  const text = packageSchema({ ...options, handlers });
  const schema = JSON.parse(text) as Schema;

  test("has every kind", () => {
    expect(kinds.length).toBeGreaterThan(0);
    expect(Object.keys(schema.resources)).toEqual(kinds.map(({ token }) => token));
  });

  test("refers to nothing that is not there", () => {
    const refs = [...text.matchAll(/"#\/types\/([^"]+)"/g)].map(([, token]) => token ?? "");
    expect(refs.filter((token) => !(token in schema.types))).toEqual([]);
  });

  test.each(kinds.map(({ token }) => token))("describes every input of %s", (token) => {
    const inputs = Object.entries(schema.resources[token]?.inputProperties ?? {});
    expect(inputs.filter(([, { description }]) => description === undefined).map(([name]) => name)).toEqual(
      [],
    );
  });

  test.each(handlers)("$token: its inputs can be judged", async (handler) => {
    const call = { urn: "urn:pulumi:dev::site::edgeseal:test:Any::it" } as never;
    const { failures } = await handler.check({ inputs: {}, secrets: [] }, call);
    expect(failures.map(({ property }) => property)).toContain("connection");
  });
});
