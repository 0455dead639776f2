import { describe, expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";
import type { Step } from "../../../provider/device/step.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { fileMarks } from "../../../provider/resources/managed-files.ts";
import { sealedVolume } from "../../../provider/resources/sealed-volume.ts";
import { capUnit, managedFiles, unlockUnit } from "../../../provider/resources/sealed-volume-files.ts";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import {
  partitionUuid,
  place,
  readDisk,
  type Disk,
} from "../../../provider/resources/sealed-volume-partition.ts";
import { policyKeyOf, recoveryKeyOf } from "../../../provider/resources/sealed-volume-files.ts";
import { recoverVolume } from "../../../provider/resources/sealed-volume-plan.ts";
import type { SealedVolumeState } from "../../../provider/resources/sealed-volume-state.ts";
import { testKey } from "../trust/keys.ts";
import { Choices } from "./generated-states.ts";
import { approved, inputs, recovery, site } from "./sealed-volume-example.ts";

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const problems = (change: Partial<SealedVolumeInputs>): string[] =>
  (sealedVolume.check?.({ ...inputs, ...change }) ?? []).map(({ path, message }) => `${path}: ${message}`);

describe("check", () => {
  test("takes a volume as it should be", () => {
    expect(problems({})).toEqual([]);
    expect(problems({ device: { disk: "/dev/disk/by-id/nvme-x", sizeMiB: 1024 } })).toEqual([]);
    expect(problems({ device: "/dev/disk/by-partuuid/4f1c-03", mayErase: ["ext4", "unknown-data"] })).toEqual(
      [],
    );
  });

  test.each([
    [
      "/dev/sda",
      /^device: expected a path that names the same device at every boot.*got '\/dev\/sda'.*ls -l \/dev\/disk\/by-id/,
    ],
    ["/dev/disk/by-uuid/1", /^device: expected/],
    ["/dev/disk/by-id/../../sda", /^device: expected/],
    [{ disk: "/dev/disk/by-partuuid/1", sizeMiB: 100 }, /^device\.disk: expected/],
    [{ disk: "/dev/mmcblk0", sizeMiB: 100 }, /^device\.disk: expected/],
  ])("refuses the device %j", (device, said) => {
    expect(problems({ device })).toEqual([expect.stringMatching(said)]);
  });

  test("refuses a partition that is too small for its file system", () => {
    const device = { disk: "/dev/disk/by-id/x", sizeMiB: 100 };
    expect(problems({ device, filesystem: "xfs" })).toEqual([
      "device.sizeMiB: xfs in LUKS takes at least 320 MiB, got 100",
    ]);
  });

  test.each([
    "/etc/models",
    "/usr/share/x",
    "/boot",
    "/run/x",
    "/var",
    "/var/log",
    "/home",
    "/srv/../etc",
    "/var/lib/edgeseal/x",
  ])("refuses the mount point %s", (mountPoint) => {
    expect(problems({ mountPoint })).toEqual([expect.stringMatching(/^mountPoint: /)]);
  });

  test("refuses what blkid would never say", () => {
    expect(problems({ mayErase: ["ext4", "edgeseal:x"] })).toEqual([
      expect.stringMatching(/^mayErase\[1\]: expected a type as blkid names it/),
    ]);
  });

  test("refuses a key of the wrong kind, and a private one", () => {
    expect(problems({ policyKey: recovery.publicKeyPem })).toEqual([
      expect.stringMatching(/^policyKey: the policy key has to be RSA of 2048 bits/),
    ]);
    expect(problems({ recoveryKey: testKey("recovery").privateKeyPem })).toEqual([
      expect.stringMatching(/^recoveryKey: this is a private key/),
    ]);
  });

  test("refuses an approval of another key, another node, or a generation that was revoked, and says how to mend it", async () => {
    const otherKey = await approved();
    expect(problems({ approval: otherKey.approval })).toEqual([
      expect.stringMatching(/^approval\.policyKey: signed by another key.*edgeseal approve pi-1/),
    ]);
    const otherNode = await approved("pi-2", 1, site.key);
    expect(problems({ approval: otherNode.approval })).toEqual([
      expect.stringMatching(
        /^approval\.node: this is the approval of pi-2, and is used for pi-1.*edgeseal approve pi-1/,
      ),
    ]);
    expect(problems({ generation: 2 })).toEqual([
      expect.stringMatching(
        /^approval\.generation: of generation 1 of the policy key, which generation 2 revoked.*edgeseal approve pi-1/,
      ),
    ]);
  });

  test("refuses an approval that was changed after it was signed, or is none", () => {
    const changed = site.approval.replace('"reason": "a test"', '"reason": "another"');
    expect(problems({ approval: changed })).toEqual([
      expect.stringMatching(/^approval\.signature: not a signature of the policy key over this document/),
    ]);
    expect(problems({ approval: "{}" })).not.toEqual([]);
    expect(problems({ approval: "x" })).toEqual([expect.stringMatching(/^approval/)]);
  });
});

/** A volume that was formed, opened by the TPM and mounted. */
const good: SealedVolumeState = {
  formation: "complete",
  device: "/dev/disk/by-id/virtio-model",
  devicePresent: true,
  deviceBytes: 64 * 1024 * 1024,
  content: ["edgeseal:0a1b2c3d-1111-4222-8333-444455556666"],
  usedBy: [],
  formationMarker: "",
  luksUuid: "0a1b2c3d-1111-4222-8333-444455556666",
  cipher: "aes-xts-plain64",
  keySlots: [],
  tokens: [],
  segments: [],
  headerDigest: "ab".repeat(32),
  pinnedDigest: "ab".repeat(32),
  headerMatchesPins: true,
  headerUnfinished: false,
  headerDifferences: [],
  policyKey: policyKeyOf(inputs),
  recoveryKey: recoveryKeyOf(inputs),
  recoveryCiphertext: "x",
  recoveryFor: "0a1b2c3d-1111-4222-8333-444455556666",
  open: true,
  openedBy: "tpm",
  unlock: "observed",
  lockedReason: "",
  mountedAt: "/srv/models",
  mountOptions: ["nodev", "noexec", "nosuid", "rw"],
  missingOptions: [],
  filesystem: "ext4",
  readOnly: false,
  tpmPresent: true,
  pcr11: site.pcr11,
  pcr15Capped: true,
  pcr11Approved: true,
  approvals: [],
  files: Object.fromEntries(managedFiles(inputs).map((each) => [each.path, fileMarks(each)])),
  bootUnits: { [unlockUnit]: "enabled", [capUnit]: "enabled" },
  missingPackages: [],
  aesInstructions: true,
};

const planOf = (state: SealedVolumeState, declared: SealedVolumeInputs = inputs) =>
  sealedVolume.plan(declared, { outcome: "present", state }, route);

describe("the law: a plan is empty exactly when nothing differs", () => {
  test("for a volume that is as it should be", () => {
    expect(diffState(sealedVolume.desired(inputs), good)).toEqual([]);
    expect(planOf(good)).toEqual([]);
  });

  test("for any state", () => {
    let refused = 0;
    let empty = 0;
    let planned = 0;
    for (let seed = 0; seed < 4000; seed++) {
      const choose = new Choices(seed);
      const open = choose.mostly(true, false);
      const mounted = open && choose.mostly(true, false);
      const pinnedDigest = choose.mostly(good.pinnedDigest, "");
      const matches = pinnedDigest !== "" && choose.mostly(true, false);
      const unfinished = choose.mostly(false, true);
      const changed = (path: string): Record<string, string> => ({
        ...good.files,
        [path]: "0644 root:root sha256:00",
      });
      const state: SealedVolumeState = {
        ...good,
        formation: choose.mostly("complete", "none", "forming"),
        devicePresent: choose.mostly(true, false),
        device: choose.mostly(good.device, "/dev/disk/by-partuuid/1-03"),
        content: choose.mostly(good.content, [], ["ext4"]),
        usedBy: choose.mostly([], ["mounted at /mnt"]),
        headerUnfinished: unfinished,
        headerDifferences:
          matches || unfinished || pinnedDigest === "" ? [] : ["key slot 2 (luks2) was added"],
        headerMatchesPins: matches,
        headerDigest: matches ? good.pinnedDigest : "cd".repeat(32),
        pinnedDigest,
        policyKey: choose.mostly(good.policyKey, "", "12".repeat(32)),
        recoveryKey: choose.mostly(good.recoveryKey, "12".repeat(32)),
        cipher: choose.mostly(good.cipher, "xchacha12,aes-adiantum-plain64"),
        open,
        mountedAt: mounted ? choose.mostly("/srv/models", "/mnt") : "",
        filesystem: mounted ? choose.mostly("ext4", "xfs") : "",
        readOnly: mounted && choose.mostly(false, true),
        missingOptions: mounted ? choose.mostly([], ["nosuid"]) : [],
        tpmPresent: choose.mostly(true, false),
        pcr15Capped: choose.mostly(true, false),
        files: choose.mostly(
          good.files,
          {},
          changed("/etc/edgeseal/volumes/models.conf"),
          changed("/usr/lib/edgeseal/unlock-volumes"),
        ),
        bootUnits: choose.mostly(
          good.bootUnits,
          { ...good.bootUnits, [capUnit]: "masked" },
          {
            ...good.bootUnits,
            [unlockUnit]: "changed by /etc/systemd/system/edgeseal-volumes.service.d/x.conf",
          },
        ),
        missingPackages: choose.mostly([], ["openssl"]),
      };
      const declared = { ...inputs, cipher: choose.mostly<"auto" | "aes-xts">("auto", "aes-xts") };
      const differences = diffState(sealedVolume.desired(declared), state);
      try {
        const steps = planOf(state, declared);
        expect(steps.length === 0, `seed ${seed}: ${differences.map(({ path }) => path).join()}`).toBe(
          differences.length === 0,
        );
        if (steps.length === 0) empty++;
        else planned++;
      } catch (error) {
        if (!(error instanceof PlanRefused)) throw error;
        expect(differences, `seed ${seed} is refused: ${error.message}`).not.toEqual([]);
        refused++;
      }
    }
    expect(empty).toBeGreaterThan(10);
    for (const count of [planned, refused]) expect(count).toBeGreaterThan(200);
  });
});

describe("the plan", () => {
  test("formats nothing that was finished, whatever else differs", () => {
    const state = {
      ...good,
      open: false,
      mountedAt: "",
      filesystem: "",
      files: {},
      content: [],
      pcr15Capped: false,
    };
    const titles = planOf(state, { ...inputs, mayErase: ["crypto_LUKS", "ext4", good.content[0] ?? ""] }).map(
      ({ title }) => title,
    );
    expect(titles.filter((title) => /format|recovery key|file system|partition/.test(title))).toEqual([]);
    expect(titles).toContain("open models by the TPM");
  });

  test("that installs packages, which may rebuild the initramfs, ends with whether the next boot is an approved one", () => {
    const told = "see whether the next boot is an approved one";
    const endOf = (steps: readonly Step[]): string | undefined => steps.at(-1)?.title;
    const state = { ...good, missingPackages: ["dmsetup"] };
    expect(planOf(state).map(({ title }) => title)).toEqual(["install dmsetup", told]);
    expect(endOf(recoverVolume(inputs, state, "k".repeat(64)))).toBe(told);
    expect(endOf(planOf({ ...good, formation: "none", content: [], open: false, mountedAt: "" }))).toBe(told);
    // Nothing of what these do is measured.
    expect(endOf(planOf({ ...good, pcr15Capped: false }))).toMatch(/^cap PCR 15/);
    expect(endOf(recoverVolume(inputs, good, "k".repeat(64)))).toBe("mount models at /srv/models");
  });

  test("gives every step of the formation that destroys something a precondition, and none of them the key", () => {
    const steps = planOf({
      ...good,
      formation: "none",
      content: [],
      open: false,
      mountedAt: "",
      filesystem: "",
      pinnedDigest: "",
      headerMatchesPins: false,
    });
    for (const title of [
      /^format /,
      /^make an ext4 file system/,
      /^seal a key slot/,
      /^make the recovery key/,
    ]) {
      const step = steps.find((each) => title.test(each.title));
      expect(step?.kind === "run" && step.precondition, String(title)).toBeTruthy();
    }
    for (const step of steps) expect(step.kind === "run" ? (step.stdin ?? "") : "").toBe("");
  });

  test("says which pinned value differs", () => {
    const state = {
      ...good,
      headerMatchesPins: false,
      headerDifferences: ["key slot 2 (luks2) was added"],
      open: false,
    };
    expect(() => planOf(state)).toThrow(
      "the header of models on /dev/disk/by-id/virtio-model is not the pinned one: key slot 2 (luks2) was added; somebody changed or exchanged it: with the original back the next boot opens the volume",
    );
  });

  test("of a volume of another policy key or recovery key names who can change that", () => {
    expect(() => planOf({ ...good, policyKey: "12".repeat(32) })).toThrow(
      /the policy key of the volume models is 1212.*edgeseal volume recover/,
    );
    expect(() => planOf({ ...good, recoveryKey: "12".repeat(32) })).toThrow(
      /the recovery key of the volume models is 1212.*edgeseal volume recover/,
    );
  });

  test("takes away what changes our units, and unmasks them", () => {
    const bootUnits = {
      [unlockUnit]: "changed by /etc/systemd/system/edgeseal-volumes.service.d/x.conf",
      [capUnit]: "masked",
    };
    expect(planOf({ ...good, bootUnits }).map(({ title }) => title)).toEqual([
      "remove /etc/systemd/system/edgeseal-volumes.service.d/x.conf, which changes a unit of edgeseal's",
      "have edgeseal-volumes.service and edgeseal-cap-pcr15.service start at boot",
    ]);
  });

  test("refuses a device that is too small, and a node without a TPM", () => {
    const blank: SealedVolumeState = {
      ...good,
      formation: "none",
      content: [],
      open: false,
      pinnedDigest: "",
    };
    expect(() => planOf({ ...blank, deviceBytes: 32 * 1024 * 1024 })).toThrow(
      /has 32 MiB, and ext4 in LUKS takes at least 64; name a larger device/,
    );
    expect(() => planOf({ ...blank, tpmPresent: false })).toThrow(/has no TPM.*dtoverlay=tpm-slb9670/);
    expect(() => planOf({ ...blank, devicePresent: false })).toThrow(/there is no block device/);
  });
});

/** What `inspect_disk` prints, with what `sfdisk --json` of util-linux 2.41 says. */
const printed = (table: object, sectors: number): string =>
  `table ${"ab".repeat(32)}\nsectors ${sectors}\n${JSON.stringify({ partitiontable: table })}\n`;

const mbr = {
  label: "dos",
  id: "0x8b04fbe5",
  device: "/dev/vda",
  unit: "sectors",
  sectorsize: 512,
  partitions: [
    { node: "/dev/vda1", start: 16384, size: 1048576, type: "c" },
    { node: "/dev/vda2", start: 1064960, size: 7323648, type: "83" },
  ],
};
const gpt = {
  label: "gpt",
  id: "9E9C1F0A-0000-4000-8000-000000000001",
  device: "/dev/nvme0n1",
  unit: "sectors",
  firstlba: 2048,
  lastlba: 2097118,
  sectorsize: 512,
  partitions: [
    { node: "/dev/nvme0n1p1", start: 2048, size: 204800, type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4" },
  ],
};
const wanted = { path: "/dev/disk/by-id/x", node: "pi-1", name: "models" };
const read = (output: string): Disk => readDisk(output) ?? expect.fail("not read");

describe("a partition in unallocated space", () => {
  test("of an MBR goes behind what is there, on whole MiB", () => {
    const disk = read(printed(mbr, 16_777_216));
    expect(disk.free).toEqual([
      { start: 2048, sectors: 14336 },
      { start: 8388608, sectors: 16_777_216 - 8_388_608 },
    ]);
    expect(place(disk, { ...wanted, sizeMiB: 1024 })).toEqual({
      number: 3,
      start: 8388608,
      sectors: 2097152,
      partuuid: "8b04fbe5-03",
      attributes: "type=e8",
    });
  });

  test("of a GPT has a PARTUUID that is the same for the same volume", () => {
    const disk = read(printed(gpt, 2_097_152));
    const placed = place(disk, { ...wanted, sizeMiB: 500 });
    const partuuid = partitionUuid("pi-1", "models");
    expect(partuuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(partitionUuid("pi-1", "logs")).not.toBe(partuuid);
    expect(partitionUuid("pi-2", "models")).not.toBe(partuuid);
    expect(placed).toEqual({
      number: 2,
      start: 206848,
      sectors: 1024000,
      partuuid,
      attributes: `type=CA7D7CCB-63ED-4C53-861C-1742536059CC, uuid=${partuuid}, name="edgeseal-models"`,
    });
  });

  test("that does not fit is refused, and the free space named", () => {
    const disk = read(printed(mbr, 8_388_608));
    expect(place(disk, { ...wanted, sizeMiB: 1024 })).toBe(
      "/dev/disk/by-id/x has no 1024 MiB in one piece that no partition has; unallocated: 7 MiB. Existing partitions are not made smaller",
    );
    const full = read(
      printed({ ...mbr, partitions: [{ node: "/dev/vda1", start: 2048, size: 8_386_560 }] }, 8_388_608),
    );
    expect(place(full, { ...wanted, sizeMiB: 64 })).toMatch(/unallocated: nothing\./);
  });

  test("that a plan made and was cut off is taken, not made twice", () => {
    const line = "made 8b04fbe5-02 1064960 7323648\n{";
    const disk = read(printed(mbr, 16_777_216).replace("{", line));
    const made = { number: 2, start: 1064960, sectors: 7323648, partuuid: "8b04fbe5-02" };
    expect(disk.made).toEqual(made);
    expect(place(disk, { ...wanted, sizeMiB: 3576 })).toEqual({ ...made, attributes: "" });
    // Recorded, and not made.
    const other = read(printed(mbr, 16_777_216).replace("{", "made 8b04fbe5-03 8388608 2048\n{"));
    expect(other.made).toBeUndefined();
    expect(read(printed(mbr, 16_777_216).replace("{", "made   \n{")).made).toBeUndefined();
  });

  test("never overlaps another, whatever is on the disk", () => {
    for (let seed = 0; seed < 500; seed++) {
      const choose = new Choices(seed);
      const partitions: { node: string; start: number; size: number }[] = [];
      let at = choose.mostly(2048, 63, 8192);
      for (const number of [1, 2, 3]) {
        at += choose.mostly(0, 100, 4096, 1_000_000);
        const size = choose.mostly(204_800, 1, 77_777);
        if (choose.mostly(true, false)) partitions.push({ node: `/dev/vda${number}`, start: at, size });
        at += size;
      }
      const total = at + choose.mostly(1_000_000, 0, 2048);
      const table =
        choose.mostly("dos", "gpt") === "dos"
          ? { ...mbr, partitions }
          : { ...gpt, partitions, lastlba: total - 34 };
      const placed = place(read(printed(table, total)), { ...wanted, sizeMiB: choose.mostly(64, 200) });
      if (typeof placed === "string") continue;
      const end = placed.start + placed.sectors;
      expect(end).toBeLessThanOrEqual(total);
      expect(placed.start).toBeGreaterThanOrEqual(2048);
      for (const { start, size } of partitions)
        expect(end <= start || placed.start >= start + size, `seed ${seed}`).toBe(true);
      expect(partitions.map(({ node }) => node)).not.toContain(`/dev/vda${placed.number}`);
    }
  });

  test.each([
    ["a disk without a table", "no table\n", /has no partition table; to use the whole disk, give its path/],
    ["no such disk", "missing\n", /there is no block device/],
    ["another kind of table", printed({ ...gpt, label: "sun" }, 2_097_152), /neither GPT nor MBR/],
    [
      "an MBR without a number left",
      printed(
        {
          ...mbr,
          partitions: [1, 2, 3, 4].map((n) => ({ node: `/dev/vda${n}`, start: 2048 * n, size: 2048 })),
        },
        16_777_216,
      ),
      /all four primary partitions/,
    ],
    [
      "an MBR without a signature",
      printed({ ...mbr, id: "0x00000000" }, 16_777_216),
      /has no disk signature/,
    ],
  ])("is refused on %s", (_what, output, said) => {
    expect(place(read(output), { ...wanted, sizeMiB: 64 })).toMatch(said);
  });

  test("can't be planned without sfdisk", () => {
    expect(readDisk("\n")).toBeUndefined();
    const state: SealedVolumeState = {
      ...good,
      formation: "none",
      device: "",
      devicePresent: false,
      content: [],
      open: false,
      pinnedDigest: "",
    };
    expect(() => planOf(state, { ...inputs, device: { disk: "/dev/disk/by-id/x", sizeMiB: 64 } })).toThrow(
      /without sfdisk; install fdisk/,
    );
  });
});
