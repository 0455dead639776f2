import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import { inputSchema } from "../../../provider/check/input-schema.ts";
import { inputValidator } from "../../../provider/check/input-validator.ts";
import type { PartOutput } from "../../../provider/device/probe.ts";
import type { PlainStep, RebootStep, Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { firmwareConfigAt } from "../../../provider/resources/firmware-config.ts";
import type { FirmwareConfigState } from "../../../provider/resources/firmware-config-observation.ts";
import { FakeRoot } from "./fake-root.ts";
import { onDevice } from "./measure-fixture.ts";

/* A Raspberry Pi's boot partition and what FirmwareConfig reads of a running system, as a folder. */

/** A Sunday, at three. */
export const firmwareConfig = firmwareConfigAt(() => new Date("2026-03-01T03:00:00Z"));
export const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

const trialProgram = "/usr/lib/edgeseal/firmware-trial";

/** The boot partition is below /var there, where the fake's rewriting reaches. */
export class PiRoot extends FakeRoot {
  constructor() {
    super();
    for (const folder of ["boot", "var/boot"]) mkdirSync(join(this.root, folder), { recursive: true });
    symlinkSync("../var/boot", join(this.root, "boot/firmware"));
  }
  override sh(script: string, stdin?: string): PartOutput {
    const result = super.sh(script.replaceAll("/boot/firmware", "/var/boot"), stdin);
    return { ...result, stderr: result.stderr.replaceAll("/var/boot", "/boot/firmware") };
  }
  override write(path: string, content: string | Buffer): void {
    const isProgram = path === trialProgram;
    super.write(
      path.replace("/boot/firmware", "/var/boot"),
      isProgram ? `#!/bin/sh\nexec sh ${onDevice("firmware-trial")} --root @ROOT "$@"\n` : content,
    );
    if (isProgram) chmodSync(join(this.root, path), 0o755);
  }
  boot(name: string): string {
    return this.read(`/var/boot/${name}`);
  }
  /** Boots: what is on the disk is in effect, /run is empty. */
  reboot(commandLine = this.boot("cmdline.txt").split("\n")[0] ?? ""): void {
    this.remove("/run/edgeseal");
    this.write("/proc/cmdline", `coherent_pool=1M cgroup_disable=memory ${commandLine.trim()}\n`);
  }

  /** The node's part of a trial, in a group of processes of its own, so that a test may end it as a power cut does. @returns `null` when it was */
  trial(...words: readonly string[]): number | null {
    const args = ["sh", onDevice("firmware-trial"), "--root", this.root, ...words];
    const path = `${this.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
    return spawnSync("setsid", args, { env: { PATH: path, ROOT: this.root } }).status;
  }

  /** The log that the next boot would leave, by the measuring program. */
  measureNext(...more: readonly string[]): string {
    const args = [onDevice("measure"), "--root", this.root, "--next", ...more];
    const { status, stdout, stderr } = spawnSync("sh", args, { encoding: "utf8" });
    expect([status, stderr]).toEqual([0, ""]);
    return stdout;
  }
}

/** Raspberry Pi OS trixie as it comes, in a Pi 5. */
export const stockConfig = `# For more options and information see
# http://rptl.io/configtxt
dtparam=audio=on
camera_auto_detect=1
auto_initramfs=1
# Enable DRM VC4 V3D driver
dtoverlay=vc4-kms-v3d
max_framebuffers=2
arm_64bit=1

[cm4]
otg_mode=1

[cm5]
dtoverlay=dwc2,dr_mode=host

[all]
`;
export const stockLine =
  "console=serial0,115200 console=tty1 root=PARTUUID=4f1c-02 rootfstype=ext4 fsck.repair=yes rootwait";

const roots: FakeRoot[] = [];
afterEach(() => roots.splice(0).forEach((root) => root[Symbol.dispose]()));

export function stockRoot(config = stockConfig, commandLine = `${stockLine}\n`): PiRoot {
  const root = new PiRoot();
  roots.push(root);
  root.write("/boot/firmware/config.txt", Buffer.from(config, "latin1"));
  root.write("/boot/firmware/cmdline.txt", Buffer.from(commandLine, "latin1"));
  root.write("/etc/fstab", "PARTUUID=4f1c-02 / ext4 defaults 0 1\n");
  root.write("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
  root.write("/sys/kernel/security/lsm", "capability");
  root.write("/sys/module/apparmor/parameters/enabled", "N\n");
  root.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n");
  root.reboot();
  return root;
}

export type Inputs = Parameters<typeof firmwareConfig.desired>[0];
export const validator = inputValidator(inputSchema(firmwareConfig));

export function inputs(given: object = {}): Inputs {
  const connection = { node: "pi-1", address: "192.0.2.1", hostKey: `SHA256:${"A".repeat(43)}` };
  const checked = validator.validate({ connection, ...given }, []);
  expect(checked.problems).toEqual([]);
  const { connection: _connection, onDelete: _onDelete, ...own } = checked.inputs;
  return own as unknown as Inputs;
}

export function stateOf(root: FakeRoot, given: Inputs): FirmwareConfigState {
  const observed = root.observe(firmwareConfig.observe(given));
  return observed.outcome === "present" ? observed.state : expect.fail("absent");
}

export const planFor = (root: FakeRoot, given: Inputs): readonly Step[] =>
  firmwareConfig.plan(given, { outcome: "present", state: stateOf(root, given) }, route);

export const differences = (root: FakeRoot, given: Inputs): readonly string[] =>
  diffState(firmwareConfig.desired(given), stateOf(root, given)).map(({ path }) => path);

/** Asks for a reboot: what is made ready for it is. */
export function ask(root: PiRoot, { prepare }: RebootStep): void {
  if (prepare === undefined) return;
  const { code, stderr } = root.sh(prepare.script);
  expect([code, stderr]).toEqual([0, ""]);
}

/** Does a plan; a reboot when the boot after it has this command line. */
export function apply(root: PiRoot, steps: readonly (Step | PlainStep)[]): void {
  for (const step of steps) {
    if (step.kind !== "reboot") root.apply(step);
    else {
      ask(root, step);
      root.reboot(step.tryboot === true ? root.boot("edgeseal-trial.txt") : undefined);
      apply(root, step.afterwards ?? []);
    }
  }
}

/** The running system after a boot with what the defaults declare. */
export function effects(root: FakeRoot): void {
  root.write("/sys/kernel/security/lsm", "capability,landlock,yama,apparmor");
  root.write("/sys/module/apparmor/parameters/enabled", "Y\n");
  root.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
  root.write("/sys/class/tpm/tpm0/tpm_version_major", "2\n");
}

export const ourBlock = `# edgeseal begin: written by edgeseal, and overwritten by it
[all]
dtoverlay=
dtparam=spi=on
dtoverlay=tpm-slb9670
# edgeseal end
`;
export const ourLine = `${stockLine} lsm=landlock,lockdown,yama,integrity,apparmor,bpf cgroup_enable=memory`;
