import { digestBytes, sha256Hex } from "./digest.ts";

/** A PCR of the SHA-256 bank as a TPM has it after a reset; PCRs 0 to 15 (TPM 2.0 Library, Part 1, 17.2). */
export const zeroPcr = "0".repeat(64);

/**
 * The value that a PCR has after TPM2_PCR_Extend: SHA-256 of the old value followed by the digest (TPM 2.0 Library, Part 3, 22.2).
 * @param pcr The old value, 64 lower-case hex digits.
 * @param digest What is extended, 64 lower-case hex digits.
 * @throws TypeError when either is of another form.
 */
export const extend = (pcr: string, digest: string): string =>
  sha256Hex(digestBytes(pcr), digestBytes(digest));

/**
 * The value that a PCR has after a sequence of events.
 * @param events In the order in which they were extended.
 * @param from The value before the first. @default zeros, as after a reset.
 * @throws TypeError when a digest is of another form.
 */
export const replay = (events: Iterable<{ readonly digest: string }>, from: string = zeroPcr): string =>
  [...events].reduce((pcr, { digest }) => extend(pcr, digest), from);
