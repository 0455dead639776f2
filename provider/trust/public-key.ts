import { constants, createPublicKey, publicEncrypt, verify, type KeyObject } from "node:crypto";
import { sha256Hex } from "./digest.ts";

/** A public key that can't be used here: no RSA key, of another size, or not PEM. The message says what was expected, what was found, and the mend. */
export class PublicKeyRefused extends Error {
  override readonly name = "PublicKeyRefused";
}

/** RSA keys of a site, and their sizes in bits. The policy key has the one size that every TPM 2.0 verifies; the recovery key can be as strong as it likes. Keys that sign images and models may be others, too (`readSigningKey`). */
export const keyBits = { policy: 2048, recovery: 4096, signing: 3072 } as const;

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

/**
 * Reads the public half of a key that signs images or models. podman itself takes any size and curve that Go knows, RSA-1024 among them (tried with 5.4), so that
 * the limit has to be here; what is left are the kinds that cosign and skopeo sign with, and that OpenSSL on a node verifies.
 * @throws PublicKeyRefused
 */
export function readSigningKey(pem: string): KeyObject {
  const key = readPublicPem(pem);
  const found = signingKeyFault(key);
  if (found === undefined) return key;
  throw new PublicKeyRefused(
    `expected an RSA key of 2048 to 4096 bits with exponent 65537, or an ECDSA key on P-256 or P-384, and this one ${found}; make one of these, and sign anew`,
  );
}

function signingKeyFault({
  asymmetricKeyType: type,
  asymmetricKeyDetails: details,
}: KeyObject): string | undefined {
  if (type === "ec") {
    const curve = String(details?.namedCurve);
    return curve === "prime256v1" || curve === "secp384r1" ? undefined : `is on ${curve}`;
  }
  if (type !== "rsa") return `is of the kind ${String(type)}`;
  const bits = details?.modulusLength ?? 0;
  if (bits >= 2048 && bits <= 4096 && details?.publicExponent === 65537n) return undefined;
  return `is RSA of ${bits} bits with exponent ${String(details?.publicExponent)}`;
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

/** Whether a signature of `PrivateKey.sign`, or one of ECDSA with SHA-256 in DER, is one of this key over this message. */
export function verifies(key: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  return verify("sha256", message, { key, padding: constants.RSA_PKCS1_PADDING }, signature);
}

/** SHA-256 of the public key in SPKI DER, in lower-case hex: by what a key of any kind is named, also as the `keyid` of an envelope. */
export const keyId = (key: KeyObject): string => sha256Hex(key.export({ type: "spki", format: "der" }));

/** Encrypts for `PrivateKey.decrypt`: RSAES-OAEP with SHA-256. */
export function encryptFor(key: KeyObject, plaintext: Uint8Array): Buffer {
  return publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }, plaintext);
}
