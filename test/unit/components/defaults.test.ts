import { expect, test } from "vitest";
import { blockDefaults, withDefaults, type BlockArgs } from "../../../components/block-args.ts";
import { blockKinds } from "../../../components/site-file/schema.ts";
import { blockSchema } from "../../../components/site-file/schema-parts.ts";
import { blockNames, blockTypes } from "../../../policies/node.ts";
import { inputValidator } from "../../../provider/check/input-validator.ts";

test.each(blockNames)("%s has the defaults of its kind", (name) => {
  const properties = blockSchema(blockKinds[name]).properties as Record<
    string,
    { readonly default?: unknown }
  >;
  const defaults = Object.entries(properties).flatMap(([key, schema]) =>
    schema.default === undefined ? [] : [[key, schema.default]],
  );
  expect(blockDefaults[name]).toEqual(Object.fromEntries(defaults));
});

test.each(blockNames)("%s stands for the type of its kind", (name) => {
  expect(blockTypes[name]).toBe(blockKinds[name].token);
});

test("what is filled in is what the provider would have filled in", () => {
  const args: BlockArgs = {
    swap: { leftoverFiles: "keep" },
    firewall: {
      management: ["192.0.2.0/24"],
      allow: [
        { name: "a", to: "203.0.113.5" },
        { name: "b", from: "192.0.2.9", protocol: "udp" },
      ],
    },
  };
  const blocks = withDefaults(args);
  for (const name of blockNames) {
    const { inputs, problems } = inputValidator(blockSchema(blockKinds[name])).validate(
      structuredClone(args[name] ?? {}) as never,
      [],
    );
    expect(problems).toEqual([]);
    expect(blocks[name]).toEqual(inputs);
  }
});
