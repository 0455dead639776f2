import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { policyKeyOf } from "../../../provider/resources/sealed-volume-files.ts";
import { recoverVolume, resealProbe } from "../../../provider/resources/sealed-volume-plan.ts";
import { sealedVolume } from "../../../provider/resources/sealed-volume.ts";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import { openRecovery } from "../../../provider/trust/recovery.ts";
import { testKey } from "../trust/keys.ts";
import { dosTable, gptTable } from "./partition-tables.ts";
import { approved, inputs, luksJson, recovery, site } from "./sealed-volume-example.ts";
import { deviceBytes, headerBytes, StepFailed, VolumeNode } from "./sealed-volume-node.ts";

/*
 * The formation, run for real on a node whose device mapper and TPM are played: that it ends well from wherever it was cut off, and that it never costs data.
 */

// Seconds on an idle machine; much else may run beside it.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let node: VolumeNode;

beforeEach(() => {
  node = new VolumeNode();
  node.setPcr(11, site.pcr11);
});

afterEach(() => {
  node[Symbol.dispose]();
});

const disk = (): string => join(node.root, "dev/vdb");
const diskDigest = (): string => createHash("sha256").update(node.bytes("/dev/vdb")).digest("hex");

function writeAt(offset: number, bytes: Buffer | string): void {
  const file = openSync(disk(), "r+");
  writeSync(file, Buffer.from(bytes), 0, Buffer.byteLength(bytes), offset);
  closeSync(file);
}

const host = (command: string, ...args: readonly string[]): void => {
  const { status, stderr, error } = spawnSync(command, args, {
    encoding: "utf8",
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  if (status !== 0) throw error ?? new Error(stderr);
};

const form = (declared: SealedVolumeInputs = inputs): void => {
  node.applyAll(node.plan(declared));
};

function expectDone(declared: SealedVolumeInputs = inputs): void {
  expect(diffState(sealedVolume.desired(declared), node.observe(declared))).toEqual([]);
  expect(node.plan(declared)).toEqual([]);
}

const recordedUuid = (): string | undefined =>
  node.exists("/var/lib/edgeseal/volumes/models/formation")
    ? /^uuid=(.*)$/m.exec(node.read("/var/lib/edgeseal/volumes/models/formation"))?.[1]
    : undefined;

test("a blank device becomes a volume that is open, mounted and pinned, and only a boot shows that the TPM opens it", () => {
  form();
  expect(node.observe(inputs)).toMatchObject({
    formation: "complete",
    cipher: "aes-xts-plain64",
    headerMatchesPins: true,
    formationMarker: "",
    open: true,
    openedBy: "formation",
    unlock: "pending-reboot",
    mountedAt: "/srv/models",
    recoveryFor: recordedUuid(),
    pcr11Approved: true,
    approvals: [{ pcr11: site.pcr11, pol: site.pol }],
  });
  expectDone();
  node.boot();
  expect(node.observe(inputs)).toMatchObject({ openedBy: "tpm", unlock: "observed" });
  expectDone();
});

test("a site without an approval takes none from a node: its file was not found, maybe, and every volume would be locked", () => {
  form();
  const path = "/etc/edgeseal/trust/approvals.json";
  const before = node.read(path);
  expect(before).toContain(site.pol);
  const { approval: _, ...without } = inputs;
  form(without);
  expect(node.read(path)).toBe(before);
  expect(diffState(sealedVolume.desired(without), node.observe(without))).toEqual([]);
  node.boot();
  expect(node.observe(without)).toMatchObject({ openedBy: "tpm" });
});

test("without AES instructions the cipher is adiantum", () => {
  node.write("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n");
  form();
  expect(node.observe(inputs)).toMatchObject({
    cipher: "xchacha12,aes-adiantum-plain64",
    aesInstructions: false,
  });
  expectDone();
});

test("whoever may reboot the node is told that the volume would stay locked, once it is there", () => {
  form();
  expect(node.warnings).toEqual([expect.stringMatching(/^it can not be told .*\(sealed volumes: models; /)]);
});

test("the key is in no argument, in no file but memory's while it is made, and the site's recovery key gets it back", async () => {
  const steps = node.plan(inputs);
  const last = steps.findIndex(({ title }) => title.startsWith("pin the header"));
  node.applyAll(steps.slice(0, last));
  const uuid = recordedUuid() ?? "";
  const key = node.read(`/secrets/${uuid}.key`);
  expect(key).toMatch(/^[0-9a-f]{64}$/);
  const holders = (): string[] =>
    spawnSync("grep", ["-rlF", "-e", key, node.root], { encoding: "utf8" })
      .stdout.trim()
      .split("\n")
      .map((path) => path.slice(node.root.length))
      .filter((path) => path !== "" && !path.startsWith("/secrets/"));
  expect(holders()).toEqual(["/run/edgeseal/keys/models"]);
  expect(node.read("/proc/self/mountinfo")).toContain("/run/edgeseal/keys rw - ramfs");
  node.applyAll(steps.slice(last));
  expect(holders()).toEqual([]);
  expect(node.exists("/run/edgeseal/keys")).toBe(false);
  const { recoveryCiphertext } = node.observe(inputs);
  const opened = openRecovery(Buffer.from(recoveryCiphertext, "base64"), recovery.privateKey, {
    kind: "luks",
    node: "pi-1",
    subject: uuid,
  });
  await expect(opened).resolves.toBe(key);
});

test.each([
  ["is gone", ""],
  ["is there in part", "QUJD"],
])(
  "a volume whose recovery ciphertext %s is as it should not be, and says where the last one is",
  (_, left) => {
    node.applyAll(node.plan(inputs));
    const path = "/var/lib/edgeseal/volumes/models/recovery";
    const whole = node.read(path);
    const paths = (): readonly string[] =>
      diffState(sealedVolume.desired(inputs), node.observe(inputs)).map((each) => each.path);
    expect(paths()).not.toContain("recoveryKey");
    node.write(path, left);
    expect(node.observe(inputs)).toMatchObject({ recoveryKey: "", recoveryCiphertext: "", recoveryFor: "" });
    expect(paths()).toContain("recoveryKey");
    expect(() => node.plan(inputs)).toThrow(/recovery ciphertext of the volume models is not on the node/);
    node.write(path, whole);
    expect(paths()).not.toContain("recoveryKey");
  },
);

describe("cut off", () => {
  test("by the power at any moment: no header is ever without its recovery ciphertext, and the next plan ends well", async () => {
    const moments = node.formWithMoments(inputs);
    const uuid = recordedUuid() ?? "";
    // The blank device; ciphertext; record; marker; noise; header; marker; TPM's slot; file system; pins; record; no marker.
    expect(moments.length).toBeGreaterThanOrEqual(11);
    let finished = 0;
    for (const moment of moments) {
      node.returnTo(moment);
      const before = node.observe(inputs);
      if (before.luksUuid !== "") {
        expect(before.luksUuid).toBe(uuid);
        const key = await openRecovery(
          Buffer.from(before.recoveryCiphertext, "base64"),
          recovery.privateKey,
          {
            kind: "luks",
            node: "pi-1",
            subject: uuid,
          },
        );
        expect(key).toBe(node.read(`/secrets/${uuid}.key`));
      }
      const headerBefore = node.bytes("/dev/vdb").subarray(0, headerBytes - 4096);
      form();
      expectDone();
      expect(node.observe(inputs).luksUuid).toBe(uuid);
      if (before.formation === "complete") {
        finished++;
        expect(
          node
            .bytes("/dev/vdb")
            .subarray(0, headerBytes - 4096)
            .equals(headerBefore),
        ).toBe(true);
      }
    }
    expect(finished).toBeGreaterThanOrEqual(2);
  }, 300_000);

  /** Forms a volume, and goes back to where the power went between its pins and the record. */
  const pinnedUnrecorded = (): void => {
    const folder = (moment: string): string => `/moments/${moment}`;
    const moment = node
      .formWithMoments(inputs)
      .find(
        (each) =>
          node.exists(`${folder(each)}/settings/models.pins`) &&
          node.read(`${folder(each)}/records/models/formation`).includes("phase=forming"),
      );
    node.returnTo(moment ?? expect.fail("no moment has pins and an unfinished record"));
    node.write("/tpm-opens", "");
  };
  const recordTitle = "pin the header of models";
  const header = (): Buffer => Buffer.from(node.bytes("/dev/vdb").subarray(0, headerBytes - 4096));

  test("between the pins and the record, the next boot opens it, and no later plan ever formats it", () => {
    pinnedUnrecorded();
    const before = header();
    const formation = "/var/lib/edgeseal/volumes/models/formation";
    expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
    expect(node.observe(inputs)).toMatchObject({
      formation: "complete",
      openedBy: "tpm",
      unlock: "observed",
      mountedAt: "/srv/models",
      headerUnfinished: true,
      headerDifferences: [],
    });
    // It was written to since. A later boot leaves it locked.
    node.setPcr(11, "12".repeat(32));
    expect(node.boot().code).toBe(1);
    const steps = node.plan(inputs);
    expect(steps.map(({ title }) => title)).toEqual([recordTitle, "open models by the TPM"]);
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/models can be opened by a boot only/);
    expect(node.read(formation)).toContain("phase=complete");
    expect(header().equals(before)).toBe(true);
    node.setPcr(11, site.pcr11);
    node.boot();
    expectDone();
  });

  test("between the pins and the record, a plan that was made before formats nothing, whatever may be erased", () => {
    const may = { ...inputs, mayErase: ["edgeseal:0a1b2c3d-1111-4222-8333-444455556666", "unknown-data"] };
    const steps = node.plan(may);
    pinnedUnrecorded();
    const before = diskDigest();
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/the volume models is finished but for its record, and is never formatted again/);
    expect(diskDigest()).toBe(before);
  });

  test("between the pins and the record, by a killed provider: the plan writes that down, and goes on", () => {
    const steps = node.plan(inputs);
    const last = steps.findIndex(({ title }) => title === recordTitle);
    node.applyAll(steps.slice(0, last));
    const formation = "/var/lib/edgeseal/volumes/models/formation";
    const forming = node.read(formation);
    const marked = node.bytes("/dev/vdb").subarray(headerBytes - 4096, headerBytes);
    node.applyAll(steps.slice(last, last + 1));
    const before = header();
    node.write(formation, forming);
    writeAt(headerBytes - 4096, marked);
    expect(node.plan(inputs).map(({ title }) => title)).toEqual([
      recordTitle,
      "mount models at /srv/models",
      "cap PCR 15, so that nothing sealed can be unsealed before the next boot",
    ]);
    form();
    expectDone();
    expect(node.observe(inputs).openedBy).toBe("formation");
    expect(header().equals(before)).toBe(true);
  });

  test("between the pins and the record, it is sealed to another TPM as a finished one", () => {
    pinnedUnrecorded();
    const key = node.read(`/secrets/${recordedUuid() ?? ""}.key`);
    node.remove("/tpm-opens");
    expect(node.boot().code).toBe(1);
    node.applyAll(recoverVolume(inputs, node.observe(inputs), key));
    node.write("/tpm-opens", "");
    expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
    expectDone();
  });

  test("by a killed provider after any step: each next plan gets past that step, and the last ends well", () => {
    const titles = [
      "make the recovery key of models, and encrypt it to the site's",
      "format /dev/disk/by-id/virtio-model as LUKS2",
      "seal a key slot of models to the TPM",
      "open models with its recovery key",
      "make an ext4 file system on models",
      "pin the header of models",
      "mount models at /srv/models",
    ];
    for (const title of titles) {
      const steps = node.plan(inputs);
      const at = steps.findIndex((step) => step.title === title);
      expect(at, title).toBeGreaterThanOrEqual(0);
      node.applyAll(steps.slice(0, at + 1));
    }
    expect(node.plan(inputs).map(({ title }) => title)).toEqual([
      "cap PCR 15, so that nothing sealed can be unsealed before the next boot",
    ]);
    form();
    expectDone();
  }, 120_000);
});

describe("data is refused by name, in the plan and again on the device, and stays as it was:", () => {
  const unfinished = (): void => {
    const steps = node.plan(inputs);
    const last = steps.findIndex(({ title }) => title.startsWith("pin the header"));
    node.applyAll(steps.slice(0, last));
  };
  const cases: Readonly<Record<string, { readonly put: () => void; readonly said: RegExp }>> = {
    "a file system": {
      put: () => host("mkfs.ext4", "-q", "-F", disk()),
      said: /is not blank, it holds:? ext4/,
    },
    "a swap area": { put: () => host("mkswap", "-q", disk()), said: /it holds:? swap/ },
    "something without a signature, at the start": {
      put: () => writeAt(70_000, "photos"),
      said: /it holds:? unknown-data/,
    },
    "... at the end": { put: () => writeAt(deviceBytes - 10, "photos"), said: /it holds:? unknown-data/ },
    "... in between": {
      put: () => writeAt(Math.floor(deviceBytes / 15 / 4096) * 4096 * 7 + 9, "photos"),
      said: /it holds:? unknown-data/,
    },
    "a device in use, mounted": {
      put: () => node.write("/proc/self/mountinfo", "60 1 254:16 / /mnt rw - ext4 /dev/vdb rw\n"),
      said: /is in use: mounted at \/mnt/,
    },
    "a device in use as swap": {
      put: () => node.write("/proc/swaps", `Filename Type\n${node.root}/dev/vdb partition 1 0 -2\n`),
      said: /is in use: used as swap; name another device/,
    },
    "a device that something holds": {
      put: () => node.write("/sys/class/block/vdb/holders/md0/x", ""),
      said: /is in use: held by md0/,
    },
    "a device with a partition in use": {
      put: () => {
        node.write("/sys/class/block/vdb/vdb1/partition", "1\n");
        node.write("/sys/class/block/vdb/vdb1/dev", "254:17\n");
        node.write("/sys/class/block/vdb/vdb1/uevent", "DEVNAME=vdb1\n");
        node.write("/dev/vdb1", "");
        node.write("/proc/self/mountinfo", "60 1 254:17 / /boot rw - vfat /dev/vdb1 rw\n");
      },
      said: /is in use: mounted at \/boot/,
    },
    "a partition of a disk that is in use as a whole": {
      put: () => {
        node.write("/sys/class/block/vdb/partition", "1\n");
        node.write("/sys/class/block/dev", "254:0\n");
        node.write("/sys/class/block/uevent", "DEVNAME=vd\n");
        node.write("/sys/class/block/holders/md0/x", "");
      },
      said: /is in use: held by md0/,
    },
    "a device of a btrfs, mounted by another of its devices": {
      put: () => {
        node.write("/proc/self/mountinfo", "60 1 0:41 / /mnt rw - btrfs /dev/vdc rw\n");
        node.write("/sys/fs/btrfs/0a1b2c3d/devices/vdb/size", "1\n");
      },
      said: /is in use: a part of a mounted btrfs/,
    },
    "a device behind a loop device": {
      put: () => node.write("/sys/block/loop0/loop/backing_file", `${node.root}/dev/vdb\n`),
      said: /is in use: behind a loop device/,
    },
  };

  test.each(Object.entries(cases))("%s", (_what, { put, said }) => {
    const steps = node.plan(inputs);
    put();
    const before = diskDigest();
    expect(() => node.plan(inputs)).toThrow(PlanRefused);
    expect(() => node.plan(inputs)).toThrow(said);
    // A plan that was made before.
    expect(() => {
      node.applyAll(steps);
    }).toThrow(StepFailed);
    expect(diskDigest()).toBe(before);
    // One that got further before it was put there.
    expect(node.exists("/var/lib/edgeseal/volumes/models/formation")).toBe(false);
  });

  test("put there between the key and the format", () => {
    const steps = node.plan(inputs);
    const at = steps.findIndex(({ title }) => title.startsWith("format "));
    node.applyAll(steps.slice(0, at));
    host("mkfs.ext4", "-q", "-F", disk());
    const before = diskDigest();
    expect(() => {
      node.applyAll(steps.slice(at));
    }).toThrow(/precondition of 'format .*': .*it holds: ext4\. Nothing was changed/);
    expect(diskDigest()).toBe(before);
  });

  test("in use in a way that no list has, before the first write", () => {
    const steps = node.plan(inputs);
    const busy = "echo 'wipefs: error: probing initialization failed: Device or resource busy' >&2; exit 1";
    const looks = node.read("/bin/wipefs").replace("#!/bin/sh\n", "");
    node.write("/bin/wipefs", `#!/bin/sh\ncase " $* " in *" --no-act "*) ;; *) ${busy} ;; esac\n${looks}`);
    const before = diskDigest();
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/'format .*is in use: it can't be opened for this alone\. Nothing was changed/s);
    expect(diskDigest()).toBe(before);
    node.write("/bin/wipefs", `#!/bin/sh\n${looks}`);
    form();
    expectDone();
  });

  test("a volume of another node, or of this one before its card was written anew, also where LUKS may be erased", () => {
    form();
    node.restart();
    node.remove("/var/lib/edgeseal");
    node.remove("/etc/edgeseal");
    const before = diskDigest();
    for (const mayErase of [[], ["crypto_LUKS"], ["edgeseal:00000000-1111-4222-8333-444455556666"]]) {
      expect(() => node.plan({ ...inputs, mayErase })).toThrow(
        /it holds edgeseal:0a1b2c3d-1111-4222-8333-444455556666; that is a sealed volume/,
      );
    }
    const [first] = node.plan({ ...inputs, mayErase: ["edgeseal:0a1b2c3d-1111-4222-8333-444455556666"] });
    expect(first).toBeDefined();
    expect(diskDigest()).toBe(before);
  });

  test("a finished volume, when the record says that it is not: it came back from a backup", () => {
    unfinished();
    const backup = node.read("/var/lib/edgeseal/volumes/models/formation");
    form();
    node.restart();
    node.write("/var/lib/edgeseal/volumes/models/formation", backup);
    const steps = node.plan(inputs);
    const before = diskDigest();
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/precondition of 'make the recovery key .*it holds: edgeseal:0a1b2c3d/);
    expect(diskDigest()).toBe(before);
    expect(node.read("/var/lib/edgeseal/volumes/models/formation")).toBe(backup);
  });

  test("another disk in the place of one that was begun", () => {
    unfinished();
    node.restart();
    node.addDisk();
    host("mkfs.ext4", "-q", "-F", disk());
    const before = diskDigest();
    expect(() => node.plan(inputs)).toThrow(/is not blank, it holds ext4/);
    node.addDisk();
    writeAt(70_000, "photos");
    const steps = node.plan(inputs);
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/it holds: unknown-data/);
    expect(before).not.toBe(diskDigest());
  });

  test("a blank disk in the place of a finished volume is not taken for it", () => {
    form();
    node.restart();
    node.addDisk();
    expect(() => node.plan(inputs)).toThrow(
      /the header of models on .* is not the pinned one: there is no LUKS2 header any more/,
    );
  });

  test("what can't be read is unknown, and not blank", () => {
    const steps = node.plan(inputs);
    node.write("/bin/blkid", "#!/bin/sh\nexit 1\n");
    host("chmod", "755", join(node.root, "bin/blkid"));
    expect(() => node.observe(inputs)).toThrow(UnknownObservation);
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/could not be read/);
    expect(node.exists("/var/lib/edgeseal/volumes/models/formation")).toBe(false);
  });
});

describe("recovery, with another TPM or a new generation of the policy key", () => {
  /** A finished volume's recovery key. */
  const formed = (): string => {
    form();
    return node.read(`/secrets/${recordedUuid() ?? ""}.key`);
  };
  /** A finished volume whose slot was sealed anew: its recovery key, and the moments of that. */
  const rotated = () => {
    const key = formed();
    return { key, moments: node.applyWithMoments(recoverVolume(inputs, node.observe(inputs), key)) };
  };
  /** A finished volume that the TPM opens no more, and its recovery key. */
  const locked = (): string => {
    const key = formed();
    node.remove("/tpm-opens");
    expect(node.boot().code).toBe(1);
    return key;
  };
  /** The volume as the site declares it after `edgeseal keys rotate`; and the keys of both generations. */
  const nextGeneration = async () => {
    const { key: newKey, approval } = await approved("pi-1", 2);
    const next = { ...inputs, policyKey: newKey.publicKeyPem, generation: 2, approval };
    return { next, policyKeys: [policyKeyOf(inputs), policyKeyOf(next)] };
  };
  /** The keys by which the node has approvals. */
  const signedBy = (): readonly string[] =>
    (
      JSON.parse(node.read("/etc/edgeseal/trust/approvals.json")) as { sha256: readonly { pkfp: string }[] }
    ).sha256.map(({ pkfp }) => pkfp);
  const recover = (declared: SealedVolumeInputs, key: string): void => {
    node.applyAll(recoverVolume(declared, node.observe(declared), key));
  };

  test("opens it at once, and at every boot after that; the old slot is gone, the volume as it was", async () => {
    const key = locked();
    const uuid = recordedUuid();
    const { next } = await nextGeneration();
    expect(() => node.plan(next)).toThrow(/the policy key of the volume models is .*edgeseal volume recover/);
    recover(next, key);
    expectDone(next);
    expect(node.observe(next)).toMatchObject({
      openedBy: "other",
      luksUuid: uuid,
      policyKey: policyKeyOf(next),
      keySlots: [{ slot: "0" }, { slot: "1" }],
      tokens: [{ token: "0", keySlots: ["1"] }],
    });
    node.write("/tpm-opens", "");
    expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
    expect(node.observe(next).openedBy).toBe("tpm");
  });

  test("pins nothing where the disk answers something else later", () => {
    const key = locked();
    const pins = node.read("/etc/edgeseal/volumes/models.pins");
    const enrol = node.read("/bin/systemd-cryptenroll");
    // Somebody else's key material, in the slot of the recovery key.
    const other = `printf other | /bin/dd of='${disk()}' bs=1 seek=40000 conv=notrunc status=none`;
    node.write("/bin/systemd-cryptenroll", enrol.replace("exec ", `${other}\nexec `));
    expect(() => {
      recover(inputs, key);
    }).toThrow(/the recovery key's slot of models on .* became another one; nothing was changed/);
    expect(node.read("/etc/edgeseal/volumes/models.pins")).toBe(pins);
    expect(node.observe(inputs)).toMatchObject({
      headerMatchesPins: false,
      headerUnfinished: false,
      headerDifferences: [expect.stringMatching(/^what it says is as pinned, so the key slots themselves/)],
    });
    node.write("/tpm-opens", "");
    expect(node.boot().code).toBe(1);
  });

  /** Has reads of that many bytes of the disk fail after some of them. */
  const failReads = (bytes: number): void => {
    node.write(
      "/bin/dd",
      `#!/bin/sh
case "$*" in
if=${disk()}*count=${bytes}*) /bin/dd "$@" | head -c 20000; echo 'dd: error reading: Input/output error' >&2; exit 1 ;;
esac
exec /bin/dd "$@"
`,
    );
  };

  test.each([headerBytes, 2 * 16_384])(
    "is unknown, and not another header, where a read of %d bytes of it fails",
    (bytes) => {
      locked();
      failReads(bytes);
      expect(() => node.observe(inputs)).toThrow(UnknownObservation);
      expect(() => node.observe(inputs)).toThrow(/the header on .* could not be read to its end/);
    },
  );

  test("is refused where the header can't be read to its end", () => {
    const key = locked();
    const steps = recoverVolume(inputs, node.observe(inputs), key);
    const before = diskDigest();
    failReads(headerBytes);
    const { header = "" } = resealProbe(inputs, inputs.device as string).parts;
    const { code, stderr } = node.sh(header);
    expect({ code, stderr: stderr.split("\n").at(-1) }).toEqual({
      code: 1,
      stderr: `the header on ${inputs.device as string} could not be read to its end, or /run has no room for it`,
    });
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/could not be read to its end/);
    expect(diskDigest()).toBe(before);
  });

  test("keeps the header that was written ahead until the disk has it: one that does not keep what is written loses nothing", () => {
    const key = formed();
    const dd = node.read("/bin/dd");
    const lost = 'case "$*" in *seek=290816*) exit 0 ;; esac';
    node.write("/bin/dd", dd.replace("#!/bin/sh\n", `#!/bin/sh\n${lost}\n`));
    expect(() => {
      recover(inputs, key);
    }).toThrow(/does not have the header of models that was written to it; what it was to have stays in/);
    node.write("/bin/dd", dd);
    node.boot();
    expect(found(inputs)).toBe("differs, unfinished");
    node.applyAll(node.plan(inputs));
    expectDone();
    expect(found(inputs)).toBe("pinned");
  });

  test.each([1, 2])(
    "changes nothing where sealing fails (generation %i): the slot that was there still opens the volume",
    async (generation) => {
      form();
      const wanted = generation === 1 ? inputs : (await nextGeneration()).next;
      const key = node.read(`/secrets/${recordedUuid() ?? ""}.key`);
      const before = [diskDigest(), node.read("/etc/edgeseal/volumes/models.pins")];
      node.write("/bin/systemd-cryptenroll", "#!/bin/sh\necho 'Failed to seal to TPM2' >&2\nexit 1\n");
      expect(() => {
        recover(wanted, key);
      }).toThrow(/Failed to seal to TPM2/);
      expect([diskDigest(), node.read("/etc/edgeseal/volumes/models.pins")]).toEqual(before);
      expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
      if (generation === 1) expectDone();
    },
  );

  test("seals anew also where the old slot has the very policy that is wanted", () => {
    const key = locked();
    const before = node.observe(inputs).headerDigest;
    recover(inputs, key);
    expectDone();
    expect(node.observe(inputs).headerDigest).not.toBe(before);
  });

  /** Of a volume in a moment at which the power went, after a boot: whether the header on the device is the pinned one, and whether anything is left to be done with it. */
  const found = (declared: SealedVolumeInputs): string => {
    const { openedBy, headerMatchesPins, headerUnfinished, headerDifferences } = node.observe(declared);
    expect({ openedBy, headerDifferences }).toEqual({ openedBy: "tpm", headerDifferences: [] });
    return `${headerMatchesPins ? "pinned" : "differs"}${headerUnfinished ? ", unfinished" : ""}`;
  };
  const finishTitle = "pin the header of models";

  test("cut off by the power at any moment, the next boot opens it, and the next plan or recovery finishes it", () => {
    const { key, moments } = rotated();
    const left = moments.map((moment) => {
      node.returnTo(moment);
      node.boot();
      const was = found(inputs);
      const steps = node.plan(inputs);
      expect(steps.map(({ title }) => title)).toEqual(was === "pinned" ? [] : [finishTitle]);
      node.applyAll(steps);
      expectDone();
      expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
      expect(found(inputs)).toBe("pinned");
      expect(node.exists("/etc/edgeseal/volumes/models.header")).toBe(false);
      node.returnTo(moment);
      node.boot();
      recover(inputs, key);
      expectDone();
      expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
      return was;
    });
    expect(left).toEqual([
      "pinned",
      // The header is in its file; is pinned.
      "pinned, unfinished",
      "differs, unfinished",
      // On the device: the area of the slots; one copy of what the header says; the other.
      "differs, unfinished",
      "differs, unfinished",
      "pinned, unfinished",
      // The file says nothing any more; is gone.
      "pinned, unfinished",
      "pinned",
    ]);
  });

  test("cut off, it is finished on its own device only, and opens by nothing but what was pinned", () => {
    const { moments } = rotated();
    const half = (): void => {
      node.returnTo(moments[4] ?? "");
      node.boot();
      expect(found(inputs)).toBe("differs, unfinished");
    };
    half();
    const ahead = node.bytes("/etc/edgeseal/volumes/models.header");
    ahead.write("another key", 300_000);
    node.write("/etc/edgeseal/volumes/models.header", ahead);
    expect(node.boot().stderr).toMatch(/models stays locked: header-differs/);
    expect(() => node.plan(inputs)).toThrow(/the header of models on .* is not the pinned one/);
    // Another disk where the volume was; and one that says of itself that it is the volume.
    const say = {
      another: () => {
        node.addDisk();
        writeAt(0, Buffer.alloc(4096, "somebody's"));
      },
      copied: () => {
        writeAt(40_000, Buffer.from("another key"));
      },
    };
    for (const [disk, why] of [
      ["another", /there is no LUKS2 header on .* that can be read/],
      ["copied", /the recovery key's slot of models on .* is not the pinned one/],
    ] as const) {
      half();
      const steps = node.plan(inputs);
      say[disk]();
      const before = diskDigest();
      expect(() => {
        node.applyAll(steps);
      }).toThrow(why);
      expect(diskDigest()).toBe(before);
      expect(node.boot().stderr).toMatch(/models stays locked: header-differs/);
      expect(() => node.plan(inputs)).toThrow(/the header of models on .* is not the pinned one/);
      expect(node.exists("/etc/edgeseal/volumes/models.header")).toBe(true);
    }
  });

  test("cut off, it is finished by another path of the same device as well", () => {
    const { moments } = rotated();
    node.returnTo(moments[4] ?? "");
    node.boot();
    const renamed = { ...inputs, device: "/dev/disk/by-id/renamed" };
    node.link(renamed.device, "../../vdb");
    node.remove(inputs.device as string);
    node.applyAll(node.plan(renamed));
    expectDone(renamed);
    node.link(inputs.device as string, "../../vdb");
  });

  test("changes nothing where there is no room for the header that is to be written", () => {
    const key = locked();
    const before = [diskDigest(), node.read("/etc/edgeseal/volumes/models.pins")];
    node.write(
      "/bin/cat",
      `#!/bin/sh\ncase "$*" in */header) head -c 1000 "$1"; echo 'cat: write error: No space left on device' >&2; exit 1 ;; esac\nexec /bin/cat "$@"\n`,
    );
    node.sh('chmod 755 "$ROOT/bin/cat"');
    expect(() => {
      recover(inputs, key);
    }).toThrow(/there is no room for a copy of the header of models in .*; nothing was changed/);
    expect([diskDigest(), node.read("/etc/edgeseal/volumes/models.pins")]).toEqual(before);
    expect(node.sh("ls -A /etc/edgeseal/volumes").stdout).toBe("models.conf\nmodels.pins\n");
    node.remove("/bin/cat");
    recover(inputs, key);
    expectDone();
  });

  test("cut off on the way to another generation, it opens by the one before until its header is pinned, and by the new one from then on", async () => {
    const key = formed();
    const { next, policyKeys } = await nextGeneration();
    const moments = node.applyWithMoments(recoverVolume(next, node.observe(next), key));
    expect(signedBy()).toEqual(policyKeys.slice(1));
    const left = moments.map((moment) => {
      node.returnTo(moment);
      node.boot();
      const was = found(next);
      const sealedBy = policyKeys.indexOf(node.observe(next).policyKey) + 1;
      const signers = signedBy().length;
      if (sealedBy === 2) node.applyAll(node.plan(next));
      else recover(next, key);
      expectDone(next);
      expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
      return `approvals of ${signers}, sealed by ${sealedBy}, ${was}`;
    });
    expect(left).toEqual([
      "approvals of 1, sealed by 1, pinned",
      "approvals of 2, sealed by 1, pinned",
      "approvals of 2, sealed by 1, pinned, unfinished",
      "approvals of 2, sealed by 2, differs, unfinished",
      "approvals of 2, sealed by 2, differs, unfinished",
      "approvals of 2, sealed by 2, differs, unfinished",
      "approvals of 2, sealed by 2, pinned, unfinished",
      "approvals of 2, sealed by 2, pinned, unfinished",
      "approvals of 2, sealed by 2, pinned",
      "approvals of 1, sealed by 2, pinned",
    ]);
  });

  test("to another generation, keeps the approvals of the one before for as long as another volume opens by them", async () => {
    const key = formed();
    for (const kind of ["conf", "pins"])
      node.write(`/etc/edgeseal/volumes/logs.${kind}`, node.bytes(`/etc/edgeseal/volumes/models.${kind}`));
    const { next, policyKeys } = await nextGeneration();
    recover(next, key);
    expect(signedBy()).toEqual(policyKeys);
    expect(() => {
      form(next);
    }).toThrow(/sealed by another policy key, whose approvals would go: logs; edgeseal volume recover/);
    expect(signedBy()).toEqual(policyKeys);
    node.write("/etc/edgeseal/volumes/logs.pins", node.bytes("/etc/edgeseal/volumes/models.pins"));
    form(next);
    expect(signedBy()).toEqual(policyKeys.slice(1));
    expectDone(next);
  });

  test("mends the first copy of what the header says, where that is gone", () => {
    const key = locked();
    writeAt(0, Buffer.alloc(4096, "torn"));
    expect(node.boot().stderr).toMatch(/models stays locked: header-differs/);
    expect(node.observe(inputs)).toMatchObject({ luksUuid: recordedUuid(), headerMatchesPins: false });
    recover(inputs, key);
    expectDone();
  });

  test.each([
    ["a slot without its token", "cryptsetup token remove --token-id 0 --"],
    ["a token without its slot", "cryptsetup luksKillSlot --batch-mode --key-file - --", "1"],
  ])("takes %s away", (_, command, slot = "") => {
    const key = locked();
    expect(node.sh(`${command} ${inputs.device as string} ${slot}`, key).code).toBe(0);
    expect(node.observe(inputs)).toMatchObject({ headerMatchesPins: false });
    recover(inputs, key);
    expectDone();
  });

  test.each([
    [
      "another cipher, though one that edgeseal uses",
      (json: string) =>
        json.replace(
          '"encryption":"aes-xts-plain64","sector_size"',
          '"encryption":"xchacha12,aes-adiantum-plain64","sector_size"',
        ),
    ],
    [
      "another salt in the recovery key's slot",
      (json: string) => json.replace('"salt":"vH7K', '"salt":"vH7L'),
    ],
    ["another digest of the volume key", (json: string) => json.replace(/"digest":"./, '"digest":"!')],
  ])("is refused where the header has %s, before the key is used", (_, change) => {
    const key = locked();
    const json = change(JSON.stringify(JSON.parse(luksJson)));
    expect(json).not.toBe(JSON.stringify(JSON.parse(luksJson)));
    const area = Buffer.alloc(16_384 - 4096);
    area.write(json, "latin1");
    writeAt(4096, area);
    node.remove("/commands");
    const before = diskDigest();
    expect(() => {
      recover(inputs, key);
    }).toThrow(/the header of models on .* is not the pinned one, in more than the TPM's slot/);
    expect(diskDigest()).toBe(before);
    expect(node.commands.filter((each) => each.includes("--test-passphrase"))).toEqual([]);
    const state = node.observe(inputs);
    const probe = resealProbe(inputs, state.device);
    const answer = Object.fromEntries(
      Object.entries(probe.parts).map(([part, script]) => [part, node.sh(script)]),
    );
    expect(probe.parse(answer)).toMatch(/in more than the TPM's slot/);
  });

  test("encrypts the volume's key to the site's new recovery key, where it has one; else the ciphertext stays", async () => {
    const key = locked();
    const before = node.observe(inputs).recoveryCiphertext;
    recover(inputs, key);
    expect(node.observe(inputs).recoveryCiphertext).toBe(before);
    const another = testKey("recovery");
    const next = { ...inputs, recoveryKey: another.publicKeyPem };
    expect(() => node.plan(next)).toThrow(
      /the recovery key of the volume models is .*edgeseal volume recover/,
    );
    recover(next, key);
    expectDone(next);
    const { recoveryCiphertext, recoveryFor } = node.observe(next);
    const binding = { kind: "luks", node: "pi-1", subject: recoveryFor } as const;
    const opened = await openRecovery(Buffer.from(recoveryCiphertext, "base64"), another.privateKey, binding);
    expect(opened).toBe(key);
  });

  test("refuses another key, and a volume that was not finished, and changes nothing", () => {
    expect(() => recoverVolume(inputs, node.observe(inputs), "k".repeat(64))).toThrow(/was not finished/);
    locked();
    const before = diskDigest();
    expect(() => {
      recover(inputs, "k".repeat(64));
    }).toThrow(/the recovery key does not open models on/);
    expect(diskDigest()).toBe(before);
  });
});

test("what may be erased is erased, and nothing else is", () => {
  host("mkfs.ext4", "-q", "-F", disk());
  const may = { ...inputs, mayErase: ["vfat"] };
  expect(() => node.plan(may)).toThrow(/it holds ext4/);
  const both = { ...inputs, mayErase: ["vfat", "ext4"] };
  form(both);
  expectDone(both);
});

describe("on a disk with a table of partitions, which may be erased,", () => {
  const partitionAt = 4 * 1024 * 1024;
  const partitionBytes = 8 * 1024 * 1024;
  const may = { ...inputs, mayErase: ["dos", "gpt", "ext4"] };

  /** A disk with one blank partition, which the kernel knows. */
  const partitioned = (label: "dos" | "gpt"): void => {
    const table = { dos: dosTable, gpt: gptTable }[label];
    for (const part of table({ diskBytes: deviceBytes, at: partitionAt, bytes: partitionBytes }))
      writeAt(part.at, part.bytes);
    const sys = "/sys/class/block/vdb/vdb1";
    node.write(`${sys}/partition`, "1\n");
    node.write(`${sys}/start`, `${partitionAt / 512}\n`);
    node.write(`${sys}/size`, `${partitionBytes / 512}\n`);
    node.write(`${sys}/dev`, "254:17\n");
    node.write(`${sys}/uevent`, "DEVNAME=vdb1\n");
    node.write("/dev/vdb1", Buffer.alloc(partitionBytes));
  };

  test.each(["dos", "gpt"] as const)(
    "blank partitions and what no partition has go with it (%s)",
    (label) => {
      partitioned(label);
      expect(node.observe(may).content).toEqual([label]);
      expect(() => node.plan(inputs)).toThrow(new RegExp(`it holds ${label}$|it holds ${label};`));
      form(may);
      expectDone(may);
    },
  );

  test.each(["dos", "gpt"] as const)(
    "cut off by the power at any moment, what was to be erased is still erased by the next plan (%s)",
    (label) => {
      partitioned(label);
      host("mkfs.ext4", "-q", "-F", join(node.root, "dev/vdb1"));
      const table = node.bytes("/dev/vdb").subarray(0, 4096);
      const moments = node.formWithMoments(may);
      const uuid = recordedUuid();
      let unmarked = 0;
      expect(moments.length).toBeGreaterThanOrEqual(12);
      // From the marker to the header: the rest is the same on any disk.
      for (const moment of moments.slice(2, 6)) {
        node.returnTo(moment);
        const found = node.bytes("/dev/vdb").subarray(0, headerBytes + 4096);
        if (!found.includes("edgeseal forms ")) {
          unmarked++;
          expect(found.subarray(0, 4096).equals(table), moment).toBe(true);
        }
        form(may);
        expectDone(may);
        expect(recordedUuid()).toBe(uuid);
      }
      expect(unmarked).toBeGreaterThanOrEqual(1);
    },
    300_000,
  );

  test("cut off while the GPT was wiped, what protects it goes as well", () => {
    partitioned("gpt");
    const steps = node.plan(may);
    node.applyAll(
      steps.slice(
        0,
        steps.findIndex(({ title }) => title.startsWith("format ")),
      ),
    );
    writeAt(headerBytes, `edgeseal forms ${recordedUuid() ?? ""}\n`);
    for (const at of [512, deviceBytes - 512]) writeAt(at, Buffer.alloc(8));
    expect(node.observe(may).content).toContain("gpt");
    expect(() => node.plan(inputs)).toThrow(/is not blank, it holds gpt/);
    form(may);
    expectDone(may);
  });

  test.each<["dos" | "gpt", string, () => void]>([
    [
      "dos",
      "on a partition, at its start",
      () =>
        node.write(
          "/dev/vdb1",
          Buffer.concat([Buffer.alloc(70_000), Buffer.alloc(partitionBytes - 70_000, 1)]),
        ),
    ],
    [
      "gpt",
      "on a partition, at its end",
      () => node.write("/dev/vdb1", Buffer.concat([Buffer.alloc(partitionBytes - 10), Buffer.alloc(10, 1)])),
    ],
    ["dos", "before the first partition", () => writeAt(partitionAt - 10, "photos")],
    ["gpt", "after the last partition", () => writeAt(partitionAt + partitionBytes + 70_000, "photos")],
    ["gpt", "at the end of the disk", () => writeAt(deviceBytes - 40_000, "photos")],
  ])("data without a signature does not (%s), %s", (label, _where, put) => {
    partitioned(label);
    const steps = node.plan(may);
    put();
    const before = [diskDigest(), node.bytes("/dev/vdb1")];
    expect(() => node.plan(may)).toThrow(/is not blank, it holds unknown-data/);
    // A plan that was made before.
    expect(() => {
      node.applyAll(steps);
    }).toThrow(/it holds: unknown-data\. Nothing was changed/);
    expect([diskDigest(), node.bytes("/dev/vdb1")]).toEqual(before);
  });
});

describe("a finished volume", () => {
  test("that is to be mounted elsewhere, or read-only, is, and keeps its header", () => {
    form();
    const header = node.observe(inputs).headerDigest;
    for (const change of [
      { readOnly: true },
      { mountPoint: "/srv/other" },
      { readOnly: true, mountPoint: "/srv/third" },
    ]) {
      const changed = { ...inputs, ...change };
      form(changed);
      expectDone(changed);
      expect(node.observe(changed).headerDigest).toBe(header);
    }
  });

  test("keeps no mount point immutable that is none any more: after a change of it, and after onDelete: revert", () => {
    node.write(
      "/bin/chattr",
      `#!/bin/sh
PATH=/usr/bin:/bin
place=\${3#"$ROOT"}
touch "$ROOT/immutable"
case $1 in +i) echo "$place" >>"$ROOT/immutable" ;; -i) sed -i "\\|^$place$|d" "$ROOT/immutable" ;; esac
`,
    );
    const immutable = (): readonly string[] => node.read("/immutable").split("\n").filter(Boolean);
    form();
    expect(immutable()).toEqual(["/srv/models"]);
    const moved = { ...inputs, mountPoint: "/srv/moved" };
    form(moved);
    expectDone(moved);
    expect(immutable()).toEqual(["/srv/moved"]);
    const revert = (): void => {
      node.applyAll(sealedVolume.revert(moved, { outcome: "present", state: node.observe(moved) }));
    };
    revert();
    expect(immutable()).toEqual([]);
    // Of one that a boot left locked as well.
    node.applyAll(node.plan(moved).filter(({ kind }) => kind === "file"));
    node.remove("/tpm-opens");
    expect(node.boot().code).toBe(1);
    expect(immutable()).toEqual(["/srv/moved"]);
    revert();
    expect(immutable()).toEqual([]);
  });

  test("that is found by another path is pinned by that; a device that is not it is not", () => {
    form();
    node.link("/dev/disk/by-partuuid/1234-01", "../../vdb");
    const moved = { ...inputs, device: "/dev/disk/by-partuuid/1234-01" };
    expect(node.plan(moved).map(({ title }) => title)).toEqual([
      "find models by /dev/disk/by-partuuid/1234-01 from now on",
    ]);
    form(moved);
    expectDone(moved);
    expect(node.boot().code).toBe(0);
    node.write("/dev/vdc", Buffer.alloc(headerBytes + 4096));
    node.link("/dev/disk/by-id/other", "../../vdc");
    expect(() => {
      form({ ...inputs, device: "/dev/disk/by-id/other" });
    }).toThrow(/is not the volume models: its header is not the pinned one/);
  });

  test.each([
    [
      "its file system",
      { filesystem: "xfs" },
      /the file system of the volume models is ext4, not xfs; a volume is never formatted again/,
    ],
    [
      "its cipher",
      { cipher: "adiantum" },
      /the cipher of the volume models is aes-xts-plain64, not xchacha12/,
    ],
  ] as const)("does not change %s", (_what, change, said) => {
    form();
    const before = diskDigest();
    expect(() =>
      node.plan({ ...inputs, mayErase: ["edgeseal:0a1b2c3d-1111-4222-8333-444455556666"], ...change }),
    ).toThrow(said);
    expect(diskDigest()).toBe(before);
  });

  test("without its pins, or without its device, is left alone", () => {
    form();
    const pins = node.bytes("/etc/edgeseal/volumes/models.pins");
    node.remove("/etc/edgeseal/volumes/models.pins");
    expect(() => node.plan(inputs)).toThrow(/its pins \(\/etc\/edgeseal\/volumes\/models\.pins\) are gone/);
    node.write("/etc/edgeseal/volumes/models.pins", pins);
    node.remove("/dev/disk");
    expect(() => node.plan(inputs)).toThrow(
      /the device of the volume models, \/dev\/disk\/by-id\/virtio-model, is not there/,
    );
  });

  test("that is deleted with onDelete: revert is closed and opened no more, and comes back as it was", () => {
    form();
    const state = node.observe(inputs);
    const before = diskDigest();
    node.applyAll(sealedVolume.revert(inputs, { outcome: "present", state }));
    expect(node.observe(inputs)).toMatchObject({
      open: false,
      formation: "complete",
      headerMatchesPins: true,
    });
    expect(diskDigest()).toBe(before);
    expect(node.boot().code).toBe(0);
    expect(node.observe(inputs).open).toBe(false);
    node.restart();
    form();
    expectDone();
    expect(node.observe(inputs).openedBy).toBe("tpm");
  });
});
