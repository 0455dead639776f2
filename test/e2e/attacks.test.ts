import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse, stringify } from "yaml";
import { openPrivateKey } from "../../cli/keys/open-private-key.ts";
import type { MeasuredBootState } from "../../provider/resources/measured-boot-observation.ts";
import { shipApproval } from "../../provider/resources/approval-shipping.ts";
import { fingerprint } from "../../provider/trust/public-key.ts";
import { openRecovery } from "../../provider/trust/recovery.ts";
import { run } from "../../testbed/bound-process.ts";
import type { PoweredOffDisks } from "../../testbed/tamper.ts";
import { kexec, observe, withProvider } from "./provider-on-pi.ts";
import { SealedNode } from "./sealed-node.ts";
import { modelDisk } from "./sealed-volume-site.ts";

/*
 * What somebody with the card in hand, or root on the running node, tries on a node that measures its boots and has a sealed volume; and what does get through at this level of trust,
 * so that nobody believes more than is true. docs/threat-model.md has a line for each.
 */

let node: SealedNode;

beforeAll(async () => {
  node = await SealedNode.start();
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

/** Boots with something changed while the node was off. Coming back from `boot` says that ssh answers. */
async function bootWith(change: (disks: PoweredOffDisks) => Promise<void>): Promise<void> {
  await node.pi.powerOff();
  await node.pi.tamper(change);
  await node.pi.boot();
}

const putBack = (path: string, content: Buffer): (({ boot }: PoweredOffDisks) => Promise<void>) => {
  return ({ boot }) => boot.write(path, content);
};

/** Runs a command of root's that is not to succeed. @returns what it says */
async function refused(command: string): Promise<string> {
  return node.root(`${command} 2>&1 && echo SUCCEEDED || :`);
}

/**
 * Boots up to a shell on the console, and goes on from there.
 * @param prompt what the shell shows; `door` what is shown before it, where somebody has to press Enter
 * @param goOn what has the boot go on to its end
 * @returns the PCR as that shell reads it
 */
async function throughShell({
  door,
  prompt,
  pcr,
  goOn,
}: {
  readonly door?: RegExp;
  readonly prompt: RegExp;
  readonly pcr: 11 | 15;
  readonly goOn: string;
}): Promise<string> {
  await node.pi.powerOff();
  const { console } = node.pi;
  const from = console.position();
  const booted = node.pi.boot();
  // Told below.
  booted.catch(() => undefined);
  if (door !== undefined) await console.waitFor(door, { from, timeoutMs: 600_000 });
  // Until it opens: what is typed before sulogin reads is dropped by it.
  const knocking = door === undefined ? undefined : setInterval(() => console.type("\n"), 3_000);
  try {
    await console.waitFor(prompt, { from, timeoutMs: 600_000 });
  } finally {
    clearInterval(knocking);
  }
  console.type(`echo PCR=$(cat /sys/class/tpm/tpm0/pcr-sha256/${pcr})=\n`);
  const [, value = ""] = await console.waitFor(/PCR=([0-9A-F]{64})=/, { from });
  console.type(`${goOn}\n`);
  await booted;
  return value.toLowerCase();
}

describe("changed while the node was off, it keeps the volume locked, and a refresh names it:", () => {
  const changes: Readonly<
    Record<
      string,
      { readonly path: string; readonly change: (content: Buffer) => Buffer; readonly named: string }
    >
  > = {
    "the kernel command line": {
      path: "cmdline.txt",
      change: (content) => Buffer.from(`${content.toString().trim()} systemd.debug_shell=1\n`),
      named: "changed file cmdline.txt, changed cmdline",
    },
    "config.txt": {
      path: "config.txt",
      change: (content) => Buffer.concat([content, Buffer.from("dtparam=uart0=on\n")]),
      named: "changed file config.txt",
    },
    "the initramfs": {
      path: "initramfs_2712",
      // An archive may follow with nothing in it, as one with another program in it may.
      change: (content) => Buffer.concat([content, Buffer.alloc(512)]),
      named: "changed file initramfs_2712",
    },
    "the kernel": {
      path: "kernel_2712.img",
      // What follows the code is not run.
      change: (content) => Buffer.concat([content, Buffer.alloc(512)]),
      named: "changed file kernel_2712.img",
    },
    "an overlay": {
      path: "overlays/README",
      change: (content) => Buffer.concat([content, Buffer.from("Another overlay\n")]),
      named: "changed tree overlays",
    },
  };

  test.each(Object.entries(changes))("%s", async (_what, { path, change, named }) => {
    let original: Buffer = Buffer.alloc(0);
    await bootWith(async ({ boot }) => {
      original = await boot.read(path);
      await boot.write(path, change(original));
    });
    const state = await node.look();
    expect(state).toMatchObject({ open: false, openedBy: "none", pcr11Approved: false, pcr15Capped: true });
    expect(state.lockedReason).toMatch(/^pcr11-not-approved: /);
    expect(state.lockedReason.split("; against the nearest approved state: ")[1]).toBe(named);
    await bootWith(putBack(path, original));
    await node.expectOpen();
  });
});

describe("root on the running node", () => {
  test("can't set PCR 11 or 15 back", async () => {
    const before = await node.pcr11();
    for (const pcr of [11, 15])
      expect(await refused(`tpm2_pcrreset ${String(pcr)}`)).toMatch(/locality|TPM_RC_LOCALITY/i);
    expect(await node.pcr11()).toBe(before);
    expect((await node.look()).pcr15Capped).toBe(true);
    // The twin: a PCR that is there to be reset.
    expect(await refused("tpm2_pcrreset 16")).toContain("SUCCEEDED");
  });
});

test("an approval of another node, of the same site and key, opens nothing", async () => {
  const site = join(node.folder, "stacks/lab.yaml");
  const original = readFileSync(site, "utf8");
  const ours = await node.root("cat /etc/edgeseal/trust/approvals.json");
  const { nodes, ...rest } = parse(original) as { readonly nodes: readonly Record<string, unknown>[] };
  writeFileSync(
    site,
    stringify({ ...rest, nodes: [...nodes, { ...nodes[0], name: "pi-2", address: "192.0.2.2" }] }),
  );
  // A node that boots the same, but for its name.
  const log = await node.root("cat /run/edgeseal/measured/log");
  const named = createHash("sha256").update("pi-2").digest("hex");
  writeFileSync(
    join(node.folder, "pi-2.log"),
    log.replace(/^11\tnode\tpi-1\t[0-9a-f]{64}/m, `11\tnode\tpi-2\t${named}`),
  );
  const approved = await node.edgeseal("approve", "pi-2", "--log", "pi-2.log", "--yes", ...node.keys);
  writeFileSync(site, original);
  expect(approved.code, approved.text).toBe(0);

  const { inputs, kind } = node.volume;
  const theirs = readFileSync(join(node.folder, "approvals/pi-2.json"), "utf8");
  const [problem, ...others] = kind.check?.({ ...inputs, approval: theirs }) ?? [];
  expect(problem?.path).toBe("approval.node");
  expect(problem?.message).toContain("pi-2");
  expect(others).toEqual([]);

  const { states } = JSON.parse(theirs) as {
    readonly states: readonly { readonly pol: string; readonly sig: string }[];
  };
  const [bank] = Object.values(JSON.parse(ours) as Record<string, readonly Record<string, unknown>[]>);
  const entry = { ...bank?.[0], pol: states[0]?.pol, sig: states[0]?.sig };
  await node.putApprovals(JSON.stringify({ sha256: [entry] }));
  await node.pi.reboot();
  const state = await node.look();
  expect(state).toMatchObject({ open: false, pcr11Approved: false, headerMatchesPins: true });
  expect(state.lockedReason).toMatch(/^pcr11-not-approved/);
  await node.putApprovals(ours);
  await node.pi.reboot();
  await node.expectOpen();
});

test("a state that was approved by another key than the site's opens nothing", async () => {
  const ours = await node.root("cat /etc/edgeseal/trust/approvals.json");
  const [bank] = Object.values(JSON.parse(ours) as Record<string, readonly { readonly pol: string }[]>);
  const pol = bank?.[0]?.pol ?? expect.fail("no approval");
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const entry = {
    ...bank?.[0],
    pkfp: fingerprint(publicKey),
    sig: sign("sha256", Buffer.from(pol, "hex"), privateKey).toString("base64"),
  };
  await node.putApprovals(JSON.stringify({ sha256: [entry] }));
  await node.pi.reboot();
  const state = await node.look();
  expect(state).toMatchObject({ open: false, pcr11Approved: false, headerMatchesPins: true });
  expect(state.lockedReason).toMatch(/^approval-revoked: /);
  // The same signature, said to be by the site's key.
  await node.putApprovals(JSON.stringify({ sha256: [{ ...bank?.[0], sig: entry.sig }] }));
  await node.pi.reboot();
  expect(await node.look()).toMatchObject({
    open: false,
    lockedReason: expect.stringMatching(/^tpm-refused: /) as unknown,
  });
  await node.putApprovals(ours);
  await node.pi.reboot();
  await node.expectOpen();
});

test("another kernel without a reset of the TPM leaves it locked, and says that the power has to be cut, which opens it", async () => {
  await kexec(node.pi);
  const state = await node.look();
  expect(state).toMatchObject({ open: false, pcr15Capped: true });
  expect(state.lockedReason).toMatch(/^pcr15-not-zero: .*cut the power and boot again/);
  expect(await observe<MeasuredBootState>(node.pi, node.measuredBoot)).toMatchObject({
    desync: "power-cycle",
  });
  await node.pi.powerCut();
  await node.pi.boot();
  await node.expectOpen();
});

test("once it is closed, its key is neither in memory nor on a disk", async () => {
  const recovery = await openPrivateKey(join(node.folder, "keys/recovery.key.age"), {
    passphraseFile: join(node.folder, "passphrase"),
  });
  const { recoveryCiphertext, recoveryFor } = await node.look();
  const binding = { kind: "luks", node: "pi-1", subject: recoveryFor } as const;
  const recoveryKey = await openRecovery(Buffer.from(recoveryCiphertext, "base64"), recovery, binding);
  const dump = await node.pi.exec(
    `sudo -n cryptsetup luksDump --batch-mode --dump-volume-key --key-file - ${modelDisk}`,
    { stdin: recoveryKey },
  );
  const hex = /^MK dump:([0-9a-f\s]+)/m.exec(dump.stdout)?.[1] ?? expect.fail(dump.stdout + dump.stderr);
  const volumeKey = Buffer.from(hex.replaceAll(/\s/g, ""), "hex");
  expect(volumeKey).toHaveLength(64);
  // XTS uses the halves as two keys, and the kernel keeps their schedules apart.
  const wanted = [volumeKey.subarray(0, 32), volumeKey.subarray(32), Buffer.from(recoveryKey)];

  // The twin for the disks: planted, it is found.
  const planted = await node.pi.exec("sudo -n sh -c 'base64 -d >/var/tmp/planted; sync'", {
    stdin: Buffer.concat(wanted).toString("base64"),
  });
  expect(planted.code).toBe(0);
  await node.pi.powerCut();
  expect(await node.pi.foundOnDisks(wanted)).toEqual([true, true, true]);

  await node.pi.boot();
  await node.expectOpen();
  await node.root("shred -u /var/tmp/planted && sync");
  const [first, second] = await node.pi.foundInMemory(wanted);
  // The twin for the memory: an open volume's key is there. Whoever reads the chips of a node that runs has it.
  expect([first, second]).toEqual([true, true]);
  await node.root(
    "systemctl stop edgeseal-volumes.service; umount /srv/models; cryptsetup close edgeseal-models",
  );
  expect(await node.look()).toMatchObject({ open: false });
  expect(await node.pi.foundInMemory(wanted)).toEqual([false, false, false]);
  await node.pi.powerOff();
  expect(await node.pi.foundOnDisks(wanted)).toEqual([false, false, false]);
  await node.pi.boot();
  await node.expectOpen();
});

/*
 * A shell of the initramfs comes before the unlock program, the cap of PCR 15 and every login. Here the state that gives it is an approved one, as with a root file system that is not
 * found, so that nothing but the spoiling of PCR 11 stands between the shell and the volume.
 */
describe("a shell that the initramfs gives in an approved state", () => {
  const panicScript = "/etc/initramfs-tools/scripts/panic/edgeseal";

  /** Approves a state, and has the approval on the node. @returns each PCR 11 that is approved */
  async function approve(which: "current" | "next"): Promise<readonly string[]> {
    const approval = await node.approve(which);
    const { kind, inputs } = node.measuredBoot;
    const { failure } = await withProvider(node.pi, kind, (device) =>
      device.apply(kind, inputs, shipApproval(approval)),
    );
    expect(failure).toBeUndefined();
    return approval.states.map(({ pcr11 }) => pcr11);
  }

  const throughTheShell = (): Promise<string> =>
    throughShell({ prompt: /\(initramfs\) /, pcr: 11, goOn: "exit" });

  test("can't unseal, and leaves the volume locked. The twin: without the script that runs before it, it could, and the volume opens", async () => {
    const commandLine = (await node.root("cat /boot/firmware/cmdline.txt")).trim();
    const putCommandLine = (line: string): Promise<string> =>
      node.root(`printf '%s\\n' '${line}' >/boot/firmware/cmdline.txt && sync`);
    await putCommandLine(`${commandLine} break=premount`);
    expect(await approve("next")).not.toContain(await throughTheShell());
    const state = await node.look();
    expect(state).toMatchObject({ open: false, openedBy: "none", pcr11Approved: false, pcr15Capped: true });
    expect(state.lockedReason).toMatch(/^pcr11-not-approved/);

    const script = await node.root(`cat ${panicScript}`);
    await node.root(`printf '#!/bin/sh\\nexit 0\\n' >${panicScript} && update-initramfs -u && sync`);
    await throughTheShell();
    const approved = await approve("current");
    expect(approved).toContain(await throughTheShell());
    await node.expectOpen();

    const put = await node.pi.exec(`sudo -n sh -c 'cat >${panicScript}'`, { stdin: script });
    expect(put.code).toBe(0);
    await putCommandLine(commandLine);
    await node.root("update-initramfs -u && sync");
    await approve("next");
    await node.pi.reboot();
    await node.expectOpen();
  }, 1_800_000);
});

test("a root shell of the emergency mode, which a mount that fails is enough for, comes after the cap. The twin: without the cap PCR 15 is as the boot found it", async () => {
  const emergency = async (): Promise<string> => {
    await node.root(`set -e
echo 'UUID=00000000-0000-4000-8000-000000000000 /mnt/nowhere ext4 x-systemd.device-timeout=1s 0 0' >>/etc/fstab
# Root has no password here: whoever can write to an unprotected root needs none.
mkdir -p /etc/systemd/system/emergency.service.d
printf '[Service]\\nEnvironment=SYSTEMD_SULOGIN_FORCE=1\\n' >/etc/systemd/system/emergency.service.d/force.conf
sync`);
    return throughShell({
      door: /Press Enter for system maintenance/,
      prompt: /root@[^\n]*# /,
      pcr: 15,
      goOn: "mount -o remount,rw /; sed -i /nowhere/d /etc/fstab; systemctl daemon-reload; systemctl default",
    });
  };
  const zeros = "0".repeat(64);
  expect(await emergency()).not.toBe(zeros);
  expect(await node.look()).toMatchObject({ pcr15Capped: true });

  await node.root("systemctl disable edgeseal-cap-pcr15.service && sync");
  expect(await emergency()).toBe(zeros);
  await node.root(
    "systemctl enable edgeseal-cap-pcr15.service && rm -r /etc/systemd/system/emergency.service.d && sync",
  );
  await node.pi.reboot();
  await node.expectOpen();
}, 1_800_000);

/*
 * The honest ones. Each of these opens the volume to the attacker: level `measured` is what a stolen disk and a changed boot file fail against, and no more.
 */
describe("what does get through at `measured`:", () => {
  test("a script, a unit and an ssh key added to an unprotected root while the node is off: each reads the volume", async () => {
    const { host, port, user } = node.pi.ssh;
    const authorizedKeys = `/home/${user}/.ssh/authorized_keys`;
    const [uid, gid] = (await node.root(`stat -c '%u %g' ${authorizedKeys}`)).trim().split(" ").map(Number);
    const own = join(node.folder, "attacker");
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", own]);
    const look = "sudo -n sha256sum /srv/models/model.gguf";
    const byOwnKey = (): Promise<string> =>
      run("ssh", [
        ...["-F", "none", "-i", own, "-p", String(port)],
        ...[
          "IdentitiesOnly=yes",
          "IdentityAgent=none",
          "BatchMode=yes",
          "StrictHostKeyChecking=no",
          "UserKnownHostsFile=/dev/null",
        ].flatMap((option) => ["-o", option]),
        `${user}@${host}`,
        look,
      ]);
    // The twin: what lets the attacker in is what is added below.
    await expect(byOwnKey()).rejects.toThrow(/Permission denied/);

    const service = "/etc/systemd/system/taken.service";
    const wanted = "/etc/systemd/system/multi-user.target.wants/taken.service";
    let keys: Buffer = Buffer.alloc(0);
    await bootWith(async ({ root }) => {
      const script = "#!/bin/sh\nsha256sum /srv/models/model.gguf >/var/lib/taken-by-script\n";
      await root.write("/etc/rc.local", script, { mode: 0o755 });
      const unit = `[Unit]
After=edgeseal-volumes.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sha256sum /srv/models/model.gguf >/var/lib/taken-by-unit'
`;
      await root.write(service, unit);
      await root.symlink(wanted, service);
      keys = await root.read(authorizedKeys);
      const added = Buffer.concat([keys, readFileSync(`${own}.pub`)]);
      await root.write(authorizedKeys, added, { mode: 0o600, uid: uid ?? 0, gid: gid ?? 0 });
    });
    await node.expectOpen();
    const content = await node.root("sha256sum /srv/models/model.gguf");
    for (const by of ["script", "unit"]) {
      const taken = `/var/lib/taken-by-${by}`;
      expect(await node.root(`until [ -s ${taken} ]; do sleep 0.2; done; cat ${taken}`), by).toBe(content);
    }
    expect((await byOwnKey()).trim()).toBe(content.trim());

    const without = await node.pi.exec(`sudo -n sh -c 'cat >${authorizedKeys}'`, { stdin: keys.toString() });
    expect(without.code).toBe(0);
    await node.root(
      `rm /etc/rc.local ${service} ${wanted} /var/lib/taken-by-script /var/lib/taken-by-unit && systemctl daemon-reload && sync`,
    );
  });

  test("the TPM moved with its disk to another board opens it there", async () => {
    const address = await node.root("cat /sys/class/net/eth0/address");
    await node.pi.powerOff();
    node.pi.replaceBoard();
    await node.pi.boot();
    expect(await node.root("cat /sys/class/net/eth0/address")).not.toBe(address);
    await node.expectOpen();
  });

  test("a forged initramfs, which extends PCR 11 with the approved digests, opens it; what lies on the boot partition differs", async () => {
    const approved = await node.pcr11();
    const log = await node.root("cat /run/edgeseal/measured/log");
    const digests = log
      .split("\n")
      .flatMap((line) => /^11\t.*?\t([0-9a-f]{64})(?:\t|$)/.exec(line)?.[1] ?? []);
    // The measuring program with what it measures taken from a list; an archive that follows wins over the ones before it.
    const forged = node
      .root("cat /usr/lib/edgeseal/measure")
      .then((program) =>
        program.replace(
          "\ncase $mode in\nextend)",
          `\nextend_all() { tpm_read; while read -r each; do tpm_extend "$each"; done </usr/lib/edgeseal/digests; cat /usr/lib/edgeseal/log >"$measured/log"; }\ncase $mode in\nextend)`,
        ),
      );
    const files = { measure: await forged, digests: `${digests.join("\n")}\n`, log };
    for (const [name, content] of Object.entries(files)) {
      const { code } = await node.pi.exec(
        `sudo -n sh -c 'mkdir -p /run/forged/usr/lib/edgeseal && cat >/run/forged/usr/lib/edgeseal/${name}'`,
        { stdin: content },
      );
      expect(code).toBe(0);
    }
    const archive = await node.root(
      "cd /run/forged && chmod 755 usr/lib/edgeseal/measure && find . | cpio --quiet -o -H newc -R 0:0 | gzip -n | base64 -w 0; rm -r /run/forged",
    );
    let original: Buffer = Buffer.alloc(0);
    await bootWith(async ({ boot }) => {
      original = await boot.read("initramfs_2712");
      await boot.write("initramfs_2712", Buffer.concat([original, Buffer.from(archive, "base64")]));
    });
    expect(await node.pcr11()).toBe(approved);
    await node.expectOpen();
    // A refresh reads the boot partition, too: that is where the forger would have to go on, with root on the node.
    const state = await observe<MeasuredBootState>(node.pi, node.measuredBoot);
    expect(state).toMatchObject({
      measured: true,
      replay: "consistent",
      initramfs: "foreign",
      nextPcr11: "unknown",
    });
    await bootWith(putBack("initramfs_2712", original));
    await node.expectOpen();
  });
});
