import { execFileSync } from "node:child_process";
import { createPrivateKey, sign } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { formsIn, formsOf, privateSeedOf } from "../secret-forms.ts";

const secret = "kEyCaNaRy~~?7f3a9c1e5b";
const forms = formsOf("key", secret);

describe("a secret is found", () => {
  test.each([0, 1, 2, 3, 100])("in base64 of a text that has %i bytes before it", (before) => {
    const text = `${"x".repeat(before)}${secret} and what follows`;
    expect(formsIn(Buffer.from(text).toString("base64"), forms)).not.toEqual([]);
    expect(formsIn(Buffer.from(text).toString("base64url"), forms)).not.toEqual([]);
  });

  test.each([
    ["as it is", secret],
    ["in hex", Buffer.from(secret).toString("hex")],
    ["in upper-case hex", Buffer.from(secret).toString("hex").toUpperCase()],
    [
      "cut into lines",
      Buffer.from(secret)
        .toString("base64")
        .replaceAll(/(.{8})/g, "$1\n"),
    ],
    ["cut into lines that JSON wrote out, twice", secret.replaceAll(/(.{8})/g, "$1\\\\n")],
  ])("%s", (_, text) => {
    expect(formsIn(`before ${text} after`, forms)).not.toEqual([]);
  });

  test("by no form in a text without it, nor in one with half of it", () => {
    const half = secret.slice(0, 11);
    expect(
      formsIn(`${half} ${Buffer.from(half).toString("base64")} ${Buffer.from(half).toString("hex")}`, forms),
    ).toEqual([]);
  });
});

test("the seed of a key is what signs, and no part of the public half", () => {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-key-"));
  try {
    execFileSync("ssh-keygen", [
      "-q",
      "-t",
      "ed25519",
      "-N",
      "",
      "-C",
      "ssh-ed25519 in the comment",
      "-f",
      join(folder, "key"),
    ]);
    const seed = privateSeedOf(readFileSync(join(folder, "key"), "utf8"));
    expect(seed).toHaveLength(32);
    // RFC 8410: an Ed25519 private key in PKCS#8 is this and the seed.
    const pkcs8 = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
    const key = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
    expect(sign(null, Buffer.from("x"), key)).toHaveLength(64);
    const { x = "" } = key.export({ format: "jwk" });
    const publicHalf = readFileSync(join(folder, "key.pub"), "utf8");
    // The control: the public half does have the public key, and it is of this seed.
    expect(formsIn(publicHalf, formsOf("public key", Buffer.from(x, "base64url")))).not.toEqual([]);
    expect(formsIn(publicHalf, formsOf("seed", seed))).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
