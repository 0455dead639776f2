import { objectName } from "./credential.ts";

/** A public area is not that of an attestation key as edgeseal has it made. */
export class AttestationKeyRefused extends Error {
  override readonly name = "AttestationKeyRefused";
}

/** An attestation key as a device presented it. */
export interface AttestationKey {
  /** The TPM's name of it: `000b` and SHA-256 of its public area, 34 bytes. */
  readonly name: Buffer;
  /** Its point on P-256; a TPM may leave out leading zeros. */
  readonly x: Buffer;
  readonly y: Buffer;
}

/**
 * TPMT_PUBLIC of what `tpm2_createak -G ecc -g sha256 -s ecdsa` makes, with noDA, up to its point. Its attributes are what counts (TPM 2.0 Library, Part 1, 25 and Part 2, 8.3): fixedTPM and
 * fixedParent, so that it never leaves the TPM that made it, sensitiveDataOrigin, so that it was made there, restricted and sign, so that what it signs is the TPM's own word.
 * A TPM loads a key with these attributes only if it made it itself.
 */
const templateHead = Buffer.from(
  "0023" + // type: TPM_ALG_ECC
    "000b" + // nameAlg: TPM_ALG_SHA256
    "00050472" + // objectAttributes: sign, restricted, noDA, userWithAuth, sensitiveDataOrigin, fixedParent, fixedTPM
    "0000" + // authPolicy: none
    "0010" + // symmetric: TPM_ALG_NULL, as for every key that signs
    "0018000b" + // scheme: ECDSA with SHA-256
    "0003" + // curve: NIST P-256
    "0010", // kdf: TPM_ALG_NULL
  "hex",
);
const coordinateBytes = 32;

/**
 * Reads the public area of an attestation key.
 * @param publicArea TPMT_PUBLIC, or TPM2B_PUBLIC (the same after its length, as `tpm2_create -u` writes it).
 * @throws AttestationKeyRefused when it is of another form: one that could leave the TPM, or that signs anything. That it *is* in a TPM is not said by this: who writes bytes can write
 * these. It is said by an answered challenge to its name (`newChallenge`).
 */
export function readAttestationKey(publicArea: Uint8Array): AttestationKey {
  const given = Buffer.from(publicArea);
  const area = given.length > 2 && given.readUInt16BE(0) === given.length - 2 ? given.subarray(2) : given;
  if (!area.subarray(0, templateHead.length).equals(templateHead)) {
    throw new AttestationKeyRefused(
      `expected the public area of a restricted ECDSA key on P-256 that can't leave its TPM, got ${given.length} bytes that differ from it`,
    );
  }
  let at = templateHead.length;
  const take = (coordinate: "x" | "y"): Buffer => {
    const length = at + 2 <= area.length ? area.readUInt16BE(at) : 0;
    if (length === 0 || length > coordinateBytes || at + 2 + length > area.length) {
      throw new AttestationKeyRefused(
        `the coordinate ${coordinate} of the attestation key is not one of P-256`,
      );
    }
    at += 2 + length;
    return area.subarray(at - length, at);
  };
  const x = take("x");
  const y = take("y");
  if (at !== area.length) {
    throw new AttestationKeyRefused(`after the attestation key there are ${area.length - at} bytes more`);
  }
  return { name: objectName(area), x, y };
}
