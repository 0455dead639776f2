import { afterAll, beforeAll, expect, test } from "vitest";
import type { Step } from "../../provider/device/step.ts";
import { bootApproved, confirmUpdate } from "../../provider/resources/measured-boot-update.ts";
import { cutPowerAt, cutsOf, nameOf } from "./provider-on-pi.ts";
import { SealedNode } from "./sealed-node.ts";

/*
 * The steps of `edgeseal update` with the power cut: before and after each of them that writes, and in the boot between them. The command is run again then, and the file on the volume is as
 * it was.
 */

let node: SealedNode;

beforeAll(async () => {
  node = await SealedNode.start();
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

const ship = "ship the approval";
const arm = "have the node go back unless its volumes open, and the boot is confirmed within 900 s";
const reboot = "reboot into the approved state";
const confirm = "confirm the update";

let changes = 0;
/** Changes what the node boots, with a copy of what it has booted kept before, as apt does. */
async function change(): Promise<void> {
  changes += 1;
  await node.root(
    `/usr/lib/edgeseal/keep-boot keep && sed -i 's/$/ edgeseal.change=${changes}/' /boot/firmware/cmdline.txt && sync`,
  );
}

/** The steps that boot the next state, which is approved. */
const approvedSteps = async (): Promise<readonly Step[]> => bootApproved(await node.approve("next"), 900);

/** Cuts the power at that point of the steps, and boots. */
async function cut(at: string, steps: readonly Step[]): Promise<void> {
  const found = cutsOf(steps).find((each) => nameOf(each) === at) ?? expect.fail(`there is no ${at}`);
  await cutPowerAt(found, node.pi, node.measuredBoot, steps);
  await node.pi.boot();
}

async function updateEnds(outcome: "confirmed" | "nothing-to-do"): Promise<void> {
  const { code, stdout, text } = await node.edgeseal("update", "pi-1", ...node.keys, "--yes", "--json");
  expect(code, text).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ outcome, volumes: { models: true } });
  expect(await node.root("cat /proc/cmdline")).toContain(`edgeseal.change=${changes}`);
  expect(await node.root("ls /etc/systemd/system")).not.toContain("edgeseal-update");
  await node.expectOpen();
}

const phase = (): Promise<string> => node.root("/usr/lib/edgeseal/keep-boot status | grep -v ^kept=");

test("before the approval is shipped: the node boots into what it has no approval of, and stays locked until the command has shipped it", async () => {
  await change();
  const steps = await approvedSteps();
  expect(cutsOf(steps).map(nameOf)).toEqual([
    "before 'see that no volume loses the approval that it opens by'",
    "before 'make /etc/edgeseal'",
    "before 'make /etc/edgeseal/trust'",
    `before '${ship}'`,
    `before '${arm}'`,
    `before '${reboot}'`,
    `after '${reboot}'`,
  ]);
  await cut(`before '${ship}'`, steps);
  const state = await node.look();
  expect(state).toMatchObject({ open: false, pcr11Approved: false, pcr15Capped: true });
  expect(state.lockedReason).toMatch(/^pcr11-not-approved: /);
  await updateEnds("confirmed");
});

test("before it is armed: the node boots into the approved state, and nothing waits for a confirmation", async () => {
  await change();
  await cut(`before '${arm}'`, await approvedSteps());
  expect(await phase()).toBe("phase=none\n");
  await updateEnds("nothing-to-do");
});

test("before the reboot: that boot is the one that is judged; before the confirmation: the next one waits for it again", async () => {
  await change();
  await cut(`before '${reboot}'`, await approvedSteps());
  expect(await phase()).toBe("phase=judging\nbooted=yes\n");
  await node.expectOpen();
  await cut(`before '${confirm}'`, [confirmUpdate()]);
  expect(await phase()).toBe("phase=judging\nbooted=yes\n");
  await updateEnds("confirmed");
});

test("after the confirmation: no boot is judged any more", async () => {
  await change();
  await cut(`before '${reboot}'`, await approvedSteps());
  await cut(`after '${confirm}'`, [confirmUpdate()]);
  expect(await phase()).toBe("phase=none\n");
  await updateEnds("nothing-to-do");
});

test("in the boot after the reboot, before it is judged: the command that waits for it confirms the next one", async () => {
  const held =
    "[ -e /var/lib/held ] || { touch /var/lib/held && sync && echo HELD >/dev/console && sleep 3600; }";
  await node.root(
    `mkdir -p /usr/local/lib/systemd/system/edgeseal-update.service.d
printf '%s\\n' '[Service]' 'ExecStartPre=/bin/sh -c "${held}"' >/usr/local/lib/systemd/system/edgeseal-update.service.d/held.conf`,
  );
  await change();
  const from = node.pi.console.position();
  const updating = updateEnds("confirmed");
  // Told below.
  updating.catch(() => undefined);
  await node.pi.console.waitFor(/HELD/, { from, timeoutMs: 600_000 });
  await node.pi.powerCut();
  await node.pi.boot();
  await updating;
});
