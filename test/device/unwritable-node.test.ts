import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diffState } from "../../provider/diff.ts";
import { createDevices } from "../../provider/device/devices.ts";
import type { ApplyResult } from "../../provider/device/device.ts";
import { kinds } from "../../provider/registry.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { inputsFor, modelContent } from "../unit/resources/model-example.ts";
import { nodeFirewall } from "./node-firewall.ts";

/*
 * A node whose disk is full, or whose /etc is read-only (an SD card that the kernel no longer trusts): each real kind that changes a node says so, leaves
 * in force what was, and gets there once the node can be written to.
 */

let node: NamespaceNode;
beforeAll(async () => {
  // With python3 a seccomp profile is tried on the node; what is mounted stands for the sealed volume of a model.
  node = await NamespaceNode.start({ packages: ["python3"] });
  await node.must("mkdir -p /srv/models /srv/volume && mount --bind /srv/volume /srv/models");
});

const folder = mkdtempSync(join(tmpdir(), "edgeseal-unwritable-"));

afterAll(async () => {
  rmSync(folder, { recursive: true });
  await (node as NamespaceNode | undefined)?.stop();
});

const content = modelContent();
const file = join(folder, "model.gguf");
writeFileSync(file, content);

const imageKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({
  type: "spki",
  format: "pem",
});

const inputsOf: Readonly<Record<string, object>> = {
  "edgeseal:memory:Swap": { mode: "off", leftoverFiles: "remove" },
  "edgeseal:memory:CoreDumps": { mode: "off", storedDumps: "remove" },
  "edgeseal:network:Firewall": { ...nodeFirewall, allow: [] },
  "edgeseal:container:ImagePolicy": {
    keys: { site: imageKey },
    allow: [{ image: "registry.example/edge/llama", signedBy: ["site"] }],
  },
  "edgeseal:memory:Scratch": {
    tmpMiB: 64,
    varTmpMiB: 96,
    journal: "volatile",
    syslog: "off",
    historyFiles: "remove",
    leftovers: "remove",
    reboot: "never",
    rebootUnapproved: "refuse",
  },
  "edgeseal:inference:Model": await inputsFor(
    content,
    { mountPoint: "/srv/models", directory: "/srv/models/models" },
    { file },
  ),
  "edgeseal:security:SeccompProfile": { name: "inference", variant: "llama-server", additionalSyscalls: [] },
};

/** What a `pulumi up` does for one resource: look, plan, apply, read back; by a provider of its own. */
async function up(kind: ResourceKind, inputs: object): Promise<ApplyResult<object>> {
  const devices = createDevices({ kinds: [kind] });
  try {
    const device = devices.get(node.connection);
    const observed = await device.observe<object>(kind, inputs);
    const steps = kind.plan(inputs as never, observed as never, await device.route());
    expect(steps).not.toEqual([]);
    return await device.apply<object>(kind, inputs, steps);
  } finally {
    await devices.close();
  }
}

/** What is on the node of all that the kinds change. */
const everything = (): Promise<string> =>
  node.must(
    "cat /proc/sys/kernel/core_pattern /proc/sys/fs/suid_dumpable; nft --stateless list ruleset; find /etc -newer /run/before ! -type d ! -name '*.edgeseal-new' | sort; ls -A /var/lib/edgeseal 2>/dev/null | grep -e pending -e reverting || :",
  );

/** Lazily: whatever of the failed plan is still on its way out may have a file there open, and finds nothing else in its place. */
const conditions = {
  "a read-only /etc": {
    begin: "mount --bind /etc /etc && mount -o remount,bind,ro /etc",
    end: "umount -l /etc",
    says: /Read-only file system/,
    mend: /; see on the device what is mounted read-only, and why \(`findmnt -O ro`, `dmesg`\).*, and run the operation again/,
  },
  "a full disk": {
    // /etc and edgeseal's own folder, on a file system with room for names and for no content.
    begin: `mkdir -p /mnt/full /var/lib/edgeseal && mount -t tmpfs -o size=4m,mode=755 tmpfs /mnt/full && cp -a /etc /mnt/full/etc && mkdir -m 700 /mnt/full/edgeseal &&
mount --bind /mnt/full/etc /etc && mount --bind /mnt/full/edgeseal /var/lib/edgeseal && { dd if=/dev/zero of=/mnt/full/fill bs=4k 2>/dev/null || :; }`,
    end: "umount -l /etc /var/lib/edgeseal /mnt/full",
    says: /No space left on device/,
    mend: /; make room on the device \(`df -h` and `df -i` there tell what is full\), and run the operation again/,
  },
} as const;

describe.each(Object.keys(inputsOf))("%s", (token) => {
  const kind = kinds.find((each) => each.token === token) ?? expect.fail(`no ${token}`);
  const inputs = inputsOf[token] ?? {};

  test.each(Object.entries(conditions))(
    "on %s fails, says why and the mend, and changes nothing",
    async (_, condition) => {
      await node.must("touch /run/before");
      const before = await everything();
      await node.must(condition.begin);
      try {
        const { failure } = await up(kind, inputs);
        expect(failure).toMatchObject({ kind: "stepFailed" });
        expect(failure?.message).toMatch(condition.says);
        expect(failure?.message).toMatch(condition.mend);
        expect(failure?.message.startsWith(`${node.name}: `)).toBe(true);
      } finally {
        await node.must(condition.end);
      }
      expect(await everything()).toBe(before);
    },
  );

  test("gets there once the node can be written to", async () => {
    const { failure, observed } = await up(kind, inputs);
    expect(failure).toBeUndefined();
    if (observed.outcome !== "present") throw new Error("nothing was read back");
    expect(diffState(kind.desired(inputs as never) as object, observed.state)).toEqual([]);
  });
});

/** Kinds that have no place here, and why. */
const elsewhere: Readonly<Record<string, string>> = {
  "edgeseal:boot:VerifiedBoot": "it only observes",
  "edgeseal:boot:FirmwareConfig":
    "it writes to the boot partition, a file system of its own: test/device/unwritable-boot-partition.test.ts",
  "edgeseal:boot:MeasuredBoot": "a namespace has no initramfs to build",
  "edgeseal:tpm:Ownership": "a namespace has no TPM",
  "edgeseal:storage:SealedVolume": "a namespace has no dm-crypt",
  "edgeseal:security:AppArmorProfile": "a namespace has no AppArmor of its own",
  "edgeseal:inference:InferenceContainer": "a namespace has no podman",
};

test("every kind that changes a node is among these", () => {
  expect([...Object.keys(inputsOf), ...Object.keys(elsewhere)].sort()).toEqual(
    kinds.map(({ token }) => token).sort(),
  );
});
