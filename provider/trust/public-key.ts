import { constants, createPublicKey, publicEncrypt, verify, type KeyObject } from "node:crypto";
import { sha256Hex } from "./digest.ts";

/** A public key that can't be used here: no RSA key, of another size, or not PEM. The message says what was expected, what was found, and the mend. */
export class PublicKeyRefused extends Error {
  override readonly name = "PublicKeyRefused";
}

/** RSA keys of a site, and their sizes in bits. The policy key has the one size that every TPM 2.0 verifies; the recovery key can be as strong as it likes. */
export const keyBits = { policy: 2048, recovery: 4096 } as const;

export type KeyPurpose = keyof typeof keyBits;

/** An SPKI block in PEM (RFC 7468, 13) and nothing else: what OpenSSL would silently take the public half of (a private key, a certificate) is refused. */
const publicPem = /^\s*-----BEGIN PUBLIC KEY-----\r?\n[A-Za-z0-9+/=\r\n]+-----END PUBLIC KEY-----\s*$/;

/**
 * Reads a public key of a site.
 * @param pem As `edgeseal keys new` writes it: `-----BEGIN PUBLIC KEY-----`.
 * @throws PublicKeyRefused
 */
export function readPublicKey(pem: string, purpose: KeyPurpose): KeyObject {
  const key = readPublicPem(pem);
  requireSize(key, purpose);
  return key;
}

/**
 * The public key of a PEM block, of any kind.
 * @throws PublicKeyRefused
 */
export function readPublicPem(pem: string): KeyObject {
  if (pem.includes("PRIVATE KEY")) {
    throw new PublicKeyRefused(
      "this is a private key; give its public half (the file that ends in .pub.pem), and keep this one out of here",
    );
  }
  if (!publicPem.test(pem)) {
    throw new PublicKeyRefused(
      "expected one public key in PEM (-----BEGIN PUBLIC KEY-----), as `edgeseal keys new` writes it",
    );
  }
  try {
    return createPublicKey(pem);
  } catch (error) {
    throw new PublicKeyRefused("the PEM block does not hold a public key", { cause: error });
  }
}

function requireSize(key: KeyObject, purpose: KeyPurpose): void {
  const bits = key.asymmetricKeyDetails?.modulusLength;
  const wanted = keyBits[purpose];
  if (
    key.asymmetricKeyType === "rsa" &&
    bits === wanted &&
    key.asymmetricKeyDetails?.publicExponent === 65537n
  )
    return;
  const found =
    key.asymmetricKeyType === "rsa"
      ? `RSA of ${bits ?? "unknown"} bits with exponent ${String(key.asymmetricKeyDetails?.publicExponent)}`
      : (key.asymmetricKeyType ?? "unknown");
  throw new PublicKeyRefused(
    `the ${purpose} key has to be RSA of ${wanted} bits with exponent 65537, and this one is ${found}; \`edgeseal keys new\` makes the right kind`,
  );
}

/**
 * The fingerprint that systemd calls `pkfp`: SHA-256, in lower-case hex, of the public key in PKCS#1 DER. Of PKCS#1, not of SPKI: with the other
 * systemd says "Couldn't find signature for this PCR bank".
 */
export const fingerprint = (key: KeyObject): string =>
  sha256Hex(key.export({ type: "pkcs1", format: "der" }));

/** Whether a signature of `PrivateKey.sign` is one of this key over this message. */
export function verifies(key: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  return verify("sha256", message, { key, padding: constants.RSA_PKCS1_PADDING }, signature);
}

/** Encrypts for `PrivateKey.decrypt`: RSAES-OAEP with SHA-256. */
export function encryptFor(key: KeyObject, plaintext: Uint8Array): Buffer {
  return publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }, plaintext);
}
