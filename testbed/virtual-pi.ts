import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { detectAccelerator } from "./accelerator.ts";
import { SerialConsole } from "./console.ts";
import { makeDeviceTree, notSigned, type SignedBoot } from "./device-tree.ts";
import { createBlankDisk, createOverlay } from "./disk.ts";
import { asksToTry, readBootFiles, type BootFiles } from "./firmware.ts";
import { GuestShell, type ExecOptions, type ExecResult, type GuestAddress } from "./guest-shell.ts";
import { adminUser, dataDiskMiB } from "./image/recipe.ts";
import { ensureImage, type Image } from "./image.ts";
import { Machine, type PowerOff, type Wiring } from "./machine.ts";
import { claimNodeFolder, describeNode, freePorts } from "./node-folder.ts";
import type { Profile } from "./profile.ts";
import { foundInFile } from "./search.ts";
import { copyTpmState, ensureSnapshot, readyMarker } from "./snapshot.ts";
import { PoweredOffDisks } from "./tamper.ts";
import { replaceChip, restoreChip } from "./tpm.ts";

export interface StartOptions {
  /** Lower-case letters, digits and dashes; one living node per name. @default a new one, so that tests run in parallel */
  readonly name?: string;
  /**
   * `snapshot`: a node that has just booted, in seconds. `cold`: boots, which takes most of a minute under emulation.
   * Both are the same, fresh state. @default "snapshot", and "cold" of a profile without snapshots
   */
  readonly from?: "snapshot" | "cold";
  /**
   * `isolated`: this machine reaches its ssh port, and it reaches nobody. `nat`: it also reaches whatever this machine
   * does (this machine itself is 10.0.2.2). @default "isolated", so that no test leaves the machine by mistake
   */
  readonly network?: "isolated" | "nat";
  /** @default amd64 */
  readonly profile?: Profile;
  /** What the board's bootloader says of signed boot. Needs a profile with a device tree. @default that it is off, and no key is in OTP */
  readonly signedBoot?: SignedBoot;
  /** Stops the node, also after `start` has returned it. */
  readonly signal?: AbortSignal;
  /** Told what takes its time: building the image or the snapshot, which happens once per machine. */
  readonly onProgress?: (message: string) => void;
  /** Told when the node goes off by itself and does not boot again: it was shut down from inside, or failed. */
  readonly onOff?: (off: PowerOff) => void;
}

/** One wait for the emulator to bring a node up. */
export interface BootTiming {
  /**
   * `restore`: taken from the snapshot; `boot`: from the firmware to an answering sshd; `snapshot`: the boot of another node that this one's start had to
   * wait for, since there was no snapshot yet.
   */
  readonly how: "restore" | "boot" | "snapshot";
  readonly ms: number;
}

/**
 * A Raspberry Pi 5 node in software: Debian trixie with a real kernel, a TPM 2.0, a boot partition that the testbed
 * reads as the firmware would, a root file system and a blank data disk (the model partition, `/dev/disk/by-id/virtio-model`).
 *
 * ```ts
 * await using pi = await VirtualPi.start();
 * const { stdout } = await pi.exec("cat /proc/swaps");
 * await pi.powerCut();
 * await pi.tamper(async ({ boot }) => { await boot.write("cmdline.txt", "..."); });
 * await pi.boot();
 * ```
 *
 * Nodes that start from the same snapshot are twins: the same host key, machine id and TPM. `replaceTpm()` gives one
 * a chip of its own. Nothing of a node survives the process that started it, however that ends.
 */
export class VirtualPi {
  readonly name: string;
  /** What a site file says of this node: how the product reaches it, as the admin user, who has `sudo` without a password. */
  readonly ssh: GuestAddress;
  /** The same node by its second interface: connections come from 10.0.3.2 there, and from 10.0.2.2 on the first. */
  readonly sshAlternate: GuestAddress;
  #wiring: Wiring;
  readonly #shell: GuestShell;
  readonly #timings: BootTiming[] = [];
  #machine: Machine | undefined;
  #bootId = "";
  /** The boot that follows a reset by the guest itself. */
  #rebooting: Promise<void> | undefined;
  #lastOff: PowerOff | undefined;
  #stopping: Promise<void> | undefined;
  readonly #stopped = Promise.withResolvers<undefined>();
  readonly #onOff: (off: PowerOff) => void;

  private constructor(image: Image, wiring: Wiring, onOff: (off: PowerOff) => void = () => undefined) {
    this.#wiring = wiring;
    this.#onOff = onOff;
    this.name = wiring.name;
    const address = (port: number, identityFile: string): GuestAddress => ({
      host: "127.0.0.1",
      port,
      user: adminUser,
      identityFile,
      hostKey: image.hostKey,
    });
    this.ssh = address(wiring.ports.first, image.identityFiles.operator);
    this.sshAlternate = address(wiring.ports.second, image.identityFiles.operator);
    this.#shell = new GuestShell(address(wiring.ports.first, image.identityFiles.testbed));
  }

  /**
   * A fresh node, running and answering.
   * @throws UserError when its name is taken, or the image has to be built and this user is not root
   */
  static async start(options: StartOptions = {}): Promise<VirtualPi> {
    const { signal, onProgress } = options;
    const image = await ensureImage({
      signal,
      onProgress,
      ...(options.profile && { profile: options.profile }),
    });
    const { arch, hasDeviceTree, noticesRestore } = image.profile;
    if (options.signedBoot !== undefined && !hasDeviceTree)
      throw new Error(`signed boot is told by a device tree, which the profile ${arch} has not`);
    if (options.from === "snapshot" && !noticesRestore)
      throw new Error(`the profile ${arch} has no snapshots`);
    const accelerator = await detectAccelerator(image);
    const snapshot =
      options.from === "cold" || !noticesRestore
        ? undefined
        : await ensureSnapshot(image, accelerator, { signal, onProgress });
    const { name, folder } = await claimNodeFolder(options.name);
    const path = (file: string): string => join(folder, file);
    const console = await SerialConsole.listen(path("console.sock"), path("console.log"));
    const [first = 0, second = 0] = await freePorts(2);
    const wiring: Wiring = {
      name,
      folder,
      console,
      accelerator,
      profile: image.profile,
      systemDisk: path("system.qcow2"),
      dataDisk: path("data.qcow2"),
      tpmState: path("tpm"),
      ports: { first, second },
      network: options.network ?? "isolated",
      board: 0,
      signedBoot: options.signedBoot ?? notSigned,
    };
    const pi = new VirtualPi(image, wiring, options.onOff);
    signal?.addEventListener("abort", () => void pi.stop(), { once: true });
    try {
      if (snapshot) {
        if (snapshot.isNew) pi.#timings.push({ how: "snapshot", ms: snapshot.bootMs });
        await createOverlay(path("system.qcow2"), snapshot.systemDisk, "qcow2");
        await createOverlay(path("data.qcow2"), snapshot.dataDisk, "qcow2");
        await copyTpmState(snapshot.tpmState, path("tpm"));
        await pi.#restore(snapshot.bootFiles, snapshot.memory, snapshot.bootId);
      } else {
        await createOverlay(path("system.qcow2"), image.disk, "raw");
        await createBlankDisk(path("data.qcow2"), dataDiskMiB);
        await mkdir(path("tpm"), { mode: 0o700 });
        await pi.boot();
      }
      signal?.throwIfAborted();
      await describeNode(folder, { name, ssh: pi.ssh, imageHash: image.hash });
    } catch (error) {
      await pi.stop();
      // Stopped in the middle: that it went off is the consequence, not the cause.
      signal?.throwIfAborted();
      throw error;
    }
    return pi;
  }

  /** The kernel's id of the current boot (`/proc/sys/kernel/random/boot_id`). */
  get bootId(): string {
    return this.#bootId;
  }

  get isOn(): boolean {
    return this.#machine !== undefined;
  }

  /** How long emulation took to bring this node up, each time: none of it is the product's. */
  get bootTimings(): readonly BootTiming[] {
    return this.#timings;
  }

  /** The serial console, over all boots of this node. */
  get console(): SerialConsole {
    return this.#wiring.console;
  }

  /** Runs a command in the node's login shell, as the admin user, over ssh. Waits for a boot that is under way. */
  async exec(command: string, options?: ExecOptions): Promise<ExecResult> {
    await this.#rebooting;
    this.#requireOn();
    return this.#shell.exec(command, options);
  }

  /**
   * Powers the node on: the firmware reads the boot partition as it is now. Returns once sshd answers.
   * @throws Error when it is on, when there is nothing to boot, or with the end of the console when it does not come up
   */
  async boot(): Promise<void> {
    if (!this.isOn) this.#rebooting = undefined;
    await this.#boot(false);
  }

  /** @param tryboot as the firmware was asked for by `reboot "0 tryboot"`: for this boot only, and only by a reset */
  async #boot(tryboot: boolean): Promise<void> {
    if (this.#machine) throw new Error(`${this.name} is already on`);
    if (this.#stopping) throw new Error(`${this.name} is stopped`);
    const started = performance.now();
    const folder = join(this.#wiring.folder, "boot");
    const { profile, accelerator, systemDisk, signedBoot } = this.#wiring;
    const bootFiles: BootFiles = {
      ...(await readBootFiles(systemDisk, folder, "qcow2", tryboot)),
      ...(profile.hasDeviceTree && {
        deviceTree: await makeDeviceTree(profile, accelerator, folder, signedBoot, tryboot),
      }),
    };
    const from = this.console.position();
    const machine = await this.#powerOn(bootFiles);
    const [, bootId = ""] = await Promise.race([
      this.console.waitFor(readyMarker, { from, timeoutMs: this.#wiring.profile.bootTimeoutMs }),
      failureOf(machine),
    ]);
    this.#bootId = bootId;
    this.#timings.push({ how: "boot", ms: performance.now() - started });
  }

  /** Reboots from inside, gracefully, and waits until the new boot answers. */
  async reboot(): Promise<void> {
    const machine = this.#requireOn();
    // The connection may go before the answer comes: what counts is that the machine resets.
    const asked = this.#shell.exec("sudo systemctl reboot").catch(() => undefined);
    const off = await within(this.#wiring.profile.bootTimeoutMs, machine.off, `${this.name} did not reset`);
    await asked;
    if (off.reason !== "reset") throw new Error(`${this.name} did not reset: ${off.reason} ${off.detail}`);
    await this.#rebooting;
  }

  /** Shuts down from inside, gracefully. The node is off afterwards. */
  async powerOff(): Promise<void> {
    const machine = this.#requireOn();
    const asked = this.#shell.exec("sudo systemctl poweroff").catch(() => undefined);
    const off = await within(
      this.#wiring.profile.bootTimeoutMs,
      machine.off,
      `${this.name} did not power off`,
    );
    await asked;
    if (off.reason !== "shutdown")
      throw new Error(`${this.name} did not shut down: ${off.reason} ${off.detail}`);
  }

  /**
   * Pulls the plug: the emulator is killed, and only what the guest had flushed to its disks is sure to be there. The
   * TPM loses power without a shutdown command. The node is off afterwards: `boot()` plugs it in again.
   */
  async powerCut(): Promise<void> {
    const machine = this.#requireOn();
    // Cut in the middle of a boot that the guest had asked for: that one's failure is no news.
    const rebooting = this.#rebooting?.catch(() => undefined);
    this.#rebooting = undefined;
    this.#machine = undefined;
    await machine.cut();
    await rebooting;
  }

  /**
   * What someone with the card in hand can do. The node has to be off.
   * @param change gets the boot partition, the root file system and the data disk
   */
  async tamper(change: (disks: PoweredOffDisks) => Promise<void>): Promise<void> {
    this.#requireOff("tamper with its disks");
    const disks = new PoweredOffDisks(this.#wiring);
    try {
      await change(disks);
      await disks.writeBack();
    } finally {
      await disks.discard();
    }
  }

  /** Puts another TPM on the board, with an endorsement key of its own. The node has to be off. */
  async replaceTpm(): Promise<void> {
    this.#requireOff("replace its TPM");
    await replaceChip(this.#wiring.tpmState);
  }

  /** Puts the TPM back that the board came with, as it was when it was replaced. The node has to be off. */
  async restoreTpm(): Promise<void> {
    this.#requireOff("put its TPM back");
    await restoreChip(this.#wiring.tpmState);
  }

  /** Moves the disks and the TPM together to another board, by default one as it comes from the shop. The node has to be off. */
  replaceBoard(signedBoot: SignedBoot = notSigned): void {
    this.#requireOff("replace its board");
    this.#wiring = { ...this.#wiring, board: this.#wiring.board + 1, signedBoot };
  }

  /** Which of these are in the memory of the running node, as somebody who reads its chips would find them. */
  async foundInMemory(wanted: readonly Buffer[]): Promise<readonly boolean[]> {
    const dump = join(this.#wiring.folder, "memory");
    try {
      await this.#requireOn().dumpMemory(dump);
      return await foundInFile(dump, wanted);
    } finally {
      await rm(dump, { force: true });
    }
  }

  /**
   * Which of these are on the disks, as somebody who pulled them would find them, in what was written since the image. The node has to be off.
   * @param wanted each of at most 4 KiB, and not across two clusters of the disk's file (64 KiB)
   */
  async foundOnDisks(wanted: readonly Buffer[]): Promise<readonly boolean[]> {
    this.#requireOff("search its disks");
    const { systemDisk, dataDisk } = this.#wiring;
    const found = await Promise.all([systemDisk, dataDisk].map((disk) => foundInFile(disk, wanted)));
    return wanted.map((_, index) => found.some((each) => each[index]));
  }

  /** Ends the node and removes everything of it. Safe to call at any time, more than once. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop().finally(() => {
      this.#stopped.resolve(undefined);
    });
    return this.#stopping;
  }

  /** Settles once the node is stopped, whoever stopped it. */
  get stopped(): Promise<void> {
    return this.#stopped.promise;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    await this.#machine?.cut();
    await this.#shell.close();
    await this.console.close();
    await rm(this.#wiring.folder, { recursive: true, force: true });
  }

  async #restore(bootFiles: BootFiles, memory: string, bootId: string): Promise<void> {
    const started = performance.now();
    await this.#powerOn(bootFiles, memory);
    this.#bootId = bootId;
    // The guest's clock stood still since the snapshot was made. What measures durations in it is monotonic and does
    // not notice; certificates and logs would.
    const now = (Date.now() / 1000).toFixed(3);
    const { code, stderr } = await this.#shell.exec(`sudo date --set=@${now}`);
    if (code !== 0) throw new Error(`the restored node does not take the time: ${stderr}`);
    this.#timings.push({ how: "restore", ms: performance.now() - started });
  }

  async #powerOn(bootFiles: BootFiles, memory?: string): Promise<Machine> {
    const refuse = (): never => {
      throw new Error(`${this.name} was stopped while it was being powered on`);
    };
    if (this.#stopping) refuse();
    const from = this.console.position();
    const machine = await Machine.powerOn(this.#wiring, bootFiles, memory);
    if (this.#stopping) {
      await machine.cut();
      refuse();
    }
    this.#machine = machine;
    void machine.off.then((off) => {
      this.#lastOff = off;
      if (this.#machine !== machine) return;
      this.#machine = undefined;
      if (this.#stopping) return;
      if (off.reason !== "reset") {
        if (off.reason !== "cut") this.#onOff(off);
        return;
      }
      // A board that is reset boots again, whoever asked for it.
      this.#rebooting = this.console
        .drained()
        .then(() => this.#boot(asksToTry(this.console.text().slice(from))));
      const rebooting = this.#rebooting;
      rebooting.catch((error: unknown) => {
        // Not if it was cut meanwhile.
        if (this.#rebooting === rebooting)
          this.#onOff({ reason: "failed", detail: error instanceof Error ? error.message : String(error) });
      });
    });
    return machine;
  }

  #requireOn(): Machine {
    if (this.#machine) return this.#machine;
    const why = this.#lastOff?.reason === "failed" ? `; QEMU failed: ${this.#lastOff.detail}` : "";
    throw new Error(`${this.name} is off${why}`);
  }

  #requireOff(purpose: string): void {
    if (this.#machine) throw new Error(`${this.name} is on: powerOff() or powerCut() before you ${purpose}`);
  }
}

async function failureOf(machine: Machine): Promise<never> {
  const { reason, detail } = await machine.off;
  throw new Error(`the node went off (${reason}) before it was ready: ${detail}`);
}

async function within<T>(ms: number, promise: Promise<T>, message: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${message} within ${String(ms / 1000)} s`));
    }, ms);
  });
  return Promise.race([promise, timeout]).finally(() => {
    clearTimeout(timer);
  });
}
