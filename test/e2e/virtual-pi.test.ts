import { execFile, fork } from "node:child_process";
import { once } from "node:events";
import { access, readFile, readdir, rm } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { claimNodeFolder, nodesFolder, runningNode } from "../../testbed/node-folder.ts";
import * as commands from "../../testbed/pi-commands.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";

/** The digest of the endorsement key's public part: which chip this is. */
const endorsementKey =
  "sudo sh -c 'cd /run && tpm2_createek -Q -G ecc -c ek.ctx -u ek.pub && sha256sum <ek.pub && rm ek.*'";

/** Emulators and TPMs that name this node's folder in their command line. Dead ones have no command line any more. */
async function processesOf(name: string): Promise<readonly string[]> {
  const folder = join(nodesFolder(), name);
  const commandLines = await Promise.all(
    (await readdir("/proc"))
      .filter((entry) => /^\d+$/.test(entry))
      .map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
  );
  return commandLines
    .filter((line) => line.includes(`${folder}/`) && /^(qemu|swtpm)/.test(line))
    .map((line) => line.split("\0")[0] ?? "");
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

describe("one node through its life", () => {
  let pi: VirtualPi;

  /** Standard output of a command that has to succeed. */
  async function on(command: string): Promise<string> {
    const { code, stdout, stderr } = await pi.exec(command);
    expect(code, `${command}\n${stdout}${stderr}`).toBe(0);
    return stdout.trim();
  }

  /** What this node waited for; not the snapshot, which may have been made for this very one. */
  const waits = (): readonly string[] =>
    pi.bootTimings.map(({ how }) => how).filter((how) => how !== "snapshot");

  beforeAll(async () => {
    pi = await VirtualPi.start({ onProgress: console.log });
  });

  // It does not exist when its start failed.
  afterAll(() => (pi as VirtualPi | undefined)?.stop());

  test("is fresh from the snapshot in seconds, with the right time and its own random numbers", async () => {
    expect(waits()).toEqual(["restore"]);
    expect(await on("cat /proc/sys/kernel/random/boot_id")).toBe(pi.bootId);
    expect(Math.abs(Number(await on("date +%s")) - Date.now() / 1000)).toBeLessThan(10);
    expect(await on("sudo dmesg")).toContain("crng reseeded due to virtual machine fork");
    expect(await on("systemctl is-system-running")).toBe("running");
  });

  test("has what the demo begins with: swap and zram on, core dumps on, no firewall but somebody else's table", async () => {
    const swaps = await on("cat /proc/swaps");
    expect(swaps).toMatch(/^\/swapfile\s+file/m);
    expect(swaps).toMatch(/^\/dev\/zram0\s+partition/m);
    expect(await on("cat /sys/block/zram0/backing_dev")).toMatch(/^\/dev\/loop\d+$/);
    expect(await on("readlink -f /dev/disk/by-backingfile/var-swap")).toBe(
      await on("cat /sys/block/zram0/backing_dev"),
    );
    expect(await on("cat /proc/sys/kernel/core_pattern")).toMatch(/systemd-coredump/);
    expect(await on("sudo nft list tables")).toBe("table inet someone_else");
  });

  test("keeps a core of what crashes", async () => {
    expect((await pi.exec("sh -c 'kill -SEGV $$'")).code).not.toBe(0);
    await on(
      "until sudo coredumpctl list --no-pager --quiet 2>/dev/null | grep -q SIGSEGV; do sleep 0.2; done",
    );
  });

  test("lets in the admin user with a key, and root not at all", async () => {
    expect(await on("id --user --name; sudo id --user")).toBe("edge\n0");
    expect(await on("sudo sshd -T -C user=root")).toMatch(/^permitrootlogin no$/m);
    expect(await on("sudo sshd -T")).toMatch(/^passwordauthentication no$/m);
  });

  test("shows each ssh connection in its journal, with the address and the key it came with", async () => {
    const { stdout } = await promisify(execFile)("ssh-keygen", ["-l", "-f", `${pi.ssh.identityFile}.pub`]);
    const operator = stdout.split(" ")[1] ?? "";
    const log = "sudo journalctl --no-pager --output cat --boot _COMM=sshd-session";
    expect(await on(log)).not.toContain(operator);

    const node = await runningNode(pi.name);
    expect(node?.ssh).toEqual(pi.ssh);
    expect(await commands.ssh(pi.name, ["true"])).toBe(0);
    expect(await on(log)).toMatch(
      new RegExp(`Accepted publickey for edge from 10\\.0\\.2\\.2 .*${operator.replaceAll("+", "\\+")}`),
    );
  });

  test("can be reached from a second source address", async () => {
    const socket = connect(pi.sshAlternate.port, pi.sshAlternate.host);
    const [banner] = (await once(socket, "data")) as [Buffer];
    expect(banner.toString()).toMatch(/^SSH-2\.0-/);
    expect(await on("ss --no-header --tcp --numeric state established src 10.0.3.15:22")).toContain(
      "10.0.3.2:",
    );
    socket.destroy();
  });

  test("reaches nobody, unless it is given this machine's network", async () => {
    let connections = 0;
    const server = createServer((socket) => {
      connections += 1;
      socket.destroy();
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const attempt = `timeout 5 nc -z 10.0.2.2 ${(server.address() as AddressInfo).port}`;
    expect((await pi.exec(attempt)).code).not.toBe(0);
    expect(connections).toBe(0);

    // Beside the first one: names, ports and disks of two nodes do not meet.
    await using other = await VirtualPi.start({ network: "nat" });
    expect((await other.exec(attempt)).code).toBe(0);
    expect(connections).toBe(1);
    expect(new Set([pi, other].flatMap((each) => [each.ssh.port, each.sshAlternate.port])).size).toBe(4);
    server.close();
  });

  test("refuses to be changed while it is on", async () => {
    await expect(pi.replaceTpm()).rejects.toThrow(/is on: powerOff\(\) or powerCut\(\)/);
    await expect(pi.restoreTpm()).rejects.toThrow(/is on/);
    await expect(pi.tamper(() => Promise.resolve())).rejects.toThrow(/is on/);
    await expect(pi.boot()).rejects.toThrow(/already on/);
  });

  test("a power cut loses what was not flushed and keeps what was; what was tampered with is what boots", async () => {
    const [before, chip] = [pi.bootId, await on(endorsementKey)];
    // The kernel flushes by itself after some seconds: not here, so that the outcome does not hang on the test's speed.
    await on("sudo sysctl -q vm.dirty_writeback_centisecs=0 && sudo mount -o remount,commit=600 /");
    await on("echo kept >~/flushed && sync && echo lost >~/unflushed && cat ~/unflushed");
    await pi.powerCut();
    expect(pi.isOn).toBe(false);
    expect(await processesOf(pi.name)).toEqual([]);
    await expect(pi.exec("true")).rejects.toThrow(/is off/);

    await pi.tamper(async ({ boot, root, model }) => {
      const commandLine = (await boot.read("cmdline.txt")).toString().trim();
      await boot.write("cmdline.txt", `${commandLine} evil=1\n`);
      await root.write("/usr/local/bin/evil", "#!/bin/sh\necho evil\n", { mode: 0o4755 });
      await root.symlink("/usr/local/bin/evil-link", "evil");
      await root.remove("/etc/someone-else/firewall.nft");
      await model.write(4096, Buffer.from("evil"));
    });
    await pi.boot();

    expect(await on("cat /proc/cmdline")).toMatch(/ evil=1$/);
    expect(await on("cat ~/flushed")).toBe("kept");
    expect((await pi.exec("grep lost ~/unflushed")).stdout).toBe("");
    expect(await on("evil-link && stat --format '%a %U' /usr/local/bin/evil")).toBe("evil\n4755 root");
    expect(await on("sudo nft list tables")).toBe("");
    expect(await on("sudo head -c 4100 /dev/disk/by-id/virtio-model | tail -c 4")).toBe("evil");
    expect(pi.bootId).not.toBe(before);
    expect(await on("cat /proc/sys/kernel/random/boot_id")).toBe(pi.bootId);
    // The negative twin of replacing it: losing power does not make another chip of it.
    expect(await on(endorsementKey)).toBe(chip);
  });

  test("a reboot from inside keeps everything but the boot id, and says what it took", async () => {
    const before = pi.bootId;
    await on("echo kept >~/rebooted; sudo sed -i 's/ evil=1//' /boot/firmware/cmdline.txt");
    await pi.reboot();
    expect(await on("cat ~/rebooted")).toBe("kept");
    expect(await on("cat /proc/cmdline")).not.toContain("evil");
    expect(pi.bootId).not.toBe(before);
    expect(waits()).toEqual(["restore", "boot", "boot"]);
    expect(pi.bootTimings.every(({ ms }) => ms > 0)).toBe(true);
  });

  test("another TPM is another endorsement key; with the original back it is the original one", async () => {
    const chip = await on(endorsementKey);
    await pi.powerOff();
    await pi.replaceTpm();
    await pi.boot();
    expect(await on(endorsementKey)).not.toBe(chip);
    await pi.powerOff();
    await pi.restoreTpm();
    await pi.boot();
    expect(await on(endorsementKey)).toBe(chip);
  });

  test("stops without a trace", async () => {
    const folder = join(nodesFolder(), pi.name);
    expect((await processesOf(pi.name)).toSorted()).toEqual(["qemu-system-x86_64", "swtpm"]);
    expect(await exists(folder)).toBe(true);
    await pi.stop();
    expect(await processesOf(pi.name)).toEqual([]);
    expect(await exists(folder)).toBe(false);
    await pi.stop();
  });
});

test("a node dies with a process that was killed outright, and the next start cleans up after it", async () => {
  const program = `
    const { VirtualPi } = await import(${JSON.stringify(join(import.meta.dirname, "../../testbed/virtual-pi.ts"))});
    const pi = await VirtualPi.start();
    process.send({ name: pi.name, port: pi.ssh.port });
  `;
  const owner = fork("-", { execArgv: ["--input-type=module", "--eval", program], stdio: "inherit" });
  const died = once(owner, "exit").then(() => {
    throw new Error("the owner ended before it had a node");
  });
  const [{ name, port }] = (await Promise.race([once(owner, "message"), died])) as [
    { name: string; port: number },
  ];
  died.catch(() => undefined);
  expect((await processesOf(name)).length).toBe(2);
  // QEMU holds this connection: its end is QEMU's.
  const lifeline = connect(port, "127.0.0.1").on("error", () => undefined);
  await once(lifeline, "data");
  owner.kill("SIGKILL");
  await once(lifeline, "close");
  expect(await processesOf(name)).toEqual([]);

  expect(await exists(join(nodesFolder(), name))).toBe(true);
  const { folder } = await claimNodeFolder(undefined);
  expect(await exists(join(nodesFolder(), name))).toBe(false);
  await rm(folder, { recursive: true });
});

test("a start that is aborted leaves nothing", async () => {
  const abort = new AbortController();
  const name = `aborted-${process.pid}`;
  const pi = await VirtualPi.start({ name, signal: abort.signal });
  abort.abort();
  await pi.stopped;
  expect(await processesOf(name)).toEqual([]);
  expect(await exists(join(nodesFolder(), name))).toBe(false);
  await expect(VirtualPi.start({ name, signal: abort.signal })).rejects.toThrow(/abort/i);
  expect(await exists(join(nodesFolder(), name))).toBe(false);
});

test("for a person: up keeps a node in the background until down, and down ends only such nodes", async () => {
  const name = `person-${process.pid}`;
  await commands.up(name, { network: "isolated", from: "snapshot" });
  const node = await runningNode(name);
  expect(node?.owner.pid).not.toBe(process.pid);
  expect(await commands.ssh(name, ["exit", "7"])).toBe(7);
  await expect(commands.up(name, {})).rejects.toThrow(/already running/);
  await commands.down(name);
  expect(await processesOf(name)).toEqual([]);
  await expect(commands.down(name)).rejects.toThrow(/no virtual Pi named/);

  const { name: ours, folder } = await claimNodeFolder(undefined);
  await expect(commands.down(ours)).rejects.toThrow(/no virtual Pi named/);
  await rm(folder, { recursive: true });
});
