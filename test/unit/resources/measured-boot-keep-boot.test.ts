import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
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
  // In a group of processes of its own, so that a test may end it as a power cut does.
  const words = ["sh", onDevice("keep-boot"), "--root", node.root, ...args];
  const { status, stdout, stderr } = spawnSync("setsid", words, {
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

/** This boot is of what is there now. */
async function measured(): Promise<void> {
  const { stdout } = await node.measure(["--next"]);
  node.write("/run/edgeseal/measured/log", stdout);
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
  await measured();
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
    expect(node.list(copy)).toEqual(["lock"]);

    const policy = await nextPolicy();
    approve(policy);
    refused(keepBoot("keep"), /not what this boot measured/);
    await measured();
    expect(keepBoot("keep").stdout).toBe(`${policy}\n`);
    expect(node.list(copy)).toEqual(["kept", `kept-${policy}`, `kept-${policy}.sha256`, "lock"]);
    expect(node.read(`${copy}/kept/overlays/README`)).toBe("overlays");
    expect(keepBoot("keep").stdout).toBe(`${policy}\n`);
  });

  test("stays when the partition changes, until the change is approved and has booted, with its volumes open", async () => {
    const before = await nextPolicy();
    approve(before);
    await measured();
    keepBoot("keep");
    update();
    refused(keepBoot("keep"), /not in an approved state/);
    const after = await nextPolicy();
    approve(before, after);
    // What was approved and never booted may be what has to be taken back.
    refused(keepBoot("keep"), /not what this boot measured/);
    await measured();
    node.write("/etc/edgeseal/volumes/models.conf", "");
    refused(keepBoot("keep"), /models stays locked/);
    expect(node.list(copy)).toContain(`kept-${before}`);
    node.write("/run/edgeseal/volumes/models", "state=open\n");
    expect(keepBoot("keep").stdout).toBe(`${after}\n`);
    expect(node.list(copy)).toEqual(["kept", `kept-${after}`, `kept-${after}.sha256`, "lock"]);
    expect(node.read(`${copy}/kept/more/new.dtb`)).toBe("new");
  });

  test("that was spoiled is no way back, and is made again", async () => {
    await measured();
    const policy = await nextPolicy();
    approve(policy);
    keepBoot("keep");
    node.write(`${copy}/kept-${policy}/config.txt`, "spoiled");
    refused(keepBoot("arm", "600"), /no copy of an approved/);
    expect(keepBoot("keep").code).toBe(0);
    expect(node.read(`${copy}/kept/config.txt`)).toBe(bootFiles["/boot/firmware/config.txt"]);
  });

  test("that has no room leaves the one before", async () => {
    await measured();
    const before = await nextPolicy();
    approve(before);
    keepBoot("keep");
    node.write("/boot/firmware/config.txt", "another\n");
    approve(before, await nextPolicy());
    await measured();
    node.tool("cp", "exit 1");
    refused(keepBoot("keep"), /no room/);
    expect(node.list(copy)).toEqual(["kept", `kept-${before}`, `kept-${before}.sha256`, "lock"]);
  });
});

describe("after an update", () => {
  test("a boot with its volumes open waits for the confirmation, and is then left alone", async () => {
    await armed();
    // A timer comes before its service, and after sysinit.target: a service before that is left out of the boot.
    expect(node.read("/etc/systemd/system/edgeseal-update.service")).not.toMatch(/^Before=.*sysinit/m);
    expect(keepBoot("judge")).toEqual({ code: 0, stdout: "", stderr: "" });
    refused(keepBoot("confirm"), /has not booted since/);
    expect(boot("boot-2", { models: "state=open\nby=tpm\n" }).stdout).toContain("waiting");
    expect(keepBoot("status").stdout).toMatch(/^phase=judging\nbooted=yes\nkept=[0-9a-f]{64}\n$/);
    expect(keepBoot("confirm").code).toBe(0);
    expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
    expect(keepBoot("status").stdout).toMatch(/^phase=none$/m);
    expect(node.list("/etc/systemd/system").filter((name) => name.startsWith("edgeseal"))).toEqual([]);
    expect(node.list("/etc/systemd/system/sysinit.target.wants")).toEqual([]);
    expect(boot("boot-3", { models: "state=locked\nreason=x\n" }, 4000)).toMatchObject({
      code: 0,
      stdout: "",
    });
    expect(asked()).not.toContain("--no-block --check-inhibitors=no reboot");
  });

  test("a locked volume takes it back, file by file, and boots that; no second time", async () => {
    await armed();
    const locked = { models: "state=open\n", logs: "state=locked\nreason=tpm-refused: another TPM\n" };
    expect(boot("boot-2", locked).code).toBe(0);
    isOriginal();
    expect(node.list("/boot/firmware")).not.toContain("more");
    expect(asked()).toEqual(["--no-block --check-inhibitors=no reboot"]);
    expect(keepBoot("status").stdout).toContain(
      "phase=back\nreason=the volume logs stays locked: tpm-refused: another TPM\n",
    );
    expect(boot("boot-3", locked, 4000).stderr).toContain("gone back to");
    expect(asked()).toEqual(["--no-block --check-inhibitors=no reboot"]);
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
    expect(asked()).toEqual(["--no-block --check-inhibitors=no reboot"]);
  });

  test("a partition that is another one all the same is not booted again and again", async () => {
    await armed();
    node.write("/etc/edgeseal/measure.conf", "NODE=pi-2\n");
    expect(boot("boot-2", { models: "state=locked\nreason=x\n" }).code).toBe(1);
    isOriginal();
    expect(asked()).toEqual([]);
    expect(keepBoot("status").stdout).toContain("what else was changed?");
  });

  test("begun and given up, what is gone back to stays what has booted", async () => {
    await armed();
    const kept = node.list(copy).filter((name) => name.startsWith("kept-"));
    expect(keepBoot("disarm").code).toBe(0);
    refused(keepBoot("keep"), /not what this boot measured/);
    expect(keepBoot("arm", "600").code).toBe(0);
    expect(node.list(copy).filter((name) => name.startsWith("kept-"))).toEqual(kept);
    boot("boot-2", { models: "state=locked\nreason=x\n" });
    isOriginal();
  });

  test("what would be gone back to is no update", async () => {
    await measured();
    approve(await nextPolicy());
    keepBoot("keep");
    refused(keepBoot("arm", "600"), /is what would be gone back to/);
  });

  test("without room for both at a time nothing is armed, and a partition that fills up later is left as it is", async () => {
    await armed();
    keepBoot("disarm");
    node.tool("df", "echo Avail; echo 100");
    refused(keepBoot("arm", "600"), /has no room for going back: it takes \d+ bytes, and has 100/);
    node.remove("/bin/df");
    expect(keepBoot("arm", "600").code).toBe(0);
    node.tool("cp", `case "$*" in *README*) exit 1 ;; esac; exec /bin/cp "$@"`);
    expect(boot("boot-2", { models: "state=open\n" }, 4000).code).toBe(1);
    expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
    expect(node.list("/boot/firmware").filter((name) => name.endsWith("-new"))).toEqual([]);
    expect(keepBoot("status").stdout).toMatch(
      /^reason=nobody confirmed .*; the boot partition could not be written back/m,
    );
    expect(asked().join()).not.toContain("reboot");
  });

  test("a copy that was spoiled after it was armed is written to nothing", async () => {
    await armed();
    const kept = node.list(copy).find((name) => /^kept-\w+$/.test(name)) ?? "";
    node.write(`${copy}/${kept}/kernel_2712.img`, "garbage");
    expect(boot("boot-2", { models: "state=locked\nreason=x\n" }).code).toBe(1);
    expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
    expect(keepBoot("status").stdout).toContain("the copy of the boot partition is spoiled");
  });

  test("a full disk loses no phase: what can't be written is not armed, and what is armed is judged", async () => {
    await armed();
    // sync fails where the blocks can't be had.
    node.tool("sync", `case "$*" in *armed.new*) exit 1 ;; esac; exec /bin/sync "$@"`);
    expect(boot("boot-2", { models: "state=open\n" }).stdout).toContain("waiting");
    expect(keepBoot("status").stdout).toMatch(/^phase=armed\nbooted=yes$/m);
    expect(boot("boot-2", { models: "state=open\n" }, 4000).code).toBe(1);
    expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
    node.remove("/bin/sync");
    boot("boot-2", { models: "state=open\n" }, 4001);
    isOriginal();
    keepBoot("disarm");
    update();
    node.tool("sync", `case "$*" in *armed.new*) exit 1 ;; esac; exec /bin/sync "$@"`);
    refused(keepBoot("arm", "600"), /armed can't be written/);
    expect(keepBoot("status").stdout).toMatch(/^phase=none$/m);
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

describe("without power before any one write", () => {
  // Some dozens of runs each.
  const timeout = 240_000;
  const locked = { models: "state=locked\nreason=x\n" };
  const open = { models: "state=open\nby=tpm\n" };
  /** What changes a disk, as far as it is a program's; what the shell writes itself comes between two of these. */
  const writers = ["mkdir", "cp", "rm", "rmdir", "ln", "mv", "sync"];

  /**
   * Does something over and over, each time from the same state, with the power gone before its first write, before its second, and so on until it comes to its end.
   * @param check what holds after the cut, and after what comes then
   * @returns how often it was cut
   */
  async function cutAnywhere(act: () => Ran, check: () => unknown): Promise<number> {
    const saved = `${node.root}.saved`;
    cpSync(node.root, saved, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    try {
      for (let cut = 1; ; cut++) {
        const count = join(node.root, "writes");
        writeFileSync(count, "0");
        for (const name of writers)
          node.tool(
            name,
            `read -r n <"${count}"; n=$((n + 1)); echo "$n" >"${count}"; [ "$n" -ne ${cut} ] || kill -9 0; exec /bin/${name} "$@"`,
          );
        const { code } = act();
        for (const name of writers) node.remove(`/bin/${name}`);
        await check();
        if (code !== null) return cut - 1;
        rmSync(node.root, { recursive: true });
        cpSync(saved, node.root, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
      }
    } finally {
      rmSync(saved, { recursive: true, force: true });
    }
  }

  const kept = (): string => /^kept=(.*)$/m.exec(keepBoot("status").stdout)?.[1] ?? "none";

  test(
    "there is always a copy to go back to, and the next run makes the one that it should",
    { timeout },
    async () => {
      await measured();
      const before = await nextPolicy();
      approve(before);
      keepBoot("keep");
      update();
      const after = await nextPolicy();
      approve(before, after);
      await measured();
      const cuts = await cutAnywhere(
        () => keepBoot("keep"),
        () => {
          expect([before, after]).toContain(kept());
          expect(keepBoot("keep").stdout).toBe(`${after}\n`);
          expect(kept()).toBe(after);
        },
      );
      expect(cuts).toBeGreaterThan(5);
    },
  );

  test("an update is armed or not, and a node that is not can be armed", { timeout }, async () => {
    await armed();
    keepBoot("disarm");
    const cuts = await cutAnywhere(
      () => keepBoot("arm", "600"),
      () => {
        const { stdout } = keepBoot("status");
        if (stdout.startsWith("phase=none\n")) expect(keepBoot("arm", "600").code).toBe(0);
        else expect(stdout).toMatch(/^phase=armed\nbooted=no\n/);
        boot("boot-2", locked);
        isOriginal();
      },
    );
    expect(cuts).toBeGreaterThan(3);
  });

  test("going back goes on with the next boot, whatever that one opened", { timeout }, async () => {
    await armed();
    const cuts = await cutAnywhere(
      () => boot("boot-2", locked),
      () => {
        boot("boot-3", open);
        // Before it was on the disk that it goes back, the boot that opened its volumes was as good as any.
        if (!keepBoot("status").stdout.startsWith("phase=judging\n")) {
          isOriginal();
          expect(keepBoot("status").stdout).toContain(
            "phase=back\nreason=the volume models stays locked: x\n",
          );
        } else expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
        expect(node.list("/boot/firmware").filter((name) => name.endsWith(".edgeseal-new"))).toEqual([]);
      },
    );
    expect(cuts).toBeGreaterThan(10);
  });

  test("a confirmation counts or not, takes nothing back, and can be given again", { timeout }, async () => {
    await armed();
    boot("boot-2", open);
    const cuts = await cutAnywhere(
      () => keepBoot("confirm"),
      () => {
        if (keepBoot("status").stdout.startsWith("phase=judging\n")) expect(keepBoot("confirm").code).toBe(0);
        boot("boot-3", locked, 4000);
        expect(node.read("/boot/firmware/kernel_2712.img")).toBe("another kernel");
        expect(keepBoot("status").stdout).toMatch(/^phase=none$/m);
      },
    );
    expect(cuts).toBeGreaterThan(3);
  });
});
