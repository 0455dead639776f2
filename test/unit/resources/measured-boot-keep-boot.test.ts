import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseEventLog, pcr11Of } from "../../../provider/trust/event-log.ts";
import { policyPcrDigest, systemdSignature } from "../../../provider/trust/pcr-policy.ts";
import { bootFiles, MeasuredNode, onDevice, systemFiles } from "./measure-fixture.ts";

/* The copy of the approved boot partition, and the way back to it, on folders. systemctl and sync are played: what they are asked is noted. */

const copy = "/var/lib/edgeseal/boot";
const bootId = "/proc/sys/kernel/random/boot_id";
let node: MeasuredNode;

beforeEach(() => {
  node = new MeasuredNode({ ...systemFiles, ...bootFiles, [bootId]: "boot-1\n", "/asked": "" });
  const program = join(node.root, "usr/lib/edgeseal/measure");
  mkdirSync(dirname(program), { recursive: true });
  copyFileSync(onDevice("measure"), program);
  chmodSync(program, 0o755);
  mkdirSync(join(node.root, "etc/systemd/system"), { recursive: true });
  node.tool("systemctl", `printf '%s\\n' "$*" >>"${node.root}/asked"`);
});
afterEach(() => {
  node[Symbol.dispose]();
});

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function keepBoot(...args: readonly string[]): Ran {
  const { status, stdout, stderr } = spawnSync("sh", [onDevice("keep-boot"), "--root", node.root, ...args], {
    env: { PATH: node.path },
    encoding: "utf8",
  });
  return { code: status, stdout, stderr };
}

const refused = ({ code, stderr }: Ran, why: string | RegExp): void => {
  expect(code, stderr).toBe(1);
  expect(stderr).toMatch(why);
};

const asked = (): readonly string[] =>
  node
    .read("/asked")
    .split("\n")
    .filter((line) => line !== "");

/** The digest that approvals name the next boot's state by. */
async function nextPolicy(): Promise<string> {
  const { stdout } = await node.measure(["--next"]);
  return policyPcrDigest(pcr11Of(parseEventLog(stdout).events));
}

/** Approves the states with these digests. */
function approve(...policies: readonly string[]): void {
  const states = policies.map((pol) => ({ pcr11: "", pol, sig: "c2ln" }));
  const json = JSON.stringify(systemdSignature("ab".repeat(32), states));
  node.write("/etc/edgeseal/trust/approvals.json", json);
}

const original = Object.entries(bootFiles).map(([path, content]) => [path, content] as const);
const isOriginal = (): void => {
  for (const [path, content] of original) expect(node.read(path), path).toBe(content);
};

/** What an update does: a file changed, one new, one gone. */
function update(): void {
  node.write("/boot/firmware/kernel_2712.img", "another kernel");
  node.write("/boot/firmware/initramfs_2712", "another initramfs");
  node.write("/boot/firmware/more/new.dtb", "new");
  node.remove("/boot/firmware/overlays/README");
}

/** The next boot, with the volumes that it opened or left locked. */
function boot(id: string, volumes: Readonly<Record<string, string>> = {}, uptime = 20): Ran {
  node.write(bootId, `${id}\n`);
  node.write("/proc/uptime", `${uptime}.12 20.5\n`);
  for (const [name, status] of Object.entries(volumes)) {
    node.write(`/etc/edgeseal/volumes/${name}.conf`, "");
    node.write(`/run/edgeseal/volumes/${name}`, status);
  }
  return keepBoot("judge");
}

/** A node with a copy, an approved update, and its judgement ahead. */
async function armed(): Promise<void> {
  const before = await nextPolicy();
  approve(before);
  expect(keepBoot("keep")).toMatchObject({ code: 0, stdout: `${before}\n` });
  update();
  approve(before, await nextPolicy());
  expect(keepBoot("arm", "600")).toEqual({ code: 0, stdout: "", stderr: "" });
}

describe("a copy", () => {
  test("is made of an approved boot partition, once, and of nothing else", async () => {
    refused(keepBoot("keep"), /no state was approved/);
    approve("0".repeat(64));
    refused(keepBoot("keep"), /not in an approved state/);
    expect(node.list("/")).not.toContain("var");

    const policy = await nextPolicy();
    approve(policy);
    expect(keepBoot("keep").stdout).toBe(`${policy}\n`);
    expect(node.list(copy)).toEqual(["kept", `kept-${policy}`, `kept-${policy}.sha256`]);
    expect(node.read(`${copy}/kept/overlays/README`)).toBe("overlays");
    expect(keepBoot("keep").stdout).toBe(`${policy}\n`);
  });

  test("stays when the partition changes, until the change is approved", async () => {
    const before = await nextPolicy();
    approve(before);
    keepBoot("keep");
    update();
    expect(keepBoot("keep").code).toBe(1);
    expect(node.list(copy)).toContain(`kept-${before}`);
    const after = await nextPolicy();
    approve(before, after);
    expect(keepBoot("keep").stdout).toBe(`${after}\n`);
    expect(node.list(copy)).toEqual(["kept", `kept-${after}`, `kept-${after}.sha256`]);
    expect(node.read(`${copy}/kept/more/new.dtb`)).toBe("new");
  });

  test("that was spoiled is no way back, and is made again", async () => {
    const policy = await nextPolicy();
    approve(policy);
    keepBoot("keep");
    node.write(`${copy}/kept-${policy}/config.txt`, "spoiled");
    refused(keepBoot("arm", "600"), /no copy of an approved/);
    expect(keepBoot("keep").code).toBe(0);
    expect(node.read(`${copy}/kept/config.txt`)).toBe(bootFiles["/boot/firmware/config.txt"]);
  });

  test("that has no room leaves the one before", async () => {
    const before = await nextPolicy();
    approve(before);
    keepBoot("keep");
    node.write("/boot/firmware/config.txt", "another\n");
    approve(before, await nextPolicy());
    node.tool("cp", "exit 1");
    refused(keepBoot("keep"), /no room/);
    expect(node.list(copy)).toEqual(["kept", `kept-${before}`, `kept-${before}.sha256`]);
  });
});

describe("after an update", () => {
  test("a boot with its volumes open waits for the confirmation, and is then left alone", async () => {
    await armed();
    expect(keepBoot("judge")).toEqual({ code: 0, stdout: "", stderr: "" });
    refused(keepBoot("confirm"), /has not booted since/);
    expect(boot("boot-2", { models: "state=open\nby=tpm\n" }).stdout).toContain("waiting");
    expect(keepBoot("status").stdout).toMatch(/^phase=judging\nkept=[0-9a-f]{64}\n$/);
    expect(keepBoot("confirm").code).toBe(0);
    expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
    expect(keepBoot("status").stdout).toMatch(/^phase=none$/m);
    expect(node.list("/etc/systemd/system").filter((name) => name.startsWith("edgeseal"))).toEqual([]);
    expect(node.list("/etc/systemd/system/sysinit.target.wants")).toEqual([]);
    expect(boot("boot-3", { models: "state=locked\nreason=x\n" }, 4000)).toMatchObject({
      code: 0,
      stdout: "",
    });
    expect(asked()).not.toContain("--no-block reboot");
  });

  test("a locked volume takes it back, file by file, and boots that; no second time", async () => {
    await armed();
    const locked = { models: "state=open\n", logs: "state=locked\nreason=tpm-refused: another TPM\n" };
    expect(boot("boot-2", locked).code).toBe(0);
    isOriginal();
    expect(node.list("/boot/firmware")).not.toContain("more");
    expect(asked()).toEqual(["--no-block reboot"]);
    expect(keepBoot("status").stdout).toContain(
      "phase=back\nreason=the volume logs stays locked: tpm-refused: another TPM\n",
    );
    expect(boot("boot-3", locked, 4000).stderr).toContain("gone back to");
    expect(asked()).toEqual(["--no-block reboot"]);
    refused(keepBoot("confirm"), "taken back");
    expect(keepBoot("disarm").code).toBe(0);
    expect(keepBoot("status").stdout).toMatch(/^phase=none$/m);
  });

  test("nobody's confirmation within the time takes it back", async () => {
    await armed();
    boot("boot-2", { models: "state=open\n" });
    expect(boot("boot-2", {}, 599).stdout).toContain("waiting");
    boot("boot-2", {}, 600);
    isOriginal();
    expect(keepBoot("status").stdout).toContain(
      "phase=back\nreason=nobody confirmed the update within 600 s\n",
    );
  });

  test("the power goes while the files are put back: the next boot goes on", async () => {
    await armed();
    // The second of the renames ends it, like a power cut: what a killed shell leaves behind is what it had done.
    node.tool(
      "mv",
      `case "$*" in *firmware*)
  if [ -e "${node.root}/moved" ]; then kill -9 "$(cut -d" " -f4 /proc/$PPID/stat)" $PPID; exit 1; fi
  touch "${node.root}/moved" ;;
esac
exec /bin/mv "$@"`,
    );
    boot("boot-2", { models: "state=locked\nreason=x\n" });
    expect(node.list("/boot/firmware").some((name) => name.endsWith(".edgeseal-new"))).toBe(true);
    expect(keepBoot("status").stdout).toMatch(/^phase=restoring$/m);
    node.remove("/bin/mv");
    boot("boot-3", { models: "state=locked\nreason=y\n" });
    isOriginal();
    expect(node.list("/boot/firmware")).toEqual([
      "bcm2712-rpi-5-b.dtb",
      "cmdline.txt",
      "config.txt",
      "initramfs_2712",
      "kernel_2712.img",
      "overlays",
    ]);
    expect(keepBoot("status").stdout).toContain("phase=back\nreason=the volume models stays locked: x\n");
    expect(asked()).toEqual(["--no-block reboot"]);
  });

  test("a partition that is another one all the same is not booted again and again", async () => {
    await armed();
    node.write("/etc/edgeseal/measure.conf", "NODE=pi-2\n");
    expect(boot("boot-2", { models: "state=locked\nreason=x\n" }).code).toBe(1);
    isOriginal();
    expect(asked()).toEqual([]);
    expect(keepBoot("status").stdout).toContain("what else was changed?");
  });

  test("one at a time, and never without a copy", async () => {
    approve(await nextPolicy());
    expect(keepBoot("arm", "600").code).toBe(1);
    await armed();
    expect(keepBoot("arm", "600")).toMatchObject({ code: 1, stderr: "an update is under way already\n" });
    refused(keepBoot("keep"), "under way");
    expect(keepBoot("arm", "soon").code).toBe(1);
  });
});
