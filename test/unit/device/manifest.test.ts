import { Type } from "typebox";
import { describe, expect, test } from "vitest";
import {
  manifestEntry,
  manifestProbe,
  probesOfManifest,
  renderManifestChange,
} from "../../../provider/device/manifest.ts";
import type { PartOutput } from "../../../provider/device/probe.ts";
import { defineResource, type ResourceKind } from "../../../provider/resource.ts";

const named = defineResource({
  token: "edgeseal:test:Named",
  description: "",
  inputs: Type.Object(
    {
      name: Type.String({ pattern: "^[a-z]+$" }),
      password: Type.String({ secret: true }),
      users: Type.Optional(
        Type.Array(
          Type.Object({ login: Type.String(), token: Type.Optional(Type.String({ secret: true })) }),
        ),
      ),
      labels: Type.Optional(Type.Record(Type.String(), Type.String())),
      source: Type.Optional(
        Type.Union([
          Type.Object({ url: Type.String() }),
          Type.Object({ inline: Type.String({ secret: true }), format: Type.String() }),
        ]),
      ),
    },
    { additionalProperties: false },
  ),
  state: Type.Object({}),
  check: ({ name }) => (name === "forbidden" ? [{ path: "name", message: "no" }] : []),
  observe: ({ name }) => ({
    id: `edgeseal:test:Named#${name}`,
    parts: { a: ":" },
    parse: () => ({ outcome: "absent" }),
  }),
  desired: () => ({}),
  plan: () => [],
  revert: () => [],
}) as unknown as ResourceKind;

const fixed = defineResource({
  ...named,
  token: "edgeseal:test:Fixed",
  observe: () => ({ id: "edgeseal:test:Fixed", parts: { a: ":" }, parse: () => ({ outcome: "absent" }) }),
});

const kinds = [named, fixed];
const read = (...lines: readonly string[]): Readonly<Record<string, PartOutput>> => ({
  entries: { code: 0, stdout: lines.join("\n"), stderr: "" },
});
const ids = (parts: Readonly<Record<string, PartOutput>> | undefined): readonly string[] =>
  probesOfManifest(parts, kinds).map(({ id }) => id);

describe("an entry", () => {
  test("brings back the probe that it was made of, without the secrets that the schema requires", () => {
    expect(ids(read(manifestEntry(named, { name: "abc", password: "canary" }), ""))).toEqual([
      "edgeseal:test:Named#abc",
    ]);
  });

  test("holds what the schema allows, at any depth, and no secret", () => {
    const entry = manifestEntry(named, {
      name: "abc",
      password: "canary",
      users: [{ login: "a", token: "canary" }],
      labels: { zone: "1" },
      source: { inline: "canary", format: "pem" },
      connection: { privateKey: "canary" },
    });
    expect(JSON.parse(entry)).toEqual({
      token: "edgeseal:test:Named",
      inputs: { name: "abc", users: [{ login: "a" }], labels: { zone: "1" }, source: { format: "pem" } },
    });
    expect(entry).not.toContain("\n");
  });
});

describe("what a device says is in its manifest is not believed", () => {
  const good = manifestEntry(named, { name: "good" });
  test.each([
    ["text", "not JSON"],
    ["a half entry", good.slice(0, -3)],
    ["JSON of another shape", "[]", "null", "1", '"x"', "{}"],
    ["an unknown kind", '{"token":"edgeseal:test:Other","inputs":{"name":"x"}}'],
    ["a kind whose probe needs no inputs", '{"token":"edgeseal:test:Fixed","inputs":{"name":"x"}}'],
    ["a token that every object has", '{"token":"constructor","inputs":{"name":"x"}}'],
    ["inputs of a wrong type", '{"token":"edgeseal:test:Named","inputs":{"name":1}}'],
    ["inputs against the schema's pattern", `{"token":"edgeseal:test:Named","inputs":{"name":"x; reboot"}}`],
    ["unknown inputs", '{"token":"edgeseal:test:Named","inputs":{"name":"x","more":1}}'],
    [
      "inputs that the kind's own check refuses",
      '{"token":"edgeseal:test:Named","inputs":{"name":"forbidden"}}',
    ],
    ["no inputs", '{"token":"edgeseal:test:Named"}'],
  ])("%s is left out, and what is good stays", (_what, ...lines) => {
    expect(ids(read(...lines, good))).toEqual(["edgeseal:test:Named#good"]);
  });

  test("no answer, or a failed one, is an empty manifest", () => {
    expect(ids(undefined)).toEqual([]);
    expect(ids({ entries: { code: 1, stdout: good, stderr: "" } })).toEqual([]);
  });

  test("the same entry many times is one question, and thousands are cut off", () => {
    expect(ids(read(good, good, good))).toHaveLength(1);
    const letters = (n: number): string =>
      String(n).replace(/\d/g, (digit) => "abcdefghij"[Number(digit)] ?? "");
    const many = Array.from({ length: 5000 }, (_, n) => manifestEntry(named, { name: letters(n) }));
    expect(ids(read(...many))).toHaveLength(512);
  });
});

describe("the change", () => {
  test("is nothing when there is nothing to change", () => {
    expect(renderManifestChange({ set: new Map(), drop: [] })).toBe(":");
  });

  test("names files by digest, so that no probe id can name another file", () => {
    const script = renderManifestChange({ set: new Map([["../../etc/passwd", "{}"]]), drop: ["$(reboot)"] });
    expect(script).not.toContain("passwd");
    expect(script).not.toContain("reboot");
  });

  test("and the reading end agree on the folder", () => {
    const folder = "/var/lib/edgeseal/manifest";
    expect(renderManifestChange({ set: new Map([["x", "{}"]]), drop: [] })).toContain(folder);
    expect(manifestProbe.parts["entries"]).toContain(folder);
  });
});
