import { crc32 } from "node:zlib";

/*
 * Tables of one partition, as bytes: sfdisk is not on every machine that runs the tests.
 */

const sector = 512;

/** Where a table has to be written, and what. */
export interface Placed {
  readonly at: number;
  readonly bytes: Buffer;
}

export interface OnePartition {
  readonly diskBytes: number;
  readonly at: number;
  readonly bytes: number;
}

/** A master boot record, with one partition of the type. */
function bootRecord(type: number, first: number, sectors: number): Buffer {
  const record = Buffer.alloc(sector);
  record.writeUInt8(type, 446 + 4);
  record.writeUInt32LE(first, 446 + 8);
  record.writeUInt32LE(sectors, 446 + 12);
  record.writeUInt16LE(0xaa55, 510);
  return record;
}

/** The table of a PC: the first sector. */
export const dosTable = ({ at, bytes }: OnePartition): readonly Placed[] => [
  { at: 0, bytes: bootRecord(0x83, at / sector, bytes / sector) },
];

/** A GUID partition table (UEFI 2.10, 5.3), both copies of it, with the record that protects it. */
export function gptTable({ diskBytes, at, bytes }: OnePartition): readonly Placed[] {
  const sectors = diskBytes / sector;
  const entries = Buffer.alloc(128 * 128);
  // Linux file system data.
  entries.write("af3dc60f838472478e793d69d8477de4", 0, "hex");
  entries.write("11".repeat(16), 16, "hex");
  entries.writeBigUInt64LE(BigInt(at / sector), 32);
  entries.writeBigUInt64LE(BigInt((at + bytes) / sector - 1), 40);
  const header = (own: number, other: number, entriesAt: number): Buffer => {
    const made = Buffer.alloc(sector);
    made.write("EFI PART", 0, "latin1");
    made.writeUInt32LE(0x00010000, 8);
    made.writeUInt32LE(92, 12);
    made.writeBigUInt64LE(BigInt(own), 24);
    made.writeBigUInt64LE(BigInt(other), 32);
    made.writeBigUInt64LE(34n, 40);
    made.writeBigUInt64LE(BigInt(sectors - 34), 48);
    made.write("22".repeat(16), 56, "hex");
    made.writeBigUInt64LE(BigInt(entriesAt), 72);
    made.writeUInt32LE(128, 80);
    made.writeUInt32LE(128, 84);
    made.writeUInt32LE(crc32(entries), 88);
    made.writeUInt32LE(crc32(made.subarray(0, 92)), 16);
    return made;
  };
  const last = sectors - 1;
  return [
    { at: 0, bytes: bootRecord(0xee, 1, last) },
    { at: sector, bytes: header(1, last, 2) },
    { at: 2 * sector, bytes: entries },
    { at: (last - 32) * sector, bytes: entries },
    { at: last * sector, bytes: header(last, 1, last - 32) },
  ];
}
