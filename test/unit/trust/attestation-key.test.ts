import { describe, expect, test } from "vitest";
import { AttestationKeyRefused, readAttestationKey } from "../../../provider/trust/attestation-key.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";

/** What tpm2_create (5.4) wrote of a key of a TPM in software: TPM2B_PUBLIC; and its name, as the TPM told it. */
const written = Buffer.from(
  "00580023000b00050472000000100018000b0003001000207cc20284cca5506270d0ba92daa0162216e321cfee1093cc71a204cbcf255c5a00204325168a90761ee994d62bc78faaa91e1e2014188ab244e5b91b053a451756a4",
  "hex",
);
const name = "000b868e3866dff37f45e674e9eea85b529f4a7506974342169f04685ecba0161eb1";
const area = written.subarray(2);

const changed = (at: number, hex: string): Buffer => {
  const copy = Buffer.from(area);
  copy.write(hex, at, "hex");
  return copy;
};

test("is read with and without its length, and has the name that the TPM gives it", () => {
  expect(readAttestationKey(written).name.toString("hex")).toBe(name);
  expect(readAttestationKey(area).name.toString("hex")).toBe(name);
});

test("a coordinate may be shorter than the field", () => {
  const short = Buffer.concat([area.subarray(0, 20), Buffer.from("0001aa0001bb", "hex")]);
  expect(readAttestationKey(short).name.toString("hex")).toBe(`000b${sha256Hex(short)}`);
});

describe("refused is a key", () => {
  test.each([
    ["that may leave the TPM (no fixedTPM)", changed(4, "00050470")],
    ["that may be duplicated with its parent (no fixedParent)", changed(4, "00050462")],
    ["that was made elsewhere (no sensitiveDataOrigin)", changed(4, "00050452")],
    ["that signs anything (not restricted)", changed(4, "00040472")],
    ["that does not sign", changed(4, "00010472")],
    ["that decrypts too", changed(4, "00070472")],
    ["that power cuts lock (no noDA)", changed(4, "00050072")],
    ["of another type", changed(0, "0001")],
    ["of another name algorithm", changed(2, "0004")],
    ["with another scheme", changed(12, "0014")],
    ["on another curve", changed(16, "0004")],
    ["with a byte too few", area.subarray(0, -1)],
    ["with a byte too many", Buffer.concat([area, Buffer.alloc(1)])],
    ["with an empty coordinate", Buffer.concat([area.subarray(0, 20), Buffer.from("00000001bb", "hex")])],
    ["of no bytes", Buffer.alloc(0)],
    ["of one byte", Buffer.alloc(1)],
  ])("%s", (_, given) => expect(() => readAttestationKey(given)).toThrow(AttestationKeyRefused));
});
