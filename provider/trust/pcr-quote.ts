import { createPublicKey, verify, type KeyObject } from "node:crypto";
import type { AttestationKey } from "./attestation-key.ts";
import { digestBytes, sha256 } from "./digest.ts";

/*
 * A quote: a TPM's own word for what its PCRs hold (TPM 2.0 Library, Part 1, 17.6; Part 3, 18.4 TPM2_Quote; Part 2, 10.12 "Attestation Structures"). A restricted key signs what starts with
 * TPM_GENERATED_VALUE only if its TPM made it, so that nobody who may use the key can have it sign a quote of his own words.
 */

/** A quote is not one, is by another key, of another question or of other PCRs. */
export class QuoteRefused extends Error {
  override readonly name = "QuoteRefused";
}

/** What a TPM was asked, and what came back. */
export interface PcrQuote {
  /** TPMS_ATTEST, as `tpm2_quote -m` writes it. */
  readonly attest: Uint8Array;
  /** ECDSA with SHA-256 in DER, as `tpm2_quote -f plain -s` writes it. */
  readonly signature: Uint8Array;
}

export interface QuoteExpectation {
  /** The key that must have signed it. That it is in a TPM is not said by this: an answered challenge to its name says so (`newChallenge`). */
  readonly attestationKey: AttestationKey;
  /** What the TPM was asked with: of this question only, where it is random. */
  readonly nonce: Uint8Array;
  /** Number of the one PCR, 0 to 23, in the SHA-256 bank, that must have been quoted. */
  readonly pcr: number;
}

const TPM_GENERATED_VALUE = 0xff544347;
const TPM_ST_ATTEST_QUOTE = 0x8018;
const TPM_ALG_SHA256 = 0x000b;
/** TPMS_CLOCK_INFO (clock, resetCount, restartCount, safe) and firmwareVersion. */
const clockAndFirmwareBytes = 8 + 4 + 4 + 1 + 8;

/**
 * Verifies a quote of one PCR.
 * @returns whether the PCR had a value (64 lower-case hex digits) as it was quoted
 * @throws QuoteRefused
 */
export function verifyPcrQuote(
  { attest, signature }: PcrQuote,
  { attestationKey, nonce, pcr }: QuoteExpectation,
): (value: string) => boolean {
  if (!verify("sha256", attest, publicKeyOf(attestationKey), signature)) {
    throw new QuoteRefused("the quote is not signed by the attestation key");
  }
  const { extraData, selections, pcrDigest } = readQuote(Buffer.from(attest));
  if (!extraData.equals(nonce)) {
    throw new QuoteRefused("the quote answers another question: its nonce is not the one that was sent");
  }
  const [selection, ...others] = selections;
  if (selection?.hash !== TPM_ALG_SHA256 || others.length > 0 || !selectsOnly(selection.select, pcr)) {
    throw new QuoteRefused(`the quote is not of PCR ${pcr} of the SHA-256 bank alone`);
  }
  // The digest is by the hash of the key's scheme, SHA-256, over the values one after the other: here of one.
  return (value) => sha256(digestBytes(value)).equals(pcrDigest);
}

function publicKeyOf({ x, y }: AttestationKey): KeyObject {
  const coordinate = (bytes: Buffer): string =>
    Buffer.concat([Buffer.alloc(32 - bytes.length), bytes]).toString("base64url");
  try {
    return createPublicKey({
      key: { kty: "EC", crv: "P-256", x: coordinate(x), y: coordinate(y) },
      format: "jwk",
    });
  } catch (error) {
    throw new QuoteRefused("the attestation key is not a point on P-256", { cause: error });
  }
}

/** Bit `pcr % 8` of octet `pcr / 8` (Part 2, 10.6.1). */
const selectsOnly = (select: Buffer, pcr: number): boolean =>
  pcr >> 3 < select.length && select.every((octet, at) => octet === (at === pcr >> 3 ? 1 << (pcr & 7) : 0));

interface Quoted {
  readonly extraData: Buffer;
  readonly selections: readonly { readonly hash: number; readonly select: Buffer }[];
  readonly pcrDigest: Buffer;
}

/** Reads TPMS_ATTEST of a quote, to its last byte. */
function readQuote(attest: Buffer): Quoted {
  let at = 0;
  const take = (length: number): Buffer => {
    if (at + length > attest.length) throw new QuoteRefused(`the quote ends within a field, at byte ${at}`);
    at += length;
    return attest.subarray(at - length, at);
  };
  const number = (length: number): number => take(length).readUIntBE(0, length);
  if (number(4) !== TPM_GENERATED_VALUE) throw new QuoteRefused("what is signed was not made by a TPM");
  if (number(2) !== TPM_ST_ATTEST_QUOTE) throw new QuoteRefused("what the TPM signed is not a quote");
  take(number(2)); // The qualified name of the signer: its public key was looked at.
  const extraData = take(number(2));
  take(clockAndFirmwareBytes);
  const selections = [];
  for (let left = number(4); left > 0; left--) selections.push({ hash: number(2), select: take(number(1)) });
  const pcrDigest = take(number(2));
  if (at !== attest.length)
    throw new QuoteRefused(`after the quote there are ${attest.length - at} bytes more`);
  return { extraData, selections, pcrDigest };
}
