import { afterAll, beforeAll, expect, test } from "vitest";
import type { ApplyResult } from "../../provider/device/device.ts";
import type { Step } from "../../provider/device/step.ts";
import { firmwareConfig } from "../../provider/resources/firmware-config.ts";
import type { FirmwareConfigState } from "../../provider/resources/firmware-config-observation.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, onPi, withProvider } from "./provider-on-pi.ts";

/*
 * config.txt and cmdline.txt with a firmware that boots what they say: the testbed's, which reads them from the boot partition at every reset, and tryboot.txt when the kernel was
 * restarted so.
 */

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
});

// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

type Inputs = Parameters<typeof firmwareConfig.desired>[0];

const defaults: Inputs = {
  settings: ["dtparam=spi=on", "dtoverlay=tpm-slb9670"],
  commandLine: {
    present: ["lsm=landlock,lockdown,yama,integrity,apparmor,bpf", "cgroup_enable=memory"],
    absent: [],
  },
  tryboot: "never",
  reboot: "ifNeeded",
  rebootUnapproved: "refuse",
};
const also = (...present: readonly string[]): Inputs => ({
  ...defaults,
  tryboot: "always",
  commandLine: { present: [...defaults.commandLine.present, ...present], absent: [] },
});

const commandLine = (): Promise<string> => onPi(pi, "cat /proc/cmdline");
const files = (): Promise<string> => onPi(pi, "cd /boot/firmware; sha256sum config.txt cmdline.txt");
const bootId = (): Promise<string> => onPi(pi, "cat /proc/sys/kernel/random/boot_id");

/** One plan, changed as the test needs it, and what came of it. */
const applyChanged = (
  inputs: Inputs,
  change: (step: Step) => Step,
  onProgress: (message: string) => void = () => undefined,
): Promise<ApplyResult<FirmwareConfigState>> =>
  withProvider(pi, firmwareConfig, async (device) => {
    const observed = await device.observe<FirmwareConfigState>(firmwareConfig, inputs);
    const steps = firmwareConfig.plan(inputs, observed, await device.route()).map(change);
    return device.apply(firmwareConfig, inputs, steps, { onProgress });
  });

test("what is declared is on the disk, booted, and in effect; the TPM's overlay, in force already, is not written again", async () => {
  const before = await bootId();
  const config = await onPi(pi, "cat /boot/firmware/config.txt");
  const line = await onPi(pi, "cat /boot/firmware/cmdline.txt");
  const titles: string[] = [];
  await bringUp(pi, { kind: firmwareConfig, inputs: defaults }, (title) => titles.push(title));

  expect(titles.filter((title) => !title.startsWith("waiting"))).toEqual([
    "keep the files of this boot in /boot/firmware/edgeseal-last-good",
    "write /boot/firmware/cmdline.txt",
    "reboot, so that config.txt and cmdline.txt take effect",
  ]);
  expect(titles).toContain("waiting for pi to come back, 0 s");
  expect(await bootId()).not.toBe(before);
  expect(await commandLine()).toContain(
    `${line.trim()} lsm=landlock,lockdown,yama,integrity,apparmor,bpf cgroup_enable=memory`,
  );
  expect(await onPi(pi, "cat /boot/firmware/config.txt")).toBe(config);
  expect(await onPi(pi, "cat /boot/firmware/edgeseal-last-good/cmdline.txt")).toBe(line);
  expect(await onPi(pi, "cat /sys/kernel/security/lsm; cat /sys/module/apparmor/parameters/enabled")).toMatch(
    /apparmor.*\n?Y\n?$/s,
  );
});

test("an edit by hand is seen before and after its boot, and mended", async () => {
  await onPi(pi, "sed -i 's/,apparmor//; 1s/$/ edited_by_hand/' /boot/firmware/cmdline.txt");
  const never = { ...defaults, reboot: "never" as const };
  const seen = await applyChanged(never, (step) => step);
  // Written back before anything booted with it.
  expect(seen.failure).toBeUndefined();
  expect(seen.observed).toMatchObject({ state: { pendingReboot: false } });
  expect(await onPi(pi, "cat /boot/firmware/cmdline.txt")).toContain(" edited_by_hand");

  await onPi(pi, "sed -i 's/,apparmor//' /boot/firmware/cmdline.txt");
  await pi.reboot();
  expect(await onPi(pi, "cat /sys/kernel/security/lsm")).not.toContain("apparmor");
  await bringUp(pi, { kind: firmwareConfig, inputs: defaults });
  expect(await onPi(pi, "cat /sys/kernel/security/lsm")).toContain("apparmor");
});

test("a change on trial is kept once the node answers, without another boot", async () => {
  const titles: string[] = [];
  await bringUp(pi, { kind: firmwareConfig, inputs: also("edgeseal_test=1") }, (title) => titles.push(title));
  expect(titles).toContain("see whether this boot is the trial, and keep the edit");
  expect(await commandLine()).toMatch(/ edgeseal_test=1 edgeseal\.trial=[0-9a-f]{16}$/m);
  expect(await onPi(pi, "cat /boot/firmware/cmdline.txt")).toMatch(/ edgeseal_test=1$/m);
  expect(await onPi(pi, "ls /boot/firmware")).not.toMatch(/tryboot|trial/);
  // And the boot after it is of the files themselves.
  await pi.reboot();
  expect(await commandLine()).toMatch(/ edgeseal_test=1$/m);
});

test("a change that can't boot is one power cut away from the node as it was", async () => {
  const before = await files();
  const failing = also("edgeseal_test=1", "root=PARTUUID=00000000-02");
  const from = pi.console.position();
  // What a person at the board would do who finds it hanging.
  const hung = pi.console
    .waitFor(/ALERT!.*does not exist|Gave up waiting for root|\(initramfs\)/, { from, timeoutMs: 400_000 })
    .then(async () => {
      await pi.powerCut();
      await pi.boot();
    });
  const result = await applyChanged(failing, (step) => step);
  await hung;
  expect(result.failure).toMatchObject({ kind: "stepFailed" });
  expect(result.failure?.message).toContain("the node booted as before, not with the edit");
  expect(await files()).toBe(before);
  expect(await commandLine()).not.toContain("00000000-02");
});

test("the control: the same change without a trial leaves a node that does not boot, with the last good files beside it", async () => {
  const before = await onPi(pi, "cat /boot/firmware/cmdline.txt");
  const failing = {
    ...also("edgeseal_test=1", "root=PARTUUID=00000000-02"),
    tryboot: "never" as const,
    reboot: "never" as const,
  };
  expect((await applyChanged(failing, (step) => step)).failure).toBeUndefined();
  await onPi(pi, "sync");
  await pi.powerCut();
  const from = pi.console.position();
  const booting = expect(pi.boot()).rejects.toThrow("went off");
  await pi.console.waitFor(/ALERT!.*does not exist|Gave up waiting for root|\(initramfs\)/, {
    from,
    timeoutMs: 400_000,
  });
  await pi.powerCut();
  await booting;
  // By hand, with the card in another machine.
  await pi.tamper(async ({ boot }) => {
    const good = await boot.read("edgeseal-last-good/cmdline.txt");
    expect(good.toString()).toBe(before);
    await boot.write("cmdline.txt", good);
  });
  await pi.boot();
  expect(await commandLine()).not.toContain("00000000-02");
});

test("a trial that boots and lets nobody in ends by itself, and the node is as it was", async () => {
  const before = await files();
  const shutIn = also("edgeseal_test=1", "systemd.mask=ssh.service");
  const result = await applyChanged(shutIn, (step) =>
    step.kind === "file" ? { ...step, content: step.content.replace("sleep 300", "sleep 20") } : step,
  );
  expect(result.failure?.message).toContain("the node booted as before, not with the edit");
  expect(await files()).toBe(before);
  expect(await onPi(pi, "journalctl -b -1 -q -o cat -u edgeseal-trial")).toContain(
    "the time of this trial is over: booting again",
  );
});
