import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { inferenceSchema } from "../../../components/site-file/inference-schema.ts";
import { blockSchema } from "../../../components/site-file/schema-parts.ts";
import { blockKinds, siteSchema } from "../../../components/site-file/schema.ts";
import { siteFileBlock, type BlockName } from "../../../policies/node.ts";
import { checklist, points } from "../../../policies/checklist.ts";

const read = (name: string) =>
  readFileSync(fileURLToPath(new URL(`../../../docs/${name}`, import.meta.url)), "utf8");

describe("docs/checklist.md", () => {
  const text = read("checklist.md").replaceAll(/\s+/g, " ");

  test.each(Object.entries(points))("has point %s in its words", (point, words) => {
    expect(text).toContain(`### Point ${point} ${words}.`);
  });

  test.each(checklist.map((control) => [control.id, control] as const))(
    "has %s, with what holds and the mend",
    (id, control) => {
      expect(text).toContain(`#### \`${id}\` ${control.title}.`);
      if (control.block !== undefined) expect(text).toContain(`Mend: ${control.mend}.`);
    },
  );

  test("has no control that there is not", () => {
    expect([...text.matchAll(/#### `([^`]+)`/g)].map(([, id]) => id)).toEqual(checklist.map(({ id }) => id));
  });
});

describe("docs/site-file.md", () => {
  const text = read("site-file.md");
  const { nodes } = siteSchema.properties;

  test.each([...Object.keys(siteSchema.properties), ...Object.keys(nodes.items.properties)])(
    "has the field %s",
    (field) => {
      expect(text).toMatch(new RegExp(`^\\| \`${field}\` `, "m"));
    },
  );

  const rowOf = (block: string): string =>
    text.split("\n").find((line) => line.startsWith(`| \`${block}\` `)) ?? "";

  test.each(Object.entries(blockKinds).filter(([name]) => siteFileBlock(name as BlockName) !== "inference"))(
    "has every field of %s",
    (block, kind) => {
      for (const field of Object.keys(blockSchema(kind).properties)) expect(rowOf(block)).toContain(field);
    },
  );

  test("has every field of inference, which stands for four kinds", () => {
    const { model, ...others } = inferenceSchema.properties;
    const fields = [...Object.keys(others), ...Object.keys(model.properties)];
    for (const field of fields) expect(rowOf("inference")).toContain(`\`${field}\``);
  });
});
