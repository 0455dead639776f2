import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readFile, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { hostFingerprint } from "./accelerator.ts";
import { run } from "./bound-process.ts";
import { withLock } from "./cache-lock.ts";
import { SerialConsole } from "./console.ts";
import { notSigned } from "./device-tree.ts";
import { createBlankDisk, createOverlay } from "./disk.ts";
import { readBootFiles, type BootFiles } from "./firmware.ts";
import { GuestShell } from "./guest-shell.ts";
import { adminUser, dataDiskMiB } from "./image/recipe.ts";
import type { Image } from "./image.ts";
import { Machine, qemuArguments, type Wiring } from "./machine.ts";
import { freePorts } from "./node-folder.ts";
import type { Accelerator } from "./profile.ts";

/** The line that the node's `testbed-ready.service` prints once a boot answers ssh; group 1 is the boot id. */
export const readyMarker = /^testbed: boot ([0-9a-f-]{36}) is ready/m;

/** A node that has booted, stopped between two instructions. Never written to: nodes put layers over its disks. */
export interface Snapshot {
  readonly systemDisk: string;
  readonly dataDisk: string;
  readonly tpmState: string;
  /** Memory and devices, the TPM's registers included. */
  readonly memory: string;
  readonly bootFiles: BootFiles;
  readonly bootId: string;
  /** How long this boot took, which every node that starts from here saves. */
  readonly bootMs: number;
  /** Whether that boot was only now, since the cache had no snapshot. */
  readonly isNew: boolean;
}

export interface SnapshotOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((message: string) => void) | undefined;
}

interface Description {
  readonly bootId: string;
  readonly bootMs: number;
  readonly kernelName: string;
  readonly commandLine: string;
  readonly hasInitramfs: boolean;
}

/**
 * The booted snapshot of an image, made (one boot) if the cache does not have it for this emulator.
 *
 * It is a migration to a file, not QEMU's `savevm`: that would live inside the disk image, so that each node would
 * need a full copy of it. A migration stream is separate, so nodes share it, and their disks are empty layers over
 * the snapshot's: a fresh node costs no copying, and the snapshot can't be harmed by one.
 */
export async function ensureSnapshot(
  image: Image,
  accelerator: Accelerator,
  options: SnapshotOptions = {},
): Promise<Snapshot> {
  const folder = join(image.folder, `booted-${await snapshotKey(image, accelerator)}`);
  const found = await readSnapshot(folder);
  if (found) return found;
  const onProgress = options.onProgress ?? (() => undefined);
  return withLock(
    `${folder}.lock`,
    async () => {
      const made = await readSnapshot(folder);
      if (made) return made;
      onProgress(
        `booting the image for its snapshot (${accelerator === "tcg" ? "emulated: about 40 s" : "KVM: about 10 s"}, once)`,
      );
      // Short: sockets are in it, and a socket's path has 107 bytes.
      const unfinished = `.${basename(folder).slice(-8)}-`;
      for (const name of await readdir(image.folder)) {
        if (name.startsWith(unfinished)) await rm(join(image.folder, name), { recursive: true });
      }
      const making = await mkdtemp(join(image.folder, unfinished));
      try {
        await bootAndSave(image, accelerator, making, options.signal);
        await rename(making, folder);
      } catch (error) {
        await rm(making, { recursive: true, force: true });
        throw error;
      }
      const snapshot = await readSnapshot(folder);
      if (!snapshot) throw new Error(`the snapshot just made is not in ${folder}`);
      onProgress(`snapshot ready; the boot took ${(snapshot.bootMs / 1000).toFixed(0)} s`);
      return { ...snapshot, isNew: true };
    },
    {
      signal: options.signal,
      onWait: () => {
        onProgress("waiting for another process that makes the same snapshot");
      },
    },
  );
}

async function bootAndSave(
  image: Image,
  accelerator: Accelerator,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const path = (name: string): string => join(folder, name);
  // Relative: the folder gets its name only when it is complete.
  await createOverlay(path("system.qcow2"), "../disk.raw", "raw");
  await createBlankDisk(path("data.qcow2"), dataDiskMiB);
  await mkdir(path("tpm"), { mode: 0o700 });
  const console = await SerialConsole.listen(path("console.sock"), path("console.log"));
  const [first = 0, second = 0] = await freePorts(2);
  const wiring: Wiring = {
    name: "snapshot",
    profile: image.profile,
    accelerator,
    folder,
    systemDisk: path("system.qcow2"),
    dataDisk: path("data.qcow2"),
    tpmState: path("tpm"),
    ports: { first, second },
    console,
    network: "isolated",
    board: 0,
    signedBoot: notSigned,
  };
  try {
    await saveWhenReady(wiring, image, signal);
  } finally {
    // An open one would keep this process from ending.
    await console.close();
  }
}

async function saveWhenReady(wiring: Wiring, image: Image, signal: AbortSignal | undefined): Promise<void> {
  const { folder, console, ports } = wiring;
  const started = performance.now();
  const bootFiles = await readBootFiles(wiring.systemDisk, join(folder, "boot"));
  const machine = await Machine.powerOn(wiring, bootFiles);
  try {
    const [, bootId = ""] = await console.waitFor(readyMarker, { timeoutMs: 300_000, signal });
    const bootMs = performance.now() - started;
    await settle(image, ports.first);
    signal?.throwIfAborted();
    await machine.saveMemory(join(folder, "memory"), folder);
    const description: Description = {
      bootId,
      bootMs,
      kernelName: bootFiles.kernelName,
      commandLine: bootFiles.commandLine,
      hasInitramfs: bootFiles.initramfs !== undefined,
    };
    await writeFile(join(folder, "snapshot.json"), JSON.stringify(description, undefined, 2));
  } finally {
    await machine.cut();
  }
}

/** Waits until nothing is still starting, and leaves no connection open: a restored node would wait for its other end. */
async function settle(image: Image, port: number): Promise<void> {
  const shell = new GuestShell({
    host: "127.0.0.1",
    port,
    user: adminUser,
    identityFile: image.identityFiles.testbed,
    hostKey: image.hostKey,
  });
  const { code, stdout } = await shell.exec(
    "systemctl is-system-running --wait || systemctl list-units --failed --no-legend --plain; sync",
  );
  await shell.close();
  if (code !== 0 || stdout.trim() !== "running")
    throw new Error(`the image does not boot cleanly: ${stdout.trim()}`);
}

async function readSnapshot(folder: string): Promise<Snapshot | undefined> {
  if (!(await stat(join(folder, "snapshot.json")).catch(() => undefined))) return undefined;
  const made = JSON.parse(await readFile(join(folder, "snapshot.json"), "utf8")) as Description;
  return {
    systemDisk: join(folder, "system.qcow2"),
    dataDisk: join(folder, "data.qcow2"),
    tpmState: join(folder, "tpm"),
    memory: join(folder, "memory"),
    bootFiles: {
      kernel: join(folder, "boot/kernel"),
      ...(made.hasInitramfs && { initramfs: join(folder, "boot/initramfs") }),
      commandLine: made.commandLine,
      kernelName: made.kernelName,
    },
    bootId: made.bootId,
    bootMs: made.bootMs,
    isNew: false,
  };
}

/** Everything that a memory image depends on: QEMU's own version and options, swtpm's version, and the host under KVM. */
async function snapshotKey(image: Image, accelerator: Accelerator): Promise<string> {
  const placeholder = { kernel: "", commandLine: "", kernelName: "" };
  const wiring = {
    folder: "",
    systemDisk: "",
    dataDisk: "",
    tpmState: "",
    name: "",
    ports: { first: 0, second: 0 },
  };
  const options = qemuArguments(
    // The console is no part of the command line.
    {
      ...wiring,
      profile: image.profile,
      accelerator,
      console: undefined as never,
      network: "isolated",
      board: 0,
      signedBoot: notSigned,
    },
    placeholder,
    { tpmSocket: "", qmpSocket: "" },
  );
  const versions = await Promise.all([
    run(image.profile.qemu, ["--version"]),
    run("swtpm", ["--version"]),
    accelerator === "kvm" ? hostFingerprint(image) : "",
  ]);
  return createHash("sha256")
    .update(JSON.stringify([options, versions]))
    .digest("hex")
    .slice(0, 16);
}

/** Copies a chip: used to give each node that starts from a snapshot the state that the snapshot's memory goes with. */
export async function copyTpmState(from: string, to: string): Promise<void> {
  await cp(from, to, { recursive: true });
}
