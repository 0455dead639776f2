import { expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";

test("nothing differs where what must hold, holds", () => {
  const desired = { areas: [], limits: { core: 0 }, rules: [{ to: "10.0.0.0/8", ports: [443] }] };
  expect(diffState(desired, structuredClone(desired))).toEqual([]);
});

test("what is only observed is not compared at the top, and is one too many within a compared object", () => {
  expect(diffState({ limits: { core: 0 } }, { kernel: "6.12", limits: { core: 0, stack: 1 } })).toEqual([
    { path: "limits.stack", kind: "delete", observed: 1, desired: undefined },
  ]);
});

test("what is missing is an add, what is different an update", () => {
  expect(diffState({ mode: "off", areas: [] }, { areas: ["/swapfile"] })).toEqual([
    { path: "mode", kind: "add", observed: undefined, desired: "off" },
    { path: "areas", kind: "update", observed: ["/swapfile"], desired: [] },
  ]);
});

test("keys that are no identifiers are quoted as Pulumi quotes them", () => {
  const differences = diffState({ rules: { "allow-dns": 1, 'a"b': 1, plain: 1 } }, { rules: {} });
  expect(differences.map(({ path }) => path)).toEqual([
    'rules["allow-dns"]',
    'rules["a\\"b"]',
    "rules.plain",
  ]);
});

test("lists are values: order counts, and so does length", () => {
  const paths = (desired: unknown[], observed: unknown[]) =>
    diffState({ list: desired }, { list: observed }).map(({ path }) => path);
  expect(paths([1, 2], [2, 1])).toEqual(["list"]);
  expect(paths([1], [1, 1])).toEqual(["list"]);
  expect(paths([{ a: 1 }], [{ a: 1, b: 2 }])).toEqual(["list"]);
  expect(paths([{ a: [1] }], [{ a: [1] }])).toEqual([]);
});

test("an object where a scalar must be, and the other way round, is one update of the whole", () => {
  expect(diffState({ a: { b: 1 } }, { a: "b" })).toEqual([
    { path: "a", kind: "update", observed: "b", desired: { b: 1 } },
  ]);
  expect(diffState({ a: 1 }, { a: { b: 1 } })).toHaveLength(1);
});

test("null is not absent, and 0 is not false", () => {
  expect(diffState({ a: null }, {})).toHaveLength(1);
  expect(diffState({ a: 0 }, { a: false })).toHaveLength(1);
});
