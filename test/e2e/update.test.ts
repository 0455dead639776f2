import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { stringify } from "yaml";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kindOf, observe, onPi, type Declared } from "./provider-on-pi.ts";
import { modelDisk } from "./sealed-volume-site.ts";

/*
 * `edgeseal update` as an operator runs it, on a node that measures its boots and has a sealed volume: an initramfs that was really built anew, and an update that leaves
 * the volume locked.
 */

const program = join(import.meta.dirname, "../../cli/main.ts");
const measuredBoot: Declared = {
  kind: kindOf("edgeseal:boot:MeasuredBoot"),
  inputs: { node: "pi-1", reboot: "never", rebootUnapproved: "refuse" },
};

let pi: VirtualPi;
let folder: string;

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly text: string;
}

/** Runs the command line with the site's files. */
const edgeseal = (...args: readonly string[]): Promise<Ran> =>
  new Promise((resolve) => {
    execFile(
      process.execPath,
      ["--disable-warning=ExperimentalWarning", program, ...args],
      { cwd: folder },
      (error, stdout, stderr) =>
        resolve({
          code: typeof error?.code === "number" ? error.code : error === null ? 0 : -1,
          stdout,
          text: `${stdout}${stderr}`,
        }),
    );
  });

const keys = ["--keys", "keys", "--passphrase-file", "passphrase"];

const update = async (
  ...args: readonly string[]
): Promise<Ran & { readonly said: Record<string, unknown> }> => {
  const ran = await edgeseal(
    "update",
    "pi-1",
    "--site",
    "stacks/lab.yaml",
    ...keys,
    "--yes",
    "--json",
    ...args,
  );
  const said = ran.stdout === "" ? {} : (JSON.parse(ran.stdout) as Record<string, unknown>);
  return { ...ran, said };
};

const volume = (): Declared => {
  const inputs: SealedVolumeInputs = {
    name: "models",
    device: modelDisk,
    filesystem: "ext4",
    mountPoint: "/srv/models",
    readOnly: false,
    mayErase: [],
    cipher: "auto",
    node: "pi-1",
    policyKey: readFileSync(join(folder, "keys/policy-1.pub.pem"), "utf8"),
    generation: 1,
    approval: readFileSync(join(folder, "approvals/pi-1.json"), "utf8"),
    recoveryKey: readFileSync(join(folder, "keys/recovery.pub.pem"), "utf8"),
  };
  return { kind: kindOf("edgeseal:storage:SealedVolume"), inputs };
};

const pcr11 = async (): Promise<string> =>
  (await onPi(pi, "cat /sys/class/tpm/tpm0/pcr-sha256/11")).trim().toLowerCase();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-update-"));
  writeFileSync(join(folder, "passphrase"), "correct horse battery staple\n", { mode: 0o600 });
  pi = await VirtualPi.start();
  const { host, port, user, identityFile, hostKey } = pi.ssh;
  mkdirSync(join(folder, "stacks"));
  const site = {
    site: "lab",
    trust: { policyKey: "../keys/policy-1.pub.pem", recoveryKey: "../keys/recovery.pub.pem" },
    nodes: [
      {
        name: "pi-1",
        address: host,
        port,
        user,
        identityFile,
        hostKey,
        measuredBoot: {},
        volumes: { models: { device: modelDisk, mountPoint: "/srv/models" } },
      },
    ],
  };
  writeFileSync(join(folder, "stacks/lab.yaml"), stringify(site));
  // Better compression only costs time here.
  await onPi(pi, "echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/zz-fast");
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

let fileDigest: string;

/** The volume is open, by the TPM, with its file. */
async function isOpen(): Promise<void> {
  const state = await observe<SealedVolumeState>(pi, volume());
  expect(state).toMatchObject({ openedBy: "tpm", unlock: "observed", pcr15Capped: true });
  expect(await onPi(pi, "sha256sum /srv/models/model.gguf")).toBe(fileDigest);
}

test("the beginning: the boot is measured and approved, and opens the volume", async () => {
  expect((await edgeseal("keys", "new", "keys", "--passphrase-file", "passphrase")).code).toBe(0);
  await bringUp(pi, measuredBoot);
  await pi.reboot();
  const approved = await edgeseal(
    "approve",
    "pi-1",
    "--site",
    "stacks/lab.yaml",
    "--current",
    "--yes",
    ...keys,
  );
  expect(approved.code, approved.text).toBe(0);
  await bringUp(pi, volume());
  fileDigest = await onPi(
    pi,
    "head -c 4000000 /dev/urandom >/srv/models/model.gguf && sync && sha256sum /srv/models/model.gguf",
  );
  await pi.reboot();
  await isOpen();
});

test("with nothing new there is nothing to do", async () => {
  const { code, said, text } = await update();
  expect(code, text).toBe(0);
  expect(said).toMatchObject({ outcome: "nothing-to-do", volumes: { models: true } });
});

test("an initramfs that was built anew is predicted, approved, shipped, booted, and measured as predicted", async () => {
  const before = await pcr11();
  // apt keeps the copy before it installs; the initramfs is another one after it.
  await onPi(pi, "rm -rf /var/lib/edgeseal/boot && apt-get -y purge less >/dev/null 2>&1");
  expect(await onPi(pi, "/usr/lib/edgeseal/keep-boot status")).toMatch(/^phase=none\nkept=[0-9a-f]{64}\n$/);
  await onPi(pi, "echo loop >>/etc/initramfs-tools/modules && update-initramfs -u");

  const shown = await update("--dry-run");
  expect(shown.code, shown.text).toBe(4);
  expect(shown.said).toMatchObject({ outcome: "not-approved" });

  const { code, said, text } = await update();
  expect(code, text).toBe(0);
  const after = await pcr11();
  expect(after).not.toBe(before);
  expect(said).toMatchObject({
    outcome: "confirmed",
    pcr11: after,
    volumes: { models: true },
    approval: {
      pcr11: after,
      changes: expect.arrayContaining([expect.objectContaining({ name: "initramfs_2712" })]) as unknown,
    },
  });
  await isOpen();
  expect(await onPi(pi, "/usr/lib/edgeseal/keep-boot status")).toMatch(/^phase=none\nkept=[0-9a-f]{64}\n$/);
  expect(await onPi(pi, "ls /etc/systemd/system")).not.toContain("edgeseal-update");
});

test("an approved update that leaves the volume locked is taken back by the node itself, which is then as before", async () => {
  const before = await pcr11();
  const commandLine = await onPi(pi, "cat /boot/firmware/cmdline.txt");
  await onPi(pi, "sed -i 's/$/ module_blacklist=dm_crypt/' /boot/firmware/cmdline.txt");
  const { code, said, text } = await update("--reason", "a kernel without dm-crypt");
  expect(code, text).toBe(7);
  expect(said).toMatchObject({
    outcome: "went-back",
    reason: expect.stringMatching(/^the volume models stays locked: /) as unknown,
  });
  expect(await onPi(pi, "cat /boot/firmware/cmdline.txt")).toBe(commandLine);
  expect(await pcr11()).toBe(before);
  await isOpen();
  expect(await onPi(pi, "/usr/lib/edgeseal/keep-boot status")).toMatch(/^phase=none$/m);
});

test("the power goes while the node goes back: it goes on, and is as before", async () => {
  const before = await pcr11();
  await onPi(
    pi,
    `sed -i 's/$/ module_blacklist=dm_crypt/' /boot/firmware/cmdline.txt && cp /boot/firmware/kernel_2712.img /boot/firmware/another.img`,
  );
  // Held at its first copy, whose name says that the phase is on the disk.
  await onPi(
    pi,
    `printf '#!/bin/sh\\ncase "$*" in *edgeseal-new*) if [ ! -e /var/lib/cut ]; then touch /var/lib/cut; sync; echo HELD >/dev/console; exec sleep 3600; fi ;; esac\\nexec /bin/cp "$@"\\n' >/usr/sbin/cp && chmod 755 /usr/sbin/cp && sync`,
  );
  const from = pi.console.position();
  const updating = update("--reason", "a kernel without dm-crypt, and a file more");
  await pi.console.waitFor(/HELD/, { from, timeoutMs: 600_000 });
  await pi.powerCut();
  await pi.boot();
  const { code, said, text } = await updating;
  expect(code, text).toBe(7);
  expect(said).toMatchObject({ outcome: "went-back" });
  expect(await onPi(pi, "ls /boot/firmware")).not.toMatch(/another\.img|edgeseal-new/);
  expect(await pcr11()).toBe(before);
  await isOpen();
});
