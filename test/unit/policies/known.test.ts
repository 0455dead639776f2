import * as proxy from "@pulumi/policy/proxy.js";
import { expect, test } from "vitest";
import { known } from "../../../policies/known.ts";
import { unknownValue } from "../../../policies/node.ts";

// Not in the types of @pulumi/policy, though it is what a policy is handed.
const { unknownCheckingProxy, unknownStringValue } = proxy as unknown as {
  readonly unknownCheckingProxy: (properties: object) => Record<string, unknown>;
  readonly unknownStringValue: string;
};

test("an unknown, at any depth, becomes a value instead of an exception that would open the gate", () => {
  const proxied = unknownCheckingProxy({
    mode: unknownStringValue,
    plain: "x",
    list: ["a", unknownStringValue, { deep: unknownStringValue, flag: false }],
    nothing: null,
  });
  expect(() => proxied.mode).toThrow("can't be known during preview");
  expect(known(proxied)).toEqual({
    mode: unknownValue,
    plain: "x",
    list: ["a", unknownValue, { deep: unknownValue, flag: false }],
    nothing: null,
  });
});
