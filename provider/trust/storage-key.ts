import { objectName } from "./credential.ts";

/** A public area is not that of a storage root key as edgeseal and systemd have it made. */
export class StorageKeyRefused extends Error {
  override readonly name = "StorageKeyRefused";
}

/**
 * What follows the type in its TPMT_PUBLIC: nameAlg SHA-256, and fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt. It is derived from a seed that
 * TPM2_Clear has anew, so that what is wrapped for its name does not open after one.
 */
const head = Buffer.from("000b00030472", "hex");
const types: readonly string[] = ["0001", "0023"];

/**
 * The name of a storage root key.
 * @param publicArea TPMT_PUBLIC, or TPM2B_PUBLIC (the same after its length).
 * @throws StorageKeyRefused when it is of another form: one that could be in another TPM as well
 */
export function storageKeyName(publicArea: Uint8Array): Buffer {
  const given = Buffer.from(publicArea);
  const area = given.length > 2 && given.readUInt16BE(0) === given.length - 2 ? given.subarray(2) : given;
  if (!types.includes(area.subarray(0, 2).toString("hex")) || !area.subarray(2, 8).equals(head))
    throw new StorageKeyRefused(
      `expected the public area of a restricted key for decryption that can't leave its TPM, got ${given.length} bytes that differ from it`,
    );
  return objectName(area);
}
