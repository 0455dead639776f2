import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "vitest";
import { fingerprint, hostKeyAlgorithms, parseHostKeyPin } from "../../../provider/device/host-key.ts";

/** A key blob as in RFC 8709: the type's name, and 32 bytes, both with their length before them. */
function ed25519Blob(): Buffer {
  const raw = generateKeyPairSync("ed25519").publicKey.export({ format: "der", type: "spki" }).subarray(-32);
  const field = (bytes: Buffer): Buffer => Buffer.concat([Buffer.from([0, 0, 0, bytes.length]), bytes]);
  return Buffer.concat([field(Buffer.from("ssh-ed25519")), field(raw)]);
}

describe("a pinned host key", () => {
  const blob = ed25519Blob();
  const other = ed25519Blob();

  test.each([
    ["in full", `ssh-ed25519 ${blob.toString("base64")}`, ["ssh-ed25519"]],
    ["in full, with its comment", `ssh-ed25519 ${blob.toString("base64")} root@pi-1`, ["ssh-ed25519"]],
    [
      "in full, with a comment of several words",
      `ssh-ed25519 ${blob.toString("base64")} root@pi-1 of 2026`,
      ["ssh-ed25519"],
    ],
    [
      "as a fingerprint",
      fingerprint(blob),
      ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"],
    ],
  ])("%s", (_how, text, types) => {
    const pin = parseHostKeyPin(text);
    expect(pin?.types).toEqual(types);
    expect(pin?.matches(blob)).toBe(true);
    expect(pin?.matches(other)).toBe(false);
    expect(pin?.matches(blob.subarray(0, -1))).toBe(false);
    expect(pin?.matches(Buffer.alloc(0))).toBe(false);
  });

  test.each([
    ["nothing", ""],
    ["a type alone", "ssh-ed25519"],
    ["a key of another type than it says", `ecdsa-sha2-nistp256 ${blob.toString("base64")}`],
    ["a type that SHA-1 or worse goes with", `ssh-dss ${blob.toString("base64")}`],
    ["a fingerprint that is cut off", fingerprint(blob).slice(0, -1)],
    ["an MD5 fingerprint", "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48"],
    ["text that is not base64", "ssh-ed25519 ????"],
    ["a name that every object has", `constructor ${blob.toString("base64")}`],
  ])("is not %s", (_what, text) => {
    expect(parseHostKeyPin(text)).toBeUndefined();
  });

  test("RSA goes with SHA-2 only", () => {
    expect(hostKeyAlgorithms("ssh-rsa")).toEqual(["rsa-sha2-512", "rsa-sha2-256"]);
  });
});
