import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { encryptFor } from "../../../provider/trust/public-key.ts";
import {
  openRecovery,
  parseRecoveryPlaintext,
  recoveryPlaintext,
  RecoveryRefused,
  sealRecovery,
  type RecoverySecret,
} from "../../../provider/trust/recovery.ts";
import { testKey } from "./keys.ts";

const key = testKey("recovery");
const uuid = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";
const secret: RecoverySecret = { kind: "luks", node: "pi-1", subject: uuid, key: "a".repeat(64) };
const { key: _, ...binding } = secret;

describe("a recovery ciphertext", () => {
  test("gives the secret, for what it was made for", async () => {
    expect(await openRecovery(sealRecovery(key.publicKey, secret), key.privateKey, binding)).toBe(secret.key);
  });

  test("may be made by openssl, as a device does it", async () => {
    const folder = mkdtempSync(join(tmpdir(), "edgeseal-recovery-"));
    try {
      writeFileSync(join(folder, "recovery.pub.pem"), key.publicKeyPem);
      const ciphertext = execFileSync(
        "openssl",
        "pkeyutl -encrypt -pubin -inkey recovery.pub.pem -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256".split(
          " ",
        ),
        { cwd: folder, input: recoveryPlaintext(secret) },
      );
      expect(ciphertext).toHaveLength(512);
      expect(await openRecovery(ciphertext, key.privateKey, binding)).toBe(secret.key);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test.each([
    ["another node", { ...binding, node: "pi-2" }, `the LUKS volume ${uuid} of pi-2`],
    [
      "another volume",
      { ...binding, subject: uuid.replace("1", "2") },
      `the LUKS volume ${uuid.replace("1", "2")} of pi-1`,
    ],
    [
      "another purpose",
      { kind: "tpm-auth", node: "pi-1", subject: "owner" } as const,
      "the owner authorization of the TPM of pi-1",
    ],
  ])("that was swapped with that of %s is refused, naming both", async (_case, expected, name) => {
    const opening = openRecovery(sealRecovery(key.publicKey, secret), key.privateKey, expected);
    await expect(opening).rejects.toThrow(RecoveryRefused);
    // Where nothing but the node differs, that it may have been renamed.
    const boundTo = "node" in expected && expected.node === "pi-2" ? "pi-1" : undefined;
    await expect(opening).rejects.toMatchObject({ boundTo });
    await expect(opening).rejects.toThrow(
      `that of the LUKS volume ${uuid} of pi-1, and was given as that of ${name}`,
    );
    await expect(opening).rejects.not.toThrow(secret.key);
  });

  test("fits into one block with the longest names", () => {
    const longest = { ...secret, node: "n".repeat(63), key: "k".repeat(256) };
    expect(sealRecovery(key.publicKey, longest)).toHaveLength(512);
  });

  test("does not open with another key, nor when a bit changed", async () => {
    const ciphertext = sealRecovery(key.publicKey, secret);
    await expect(async () =>
      openRecovery(ciphertext, testKey("recovery").privateKey, binding),
    ).rejects.toThrow();
    ciphertext.writeUInt8(ciphertext.readUInt8(200) ^ 1, 200);
    await expect(async () => openRecovery(ciphertext, key.privateKey, binding)).rejects.toThrow();
  });
});

describe("the plaintext", () => {
  test("is one line of JSON, as a shell can print it", () => {
    expect(recoveryPlaintext(secret)).toBe(
      `{"v":1,"kind":"luks","node":"pi-1","subject":"${uuid}","key":"${secret.key}"}`,
    );
    expect(parseRecoveryPlaintext(recoveryPlaintext(secret))).toEqual(secret);
  });

  const json = (change: object): string => JSON.stringify({ v: 1, ...secret, ...change });
  test.each([
    ["no JSON", "secret-secret-secret-secret"],
    ["JSON cut off within the key", json({}).slice(0, -10)],
    ["a list", "[]"],
    ["null", "null"],
    ["no version", JSON.stringify(secret)],
    ["a newer version", json({ v: 2 })],
    ["a field more", json({ extra: 1 })],
    ["a field twice", json({}).replace('"v":1', '"v":1,"v":1')],
    ["an unknown kind", json({ kind: "disk" })],
    ["no node's name", json({ node: "Pi 1" })],
    ["a subject that is no UUID", json({ subject: uuid.toUpperCase() })],
    ["a subject that is no authorization", json({ kind: "tpm-auth", subject: "endorsement" })],
    ["a short key", json({ key: "abc" })],
    ["a key with a line feed", json({ key: `${"a".repeat(20)}\n` })],
    ["a key that is no text", json({ key: 1 })],
  ])("that is %s is refused, without a word of it", async (_case, plaintext) => {
    const ciphertext = encryptFor(key.publicKey, Buffer.from(plaintext));
    const error: unknown = await openRecovery(ciphertext, key.privateKey, binding).catch(
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(RecoveryRefused);
    const { message, cause, stack } = error as Error;
    expect(cause).toBeUndefined();
    for (const part of ["aaaaaa", "abc", "secret-secret"])
      expect(`${message}${stack ?? ""}`).not.toContain(part);
  });
});
