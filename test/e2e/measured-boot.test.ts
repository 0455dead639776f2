import { afterAll, beforeAll, expect, test } from "vitest";
import type { MeasuredBootState } from "../../provider/resources/measured-boot-observation.ts";
import { diffLogs } from "../../provider/trust/event-diff.ts";
import { eventText, judgeReplay, parseEventLog, type EventLog } from "../../provider/trust/event-log.ts";
import { policyPcrDigest, systemdSignature } from "../../provider/trust/pcr-policy.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kexec, kindOf, observe, onPi, withProvider } from "./provider-on-pi.ts";

/*
 * Measured boot with a real kernel, initramfs-tools and a TPM 2.0. Every value of PCR 11 is read from the kernel, beside the provider; the testbed plays the firmware, and boots what is
 * on the boot partition.
 */

const kind = kindOf("edgeseal:boot:MeasuredBoot");
const inputs = { node: "pi-1", reboot: "never", rebootUnapproved: "refuse" } as const;
const pcrFile = "/sys/class/tpm/tpm0/pcr-sha256/11";

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
  // Better compression only costs time here.
  await onPi(pi, "echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/zz-fast");
});

// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

const stateOf = (): Promise<MeasuredBootState> => observe(pi, { kind, inputs });

interface Boot extends EventLog {
  readonly pcr11: string;
}

/** The log of this boot, and the value that the kernel reads from the TPM. */
async function thisBoot(): Promise<Boot> {
  const pcr11 = (await onPi(pi, `cat ${pcrFile}`)).trim().toLowerCase();
  return { ...parseEventLog(await onPi(pi, "cat /run/edgeseal/measured/log")), pcr11 };
}

const changes = (from: EventLog, to: EventLog): readonly string[] =>
  diffLogs(from.events, to.events).map((change) => `${change.change} ${eventText(change)}`);

let first: Boot;

test("the control: on a fresh node nothing is measured", async () => {
  expect(await stateOf()).toMatchObject({
    tpmPresent: true,
    pcr11: "0".repeat(64),
    replay: "none",
    initramfs: "foreign",
  });
});

test("applied, the next boot is measured in the initramfs as it was predicted", async () => {
  await bringUp(pi, { kind, inputs });
  const { nextPcr11, pendingReboot } = await stateOf();
  expect(pendingReboot).toBe(true);
  expect(await onPi(pi, "lsinitramfs /boot/firmware/initramfs_2712")).toMatch(
    /^usr\/lib\/edgeseal\/measure$/m,
  );
  await pi.reboot();
  first = await thisBoot();
  expect(first.pcr11).toBe(nextPcr11);
  expect(judgeReplay(first, first.pcr11)).toBe("consistent");
  expect(first.events.map(eventText)).toEqual([
    "program",
    "node pi-1",
    "file cmdline.txt",
    "file config.txt",
    "file initramfs_2712",
    "file kernel_2712.img",
    "tree overlays",
    "tree /",
    "cmdline",
    "devicetree",
  ]);
  expect(await stateOf()).toMatchObject({
    measured: true,
    failures: [],
    pendingReboot: false,
    pendingChanges: [],
  });
  const timing = await onPi(pi, "cat /run/edgeseal/measured/timing");
  expect(timing).toMatch(/^commands 11$/m);
  console.log(`measuring, in seconds since the kernel began: ${timing.replaceAll("\n", ", ")}`);
});

test("a boot that nobody touched has the same value", async () => {
  await pi.reboot();
  expect(await thisBoot()).toEqual(first);
});

test("the power goes in the middle of putting a new initramfs in place: the node boots, measured, and the next plan goes on from there", async () => {
  await onPi(pi, "echo '# changed' >>/etc/initramfs-tools/hooks/edgeseal");
  // The provider loses its node; what it says about that is another test's matter.
  const cut = bringUp(pi, { kind, inputs }).catch(() => undefined);
  await onPi(pi, "until [ -e /boot/firmware/initramfs_2712.edgeseal-new ]; do sleep 0.05; done");
  await pi.powerCut();
  await cut;
  await pi.boot();
  expect(await stateOf()).toMatchObject({ measured: true, replay: "consistent" });
  await bringUp(pi, { kind, inputs });
  expect(await stateOf()).toMatchObject({ initramfs: "current" });
  expect(await onPi(pi, "ls /boot/firmware")).not.toContain("edgeseal-new");
});

test("what an update and an administrator change is predicted, named, warned of, and then measured so", async () => {
  const approved = [first.pcr11].map((pcr11) => ({ pcr11, pol: policyPcrDigest(pcr11), sig: "c2ln" }));
  const json = JSON.stringify(systemdSignature("ab".repeat(32), approved));
  await onPi(pi, `mkdir -p /etc/edgeseal/trust && printf '%s' '${json}' >/etc/edgeseal/trust/approvals.json`);
  // What stands for a volume, until there is nothing to be warned of any more.
  await onPi(pi, "mkdir -p /etc/edgeseal/volumes && touch /etc/edgeseal/volumes/models.conf");
  const warning =
    "edgeseal: the next boot would not be an approved one, and these sealed volumes would stay locked: models\n";
  const built = await onPi(
    pi,
    `sed -i 's/ quiet/ quiet lsm=apparmor/' /boot/firmware/cmdline.txt
echo dtparam=audio=off >>/boot/firmware/config.txt
echo 'Another overlay' >>/boot/firmware/overlays/README
update-initramfs -u 2>&1`,
  );
  expect(built.split(warning)).toHaveLength(2);
  expect(built).toContain("edgeseal:   changed: file initramfs_2712\n");
  const warned = await onPi(pi, "apt-get -y purge less 2>&1");
  expect(warned.split(warning)).toHaveLength(2);
  expect(warned).toContain("edgeseal:   changed: file config.txt\n");
  expect(await onPi(pi, "journalctl --no-pager -t edgeseal -o cat")).toContain("edgeseal update pi-1");
  await onPi(pi, "rm -r /etc/edgeseal/volumes");

  const before = await stateOf();
  expect(before).toMatchObject({ initramfs: "current", pendingReboot: true });
  // The reboot is a step of the plan now.
  await bringUp(pi, { kind, inputs: { ...inputs, reboot: "ifNeeded" } });
  const boot = await thisBoot();
  expect(await stateOf()).toMatchObject({ measured: true, pendingReboot: false });
  expect(boot.pcr11).toBe(before.nextPcr11);
  expect(boot.pcr11).not.toBe(first.pcr11);
  expect(changes(first, boot)).toEqual([
    "changed file cmdline.txt",
    "changed file config.txt",
    "changed file initramfs_2712",
    "changed tree overlays",
    "changed cmdline",
  ]);
  expect(boot.events.find(({ type }) => type === "cmdline")?.detail).toContain(" quiet lsm=apparmor ");
});

test("a warm reboot that does not reset the TPM is told from tampering", async () => {
  const before = await thisBoot();
  await kexec(pi);
  const boot = await thisBoot();
  expect(boot.start).toBe(before.pcr11);
  expect(await stateOf()).toMatchObject({
    replay: "power-cycle",
    desync: "power-cycle",
    measured: false,
    failures: [],
  });
});

test("root that extends PCR 11 afterwards is found out", async () => {
  await onPi(pi, `tpm2_pcrextend 11:sha256=${"11".repeat(32)}`);
  expect(await stateOf()).toMatchObject({ replay: "tampered", desync: "tampered", measured: false });
});

test("taken back, the next boot measures nothing", async () => {
  await withProvider(pi, kind, async (device) => {
    const observed = await device.observe(kind, inputs);
    const applied = await device.apply(kind, inputs, kind.revert(inputs, observed as never));
    expect(applied.failure).toBeUndefined();
  });
  expect(await onPi(pi, "lsinitramfs /boot/firmware/initramfs_2712")).not.toContain("edgeseal");
});
