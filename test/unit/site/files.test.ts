import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Ajv } from "ajv";
import { describe, expect, test } from "vitest";
import { parseDocument } from "yaml";
import { checkSite } from "../../../cli/site-check.ts";
import { editorSchemaText, siteJsonSchema } from "../../../components/site-file/editor-schema.ts";
import { readSite } from "../../../components/site-file/read.ts";
import { hostKey } from "./site-text.ts";

const stacks = fileURLToPath(new URL("../../../stacks/", import.meta.url));
const files = readdirSync(stacks).filter((name) => name.endsWith(".yaml"));

test("stacks/site.schema.json is what `edgeseal site schema --write` writes", () => {
  expect(readFileSync(`${stacks}site.schema.json`, "utf8")).toBe(editorSchemaText());
});

describe.each(files)("stacks/%s", (name) => {
  const text = readFileSync(`${stacks}${name}`, "utf8");

  test("has the schema in its first line, for editors", () => {
    expect(text.split("\n")[0]).toBe("# yaml-language-server: $schema=./site.schema.json");
  });

  test("is right by that schema, too", () => {
    const ajv = new Ajv({ strict: false, allErrors: true });
    ajv.validate(siteJsonSchema(), parseDocument(text, { merge: true }).toJS());
    expect(ajv.errors).toBeNull();
  });

  test("meets the checklist while its waivers hold", () => {
    expect(checkSite(`${stacks}${name}`, new Date("2027-01-01T00:00:00Z")).lines.join("\n")).toMatch(
      /the checklist is met, waivers counted in$/,
    );
  });

  test("does not when they have expired", () => {
    const { passes, lines } = checkSite(`${stacks}${name}`, new Date("2027-07-01T00:00:00Z"));
    expect(passes).toBe(false);
    expect(lines.join("\n")).toContain("expired on 2027-06-30");
  });
});

describe("the schema for editors", () => {
  const validate = new Ajv({ strict: false }).compile(siteJsonSchema());
  const site = (node: object, defaults: object = {}) => ({
    site: "x",
    defaults,
    nodes: [{ name: "pi-1", address: "192.0.2.1", hostKey, ...node }],
  });

  test.each([
    [
      "null, where it removes what defaults say",
      site({ user: null, firewall: { dns: null }, swap: null }),
      true,
    ],
    ["null for what a node must have", site({ address: null }), false],
    ["null in a list, which is a whole value", site({ firewall: { allow: [null] } }), false],
    [
      "part of a block",
      site({ firewall: { egress: "open" } }, { firewall: { management: ["192.0.2.0/24"] } }),
      true,
    ],
    ["a TPM that a node pins", site({ tpm: { endorsementKeySha256: "ab".repeat(32) } }, { tpm: {} }), true],
    ["a TPM that all nodes pin", site({}, { tpm: { endorsementKeySha256: "ab".repeat(32) } }), false],
    ["an unknown field", site({ firewall: { egres: "open" } }), false],
    ["a reference to a secret", site({ privateKey: { config: "sshKey" } }), true],
    ["a literal key", site({ privateKey: "x" }), false],
  ])("%s", (_, value, valid) => {
    expect(validate(value)).toBe(valid);
  });
});

test("a site file that is not there is told with the mend", () => {
  expect(() => readSite("stacks/nowhere.yaml")).toThrow(
    "stacks/nowhere.yaml: there is no such site file; copy stacks/example.yaml there and fill it in (docs/site-file.md), or set `edgeseal:siteFile` to where it is",
  );
});
