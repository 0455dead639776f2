import { open } from "node:fs/promises";
import { run } from "./bound-process.ts";

const MiB = 1024 * 1024;
const SECTOR = 512;

/** A partition's place on the system disk, in bytes. */
export interface Partition {
  readonly number: number;
  readonly offset: number;
  readonly size: number;
}

/** The Pi's own layout: an MBR with the FAT boot partition first and the root file system second. */
export const bootPartition: Partition = { number: 1, offset: 8 * MiB, size: 512 * MiB };
export const rootPartition: Partition = { number: 2, offset: 520 * MiB, size: 3576 * MiB };
export const systemDiskSize = rootPartition.offset + rootPartition.size;

/**
 * A classic partition table (MBR), as Raspberry Pi OS has it. PARTUUIDs follow from the disk id: `<id>-01`, `<id>-02`.
 * @param diskId eight hex digits
 */
export function masterBootRecord(diskId: string): Buffer {
  const mbr = Buffer.alloc(SECTOR);
  mbr.writeUInt32LE(Number.parseInt(diskId, 16), 440);
  const types = [0x0c /* FAT32, LBA */, 0x83 /* Linux */] as const;
  for (const [index, partition] of [bootPartition, rootPartition].entries()) {
    const entry = 446 + index * 16;
    // CHS addresses mean nothing at these sizes; FE FF FF says "use the LBA fields".
    mbr.set([0x00, 0xfe, 0xff, 0xff, types[index] ?? 0x83, 0xfe, 0xff, 0xff], entry);
    mbr.writeUInt32LE(partition.offset / SECTOR, entry + 8);
    mbr.writeUInt32LE(partition.size / SECTOR, entry + 12);
  }
  mbr.set([0x55, 0xaa], 510);
  return mbr;
}

/** Makes an empty (sparse) system disk with its partition table. */
export async function createSystemDisk(path: string, diskId: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.truncate(systemDiskSize);
    await file.write(masterBootRecord(diskId), 0, SECTOR, 0);
  } finally {
    await file.close();
  }
}

/**
 * A copy-on-write layer over `backing`: made in milliseconds, holds only what changes.
 * @param backing written into the layer as given: relative ones are taken from the layer's own folder
 */
export async function createOverlay(
  path: string,
  backing: string,
  backingFormat: "raw" | "qcow2",
): Promise<void> {
  await run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", backing, "-F", backingFormat, path]);
}

/** A blank disk. @param size in MiB */
export async function createBlankDisk(path: string, size: number): Promise<void> {
  await run("qemu-img", ["create", "-q", "-f", "qcow2", path, `${String(size)}M`]);
}

/** QEMU's words for a window of `partition`'s size onto a disk. */
function within(disk: string, format: "raw" | "qcow2", partition: Partition): string {
  const options = {
    driver: "raw",
    offset: String(partition.offset),
    size: String(partition.size),
    "file.driver": format,
    "file.file.driver": "file",
    "file.file.filename": disk.replaceAll(",", ",,"),
  };
  return Object.entries(options)
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
}

/** Copies one partition out of a powered-off node's disk into a sparse file. Holes stay holes. */
export async function extractPartition(
  disk: string,
  partition: Partition,
  path: string,
  format: "raw" | "qcow2" = "qcow2",
): Promise<void> {
  await run("qemu-img", ["convert", "-O", "raw", "--image-opts", within(disk, format, partition), path]);
}

/** Writes a file made by `extractPartition` back. The node has to be powered off. */
export async function replacePartition(disk: string, partition: Partition, path: string): Promise<void> {
  await run("qemu-img", [
    "convert",
    "-n",
    "-f",
    "raw",
    "--target-image-opts",
    path,
    within(disk, "qcow2", partition),
  ]);
}
