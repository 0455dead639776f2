import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ApplyResult } from "../../provider/device/device.ts";
import type { Step } from "../../provider/device/step.ts";
import { firmwareConfig } from "../../provider/resources/firmware-config.ts";
import type { FirmwareConfigState } from "../../provider/resources/firmware-config-observation.ts";
import { withProvider } from "./provider-on-pi.ts";
import { SealedNode } from "./sealed-node.ts";

/*
 * Edits of config.txt and cmdline.txt on a node whose boots are measured, approved, and open a sealed volume: each ends in a state in which the volume is open, the new one or the former. What becomes of such an edit
 * without a trial is in firmware-config.test.ts ("the control").
 */

let node: SealedNode;

beforeAll(async () => {
  node = await SealedNode.start();
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

type Inputs = Parameters<typeof firmwareConfig.desired>[0];

/** As a program that reads the site file declares it, with the approval that is there now. */
function declared(present: readonly string[], settings: readonly string[] = []): Inputs {
  const read = (path: string): string => readFileSync(join(node.folder, path), "utf8");
  return {
    settings: [...settings],
    commandLine: { present: [...present], absent: [] },
    tryboot: "always",
    reboot: "ifNeeded",
    rebootUnapproved: "refuse",
    node: "pi-1",
    policyKey: read("keys/policy-1.pub.pem"),
    generation: 1,
    approval: read("approvals/pi-1.json"),
  };
}

interface Up extends ApplyResult<FirmwareConfigState> {
  readonly titles: readonly string[];
}

const up = (inputs: Inputs, change: (step: Step) => Step = (step) => step): Promise<Up> =>
  withProvider(node.pi, firmwareConfig, async (device) => {
    const observed = await device.observe<FirmwareConfigState>(firmwareConfig, inputs);
    const steps = firmwareConfig.plan(inputs, observed, await device.route()).map(change);
    const titles: string[] = [];
    const applied = await device.apply<FirmwareConfigState>(firmwareConfig, inputs, steps, {
      onProgress: (title) => titles.push(title),
    });
    return { ...applied, titles };
  });

/** Stages an edit, which its missing approval keeps from being tried, and approves what follows its trial. */
async function stageAndApprove(
  present: readonly string[],
  settings: readonly string[] = [],
): Promise<Inputs> {
  const before = await bootFiles();
  const refused = await up(declared(present, settings));
  expect(refused.failure).toMatchObject({ kind: "refused" });
  expect(refused.failure?.message).toContain("edgeseal approve");
  expect(refused.observed).toMatchObject({ state: { stagedPhase: "staged", pendingReboot: true } });
  expect(await bootFiles()).toBe(before);
  const approved = await node.edgeseal("approve", "pi-1", "--yes", ...node.keys);
  expect(approved.code, approved.text).toBe(0);
  expect(approved.text).toContain("the state after the trial of the edit");
  return declared(present, settings);
}

const bootFiles = (): Promise<string> =>
  node.root("cd /boot/firmware; find . -type f -exec sha256sum {} + | sort -k 2");
const commandLine = (): Promise<string> => node.root("cat /proc/cmdline");
const failedWords = "the node booted as before, not with the edit";

/** Holds that the node is as it was, and that it came to that by itself. */
async function expectAsBefore(before: { readonly files: string; readonly pcr11: string }): Promise<void> {
  expect(await bootFiles()).toBe(before.files);
  expect(await node.pcr11()).toBe(before.pcr11);
  await node.expectOpen();
}

const now = async () => ({ files: await bootFiles(), pcr11: await node.pcr11() });

test("an edit waits for its approval off the boot partition: who boots the node meanwhile finds it as it was", async () => {
  const before = await now();
  await stageAndApprove(["edgeseal_test=1"], ["arm_boost=1"]);
  await node.root("sync");
  await node.pi.powerCut();
  await node.pi.boot();
  await expectAsBefore(before);
});

test("approved, it is tried, and then booted as it was approved: the volume is open", async () => {
  const before = await now();
  const result = await up(declared(["edgeseal_test=1"], ["arm_boost=1"]));
  expect(result.failure).toBeUndefined();
  expect(result.titles.filter((title) => !title.startsWith("waiting"))).toEqual([
    "make /usr/lib/edgeseal",
    "write /usr/lib/edgeseal/firmware-trial",
    "write /etc/systemd/system/edgeseal-trial.service",
    "write /etc/systemd/system/edgeseal-trial-end.service",
    "enable the units that end a trial",
    "see that no volume loses the approval that it opens by",
    "make /etc/edgeseal",
    "make /etc/edgeseal/trust",
    "ship the approval",
    "reboot on trial with the edit of config.txt and cmdline.txt; sealed volumes stay locked in that boot",
    "see whether this boot is the trial, and keep the edit",
    "reboot into the approved state",
  ]);
  expect(result.observed).toMatchObject({ state: { pendingReboot: false, staged: "", trial: "" } });
  expect(await commandLine()).toMatch(/ edgeseal_test=1$/m);
  expect(await node.root("grep -c arm_boost=1 /boot/firmware/config.txt")).toBe("1\n");
  expect(await node.root("ls -A /boot/firmware /var/lib/edgeseal")).not.toMatch(
    /tryboot|trial|firmware-edit/,
  );
  expect(await node.pcr11()).not.toBe(before.pcr11);
  await node.expectOpen();
  // The boot in between was the trial, and nothing was unsealed in it.
  expect(await node.root("journalctl -b -1 -k -q -o cat | grep -m 1 'Command line'")).toMatch(
    / edgeseal\.trial=[0-9a-f]{16}$/m,
  );
  expect(await node.root("journalctl -b -1 -q -o cat -u edgeseal-volumes")).toContain(
    "models stays locked: pcr11-not-approved",
  );
});

test("one that can't boot is a power cut away from the node as it was, with its volume open", async () => {
  const before = await now();
  const broken = await stageAndApprove(["edgeseal_test=1", "root=PARTUUID=00000000-02"], ["arm_boost=1"]);
  const from = node.pi.console.position();
  // What a person at the board would do who finds it hanging.
  const hung = node.pi.console
    .waitFor(/ALERT!.*does not exist|Gave up waiting for root|\(initramfs\)/, { from, timeoutMs: 400_000 })
    .then(async () => {
      await node.pi.powerCut();
      // The trial's files were measured in this boot, which removes them and boots again before it lets anybody in.
      await expect(node.pi.boot()).rejects.toThrow("(reset) before it was ready");
    });
  const result = await up(broken);
  await hung;
  expect(result.failure).toMatchObject({ kind: "stepFailed" });
  expect(result.failure?.message).toContain(failedWords);
  await expectAsBefore(before);
});

test("one that boots and lets nobody in ends by itself, and the node is as it was", async () => {
  const before = await now();
  const shutIn = await stageAndApprove(["edgeseal_test=1", "systemd.mask=ssh.service"], ["arm_boost=1"]);
  const result = await up(shutIn, (step) =>
    step.kind === "file" ? { ...step, content: step.content.replace("sleep 300", "sleep 20") } : step,
  );
  expect(result.failure?.message).toContain(failedWords);
  await expectAsBefore(before);
});

test("the power goes between the two files of an edit that was good: the node brings it to its end, and the volume is open", async () => {
  const before = await node.pcr11();
  const good = await stageAndApprove(["edgeseal_test=2"], ["arm_boost=2"]);
  // Held once config.txt is in its place and cmdline.txt is not.
  await node.root(
    `printf '#!/bin/sh\\ncase "$*" in *" /boot/firmware/./cmdline.txt") if [ ! -e /var/lib/cut ]; then touch /var/lib/cut; sync; echo HELD >/dev/console; exec sleep 3600; fi ;; esac\\nexec /bin/mv "$@"\\n' >/usr/sbin/mv && chmod 755 /usr/sbin/mv && sync`,
  );
  const from = node.pi.console.position();
  const applying = up(good).catch(() => undefined);
  await node.pi.console.waitFor(/HELD/, { from, timeoutMs: 600_000 });
  await node.pi.powerCut();
  await expect(node.pi.boot()).rejects.toThrow("(reset) before it was ready");
  await applying;
  expect(await commandLine()).toMatch(/ edgeseal_test=2$/m);
  expect(await node.root("grep arm_boost /boot/firmware/config.txt")).toBe("arm_boost=2\n");
  expect(await node.root("ls -A /boot/firmware /var/lib/edgeseal")).not.toMatch(
    /tryboot|trial|edgeseal-new|firmware-edit/,
  );
  expect(await node.pcr11()).not.toBe(before);
  await node.expectOpen();
  expect((await up(good)).titles).toEqual([]);
});
