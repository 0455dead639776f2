import { describe, expect, test } from "vitest";
import { isBlank, largestGapMiB, parseDisks } from "../../../cli/node-add/device-disks.ts";
import { UnknownObservation } from "../../../provider/device/probe.ts";

const listing = (blockdevices: readonly object[]): string => JSON.stringify({ blockdevices }, undefined, 3);

const card = {
  ...{ name: "vda", path: "/dev/vda", type: "disk", size: 4294967296, fstype: null, model: null },
  mountpoints: [null],
  children: [
    {
      ...{ name: "vda1", path: "/dev/vda1", type: "part", size: 536870912, fstype: "vfat", model: null },
      mountpoints: ["/boot/firmware"],
    },
    {
      ...{
        name: "vda2",
        path: "/dev/vda2",
        type: "part",
        size: 3749707776,
        fstype: "crypto_LUKS",
        model: null,
      },
      mountpoints: [null],
      children: [
        {
          ...{
            name: "root",
            path: "/dev/mapper/root",
            type: "crypt",
            size: 3749000000,
            fstype: "ext4",
            model: null,
          },
          mountpoints: ["/"],
        },
      ],
    },
  ],
};
const disk = {
  ...{
    name: "vdb",
    path: "/dev/vdb",
    type: "disk",
    size: 1073741824,
    fstype: null,
    model: "Samsung SSD 980  ",
  },
  mountpoints: [null],
};

const links = `@link /dev/vda /dev/disk/by-id/virtio-system
@link /dev/vdb /dev/disk/by-id/nvme-eui.0025385c2140105d
@link /dev/vdb /dev/disk/by-id/nvme-Samsung_SSD_980_S64D_1
@link /dev/vdb /dev/disk/by-id/nvme-Samsung_SSD_980_S64D
@link /dev/vda1 /dev/disk/by-id/virtio-system-part1
`;

const inspected = (path: string, bytes: number, more = ""): string =>
  `path ${path}\ndevice ${path}\nbytes ${bytes}\nread-only 0\n${more}marker \n`;

/** A table as sfdisk prints it, behind what `inspect_disk` says of it. */
const table = (path: string, label: string, sectors: number, partitions: readonly object[]): string =>
  `table ${"a".repeat(64)}
sectors ${sectors}
made   ${""}
${JSON.stringify({
  partitiontable: {
    ...{ label, id: "0x5a4b3c2d", device: path, unit: "sectors", sectorsize: 512 },
    ...(label === "gpt" ? { firstlba: 2048, lastlba: sectors - 34 } : {}),
    partitions,
  },
})}
`;

const cardSection = `@disk /dev/vda
${inspected("/dev/vda", 4294967296, "use mounted at /boot/firmware\nuse held by root\ncontent dos\ncontent vfat\ncontent crypto_LUKS\n")}@table
${table("/dev/vda", "dos", 8388608, [
  { node: "/dev/vda1", start: 2048, size: 1048576, type: "c" },
  { node: "/dev/vda2", start: 1050624, size: 7323648, type: "83" },
])}`;

const parse = (section: string) => parseDisks(`${listing([card, disk])}\n${links}${cardSection}${section}`);
const second = (section: string) => {
  const found = parse(section)[1];
  if (found === undefined) throw new Error("there is no second disk");
  return found;
};

test("a disk with the root is told by what is mounted, through whatever lies between", () => {
  expect(parse("")).toEqual([
    {
      path: "/dev/vda",
      stablePath: "/dev/disk/by-id/virtio-system",
      model: "",
      bytes: 4294967296,
      holdsRoot: true,
      table: "dos",
      partitions: [
        { path: "/dev/vda1", bytes: 536870912, signature: "vfat", mountPoints: ["/boot/firmware"] },
        { path: "/dev/vda2", bytes: 3749707776, signature: "crypto_LUKS", mountPoints: ["/"] },
      ],
      unallocatedMiB: [7],
      content: ["dos", "vfat", "crypto_LUKS"],
      uses: ["mounted at /boot/firmware", "held by root"],
    },
  ]);
});

describe("a disk", () => {
  const blank = `@disk /dev/vdb\n${inspected("/dev/vdb", 1073741824)}@table\nno table\n`;

  test("without anything on it is blank, and named by what it is rather than by a number", () => {
    const found = second(blank);
    expect(isBlank(found)).toBe(true);
    expect(found).toMatchObject({
      stablePath: "/dev/disk/by-id/nvme-Samsung_SSD_980_S64D",
      model: "Samsung SSD 980",
      table: "none",
      holdsRoot: false,
    });
  });

  test.each([
    ["data that is none known", blank.replace("marker ", "content unknown-data\nmarker ")],
    ["a use", blank.replace("marker ", "use behind a loop device\nmarker ")],
  ])("with %s is not", (_, section) => {
    expect(isBlank(second(section))).toBe(false);
  });

  test.each([
    ["that could not be read", "@disk /dev/vdb\nnot inspected\n@table\nno table\n"],
    ["of which looking was cut off", `@disk /dev/vdb\n${inspected("/dev/vdb", 1)}not inspected\n@table\n`],
    ["that has no node in /dev", "@disk /dev/vdb\npath /dev/vdb\nmissing\n@table\nmissing\n"],
  ])("%s is never taken as blank", (_, section) => {
    const found = second(section);
    expect(found.content).toBeUndefined();
    expect(isBlank(found)).toBe(false);
  });

  test("with a partition table has room where no partition is", () => {
    const section = `@disk /dev/vdb\n${inspected("/dev/vdb", 1073741824, "content gpt\ncontent ext4\n")}@table\n${table("/dev/vdb", "gpt", 2097152, [{ node: "/dev/vdb1", start: 2048, size: 131072 }])}`;
    expect(largestGapMiB(second(section))).toBe(958);
  });

  test("whose table can't be read has none that is known", () => {
    const found = second(
      `@disk /dev/vdb\n${inspected("/dev/vdb", 1073741824, "content gpt\n")}@table\nsfdisk says this\n`,
    );
    expect(found.table).toBe("unknown");
    expect(largestGapMiB(found)).toBe(0);
  });
});

test("a list that is none is not an empty one", () => {
  expect(() => parseDisks("lsblk: not found\n")).toThrow(UnknownObservation);
});
