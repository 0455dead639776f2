import { createHash } from "node:crypto";

/** Shape of a SHA-256 digest, and of a value of the SHA-256 bank of PCRs: 64 lower-case hex digits. */
const digestPattern = /^[0-9a-f]{64}$/;

/** Whether a text is a SHA-256 digest in lower-case hex, the one form in which digests are written, compared and signed here. */
export const isDigest = (text: string): boolean => digestPattern.test(text);

/**
 * The bytes of a digest.
 * @throws TypeError for anything but 64 lower-case hex digits: `Buffer.from(_, "hex")` would silently drop what it can't read.
 */
export function digestBytes(digest: string): Buffer {
  if (!isDigest(digest))
    throw new TypeError(`expected a SHA-256 digest in lower-case hex, got ${digest.length} characters`);
  return Buffer.from(digest, "hex");
}

/** SHA-256 of the concatenated parts; texts count as their UTF-8 bytes. */
export function sha256(...parts: readonly (Uint8Array | string)[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** The same in lower-case hex. */
export const sha256Hex = (...parts: readonly (Uint8Array | string)[]): string =>
  sha256(...parts).toString("hex");

/** A file's name in which `{sha256}` stands for a digest. */
export const nameWithDigest = (name: string, digest: string): string =>
  name.replaceAll("{sha256}", () => digest);
