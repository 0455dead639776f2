import { expect, test } from "vitest";
import { bootPartition, masterBootRecord, rootPartition, systemDiskSize } from "../../../testbed/disk.ts";

test("the partition table is an MBR with a FAT32 and a Linux partition, and the disk's id", () => {
  const mbr = masterBootRecord("9fd98b48");
  expect(mbr).toHaveLength(512);
  expect(mbr.subarray(510)).toEqual(Buffer.from([0x55, 0xaa]));
  // PARTUUIDs are made of this: `9fd98b48-01`.
  expect(mbr.readUInt32LE(440).toString(16)).toBe("9fd98b48");
  const entries = [446, 462, 478, 494].map((at) => ({
    type: mbr[at + 4],
    first: mbr.readUInt32LE(at + 8),
    sectors: mbr.readUInt32LE(at + 12),
  }));
  expect(entries).toEqual([
    { type: 0x0c, first: 16384, sectors: 1048576 },
    { type: 0x83, first: 1064960, sectors: 7323648 },
    { type: 0, first: 0, sectors: 0 },
    { type: 0, first: 0, sectors: 0 },
  ]);
});

test("the partitions follow each other and fill the disk", () => {
  expect(bootPartition.offset + bootPartition.size).toBe(rootPartition.offset);
  expect(rootPartition.offset + rootPartition.size).toBe(systemDiskSize);
  expect(systemDiskSize % (1024 * 1024)).toBe(0);
});
