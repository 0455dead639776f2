import { Type } from "typebox";
import { describe, expect, test } from "vitest";
import {
  annotatedSecrets,
  inheritedSecrets,
  Redactor,
  secretTexts,
} from "../../../../provider/host/secrets.ts";

const hidden = () => Type.String({ secret: true });

test("the schema's marks are found through objects, lists, maps, tuples and alternatives", () => {
  const schema = Type.Object({
    key: hidden(),
    list: Type.Array(Type.Object({ key: hidden(), plain: Type.String() })),
    map: Type.Record(Type.String(), Type.Object({ key: hidden() })),
    either: Type.Union([Type.Null(), Type.Object({ key: Type.Optional(hidden()) })]),
    whole: Type.Object({ key: hidden() }, { secret: true }),
    missing: Type.Optional(hidden()),
  });
  const value = {
    key: "a",
    list: [{ key: "b", plain: "c" }],
    map: { "any-name": { key: "d" } },
    either: { key: "e" },
    whole: { key: "f" },
  };
  expect(annotatedSecrets(schema, value)).toEqual([
    ["key"],
    ["list", 0, "key"],
    ["map", "any-name", "key"],
    ["either", "key"],
    ["whole"],
  ]);
});

describe("outputs", () => {
  const inherited = (outputs: object, inputs: object, secrets: (string | number)[][]) =>
    inheritedSecrets(outputs as never, inputs as never, secrets);

  test("are secret where the input of that name is, as deep as that place goes", () => {
    expect(inherited({ list: [{ a: 1 }] }, { list: [{ a: 1 }, { a: 2 }] }, [["list", 1, "a"]])).toEqual([
      ["list"],
    ]);
    expect(inherited({ port: 1 }, { port: 1 }, [["port"]])).toEqual([["port"]]);
    expect(inherited({ other: 1 }, { port: 1 }, [["port"]])).toEqual([]);
  });

  test("are secret where the text of a secret turns up", () => {
    const outputs = { line: "password=hunter22 and more", list: ["x", "hunter22"], plain: "hunter" };
    expect(inherited(outputs, { password: "hunter22" }, [["password"]])).toEqual([["line"], ["list", 1]]);
  });

  test("are secret as a whole object when a secret is the name of one of its properties", () => {
    expect(inherited({ rules: { "10.77.66.55": 1 } }, { to: "10.77.66.55" }, [["to"]])).toEqual([["rules"]]);
  });

  test("are not secret for a text so short that it is found by chance", () => {
    expect(inherited({ a: "on" }, { password: "on" }, [["password"]])).toEqual([]);
  });
});

test("texts are collected from whatever lies at a secret place", () => {
  expect(secretTexts({ a: { b: ["x", { c: "y" }], d: 1 }, e: "z" }, [["a"], ["gone"]])).toEqual(["x", "y"]);
});

describe("the redactor", () => {
  const pem =
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\nAAAABG5vbmUAAAAEbm9u\n-----END OPENSSH PRIVATE KEY-----\n";
  const redactor = new Redactor();
  redactor.learn([pem, "hunter22", "no"]);

  test.each([
    ["as it is", `key ${pem}`],
    ["trimmed", `key ${pem.trim()}!`],
    ["one line of it", "bad line b3BlbnNzaC1rZXktdjEA here"],
    ["as JSON", JSON.stringify({ key: pem })],
    ["in base64", Buffer.from(pem).toString("base64")],
    ["in hex", Buffer.from("hunter22").toString("hex")],
    ["several at once", "hunter22 b3BlbnNzaC1rZXktdjEA hunter22"],
  ])("takes a secret out: %s", (_, text) => {
    const scrubbed = redactor.scrub(text);
    expect(scrubbed).toContain("[secret]");
    expect(scrubbed).not.toMatch(/b3BlbnNz|AAAABG5v|hunter22|68756e746572/);
  });

  test("leaves alone what is too short to hide anything, and what is no secret", () => {
    expect(redactor.scrub("no swap; -----BEGIN OPENSSH PRIVATE KEY----- is missing")).toBe(
      "no swap; -----BEGIN OPENSSH PRIVATE KEY----- is missing",
    );
  });
});
