import { chmodSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { PartOutput } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { managedFiles, measuredBootPaths } from "../../../provider/resources/measured-boot-files.ts";
import { initramfsThatBoots } from "../../../provider/resources/measured-boot-firmware.ts";
import type { MeasuredBootState } from "../../../provider/resources/measured-boot-observation.ts";
import { measuredBootAt } from "../../../provider/resources/measured-boot.ts";
import { rebootSteps } from "../../../provider/resources/reboot-inputs.ts";
import { approvalCheck } from "../../../provider/device/reboot-script.ts";
import { shipApproval } from "../../../provider/resources/approval-shipping.ts";
import { approvalSchema } from "../../../provider/trust/approval-schema.ts";
import {
  approveState,
  formatApproval,
  parseApproval,
  signApproval,
} from "../../../provider/trust/approval.ts";
import { parseEventLog, pcr11Of } from "../../../provider/trust/event-log.ts";
import { testKey } from "../trust/keys.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";
import { bootFiles, FakeTpm, onDevice, runMeasure, sha256, systemFiles } from "./measure-fixture.ts";

/** A Sunday. */
const sunday = (time: string): Date => new Date(`2026-03-01T${time}:00Z`);
let now = sunday("12:00");
const measuredBoot = measuredBootAt(() => now);
const never = { node: "pi-1", reboot: "never", rebootUnapproved: "refuse" } as const;
const ifNeeded = { ...never, reboot: "ifNeeded" } as const;
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const probe = measuredBoot.observe(never);
const zeros = "0".repeat(64);

const bootIdFile = "/proc/sys/kernel/random/boot_id";
const pcrFile = (number: number): string => `/sys/class/tpm/tpm0/pcr-sha256/${number}`;

/**
 * A Pi with Raspberry Pi OS's initramfs-tools: `mkinitramfs` puts what is installed into an image, notes it as our hook and post-update hook do, and the program itself
 * measures a boot.
 */
class Pi extends FakeRoot {
  #boots = 0;

  constructor() {
    super();
    for (const [path, content] of Object.entries({ ...systemFiles, ...bootFiles }))
      if (path !== measuredBootPaths.conf) this.write(path, content);
    this.write("/boot/initrd.img-6.12", "initramfs");
    this.tool("linux-version", "echo 6.12");
    this.tool("mountpoint", "case $1 in -q) ;; *) echo 179:2 ;; esac");
    this.tool("dmsetup", 'cat "$ROOT/dm/$3:$5"');
    this.tool("update-initramfs", 'echo "update-initramfs $*" >>"$ROOT/calls"');
    this.tool(
      "mkinitramfs",
      `echo "mkinitramfs $3" >>"$ROOT/calls"
digest() { sha256sum <"$ROOT$1" | cut -d ' ' -f 1; }
notes=$ROOT/var/lib/edgeseal/initramfs
if [ -f "$ROOT${measuredBootPaths.hook}" ] && [ -f "$ROOT${measuredBootPaths.program}" ]; then
  echo "initramfs of edgeseal $(digest ${measuredBootPaths.program}) $(digest ${measuredBootPaths.hook})" >"$2"
  mkdir -p "$notes"
  {
    echo "program=$(digest ${measuredBootPaths.program})"
    echo "hook=$(digest ${measuredBootPaths.hook})"
    echo "script=$(digest ${measuredBootPaths.script})"
    echo "panic=$(digest ${measuredBootPaths.panic})"
    echo "conf=$(sh ${onDevice("measure")} --conf --root "$ROOT" | sha256sum | cut -d ' ' -f 1)"
    echo "image=$(sha256sum <"$2" | cut -d ' ' -f 1)"
    echo "boot=$(cat "$ROOT${bootIdFile}")"
  } >"$notes/$3"
else
  echo "plain initramfs" >"$2"
fi`,
    );
    this.write("/sys/class/tpm/tpm0/tpm_version_major", "2\n");
    this.write(pcrFile(15), `${zeros}\n`);
    this.powerOn();
  }

  tool(name: string, script: string): void {
    this.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
    chmodSync(join(this.root, "bin", name), 0o755);
  }

  /** The program reads the fixture, not this machine. */
  override sh(script: string, stdin?: string): PartOutput {
    const { program, keepBoot } = measuredBootPaths;
    return super.sh(
      script
        .replaceAll(new RegExp(`${program} --(next|conf)`, "g"), `sh ${program} --root ${this.root} --$1`)
        .replaceAll("$measure --next", `sh $measure --root ${this.root} --next`)
        .replaceAll(`${keepBoot} keep`, `sh ${onDevice("keep-boot")} --root ${this.root} keep`),
      stdin,
    );
  }

  override apply(step: Step): void {
    super.apply(step);
    if (step.kind === "file") chmodSync(join(this.root, step.path), Number.parseInt(step.mode, 8));
  }

  powerOn(): void {
    this.#boots++;
    this.remove("/run/edgeseal");
    this.write(bootIdFile, `${String(this.#boots).padStart(8, "0")}-0000-4000-8000-000000000000\n`);
    this.write(pcrFile(11), `${zeros}\n`);
  }

  /** A boot, measured when the initramfs on the boot partition does that. */
  async boot(tpm = new FakeTpm()): Promise<void> {
    this.powerOn();
    if (this.read("/boot/firmware/initramfs_2712").includes("edgeseal")) await this.measure(tpm);
  }

  async measure(tpm: FakeTpm): Promise<void> {
    const { code, stderr } = await runMeasure(this.root, ["--extend", "--tpm", "-"], { serve: tpm.serve });
    expect([code, stderr]).toEqual([0, ""]);
    this.showPcr11(tpm);
  }

  /** What the kernel shows of a TPM. */
  showPcr11(tpm: FakeTpm): void {
    this.write(pcrFile(11), `${tpm.pcr11.toUpperCase()}\n`);
  }
}

function stateOf(pi: Pi): MeasuredBootState {
  const observed = pi.observe(probe);
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

type Inputs = Parameters<typeof measuredBoot.plan>[0];

const planFor = (state: MeasuredBootState, inputs: Inputs = never): readonly Step[] =>
  measuredBoot.plan(inputs, { outcome: "present", state }, route);

const titles = (steps: readonly Step[]): readonly string[] => steps.map(({ title }) => title);

/** What a plan does first on a node that measures its boots already. */
const keepTitle = "keep a copy of the boot partition, if it is approved";

/** Every step but a reboot, which is the caller's. */
function bringUp(pi: Pi, inputs: Inputs = never): void {
  for (const step of planFor(stateOf(pi), inputs)) if (step.kind !== "reboot") pi.apply(step);
}

/** One that measures its boots, and has booted. */
async function measuredPi(tpm = new FakeTpm()): Promise<Pi> {
  const pi = new Pi();
  bringUp(pi);
  await pi.boot(tpm);
  return pi;
}

describe("a node that is not measured yet", () => {
  test("shows it", () => {
    using pi = new Pi();
    expect(stateOf(pi)).toEqual({
      tpmPresent: true,
      pcr11: zeros,
      pcr15: zeros,
      measured: false,
      replay: "none",
      desync: "none",
      failures: [],
      events: [],
      initramfs: "foreign",
      nextPcr11: "unknown",
      pendingReboot: false,
      pendingChanges: [],
      rootIntegrity: "none",
      bootSource: "PARTUUID=4f1c-01",
      files: {},
    });
  });

  test("gets files, and an initramfs with them, and waits for a boot", () => {
    using pi = new Pi();
    expect(titles(planFor(stateOf(pi)))).toEqual([
      "make /etc/edgeseal",
      "make /usr/lib/edgeseal",
      "make /etc/initramfs",
      "make /etc/initramfs/post-update.d",
      "write /etc/edgeseal/measure.conf",
      "write /usr/lib/edgeseal/measure",
      "write /etc/initramfs-tools/scripts/init-top/edgeseal",
      "write /etc/initramfs-tools/scripts/panic/edgeseal",
      "write /etc/initramfs/post-update.d/edgeseal",
      "write /etc/initramfs-tools/hooks/edgeseal",
      "write /usr/lib/edgeseal/apt-hook",
      "write /etc/initramfs/post-update.d/zz-edgeseal",
      "write /usr/lib/edgeseal/keep-boot",
      "write /etc/apt/apt.conf.d/90edgeseal",
      "build the initramfs with the measuring program",
      "see whether the next boot is an approved one",
    ]);
    bringUp(pi);
    const state = stateOf(pi);
    expect(diffState(measuredBoot.desired(never), state)).toEqual([]);
    expect(planFor(state)).toEqual([]);
    expect(state).toMatchObject({ initramfs: "current", measured: false, pendingReboot: true, failures: [] });
    expect(pi.calls()).toEqual(["mkinitramfs 6.12"]);
    expect(pi.read("/boot/firmware/initramfs_2712")).toBe(pi.read("/boot/initrd.img-6.12"));
  });

  test("is rebooted when that is allowed, and only then", () => {
    using pi = new Pi();
    expect(planFor(stateOf(pi), ifNeeded).at(-1)).toMatchObject({ kind: "reboot", unapproved: "refuse" });
    bringUp(pi);
    expect(titles(planFor(stateOf(pi), ifNeeded))).toEqual(["reboot, to be measured"]);
    const window = {
      ...never,
      reboot: "window",
      rebootWindow: "Sun 02:00-04:00",
      rebootUnapproved: "allow",
    } as const;
    now = sunday("03:00");
    expect(planFor(stateOf(pi), window)).toMatchObject([{ kind: "reboot", unapproved: "allow" }]);
    now = sunday("05:00");
    expect(planFor(stateOf(pi), window)).toEqual([]);
    expect(diffState(measuredBoot.desired(window), stateOf(pi))).toEqual([]);
  });

  test("is measured by its next boot, as was predicted", async () => {
    using pi = new Pi();
    bringUp(pi);
    const predicted = stateOf(pi).nextPcr11;
    await pi.boot();
    const state = stateOf(pi);
    expect(state).toMatchObject({
      measured: true,
      replay: "consistent",
      desync: "none",
      failures: [],
      pendingReboot: false,
      pendingChanges: [],
    });
    expect(state.pcr11).toBe(predicted);
    expect(state.nextPcr11).toBe(predicted);
    expect(state.events.map(({ type }) => type)).toContain("devicetree");
    expect(diffState(measuredBoot.desired(ifNeeded), state)).toEqual([]);
    expect(planFor(state, ifNeeded)).toEqual([]);
  });

  test("interrupted after every step in turn, ends in its desired state with the next plan", () => {
    using fresh = new Pi();
    const count = planFor(stateOf(fresh)).length;
    for (let done = 0; done < count; done++) {
      using pi = new Pi();
      for (const step of planFor(stateOf(pi)).slice(0, done)) pi.apply(step);
      bringUp(pi);
      expect(planFor(stateOf(pi)), `after ${done} steps`).toEqual([]);
      expect(stateOf(pi).initramfs).toBe("current");
    }
  });
});

describe("the initramfs", () => {
  test("that was built without the hook is built again", async () => {
    using pi = await measuredPi();
    pi.write("/boot/firmware/initramfs_2712", "somebody else's");
    pi.write("/boot/initrd.img-6.12", "somebody else's");
    expect(stateOf(pi)).toMatchObject({
      initramfs: "foreign",
      nextPcr11: "unknown",
      pendingReboot: false,
      measured: true,
    });
    expect(titles(planFor(stateOf(pi)))).toEqual([
      keepTitle,
      "build the initramfs with the measuring program",
      "see whether the next boot is an approved one",
    ]);
    bringUp(pi);
    expect(planFor(stateOf(pi))).toEqual([]);
  });

  test.each(["program", "script", "hook", "conf"] as const)(
    "is built again when the %s is not what it was built with",
    async (file) => {
      using pi = await measuredPi();
      const notes = "/var/lib/edgeseal/initramfs/6.12";
      pi.write(notes, pi.read(notes).replace(new RegExp(`^${file}=.*$`, "m"), `${file}=${sha256("older")}`));
      expect(stateOf(pi)).toMatchObject({ initramfs: "stale", nextPcr11: "unknown" });
      expect(titles(planFor(stateOf(pi), ifNeeded))).toEqual([
        keepTitle,
        "build the initramfs with the measuring program",
        "reboot, to be measured",
      ]);
    },
  );

  test.each(Object.entries(measuredBootPaths))(
    "is built anew when the %s on the node was changed and goes into it; the file is put back in every case",
    async (name, path) => {
      using pi = await measuredPi();
      pi.write(path, `${pi.read(path)}# changed\n`);
      const steps = titles(planFor(stateOf(pi)));
      expect(steps).toContain(`write ${path}`);
      expect(steps.some((title) => title.startsWith("build"))).toBe(
        ["program", "conf", "hook", "script", "panic"].includes(name),
      );
      bringUp(pi);
      expect(planFor(stateOf(pi))).toEqual([]);
    },
  );

  test("a program that is not ours is never run", async () => {
    using pi = await measuredPi();
    pi.write(measuredBootPaths.program, '#!/bin/sh\ntouch "$ROOT/ran"\n');
    expect(stateOf(pi)).toMatchObject({ nextPcr11: "unknown", initramfs: "foreign" });
    expect(pi.exists("/ran")).toBe(false);
  });

  test("that the firmware loads none is refused, with the mend", () => {
    using pi = new Pi();
    pi.write("/boot/firmware/config.txt", "auto_initramfs=0\n[pi4]\nauto_initramfs=1\n");
    expect(stateOf(pi).initramfs).toBe("none");
    expect(() => planFor(stateOf(pi))).toThrow(PlanRefused);
    expect(() => planFor(stateOf(pi))).toThrow("set auto_initramfs=1 in config.txt (boot:FirmwareConfig)");
  });

  test("that there is no way to build one is refused", () => {
    using pi = new Pi();
    pi.remove("/bin/mkinitramfs");
    expect(() => planFor(stateOf(pi))).toThrow("this node has no initramfs-tools");
  });

  test("that fstab doesn't name the boot partition is refused", () => {
    using pi = new Pi();
    pi.write("/etc/fstab", "PARTUUID=4f1c-02 / ext4 defaults 0 1\n//nas/x /mnt cifs password=secret 0 0\n");
    expect(stateOf(pi).bootSource).toBe("");
    expect(() => planFor(stateOf(pi))).toThrow("/etc/fstab has no line for /boot/firmware");
  });

  test("within a signed boot image is judged by what it measured", async () => {
    using pi = await measuredPi();
    const image = (): void => {
      pi.write("/boot/firmware/boot.img", "signed");
      for (const name of ["initramfs_2712", "kernel_2712.img", "config.txt"])
        pi.remove(`/boot/firmware/${name}`);
    };
    image();
    expect(stateOf(pi).initramfs).toBe("current");
    pi.powerOn();
    expect(stateOf(pi).initramfs).toBe("image");
    expect(() => planFor(stateOf(pi))).toThrow(
      "have edgeseal's files installed where the image is built and signed",
    );
  });

  test("half replaced when the power went is found by its note, and completed", async () => {
    using pi = await measuredPi();
    // The new image is on the boot partition, and /boot still has the old one.
    const old = pi.read("/boot/initrd.img-6.12");
    pi.write("/boot/firmware/initramfs_2712.edgeseal-new", "half of an im");
    pi.write("/boot/initrd.img-6.12", "the old one");
    pi.remove(measuredBootPaths.hook);
    bringUp(pi);
    expect(pi.read("/boot/firmware/initramfs_2712")).toBe(old);
    expect(pi.read("/boot/initrd.img-6.12")).toBe(old);
    expect(pi.exists("/boot/firmware/initramfs_2712.edgeseal-new")).toBe(false);
    expect(pi.calls().filter((call) => call.startsWith("update-initramfs"))).toEqual([]);
  });

  test("of which a power cut left half behind, beside a good one, is built again", async () => {
    using pi = await measuredPi();
    pi.write("/boot/firmware/initramfs_2712.edgeseal-new", "half of an im");
    expect(stateOf(pi).initramfs).toBe("stale");
    bringUp(pi);
    expect(pi.exists("/boot/firmware/initramfs_2712.edgeseal-new")).toBe(false);
    expect(planFor(stateOf(pi))).toEqual([]);
  });

  test("beside which a power cut left half of another file of the boot partition is built once, and not for ever", async () => {
    using pi = await measuredPi();
    pi.write("/boot/firmware/.config.txt.edgeseal-new", "dtparam=sp");
    expect(stateOf(pi).initramfs).toBe("stale");
    bringUp(pi);
    expect(pi.exists("/boot/firmware/.config.txt.edgeseal-new")).toBe(false);
    expect(planFor(stateOf(pi))).toEqual([]);
  });

  test("that does not fit on the boot partition leaves nothing there that would be measured", async () => {
    using pi = await measuredPi();
    pi.write(measuredBootPaths.hook, "an older one");
    const before = pi.read("/boot/firmware/initramfs_2712");
    pi.tool("cp", `head -c 5 "$1" >"$2"; echo "cp: error writing '$2': No space left on device" >&2; exit 1`);
    expect(() => bringUp(pi)).toThrow(/No space left/);
    expect(pi.exists("/boot/firmware/initramfs_2712.edgeseal-new")).toBe(false);
    expect(pi.exists("/boot/initrd.img-6.12.edgeseal-new")).toBe(false);
    expect(pi.read("/boot/firmware/initramfs_2712")).toBe(before);
  });

  test("of which no image in /boot is a copy is built in the distribution's own way", () => {
    using pi = new Pi();
    pi.write("/boot/initrd.img-6.12", "another one");
    bringUp(pi);
    expect(pi.calls()).toEqual(["update-initramfs -u -k all"]);
  });
});

describe("which initramfs the firmware loads", () => {
  const names = new Set([
    "kernel_2712.img",
    "kernel8.img",
    "initramfs_2712",
    "initramfs8",
    "mine.img",
    "mine-initramfs",
  ]);
  test.each<[string, string | undefined]>([
    ["auto_initramfs=1", "initramfs_2712"],
    ["auto_initramfs=1\nkernel=kernel8.img", "initramfs8"],
    ["", undefined],
    ["auto_initramfs=0", undefined],
    ["#auto_initramfs=1", undefined],
    ["auto_initramfs=1 # as it came", "initramfs_2712"],
    ["[pi4]\nauto_initramfs=1\n[all]\narm_64bit=1", undefined],
    ["[PI5]\nauto_initramfs=1", "initramfs_2712"],
    ["initramfs mine-initramfs followkernel", "mine-initramfs"],
    ["auto_initramfs=1\ninitramfs gone followkernel", undefined],
    ["kernel=mine.img\nauto_initramfs=1", undefined],
    ["os_prefix=other/\nauto_initramfs=1", undefined],
  ])("%j: %s", (config, expected) => {
    expect(initramfsThatBoots(config.split("\n"), names)).toBe(expected);
  });

  test("the generic one, where there is no kernel for the Pi 5", () => {
    expect(initramfsThatBoots(["auto_initramfs=1"], new Set(["kernel8.img", "initramfs8"]))).toBe(
      "initramfs8",
    );
  });
});

describe("what the next boot will measure", () => {
  test.each([
    ["/boot/firmware/config.txt", "changed file config.txt"],
    ["/boot/firmware/overlays/README", "changed tree overlays"],
    ["/boot/firmware/new.txt", "added file new.txt"],
  ])("%s: pending, and named", async (path, change) => {
    using pi = await measuredPi();
    pi.write(path, `${pi.exists(path) ? pi.read(path) : ""}# changed\n`);
    const state = stateOf(pi);
    expect(state).toMatchObject({ pendingReboot: true, pendingChanges: [change], measured: true });
    expect(state.nextPcr11).not.toBe(state.pcr11);
    expect(planFor(state)).toEqual([]);
    expect(titles(planFor(state, ifNeeded))).toEqual(["reboot, to be measured"]);
    await pi.boot();
    expect(stateOf(pi)).toMatchObject({ pcr11: state.nextPcr11, pendingReboot: false });
  });

  test("a changed cmdline.txt", async () => {
    using pi = await measuredPi();
    pi.write(
      "/boot/firmware/cmdline.txt",
      "console=serial0,115200 root=PARTUUID=4f1c-02 rootwait lsm=apparmor\n",
    );
    const { pendingChanges, nextPcr11 } = stateOf(pi);
    expect(pendingChanges).toEqual(["changed file cmdline.txt", "changed cmdline"]);
    pi.write(
      "/proc/cmdline",
      "coherent_pool=1M  console=ttyAMA10,115200 root=PARTUUID=4f1c-02 rootwait lsm=apparmor\n",
    );
    await pi.boot();
    expect(stateOf(pi)).toMatchObject({ pcr11: nextPcr11, measured: true });
  });

  test("can't be told of a changed cmdline.txt before the first measured boot, and that is no failure", () => {
    using pi = new Pi();
    pi.write("/boot/firmware/cmdline.txt", "quiet\n");
    bringUp(pi);
    expect(stateOf(pi)).toMatchObject({ nextPcr11: "unknown", pendingReboot: true, failures: [] });
    expect(planFor(stateOf(pi))).toEqual([]);
  });

  test("can't be told when a file's name can't be listed: a failure, refused by name", async () => {
    using pi = await measuredPi();
    pi.write("/boot/firmware/two\nlines", "x");
    expect(stateOf(pi)).toMatchObject({ nextPcr11: "unknown", measured: true });
    expect(stateOf(pi).failures).toHaveLength(1);
    expect(() => planFor(stateOf(pi))).toThrow(
      /the next boot can't be predicted: boot-partition could not be measured/,
    );
  });
});

describe("what is wrong with a boot is told apart", () => {
  test("root extended PCR 11 by hand afterwards: tampered, refused, never rebooted away", async () => {
    const tpm = new FakeTpm();
    using pi = await measuredPi(tpm);
    tpm.pcr11 = sha256(Buffer.from(tpm.pcr11 + "11".repeat(32), "hex"));
    pi.showPcr11(tpm);
    expect(stateOf(pi)).toMatchObject({ replay: "tampered", desync: "tampered", measured: false });
    for (const inputs of [never, ifNeeded]) {
      expect(() => planFor(stateOf(pi), inputs)).toThrow(
        "the event log of this boot does not lead to the value of PCR 11",
      );
    }
    pi.remove(measuredBootPaths.hook);
    expect(() => planFor(stateOf(pi), ifNeeded)).toThrow(PlanRefused);
  });

  test.each([
    ["an event is taken out", (log: string) => log.replace(/^11\tfile\tconfig.txt.*\n/m, "")],
    ["a digest is exchanged", (log: string) => log.replace(sha256("kernel"), sha256("my kernel"))],
    ["its end is gone", (log: string) => log.slice(0, -10)],
    ["it is empty", () => ""],
    ["it is something else", () => "no log\n"],
  ])("the log was edited: %s", async (_name, edit) => {
    using pi = await measuredPi();
    const path = "/run/edgeseal/measured/log";
    pi.write(path, edit(pi.read(path)));
    expect(stateOf(pi)).toMatchObject({ measured: false });
    expect(stateOf(pi).desync === "tampered" || stateOf(pi).failures.length > 0).toBe(true);
    expect(() => planFor(stateOf(pi))).toThrow(PlanRefused);
  });

  test("the TPM was not reset: power-cycle, with the mend", async () => {
    const tpm = new FakeTpm();
    using pi = await measuredPi(tpm);
    await pi.boot(tpm);
    expect(stateOf(pi)).toMatchObject({
      replay: "power-cycle",
      desync: "power-cycle",
      measured: false,
      failures: [],
    });
    expect(() => planFor(stateOf(pi), ifNeeded)).toThrow(
      "(desync: power-cycle); shut the node down and take its power away: a reboot does not reset this TPM",
    );
    tpm.pcr11 = zeros;
    await pi.boot(tpm);
    expect(stateOf(pi)).toMatchObject({ desync: "none", measured: true });
  });

  test("a boot that was not measured, after the initramfs was built", async () => {
    using pi = await measuredPi();
    pi.powerOn();
    const state = stateOf(pi);
    expect(state).toMatchObject({ replay: "none", measured: false, pendingReboot: false });
    expect(state.failures.join()).toMatch(/^this boot was not measured, although .* \(rdinit= or break=/);
    expect(() => planFor(state)).toThrow(
      "this boot is not measured as it must be: this boot was not measured",
    );
  });

  test("a boot without a TPM", async () => {
    using pi = new Pi();
    bringUp(pi);
    pi.powerOn();
    pi.remove("/sys/class/tpm");
    pi.write("/run/edgeseal/measured/trouble", "/dev/tpm0 did not appear within 15 s\n");
    expect(stateOf(pi)).toMatchObject({
      tpmPresent: false,
      pcr11: "unknown",
      pcr15: "unknown",
      measured: false,
    });
    expect(() => planFor(stateOf(pi))).toThrow("/dev/tpm0 did not appear within 15 s");
    await Promise.resolve();
  });

  test("a boot in which something could not be measured", async () => {
    using pi = new Pi();
    bringUp(pi);
    pi.write("/boot/firmware/two\nlines", "x");
    await pi.boot();
    expect(stateOf(pi)).toMatchObject({ replay: "consistent", measured: false });
    expect(stateOf(pi).failures[0]).toMatch(/^boot-partition could not be measured/);
  });

  test("measuring that was ended before its end", async () => {
    using pi = await measuredPi();
    const tpm = new FakeTpm();
    const path = "/run/edgeseal/measured/log";
    const lines = pi.read(path).split("\n").slice(0, 6);
    for (const line of lines.slice(2))
      tpm.pcr11 = sha256(Buffer.from(tpm.pcr11 + (line.split("\t")[3] ?? ""), "hex"));
    pi.write(path, `${lines.join("\n")}\n`);
    pi.showPcr11(tpm);
    expect(stateOf(pi)).toMatchObject({ replay: "consistent", measured: false });
    expect(stateOf(pi).failures).toContain("there is no 'devicetree' event");
  });

  test("a TPM of version 1.2, or one without the SHA-256 bank", async () => {
    using pi = await measuredPi();
    pi.write("/sys/class/tpm/tpm0/tpm_version_major", "1\n");
    pi.remove("/sys/class/tpm/tpm0/pcr-sha256");
    expect(stateOf(pi)).toMatchObject({
      tpmPresent: false,
      pcr11: "unknown",
      replay: "none",
      measured: false,
    });
    expect(stateOf(pi).failures).toContain("PCR 11 can't be read from the TPM");
  });
});

describe("what protects the root", () => {
  test.each([
    ["a plain partition", {}, "none"],
    ["dm-crypt", { "254:0": "0 100 crypt aes-xts-plain64 :64:logon 0 179:2 0" }, "encrypted"],
    ["dm-verity", { "254:0": "0 100 verity 1 179:2 179:3 4096 4096 100 1 sha256 aa bb" }, "verity"],
    [
      "a volume of LVM in dm-crypt",
      { "254:1": "0 100 linear 254:0 0", "254:0": "0 100 crypt x" },
      "encrypted",
    ],
    ["dm-verity over dm-crypt", { "254:1": "0 100 verity 1", "254:0": "0 100 crypt x" }, "verity"],
    ["a volume of LVM", { "254:0": "0 100 linear 179:2 0" }, "none"],
  ])("%s", (_name, tables, expected) => {
    using pi = new Pi();
    let above = "/sys/dev/block/179:2";
    for (const [number, table] of Object.entries<string>(tables)) {
      pi.write(`${above}/dev`, `${number}\n`);
      pi.write(`${above}/dm/name`, "x\n");
      pi.write(`/dm/${number}`, `${table}\n`);
      above = `${above}/slaves/below`;
    }
    pi.write(`${above}/dev`, "179:2\n");
    expect(stateOf(pi).rootIntegrity).toBe(expected);
  });

  test("a device mapper that can't be asked is no protection", () => {
    using pi = new Pi();
    pi.write("/sys/dev/block/179:2/dm/name", "x\n");
    pi.write("/sys/dev/block/179:2/dev", "254:9\n");
    expect(stateOf(pi).rootIntegrity).toBe("none");
  });
});

describe("what can't be told is an error", () => {
  const good = (pi: Pi) =>
    Object.fromEntries(Object.entries(probe.parts).map(([name, script]) => [name, pi.sh(script)]));

  test.each(Object.keys(probe.parts))("the part '%s' fails, or is missing", (name) => {
    using pi = new Pi();
    const parts = good(pi);
    expect(() => probe.parse({ ...parts, [name]: { code: 2, stdout: "", stderr: "I/O error" } })).toThrow(
      UnknownObservation,
    );
    const { [name]: _missing, ...rest } = parts;
    expect(() => probe.parse(rest)).toThrow(`did not answer '${name}'`);
  });
});

test("the law: there is a plan, or a refusal, exactly when something differs", async () => {
  using pi = await measuredPi();
  const good = stateOf(pi);
  let differing = 0;
  let refused = 0;
  for (let seed = 1; seed <= 2000; seed++) {
    const choose = new Choices(seed);
    const replay = choose.mostly("consistent" as const, "none", "power-cycle", "tampered");
    const failures = choose.mostly([] as string[], ["no TPM"]);
    const initramfs = choose.mostly("current" as const, "stale", "foreign", "none", "unsupported");
    const state: MeasuredBootState = {
      ...good,
      replay,
      desync: replay === "power-cycle" || replay === "tampered" ? replay : "none",
      failures,
      measured: replay === "consistent" && failures.length === 0,
      initramfs,
      pendingReboot: initramfs === "current" && choose.mostly(replay === "none", true),
      files: choose.mostly(
        good.files,
        {},
        { ...good.files, [measuredBootPaths.aptHook]: "0644 root:root sha256:00" },
      ),
    };
    const inputs = choose.mostly<Inputs>(never, ifNeeded, { ...never, node: "pi-2" });
    const differences = diffState(measuredBoot.desired(inputs), state);
    let outcome: "steps" | "nothing" | "refused";
    try {
      outcome = planFor(state, inputs).length > 0 ? "steps" : "nothing";
    } catch (error) {
      expect(error).toBeInstanceOf(PlanRefused);
      outcome = "refused";
      refused++;
    }
    if (differences.length > 0) differing++;
    expect(outcome === "nothing", `seed ${seed}: ${JSON.stringify(differences)}`).toBe(
      differences.length === 0,
    );
  }
  expect(differing).toBeGreaterThan(500);
  expect(differing).toBeLessThan(1900);
  expect(refused).toBeGreaterThan(200);
});

test("inputs: a window needs its times, and a node a name that can be written anywhere", () => {
  expect(measuredBoot.check?.({ ...never, reboot: "window" })).toHaveLength(1);
  expect(measuredBoot.check?.(never)).toEqual([]);
  const nodePattern = (schema: unknown): string =>
    (schema as { properties: { node: { pattern: string } } }).properties.node.pattern;
  // A node whose name an approval can't have could never be approved.
  expect(nodePattern(measuredBoot.inputs)).toBe(nodePattern(approvalSchema));
});

test("revert takes everything back, builds an initramfs without it, and may run twice", async () => {
  using pi = await measuredPi();
  pi.write("/etc/edgeseal/firewall.nft", "of another resource");
  for (const step of measuredBoot.revert(never, { outcome: "present", state: stateOf(pi) })) pi.apply(step);
  expect(stateOf(pi).files).toEqual({});
  expect(pi.exists("/usr/lib/edgeseal") || pi.exists("/var/lib/edgeseal/initramfs")).toBe(false);
  expect(pi.read("/boot/firmware/initramfs_2712")).toBe("plain initramfs\n");
  expect(pi.exists("/etc/edgeseal/firewall.nft")).toBe(true);
  for (const step of measuredBoot.revert(never, { outcome: "present", state: stateOf(pi) })) pi.apply(step);
  expect(pi.read("/boot/firmware/initramfs_2712")).toBe("plain initramfs\n");
});

test("revert warns of the sealed volumes that stay locked from then on, as certain as it is, and of nothing where there are none", async () => {
  using pi = await measuredPi();
  const steps = measuredBoot.revert(never, { outcome: "present", state: stateOf(pi) });
  for (const step of steps) pi.apply(step);
  const told = steps.at(-1);
  if (told?.kind !== "run") throw new Error("the plan ends otherwise");
  expect(told.onFailure).toBe("warn");
  expect(pi.sh(told.script)).toMatchObject({ code: 0, stderr: "" });
  pi.write("/etc/edgeseal/volumes/models.conf", "");
  const { code, stderr } = pi.sh(told.script);
  expect([code, stderr.trim()]).toEqual([
    3,
    "nothing measures from the next boot on: sealed volumes stay locked in it",
  ]);
});

test("what goes to a node is what is in the repository, and names the node", () => {
  const files = Object.fromEntries(managedFiles("pi-1").map(({ name, content }) => [name, content]));
  expect(files["program"]).toBe(readFileSync(onDevice("measure"), "utf8"));
  expect(files["conf"]).toBe("NODE=pi-1\n");
  expect(pcr11Of([])).toBe(zeros);
});

describe("an approval of what the next boot will measure", () => {
  const key = testKey("policy");
  const verified = { ...ifNeeded, policyKey: key.publicKeyPem, generation: 1 };
  const program = measuredBootPaths.program;

  /** Approves the boot partition as it is now. */
  async function approval(pi: Pi, signing = key): Promise<string> {
    const { events } = parseEventLog(pi.sh(`${program} --next`).stdout);
    const state = await approveState(signing, { events, reason: "a test", now: "2026-01-01T00:00:00Z" });
    return formatApproval(await signApproval(signing, { node: "pi-1", generation: 1, states: [state] }));
  }

  /** What a reboot asks the node for first, as it is asked on the node. */
  const mayBoot = (pi: Pi): boolean => pi.sh(approvalCheck()).code === 0;

  /** One with a sealed volume, in a boot that was approved, whose boot partition was changed since. */
  async function changedPi(): Promise<Pi> {
    const pi = await measuredPi();
    pi.write("/etc/edgeseal/volumes/models.conf", "");
    for (const step of rebootSteps({ ...verified, approval: await approval(pi) }, "reboot", now))
      if (step.kind !== "reboot") pi.apply(step);
    expect(mayBoot(pi)).toBe(true);
    pi.write("/boot/firmware/config.txt", `${pi.read("/boot/firmware/config.txt")}dtparam=i2c_arm=on\n`);
    expect([stateOf(pi).pendingReboot, mayBoot(pi)]).toEqual([true, false]);
    return pi;
  }

  test("comes to the node before the reboot that it is for, which is refused without it", async () => {
    using pi = await changedPi();
    bringUp(pi, ifNeeded);
    expect(mayBoot(pi)).toBe(false);
    const given = { ...verified, approval: await approval(pi) };
    expect(planFor(stateOf(pi), given).at(-1)?.kind).toBe("reboot");
    bringUp(pi, given);
    expect(mayBoot(pi)).toBe(true);
  });

  test("lets what boots by it be kept before another is built, so that it can be gone back to", async () => {
    using pi = await measuredPi();
    pi.write("/etc/edgeseal/trust/approvals.json", "");
    for (const step of rebootSteps({ ...verified, approval: await approval(pi) }, "reboot", now))
      if (step.kind !== "reboot") pi.apply(step);
    pi.write("/etc/initramfs-tools/hooks/edgeseal", "of an earlier version");
    const initramfs = pi.read("/boot/firmware/initramfs_2712");
    expect(pi.exists("/var/lib/edgeseal/boot")).toBe(false);
    bringUp(pi);
    expect(pi.read("/var/lib/edgeseal/boot/kept/initramfs_2712")).toBe(initramfs);
  });

  test("of a checkout that is behind takes nothing from volumes that the next boot opens", async () => {
    using pi = await changedPi();
    const former = pi.read("/etc/edgeseal/trust/approvals.json");
    const now = await approval(pi);
    bringUp(pi, { ...verified, approval: now });
    const inForce = pi.read("/etc/edgeseal/trust/approvals.json");
    expect(inForce).not.toBe(former);

    pi.write(
      "/boot/firmware/config.txt",
      pi.read("/boot/firmware/config.txt").replace("dtparam=i2c_arm=on\n", ""),
    );
    const behind = { ...verified, approval: await approval(pi) };
    pi.write("/boot/firmware/config.txt", `${pi.read("/boot/firmware/config.txt")}dtparam=i2c_arm=on\n`);
    const ship = (): void => shipApproval(parseApproval(behind.approval)).forEach((step) => pi.apply(step));
    expect(ship).toThrow(
      /the next boot would leave locked: models;.*approvals\/pi-1\.json may be of a checkout that is behind/,
    );
    expect(pi.read("/etc/edgeseal/trust/approvals.json")).toBe(inForce);
    expect(mayBoot(pi)).toBe(true);

    // What is not known is not risked.
    pi.write("/usr/lib/edgeseal/measure", "exit 1\n");
    expect(ship).toThrow(/does not tell what the next boot's state is/);
    // Where the next boot opens nothing, nothing is lost.
    pi.write("/etc/edgeseal/trust/approvals.json", '{"sha256":[]}');
    pi.write("/usr/lib/edgeseal/measure", readFileSync(onDevice("measure"), "utf8"));
    ship();
    expect(pi.read("/etc/edgeseal/trust/approvals.json")).toBe(former);
  });

  test("of another policy key takes nothing from volumes that open by the one before", async () => {
    using pi = await changedPi();
    const before = pi.read("/etc/edgeseal/trust/approvals.json");
    const sealedBy = Buffer.from(key.publicKeyPem).toString("base64");
    pi.write("/etc/edgeseal/volumes/models.pins", `fact tokens.0.tpm2_pubkey ${sealedBy}\n`);
    const other = testKey("policy");
    const given = { ...verified, policyKey: other.publicKeyPem, approval: await approval(pi, other) };
    expect(measuredBoot.check?.(given)).toEqual([]);
    expect(() => bringUp(pi, given)).toThrow(
      /another policy key, whose approvals would go: models; edgeseal volume recover pi-1/,
    );
    expect(pi.read("/etc/edgeseal/trust/approvals.json")).toBe(before);
    expect(mayBoot(pi)).toBe(false);
    // Where nothing is sealed there is nothing to be taken.
    pi.remove("/etc/edgeseal/volumes");
    bringUp(pi, given);
    expect(pi.read("/etc/edgeseal/trust/approvals.json")).not.toBe(before);
  });
});
