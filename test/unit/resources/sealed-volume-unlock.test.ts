import { createHash } from "node:crypto";
import { chmodSync, openSync, writeSync, closeSync, truncateSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { approvalsFile } from "../../../provider/resources/sealed-volume-files.ts";
import type { SealedVolumeInputs } from "../../../provider/resources/sealed-volume-inputs.ts";
import { parseApproval } from "../../../provider/trust/approval.ts";
import { deviceBytes, headerBytes, VolumeNode } from "./sealed-volume-node.ts";
import { approved, events, inputs, luksJson, site } from "./sealed-volume-example.ts";

/*
 * The unlock program, run for real on a node whose device mapper and TPM are played: each thing that is not as it was pinned keeps the volume locked, by name, and with
 * the thing put back it opens.
 */

// Seconds on an idle machine; much else may run beside it.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let node: VolumeNode;
let original: Buffer;

beforeAll(() => {
  node = new VolumeNode();
  node.applyAll(node.plan(inputs));
  original = node.bytes("/dev/vdb").subarray(0, headerBytes);
  approvals = node.bytes("/etc/edgeseal/trust/approvals.json").toString();
  pins = node.bytes("/etc/edgeseal/volumes/models.pins").toString();
}, 120_000);

afterAll(() => {
  node[Symbol.dispose]();
});

function writeAt(offset: number, content: Buffer | string): void {
  const bytes = Buffer.from(content);
  const file = openSync(join(node.root, "dev/vdb"), "r+");
  writeSync(file, bytes, 0, bytes.length, offset);
  closeSync(file);
}

let approvals: string;
let pins: string;

/** As it was when the volume was formed, its present boot approved. */
function restore(): void {
  if (!node.exists("/dev/vdb")) node.addDisk();
  truncateSync(join(node.root, "dev/vdb"), deviceBytes);
  writeAt(0, original);
  node.setPcr(11, site.pcr11);
  node.write("/etc/edgeseal/trust/approvals.json", approvals);
  node.write("/etc/edgeseal/volumes/models.pins", pins);
  node.write("/dev/tpmrm0", "");
  node.write("/tpm-opens", "");
  node.remove("/mount-fails");
  for (const key of Object.keys(node.environment)) Reflect.deleteProperty(node.environment, key);
}

beforeEach(restore);

const status = (): string => node.read("/run/edgeseal/volumes/models");
const isOpen = (): boolean => node.exists("/dev/mapper/edgeseal-models");

test("as it was formed, in an approved state, it opens and is mounted", () => {
  const { code, stderr } = node.boot();
  expect(stderr).toBe("");
  expect(code).toBe(0);
  expect(status()).toMatch(/^state=open\nby=tpm\ndiskseq=\d+\n$/);
  expect(node.read("/proc/self/mountinfo")).toMatch(/ \/srv\/models nodev,nosuid,noexec,rw - ext4 /);
  expect(node.observe(inputs)).toMatchObject({
    open: true,
    openedBy: "tpm",
    unlock: "observed",
    lockedReason: "",
  });
  expect(node.plan(inputs)).toEqual([]);
  // No copy of a header is left in memory.
  expect(node.sh("ls /run/edgeseal").stdout).toBe("volumes\n");
});

test("a state is approved when the site's approval has it, the node has it by the site's key, and the volume is bound to that", async () => {
  const isApproved = (declared: SealedVolumeInputs): boolean => node.observe(declared).pcr11Approved;
  expect(isApproved(inputs)).toBe(true);
  // What the node says alone, which any root of it may write.
  const { approval: _withdrawn, ...without } = inputs;
  expect(isApproved(without)).toBe(false);
  // After `keys rotate`, until the volume is recovered.
  const { key, approval } = await approved("pi-1", 2);
  const next = { ...inputs, policyKey: key.publicKeyPem, generation: 2, approval };
  expect(isApproved(next)).toBe(false);
  node.write("/etc/edgeseal/trust/approvals.json", approvalsFile(parseApproval(approval)).content);
  expect(isApproved(next)).toBe(false);
  // What the site approved and the node has not.
  expect(isApproved(inputs)).toBe(false);
});

test("a mapping that was closed and opened again by hand is not the one that the TPM opened", () => {
  node.boot();
  expect(node.observe(inputs)).toMatchObject({ openedBy: "tpm", unlock: "observed" });
  const uuid = node.observe(inputs).luksUuid;
  const byHand = `umount "$ROOT/srv/models"
cryptsetup close edgeseal-models
cryptsetup open --type luks2 --key-slot 0 --key-file - -- ${inputs.device as string} edgeseal-models`;
  expect(node.sh(byHand, node.read(`/secrets/${uuid}.key`))).toMatchObject({ code: 0, stderr: "" });
  expect(node.observe(inputs)).toMatchObject({ open: true, openedBy: "other", unlock: "pending-reboot" });
});

test.each(["sysinit.target", "emergency.target", "rescue.target", "dev-tpmrm0.device"])(
  "a cap that %s does not start any more is not enabled, and the next plan enables it",
  (wants) => {
    node.boot();
    node.remove(`/etc/systemd/system/${wants}.wants/edgeseal-cap-pcr15.service`);
    expect(node.observe(inputs).bootUnits).toEqual({
      "edgeseal-volumes.service": "enabled",
      "edgeseal-cap-pcr15.service": "not enabled",
    });
    const steps = node.plan(inputs);
    expect(steps.map(({ title }) => title)).toEqual([
      "have edgeseal-volumes.service and edgeseal-cap-pcr15.service start at boot",
    ]);
    node.applyAll(steps);
    expect(node.plan(inputs)).toEqual([]);
  },
);

/** Times that the TPM was asked in this boot. */
const asked = (): number => node.commands.filter((line) => line.includes("systemd-cryptsetup attach")).length;

test("a TPM that fails once is asked again; one that refuses, twice in all", () => {
  node.write("/tpm-fails-once", "");
  expect(node.boot()).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/Input\/output error$/) as string,
  });
  expect(status()).toMatch(/^state=open\nby=tpm\ndiskseq=\d+\n$/);
  expect(asked()).toBe(2);
  node.remove("/tpm-opens");
  expect(node.boot().code).toBe(1);
  expect(asked()).toBe(2);
});

test("a check of the file system may take as long as one does at any boot, and the unit waits for it", () => {
  try {
    node.write("/bin/timeout", '#!/bin/sh\necho "$*" >>"$ROOT/bounds"\nexec /usr/bin/timeout "$@"\n');
    chmodSync(join(node.root, "bin/timeout"), 0o755);
    expect(node.boot().code).toBe(0);
    const seconds = Number(/^-k 5 (\d+) e2fsck -p /m.exec(node.read("/bounds"))?.[1]);
    expect(seconds).toBeGreaterThanOrEqual(600);
    const unit = node.read("/etc/systemd/system/edgeseal-volumes.service");
    // Two volumes that need it, on one boot.
    expect(Number(/^TimeoutStartSec=(\d+)$/m.exec(unit)?.[1])).toBeGreaterThan(2 * seconds);
  } finally {
    node.remove("/bin/timeout");
    node.remove("/bounds");
  }
});

/** A header like the one that was made, with other JSON. */
function otherHeader(change: (json: string) => string): void {
  node.sh(
    `printf '%s' '${change(JSON.stringify(JSON.parse(luksJson)))}' >/other.json`.replace(
      "/other.json",
      join(node.root, "other.json"),
    ),
  );
  const json = node.bytes("/other.json");
  const area = Buffer.alloc(16_384 - 4096);
  json.copy(area);
  writeAt(4096, area);
}

describe("stays locked, says why, and opens when the original is back:", () => {
  const cases: Readonly<Record<string, { readonly attack: () => void; readonly reason: RegExp }>> = {
    "a null cipher": {
      attack: () => {
        otherHeader((json) =>
          json.replace(
            '"encryption":"aes-xts-plain64","sector_size"',
            '"encryption":"cipher_null-ecb","sector_size"',
          ),
        );
      },
      reason: /^header-differs: .*segment 0: encryption is cipher_null-ecb, pinned aes-xts-plain64/,
    },
    "another key slot": {
      attack: () => {
        otherHeader((json) => json.replace('"keyslots":{', '"keyslots":{"7":{"type":"luks2"},'));
      },
      reason: /^header-differs: .*key slot 7 \(luks2\) was added/,
    },
    "a foreign token": {
      attack: () => {
        otherHeader((json) =>
          json.replace('"tokens":{', '"tokens":{"3":{"type":"clevis","keyslots":["1"]},'),
        );
      },
      reason: /^header-differs: .*token 3 \(clevis\) was added/,
    },
    "an older header": {
      attack: () => {
        const epoch = Buffer.alloc(8);
        epoch.writeBigUInt64BE(3n);
        writeAt(16, epoch);
      },
      reason: /^header-differs: the header: header\.epoch is 3, pinned 5$/,
    },
    "another volume of the same UUID": {
      attack: () => {
        otherHeader((json) =>
          json.replaceAll(/"salt":"./g, '"salt":"_').replaceAll(/"digest":"./g, '"digest":"_'),
        );
      },
      reason: /^header-differs: digest 0: digest is _.*key slot 0: kdf\.salt is _/,
    },
    "an exchanged key slot, of which the header says nothing": {
      attack: () => {
        writeAt(290_816, Buffer.from("another key"));
      },
      reason: /^header-differs: what it says is as pinned, so the key slots themselves/,
    },
    "a second copy of the header that differs": {
      attack: () => {
        writeAt(16_384 + 100, Buffer.from([1]));
      },
      reason: /^header-differs: what it says is as pinned/,
    },
    "no header at all": {
      attack: () => {
        writeAt(0, Buffer.alloc(headerBytes));
      },
      reason: /^header-differs: there is no LUKS2 header any more that can be read/,
    },
    "a device that ends within the header": {
      attack: () => {
        truncateSync(join(node.root, "dev/vdb"), 1024 * 1024);
      },
      reason: /^header-differs: /,
    },
    "no device": {
      attack: () => {
        rmSync(join(node.root, "dev/vdb"));
      },
      reason: /^device-missing: \/dev\/disk\/by-id\/virtio-model did not appear within 30 s$/,
    },
    "no TPM": {
      attack: () => {
        node.remove("/dev/tpmrm0");
      },
      reason: /^no-tpm: no TPM appeared within 30 s$/,
    },
    "another value of PCR 11": {
      attack: () => {
        node.setPcr(11, "12".repeat(32));
      },
      reason: /^pcr11-not-approved: PCR 11 is (12){32}, and the node has no approval of that state/,
    },
    "an approval by a key that does not count any more": {
      attack: () => {
        node.write(
          "/etc/edgeseal/trust/approvals.json",
          approvals.replaceAll(/"pkfp": "[0-9a-f]+"/g, `"pkfp": "${"ab".repeat(32)}"`),
        );
      },
      reason:
        /^approval-revoked: PCR 11 is .*, and the node's approval of that state is by another policy key/,
    },
    "no approvals": {
      attack: () => {
        node.remove("/etc/edgeseal/trust/approvals.json");
      },
      reason: /^pcr11-not-approved: /,
    },
    "another TPM": {
      attack: () => {
        node.remove("/tpm-opens");
      },
      reason: /^tpm-refused: .*another TPM, one that was cleared.*State not recoverable/,
    },
    "a cipher that encrypts nothing, in the header, and in pins that agree with it": {
      attack: () => {
        const at = original.indexOf('aes-xts-plain64","sector_size"');
        writeAt(at, "cipher_null-ecb");
        const digest = createHash("sha256").update(node.bytes("/dev/vdb").subarray(0, headerBytes));
        node.write(
          "/etc/edgeseal/volumes/models.pins",
          pins
            .replace(/^header-sha256=.*$/m, `header-sha256=${digest.digest("hex")}`)
            .replace(/^(cipher=|fact segments\.0\.encryption ).*$/gm, "$1cipher_null-ecb"),
        );
      },
      reason: /^cipher-refused: its pins have the cipher 'cipher_null-ecb', which edgeseal never makes/,
    },
    "a mapping with another cipher than the header says": {
      attack: () => {
        node.environment["MAPS_AS"] = "cipher_null-ecb";
      },
      reason:
        /^mapping-differs: what was opened is '.* crypt cipher_null-ecb 32768', not '.* crypt aes-xts-plain64 32768'$/,
    },
    "a file system that can't be mounted": {
      attack: () => {
        node.write("/mount-fails", "");
      },
      reason:
        /^not-mounted: it was opened, but its ext4 file system could not be mounted, so it was closed again: mount: wrong fs type/,
    },
    "a file system that needs more than e2fsck -p": {
      attack: () => {
        node.environment["FSCK"] = "4";
      },
      reason: /^not-mounted: /,
    },
  };

  test.each(Object.entries(cases))("%s", (_what, { attack, reason }) => {
    attack();
    const { code, stderr } = node.boot();
    expect(isOpen()).toBe(false);
    expect(code).toBe(1);
    expect(stderr).toContain("<3>models stays locked: ");
    const said = /^state=locked\nreason=(.*)\n$/.exec(status())?.[1] ?? expect.fail(status());
    expect(said).toMatch(reason);
    expect(node.read("/proc/self/mountinfo")).not.toContain("/srv/models");

    restore();
    expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
    expect(isOpen()).toBe(true);
  });
});

test("PCR 15 that is not zeros is told as what it is: capped, or not reset", () => {
  node.restart();
  node.setPcr(15, "cd".repeat(32));
  expect(node.sh(`sh ${node.root}/rewritten/unlock-volumes`).code).toBe(1);
  expect(status()).toMatch(
    /^state=locked\nreason=pcr15-not-zero: PCR 15 is (cd){32}: either it was capped in this boot already, or this boot did not reset the TPM/,
  );
  expect(isOpen()).toBe(false);
});

test("a formation that was cut off before its last write, the marker still there, opens; the next plan takes the marker away", () => {
  writeAt(headerBytes - 4096, `edgeseal forms 0a1b2c3d-1111-4222-8333-444455556666\n`);
  expect(node.boot()).toMatchObject({ code: 0, stderr: "" });
  expect(node.observe(inputs)).toMatchObject({
    openedBy: "tpm",
    headerMatchesPins: false,
    headerUnfinished: true,
  });
  const steps = node.plan(inputs);
  expect(steps.map(({ title }) => title)).toEqual(["pin the header of models"]);
  node.applyAll(steps);
  expect(node.observe(inputs)).toMatchObject({
    openedBy: "tpm",
    headerMatchesPins: true,
    formationMarker: "",
  });
  expect(node.plan(inputs)).toEqual([]);
  // It excuses nothing else.
  writeAt(290_816, "another key");
  writeAt(headerBytes - 4096, `edgeseal forms 0a1b2c3d-1111-4222-8333-444455556666\n`);
  expect(node.boot().code).toBe(1);
  expect(() => node.plan(inputs)).toThrow(
    /the header of models on .* is not the pinned one: what it says is as pinned/,
  );
  // Nor is that of another volume one.
  restore();
  writeAt(headerBytes - 4096, `edgeseal forms 99999999-1111-4222-8333-444455556666\n`);
  expect(node.boot().code).toBe(1);
  expect(status()).toMatch(/^state=locked\nreason=header-differs/);
});

test("pins that contradict themselves open nothing", () => {
  node.write(
    "/etc/edgeseal/volumes/models.pins",
    pins.replace("fact segments.0.type crypt", "fact segments.0.type linear"),
  );
  expect(node.boot().code).toBe(1);
  expect(status()).toMatch(/segment 0: type is crypt, pinned linear/);
});

test("settings without pins, and pins that are not whole, are a volume that was not formed", () => {
  node.remove("/etc/edgeseal/volumes/models.pins");
  node.boot();
  expect(status()).toMatch(/^state=locked\nreason=not-formed: \S+models\.pins is not there/);
  node.write("/etc/edgeseal/volumes/models.pins", pins.replace(/^header-sha256=.*\n/m, ""));
  node.boot();
  expect(status()).toMatch(/^state=locked\nreason=not-formed: its settings or its pins are incomplete/);
});

test("a volume that is locked keeps no other from opening", () => {
  try {
    node.write(
      "/etc/edgeseal/volumes/absent.conf",
      "mount-point=/srv/absent\nfilesystem=ext4\nread-only=false\n",
    );
    expect(node.boot().code).toBe(1);
    expect(node.read("/run/edgeseal/volumes/absent")).toMatch(/^state=locked\nreason=not-formed/);
    expect(status()).toMatch(/^state=open\nby=tpm\ndiskseq=\d+\n$/);
  } finally {
    node.remove("/etc/edgeseal/volumes/absent.conf");
  }
});

test("the header is not read from the device again: one that is exchanged after it was judged opens nothing else", () => {
  node.boot();
  const opening = node.commands.findLast((line) => line.includes("systemd-cryptsetup attach")) ?? "";
  expect(opening).toMatch(/,header=\/run\/edgeseal\/unlock\.\w+\/header$/);
});

test("a boot that is not approved is told by its events, against the nearest approved state", () => {
  node.setPcr(11, "12".repeat(32));
  node.boot();
  const [program, ...rest] = events("pi-1");
  const found = [
    program,
    ...rest.map((each) => (each.type === "cmdline" ? { ...each, digest: "34".repeat(32) } : each)),
  ];
  const lines = found.map((each) => ["11", each?.type, each?.name, each?.digest, ""].join("\t"));
  const log = ["edgeseal-event-log 1", `start\t11\t${"0".repeat(64)}`, ...lines];
  node.write("/run/edgeseal/measured/log", `${log.join("\n")}\n`);
  expect(node.observe(inputs).lockedReason).toMatch(
    /^pcr11-not-approved: .*; against the nearest approved state: changed cmdline$/,
  );
  node.write("/run/edgeseal/measured/log", "something else\n");
  expect(node.observe(inputs).lockedReason).not.toContain("against");
  node.remove("/run/edgeseal/measured/log");
});

test("after the boot the reason of the boot stays on record, and is told", () => {
  node.setPcr(11, "12".repeat(32));
  node.boot();
  const reason = node.observe(inputs).lockedReason;
  expect(reason).toMatch(/^pcr11-not-approved/);
  const [step, ...more] = node.plan(inputs);
  expect(more).toEqual([]);
  expect(() => {
    if (step !== undefined) node.apply(step);
  }).toThrow(
    /'open models by the TPM': models can be opened by a boot only, as PCR 15 is capped; this boot left it locked: pcr11-not-approved: PCR 11 is 1212/,
  );
  expect(node.observe(inputs).lockedReason).toBe(reason);
});
