import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { ApplyResult } from "../../provider/device/device.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { stepsOf } from "../../provider/device/plan-points.ts";
import { firmwareConfig } from "../../provider/resources/firmware-config.ts";
import type { FirmwareConfigState } from "../../provider/resources/firmware-config-observation.ts";
import { onDevice } from "../../provider/resources/managed-files.ts";
import { stagedFiles } from "../../provider/resources/firmware-config-staged.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";

/*
 * The trial of an edit where boots are measured, through every boot that it takes, with systemd and sshd: what the virtual Pi does with a TPM in test/e2e/firmware-trial-measured.test.ts. The measuring program is the real one; what it would do in an
 * initramfs is played at the beginning of a boot, and so are the unlocking of a volume, which opens when this boot's state is approved, and the firmware (testbed/namespace/boot.sh).
 */

// Up to eight boots each.
vi.setConfig({ testTimeout: 300_000 });

let node: NamespaceNode;
let resets: Promise<never>;

const approvals = "/etc/edgeseal/trust/approvals.json";
const measure = "/usr/lib/edgeseal/measure";

/** The part of a boot that is before systemd on a Pi, and the volumes. In a trial there is no prediction, so its log is none that was approved. */
const played = `#!/bin/sh
mkdir -p /run/edgeseal/measured /run/edgeseal/volumes
printf 'serial0\\n\\n' >/run/edgeseal/measured/cmdline
state=locked
if ! grep -q edgeseal.trial /proc/cmdline; then
  ${measure} --next >/run/edgeseal/measured/log.new
  mv /run/edgeseal/measured/log.new /run/edgeseal/measured/log
  if grep -qF "$(${measure} --policy </run/edgeseal/measured/log)" ${approvals}; then state=open; fi
fi
echo state=$state >/run/edgeseal/volumes/models
echo "$state $(cat /proc/sys/kernel/random/boot_id)" >>/var/log/volume
`;

const units = `[Unit]
DefaultDependencies=no
Before=edgeseal-trial-end.service shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/edgeseal/played
# What reboot(2) is given outlasts no namespace.
ExecStop=/bin/sh -c 'cp /run/systemd/reboot-param /var/firmware-asked || :'
[Install]
WantedBy=sysinit.target
`;

beforeEach(async () => {
  node = await NamespaceNode.start();
  await node.must(`mkdir -p /var/firmware /etc/edgeseal/volumes /etc/edgeseal/trust /usr/lib/edgeseal
printf 'dtparam=audio=on\\n' >/var/firmware/config.txt
printf 'root=/dev/mmcblk0p2 rootwait\\n' >/var/firmware/cmdline.txt
printf 'a kernel\\n' >/var/firmware/kernel_2712.img
echo NODE=pi-1 >/etc/edgeseal/measure.conf
echo '/var/firmware /boot/firmware none bind,noauto 0 0' >/etc/fstab
: >/etc/edgeseal/volumes/models.conf
echo '{"sha256":[]}' >${approvals}`);
  for (const [path, content] of [
    [measure, onDevice("measure")],
    ["/usr/lib/edgeseal/played", played],
  ] as const) {
    await node.must(`cat >${path} <<'END_OF_FILE'\n${content}\nEND_OF_FILE\nchmod 755 ${path}`);
  }
  await node.must(
    `cat >/etc/systemd/system/played.service <<'END_OF_UNIT'\n${units}END_OF_UNIT\nsystemctl enable played`,
  );
  await node.reboot();
  await approve();
  await node.reboot();
  expect(await volume()).toBe("state=open\n");
  // As often as it is told to, until it is switched off.
  resets = (async () => {
    for (;;) await node.bootAfterReset();
  })();
  resets.catch(() => undefined);
});
afterEach(async () => {
  await node.stop();
  await expect(resets).rejects.toThrow("without a reset");
});

const volume = (): Promise<string> => node.must("cat /run/edgeseal/volumes/models");
const policy = (more = ""): Promise<string> => node.must(`${measure} --next ${more} | ${measure} --policy`);
const bootFiles = (): Promise<string> =>
  node.must("cd /boot/firmware; find . -type f -exec sha256sum {} + | sort -k 2");
/** What became of the volume in each boot. */
const boots = async (): Promise<string> =>
  (await node.must("cut -d ' ' -f 1 /var/log/volume")).trim().replaceAll("\n", " ");

/** Adds the state of the next boot, or of one with these files, to what is approved. */
async function approve(more = ""): Promise<void> {
  const pol = (await policy(more)).trim();
  await node.must(`sed -i 's/\\[/[{"pkfp":"x","pol":"${pol}"},/' ${approvals}`);
}

type Inputs = Parameters<typeof firmwareConfig.desired>[0];

const declared = (...present: readonly string[]): Inputs => ({
  settings: ["arm_boost=1"],
  commandLine: { present: [...present], absent: [] },
  tryboot: "always",
  reboot: "ifNeeded",
  rebootUnapproved: "refuse",
});
const good = declared("edgeseal_test=1");

type Up = ApplyResult<FirmwareConfigState>;

/** @param gone the step before or after which the provider is gone */
async function up(
  inputs: Inputs,
  gone?: { readonly title: string; readonly when: "before" | "after" },
): Promise<Up> {
  const look = createDevices({ kinds: [firmwareConfig] });
  try {
    const device = look.get(node.connection);
    const observed = await device.observe<FirmwareConfigState>(firmwareConfig, inputs);
    const steps = firmwareConfig.plan(inputs, observed, await device.route());
    if (gone === undefined) return await device.apply<FirmwareConfigState>(firmwareConfig, inputs, steps);
    const at =
      stepsOf(steps).find(({ title }) => title.startsWith(gone.title))?.id ?? expect.fail(gone.title);
    const leaving = createDevices({
      kinds: [firmwareConfig],
      breakpoint: { at, when: gone.when, reached: () => void leaving.close() },
    });
    return await leaving.get(node.connection).apply<FirmwareConfigState>(firmwareConfig, inputs, steps);
  } finally {
    await look.close();
  }
}

/** Up to where the edit waits, with its approval. */
async function stage(inputs: Inputs): Promise<void> {
  const before = await bootFiles();
  const { failure } = await up(inputs);
  expect(failure).toMatchObject({ kind: "refused" });
  expect(failure?.message).toContain("the boot after the trial");
  expect(await bootFiles()).toBe(before);
  await approve(`--with ${stagedFiles}`);
}

/** Holds that the node has the edit, and nothing else of its trial. */
async function expectEdited({ failure, observed }: Up): Promise<void> {
  expect(failure).toBeUndefined();
  expect(observed).toMatchObject({
    state: {
      pendingReboot: false,
      staged: "",
      trial: "",
      bootedCommandLine: { "edgeseal_test=1": "present" },
    },
  });
  expect(await node.must("ls /boot/firmware /var/lib/edgeseal")).not.toMatch(/tryboot|trial|firmware-edit/);
  expect(await volume()).toBe("state=open\n");
}

const failedWords = "the node booted as before, not with the edit";
const keeping = "see whether this boot is the trial";

test("a good edit is tried, and ends in the approved state", async () => {
  await stage(good);
  const result = await up(good);
  expect(result.steps.slice(-3).map(({ title, outcome }) => `${title}: ${outcome}`)).toEqual([
    "reboot on trial with the edit of config.txt and cmdline.txt; sealed volumes stay locked in that boot: done",
    "see whether this boot is the trial, and keep the edit: done",
    "reboot into the approved state: done",
  ]);
  await expectEdited(result);
  expect(await boots()).toBe("locked open locked open");
  expect((await up(good)).steps).toEqual([]);
});

test("one that hangs is over with a power cut and one boot more: as it was, the volume open; and that is said", async () => {
  const broken = declared("edgeseal_test=1", "testbed.hang");
  await stage(broken);
  const before = await bootFiles();
  const { failure, observed } = await up(broken);
  expect(failure?.message).toContain(failedWords);
  expect(observed).toMatchObject({ state: { stagedPhase: "staged", trial: "" } });
  expect(await bootFiles()).toBe(before);
  expect(await volume()).toBe("state=open\n");
  // The first of them found the trial's files, and removed them.
  expect(await boots()).toBe("locked open locked open");
  expect(await node.must("journalctl -b -q -o cat -u ssh")).toContain("Server listening");
});

test("one that nobody keeps ends by itself: as it was, the volume open; and the next plan says that it failed, once", async () => {
  await stage(good);
  const before = await bootFiles();
  const gone = { title: keeping, when: "before" } as const;
  await expect(up(good, gone)).rejects.toMatchObject({ kind: "cancelled" });
  await timeIsOver();
  await openAgain("locked open locked locked open");
  expect(await bootFiles()).toBe(before);
  expect((await up(good)).failure?.message).toContain(failedWords);
  expect(await boots()).toBe("locked open locked locked open");
  await expectEdited(await up(good));
});

test("one whose provider is gone once it is kept ends by itself, too: with the edit, the volume open", async () => {
  await stage(good);
  const gone = { title: "reboot into the approved state", when: "before" } as const;
  await expect(up(good, gone)).rejects.toMatchObject({ kind: "cancelled" });
  await timeIsOver();
  await openAgain("locked open locked open");
  const result = await up(good);
  expect(result.steps).toEqual([]);
  await expectEdited(result);
});

test("one in which something else of the boot partition changes is not kept, and the state that then is has to be approved", async () => {
  await stage(good);
  await expect(up(good, { title: keeping, when: "before" })).rejects.toMatchObject({ kind: "cancelled" });
  await node.must("echo 'another kernel' >/boot/firmware/kernel_2712.img");
  expect((await up(good)).failure?.message).toContain("is not what was approved: kernel_2712.img.");
  await timeIsOver();
  // The first of the two found the trial's files, and removed them.
  await openAgain("locked open locked locked locked");
  expect((await up(good)).failure?.message).toContain(failedWords);
  expect((await up(good)).failure?.message).toContain("the boot after the trial");
  await approve(`--with ${stagedFiles}`);
  await expectEdited(await up(good));
});

test.each([
  { title: "stage the edit", when: "after" },
  { title: "reboot on trial", when: "before" },
  { title: keeping, when: "before" },
  { title: keeping, when: "after" },
  { title: "reboot into the approved state", when: "after" },
] as const)("the provider is gone $when '$title': the next plan goes on", async (gone) => {
  await (gone.title === "stage the edit" ? Promise.resolve() : stage(good));
  await expect(up(good, gone)).rejects.toMatchObject({ kind: "cancelled" });
  if (gone.title === "stage the edit") await stage(good);
  await expectEdited(await up(good));
});

/** The five minutes of a trial have passed. */
const timeIsOver = (): Promise<string> => node.must("pkill -f '^sleep 300'");

/** Waits until the boots were these, and somebody is let in. */
async function openAgain(wanted: string): Promise<void> {
  let seen = "";
  const until = Date.now() + 120_000;
  while (Date.now() < until) {
    const was = await node.exec("cut -d ' ' -f 1 /var/log/volume && systemctl is-active --quiet ssh");
    seen = was.stdout.trim().replaceAll("\n", " ");
    if (was.code === 0 && seen === wanted) return;
    await Promise.race([pause(200), resets]);
  }
  const { stdout } = await node.exec(
    "cat /proc/cmdline; systemctl list-jobs --no-pager; journalctl -n 60 --no-pager -o short-monotonic; ps ax",
  );
  throw new Error(`not '${wanted}' but '${seen}' after two minutes:\n${stdout}`);
}
