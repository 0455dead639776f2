import type { KeyObject } from "node:crypto";
import { digestBytes, sha256, sha256Hex } from "./digest.ts";
import { fingerprint, keyId, verifies } from "./public-key.ts";
import { KeyUnusable, type PrivateKey, type SigningKey } from "./signer.ts";

/*
 * What a TPM and systemd-cryptsetup take as "this state is approved": a signature of the policy key over the digest of TPM2_PolicyPCR. The key slot of a volume is
 * bound to the key (TPM2_PolicyAuthorize), not to a value, so that new states need a signature and no enrolment.
 */

/** The PCR that the measuring program extends, and the only one in a signed policy. PCR 15 is bound by value, beside it. */
export const measuredPcr = 11;

const TPM_CC_PolicyPCR = Buffer.from("0000017f", "hex");

/** TPML_PCR_SELECTION with one PCR of the SHA-256 bank (TPM 2.0 Library, Part 2, 10.9.7): one selection, TPM_ALG_SHA256, three bytes of mask. */
function pcrSelection(pcr: number): Buffer {
  const mask = Buffer.alloc(3);
  mask.writeUInt8(1 << (pcr & 7), pcr >> 3);
  return Buffer.concat([Buffer.from("00000001000b03", "hex"), mask]);
}

/**
 * The policy digest of a session in which only TPM2_PolicyPCR over one PCR was called (TPM 2.0 Library, Part 3, 23.7):
 * SHA-256(zeros || TPM_CC_PolicyPCR || selection || SHA-256(value)).
 * @param value The value that the PCR must have, 64 lower-case hex digits.
 * @param pcr @default 11
 * @returns 64 lower-case hex digits
 */
export const policyPcrDigest = (value: string, pcr: number = measuredPcr): string =>
  sha256Hex(Buffer.alloc(32), TPM_CC_PolicyPCR, pcrSelection(pcr), sha256(digestBytes(value)));

/** One approved value of PCR 11, as a volume's unlocking needs it. */
export interface SignedPcrPolicy {
  /** The approved value, 64 lower-case hex digits. */
  readonly pcr11: string;
  /** Its policy digest, 64 lower-case hex digits: what is signed. */
  readonly pol: string;
  /** The signature over the 32 bytes of `pol`: RSASSA-PKCS1-v1_5 with SHA-256, in base64. */
  readonly sig: string;
}

/**
 * Signs a value of PCR 11. The message is the policy digest itself, 32 bytes, as TPM2_PolicyAuthorize with an empty `policyRef` wants it; everything else that a
 * policy key signs begins with a name of its own and is longer, so that neither can be taken for the other.
 * @throws KeyUnusable when the key can't be used, or what it returns is no signature of the public half.
 */
export async function signPcrPolicy(key: SigningKey, pcr11: string): Promise<SignedPcrPolicy> {
  const pol = policyPcrDigest(pcr11);
  const sig = await signChecked(key, digestBytes(pol));
  return { pcr11, pol, sig: sig.toString("base64") };
}

/**
 * Signs, and checks the signature against the public half before anybody relies on it.
 * @throws KeyUnusable
 */
export async function signChecked(
  { privateKey, publicKey }: SigningKey,
  message: Uint8Array,
): Promise<Buffer> {
  const signature = await privateKey.sign(message);
  if (!verifies(publicKey, message, signature)) throw notOfThisKey(privateKey, publicKey, signature);
  return signature;
}

function notOfThisKey(
  privateKey: Pick<PrivateKey, "name">,
  publicKey: KeyObject,
  signature: Buffer,
): KeyUnusable {
  const bits = publicKey.asymmetricKeyDetails?.modulusLength;
  const what =
    bits === undefined || signature.length === bits / 8
      ? "is not one of the public key"
      : `has ${signature.length} bytes, where one of this key has ${bits / 8}`;
  const name = bits === undefined ? keyId(publicKey) : fingerprint(publicKey);
  return new KeyUnusable(`what ${privateKey.name} returned as a signature ${what} ${name.slice(0, 16)}...`, {
    hint: "expected the raw bytes of RSASSA-PKCS1-v1_5 with SHA-256, made with the private half of that key",
  });
}

/** Whether a signed policy is right in itself and one of this key. */
export function verifiesPcrPolicy(publicKey: KeyObject, { pcr11, pol, sig }: SignedPcrPolicy): boolean {
  return pol === policyPcrDigest(pcr11) && verifies(publicKey, digestBytes(pol), Buffer.from(sig, "base64"));
}

/** The JSON that systemd-cryptsetup and systemd-cryptenroll read (`tpm2-signature=`, `--tpm2-signature=`; systemd.measure(1), "JSON"). */
export interface SystemdSignature {
  readonly sha256: readonly {
    readonly pcrs: readonly number[];
    /** `fingerprint` of the policy key. */
    readonly pkfp: string;
    readonly pol: string;
    readonly sig: string;
  }[];
}

/** Signatures in systemd's form. Several for one key are fine: systemd takes the one whose `pol` is that of the current PCR. */
export const systemdSignature = (pkfp: string, policies: readonly SignedPcrPolicy[]): SystemdSignature => ({
  sha256: policies.map(({ pol, sig }) => ({ pcrs: [measuredPcr], pkfp, pol, sig })),
});
