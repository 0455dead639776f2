import { describe, expect, test } from "vitest";
import { AttestationKeyRefused, readAttestationKey } from "../../../provider/trust/attestation-key.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";

/** What tpm2_createak (5.7) wrote of a key of a TPM in software: TPM2B_PUBLIC; and its name, as the TPM told it. */
const written = Buffer.from(
  "00580023000b00050072000000100018000b00030010002028b57f590a242e1887bab2972af8dee0e6540d35afc8986fdb61f529f829f5540020d91a45135c9e8264b33f8a4804b1b4c9f54f1e83768189d9b85624aaafc3681a",
  "hex",
);
const name = "000b390451ba0f80bcab716a0d1fec6769d2da7b0fc9ef8bacbd514b472f4585a38b";
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
    ["that may leave the TPM (no fixedTPM)", changed(4, "00050070")],
    ["that may be duplicated with its parent (no fixedParent)", changed(4, "00050062")],
    ["that was made elsewhere (no sensitiveDataOrigin)", changed(4, "00050052")],
    ["that signs anything (not restricted)", changed(4, "00040072")],
    ["that does not sign", changed(4, "00010072")],
    ["that decrypts too", changed(4, "00070072")],
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
