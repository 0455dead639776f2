import { expect, test } from "vitest";
import { InvalidRequest } from "../../../../provider/host/errors.ts";
import { struct } from "../../../../provider/host/proto.ts";
import { formatPath, Unknown, unknownPaths, type Properties } from "../../../../provider/host/values.ts";
import { decodeStruct, encodeStruct } from "../../../../provider/host/wire.ts";

const signatureKey = "4dabf18193072939515e22adb298388d";
const secret = (value: unknown) => ({ [signatureKey]: "1b47061264138c4ac30d75fd1eb44270", value });
const unknownString = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const decode = (wire: object) =>
  decodeStruct(struct.Struct.fromJavaScript(wire as Parameters<typeof struct.Struct.fromJavaScript>[0]));

test("secrets are unwrapped, and their places noted: the outermost only", () => {
  const wire = { a: secret("x"), list: [1, secret(2)], whole: secret({ key: secret("y"), plain: 1 }) };
  expect(decode(wire)).toEqual({
    properties: { a: "x", list: [1, 2], whole: { key: "y", plain: 1 } },
    secrets: [["a"], ["list", 1], ["whole"]],
  });
});

test("what was unwrapped is wrapped again at its places", () => {
  const wire = { a: secret("x"), list: [1, secret(2)], whole: secret({ key: "y" }), plain: { b: true } };
  const { properties, secrets } = decode(wire);
  expect(encodeStruct(properties, secrets).toJavaScript()).toEqual(wire);
});

test.each([
  "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
  "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
  "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
  "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
  "030794c1-ac77-496b-92df-f27374a8bd58",
  "e48ece36-62e2-4504-bad9-02848725956a",
  "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
])("%s stands for what is not known yet", (mark) => {
  expect(decode({ a: mark, list: [mark] }).properties).toEqual({ a: Unknown, list: [Unknown] });
});

test("what is not known yet stays so, also within a secret", () => {
  const { properties, secrets } = decode({ a: secret(unknownString) });
  expect(properties).toEqual({ a: Unknown });
  expect(encodeStruct(properties, secrets).toJavaScript()).toEqual({ a: secret(unknownString) });
});

test("a property that is null is one that is not given; an item that is null stays", () => {
  expect(decode({ a: null, b: { c: null }, list: [null] }).properties).toEqual({ b: {}, list: [null] });
});

test("properties that are undefined are left out", () => {
  const properties = { a: undefined, b: 1 } as unknown as Properties;
  expect(encodeStruct(properties, []).toJavaScript()).toEqual({ b: 1 });
});

test("a key named __proto__ gives no object another prototype", () => {
  const { properties } = decode(JSON.parse('{"a": {"__proto__": {"polluted": true}}}') as object);
  const a = properties["a"] as object;
  expect(Object.getPrototypeOf(a)).toBe(Object.prototype);
  expect("polluted" in a).toBe(false);
});

test.each([
  ["c44067f5952c0a294b673a41bacd8c17", "an asset"],
  ["0def7320c3a5731c473e5ecbe6d01bc7", "an archive"],
  ["5cf8f73096256a8f31e491e813e4eb8e", "a resource"],
  ["d0e6a833031e9bbcd3f4e8bde6ca49a4", "a value of an unknown kind"],
])("the mark %s, %s, is refused by its place", (signature, what) => {
  let refused: unknown;
  try {
    decode({ list: [{ text: { [signatureKey]: signature } }] });
  } catch (error) {
    refused = error;
  }
  expect(refused).toBeInstanceOf(InvalidRequest);
  expect(refused).toMatchObject({
    message: `expected plain data, got ${what}; give the value itself`,
    property: "list[0].text",
  });
});

test("no struct at all is no properties", () => {
  expect(decodeStruct(undefined)).toEqual({ properties: {}, secrets: [] });
});

test("paths are written as Pulumi writes them", () => {
  expect(formatPath(["allow", 2, "to"])).toBe("allow[2].to");
  expect(formatPath(["rules", "allow-dns", "port"])).toBe('rules["allow-dns"].port');
  expect(unknownPaths({ a: [Unknown, { b: Unknown }], c: 1 })).toEqual([
    ["a", 0],
    ["a", 1, "b"],
  ]);
});
