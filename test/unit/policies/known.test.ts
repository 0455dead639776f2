import { unknownCheckingProxy, unknownStringValue } from "@pulumi/policy/proxy.js";
import { expect, test } from "vitest";
import { known } from "../../../policies/known.ts";
import { unknownValue } from "../../../policies/node.ts";

test("an unknown, at any depth, becomes a value instead of an exception that would open the gate", () => {
  const proxied = unknownCheckingProxy({
    mode: unknownStringValue,
    plain: "x",
    list: ["a", unknownStringValue, { deep: unknownStringValue, flag: false }],
    nothing: null,
  }) as Record<string, unknown>;
  expect(() => proxied.mode).toThrow("can't be known during preview");
  expect(known(proxied)).toEqual({
    mode: unknownValue,
    plain: "x",
    list: ["a", unknownValue, { deep: unknownValue, flag: false }],
    nothing: null,
  });
});
