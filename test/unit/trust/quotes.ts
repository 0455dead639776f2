import { sign, type KeyObject } from "node:crypto";
import { digestBytes, sha256 } from "../../../provider/trust/digest.ts";

/** What is said by a quote that is made up; by default what a TPM says that was asked for PCR 11. */
export interface MadeUp {
  readonly nonce: Uint8Array;
  /** Of the PCR, 64 hex digits. */
  readonly value: string;
  readonly magic?: string;
  readonly type?: string;
  /** TPML_PCR_SELECTION in hex. */
  readonly selection?: string;
}

const sized = (content: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([content.length >> 8, content.length & 255]), content]);

/** TPMS_ATTEST of a quote, put together by the table of TPM 2.0 Library, Part 2, 10.12.12. */
export const attestOf = ({
  nonce,
  value,
  magic = "ff544347",
  type = "8018",
  selection = "00000001000b03000800",
}: MadeUp): Buffer =>
  Buffer.concat([
    Buffer.from(magic + type, "hex"),
    sized(Buffer.alloc(34, 7)),
    sized(nonce),
    Buffer.alloc(25, 9),
    Buffer.from(selection, "hex"),
    sized(sha256(digestBytes(value))),
  ]);

export const signed = (
  privateKey: KeyObject,
  attest: Buffer,
): { readonly attest: Buffer; readonly signature: Buffer } => ({
  attest,
  signature: sign("sha256", attest, privateKey),
});
