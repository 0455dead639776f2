import { afterAll, beforeAll, expect, test } from "vitest";
import type { ApplyResult } from "../../provider/device/device.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { firmwareConfig } from "../../provider/resources/firmware-config.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";

/*
 * A boot partition that is full, or that the kernel holds read-only: what boots stays what it was, to the byte, and the change is made once there is room.
 */

let node: NamespaceNode;
beforeAll(async () => {
  node = await NamespaceNode.start();
  await node.must(`mkdir -p /boot/firmware && mount -t tmpfs -o size=64k tmpfs /boot/firmware
printf 'dtparam=audio=on\\n' >/boot/firmware/config.txt
printf 'root=/dev/mmcblk0p2 rootwait\\n' >/boot/firmware/cmdline.txt`);
});
afterAll(() => node.stop());

type Inputs = Parameters<typeof firmwareConfig.desired>[0];

const inputs = {
  settings: ["dtparam=spi=on"],
  commandLine: { present: ["lsm=apparmor"], absent: [] },
  tryboot: "never",
  reboot: "never",
  rebootUnapproved: "refuse",
} satisfies Inputs;

async function up(more: Partial<Inputs> = {}): Promise<ApplyResult<object>> {
  const given = { ...inputs, ...more };
  const devices = createDevices({ kinds: [firmwareConfig] });
  try {
    const device = devices.get(node.connection);
    const observed = await device.observe<object>(firmwareConfig, given);
    const steps = firmwareConfig.plan(given, observed as never, await device.route());
    return await device.apply<object>(firmwareConfig, given, steps);
  } finally {
    await devices.close();
  }
}

const bootFiles = (): Promise<string> =>
  node.must("cd /boot/firmware; sha256sum *.txt; find . -name '.*new*'");

test.each([
  [
    "full",
    "cat /dev/zero >/boot/firmware/fill 2>/dev/null || :",
    "rm /boot/firmware/fill",
    "No space left on device",
  ],
  [
    "full, but for the copies of the last good files",
    "cd /boot/firmware; mkdir -p edgeseal-last-good; cp *.txt edgeseal-last-good/; cat /dev/zero >fill 2>/dev/null || :",
    "rm /boot/firmware/fill",
    "No space left on device",
  ],
  [
    "read-only",
    "mount -o remount,ro /boot/firmware",
    "mount -o remount,rw /boot/firmware",
    "Read-only file system",
  ],
])("%s: nothing of what boots is changed, and nothing is left over", async (_, begin, end, message) => {
  await node.must(begin);
  const before = await bootFiles();
  const result = await up();
  expect(result.failure?.message).toContain(message);
  expect(await bootFiles()).toBe(before);
  await node.must(end);
});

test("full, before a trial: there is none, what waits for it stays, and nothing is left over", async () => {
  await node.must("cat /dev/zero >/boot/firmware/fill 2>/dev/null || :");
  const before = await bootFiles();
  const boot = await node.must("cat /proc/sys/kernel/random/boot_id");
  const result = await up({ tryboot: "always", reboot: "ifNeeded" });
  expect(result.failure?.message).toContain("No space left on device");
  expect(result.steps.at(-1)).toMatchObject({
    title: expect.stringContaining("on trial") as unknown,
    outcome: "failed",
  });
  expect(result.observed).toMatchObject({ state: { stagedPhase: "staged", pendingReboot: true } });
  expect(await bootFiles()).toBe(before);
  expect(await node.must("cat /proc/sys/kernel/random/boot_id")).toBe(boot);
  expect(await node.must("ls /etc/systemd/system/sysinit.target.wants")).toMatch(
    /edgeseal-trial-end\.service\nedgeseal-trial\.service/,
  );
  await node.must("rm /boot/firmware/fill");
});

test("with room again the change is made", async () => {
  expect((await up()).failure).toBeUndefined();
  expect(await node.must("cat /boot/firmware/edgeseal-last-good/config.txt")).toBe("dtparam=audio=on\n");
  expect(await node.must("cat /boot/firmware/cmdline.txt")).toBe(
    "root=/dev/mmcblk0p2 rootwait lsm=apparmor\n",
  );
});
