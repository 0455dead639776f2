import { once } from "node:events";
import { createReadStream, createWriteStream } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { spawnBound, type BoundProcess } from "./bound-process.ts";
import type { SerialConsole } from "./console.ts";
import { customerKeyAddress, type SignedBoot } from "./device-tree.ts";
import type { BootFiles } from "./firmware.ts";
import type { Accelerator, Profile } from "./profile.ts";
import { QemuGone, Qmp } from "./qmp.ts";
import { powerOnTpm } from "./tpm.ts";

/** What stays the same from one power-on of a node to the next. */
export interface Wiring {
  readonly name: string;
  readonly profile: Profile;
  readonly accelerator: Accelerator;
  /** The node's folder; its sockets are in it. */
  readonly folder: string;
  readonly systemDisk: string;
  readonly dataDisk: string;
  readonly tpmState: string;
  /** Ports on 127.0.0.1 that lead to the node's port 22, by its first and its second network interface. */
  readonly ports: { readonly first: number; readonly second: number };
  readonly console: SerialConsole;
  /** `isolated`: nothing but ssh from this machine. `nat`: it also reaches what this machine reaches, itself as 10.0.2.2. */
  readonly network: "isolated" | "nat";
  /** Which board the disks and the TPM are on, from 0: each has network addresses of its own. */
  readonly board: number;
  /** What that board's bootloader says of signed boot; of a board with a device tree. */
  readonly signedBoot: SignedBoot;
}

/** Why a machine is off: the guest asked for it, we cut it, or the emulator failed. */
export interface PowerOff {
  readonly reason: "reset" | "shutdown" | "cut" | "failed";
  /** The emulator's last words, when it failed. */
  readonly detail: string;
}

/** One power-on of a node, from the firmware to power-off: a QEMU process and its TPM's. */
export class Machine {
  readonly #qemu: BoundProcess;
  readonly #tpm: BoundProcess;
  readonly #qmp: Qmp;
  readonly off: Promise<PowerOff>;
  #cut = false;

  private constructor(qemu: BoundProcess, tpm: BoundProcess, qmp: Qmp) {
    this.#qemu = qemu;
    this.#tpm = tpm;
    this.#qmp = qmp;
    let guestAsked: string | undefined;
    qmp.on(({ event, data }) => {
      if (event === "SHUTDOWN" && data?.["guest"] === true) guestAsked = String(data["reason"]);
    });
    this.off = qemu.ended.then(async ({ code }) => {
      qmp.close();
      await tpm.kill();
      if (this.#cut) return { reason: "cut", detail: "" };
      if (guestAsked === "guest-reset") return { reason: "reset", detail: "" };
      if (guestAsked !== undefined && code === 0) return { reason: "shutdown", detail: "" };
      return { reason: "failed", detail: qemu.stderr().trim() };
    });
  }

  /**
   * @param bootFiles what the firmware found
   * @param memory a file made by `saveMemory`: the machine goes on from there instead of booting. It has to have the
   * same wiring, boot files and disk contents as the one that was saved.
   * @throws Error with QEMU's words when it does not start
   */
  static async powerOn(wiring: Wiring, bootFiles: BootFiles, memory?: string): Promise<Machine> {
    const tpmSocket = join(wiring.folder, "tpm.sock");
    const qmpSocket = join(wiring.folder, "qmp.sock");
    const tpm = await powerOnTpm(wiring.tpmState, tpmSocket, wiring.profile.tpmChannel);
    const qmp = await Qmp.listen(qmpSocket).catch(async (error: unknown) => {
      await tpm.kill();
      throw error;
    });
    const qemu = await spawnBound(wiring.profile.qemu, [
      ...qemuArguments(wiring, bootFiles, { tpmSocket, qmpSocket }),
      ...(memory === undefined ? [] : ["-incoming", "defer"]),
    ]);
    const machine = new Machine(qemu, tpm, qmp);
    try {
      await Promise.race([qmp.ready(), machine.#failure()]);
      if (memory !== undefined)
        await Promise.race([machine.#loadMemory(memory, wiring.folder), machine.#failure()]);
    } catch (error) {
      // Its control channel closes before it has ended; why it did is known then.
      if (error instanceof QemuGone) await machine.#failure();
      await machine.cut();
      throw error;
    }
    return machine;
  }

  /** Takes the power away: at once, with nothing flushed that the guest had not flushed itself. */
  async cut(): Promise<void> {
    this.#cut = true;
    await this.#qemu.kill("SIGKILL");
    await this.#tpm.kill("SIGKILL");
    await this.off;
  }

  /**
   * Stops the guest between two instructions and writes its memory, its devices and its TPM to a file; the machine
   * is off afterwards, with its disks flushed.
   */
  async saveMemory(path: string, folder: string): Promise<void> {
    await this.#qmp.execute("stop");
    const socketPath = join(folder, "save.sock");
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(socketPath, resolve);
    });
    try {
      const written = once(server, "connection").then(([socket]) =>
        pipeline(socket as Socket, createWriteStream(path, { mode: 0o600 })),
      );
      await this.#migrate("migrate", socketPath);
      await written;
    } finally {
      server.close();
    }
    this.#cut = true;
    await this.#qmp.execute("quit");
    await this.off;
  }

  /** Writes what is in the machine's memory to a file, as it is at one moment; the machine goes on afterwards. */
  async dumpMemory(path: string): Promise<void> {
    await this.#qmp.execute("dump-guest-memory", { paging: false, protocol: `file:${path}` });
  }

  async #loadMemory(path: string, folder: string): Promise<void> {
    const socketPath = join(folder, "load.sock");
    const done = this.#migrate("migrate-incoming", socketPath, async () => {
      const socket = connect(socketPath);
      await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), socket);
    });
    await done;
    await this.#qmp.execute("cont");
  }

  /** Starts a migration over a socket and waits until QEMU says that it is complete. */
  async #migrate(
    command: "migrate" | "migrate-incoming",
    socketPath: string,
    feed?: () => Promise<void>,
  ): Promise<void> {
    await this.#qmp.execute("migrate-set-capabilities", {
      capabilities: [{ capability: "events", state: true }],
    });
    // The default of 128 MiB/s is meant for networks.
    await this.#qmp.execute("migrate-set-parameters", { "max-bandwidth": 16 * 2 ** 30 });
    const completed = new Promise<void>((resolve, reject) => {
      const stop = this.#qmp.on(({ event, data }) => {
        if (event !== "MIGRATION") return;
        if (data?.["status"] !== "completed" && data?.["status"] !== "failed") return;
        stop();
        if (data["status"] === "completed") resolve();
        else reject(new Error(`QEMU: ${command} failed: ${this.#qemu.stderr().trim()}`));
      });
    });
    completed.catch(() => undefined);
    await this.#qmp.execute(command, { uri: `unix:${socketPath}` });
    await feed?.();
    await completed;
  }

  async #failure(): Promise<never> {
    const { detail } = await this.off;
    throw new Error(`QEMU ended while the node was being powered on: ${detail}`);
  }
}

/** QEMU's whole command line, but for how it starts. */
export function qemuArguments(
  wiring: Wiring,
  bootFiles: BootFiles,
  sockets: { readonly tpmSocket: string; readonly qmpSocket: string },
): readonly string[] {
  const disk = (id: string, path: string, address: string): readonly string[] => [
    ...["-drive", `file=${escape(path)},if=none,id=${id},format=qcow2,discard=unmap`],
    ...["-device", `virtio-blk-pci,drive=${id},serial=${id},addr=${address}`],
  ];
  const board = (0x9e + wiring.board).toString(16);
  const isolated = wiring.network === "isolated" ? ",restrict=on" : "";
  const nic = (index: 0 | 1, port: number): readonly string[] => [
    "-netdev",
    `user,id=eth${String(index)},net=10.0.${String(2 + index)}.0/24,ipv6-prefix=fec0:0:0:${String(index)}::,` +
      `hostfwd=tcp:127.0.0.1:${String(port)}-:22${isolated}`,
    "-device",
    // Without an option ROM: nothing boots from the network here.
    `virtio-net-pci,netdev=eth${String(index)},mac=52:54:00:ed:${board}:0${String(index)},romfile=,addr=0x1${String(index)}`,
  ];
  return [
    ...["-name", `edgeseal-${wiring.name}`],
    ...wiring.profile.machine(wiring.accelerator),
    ...["-display", "none"],
    // A reset ends the process: the firmware then reads the boot partition again, as on a real board.
    "-no-reboot",
    ...["-qmp", `unix:${escape(sockets.qmpSocket)}`],
    ...["-chardev", `socket,id=console,path=${escape(join(wiring.folder, "console.sock"))}`],
    ...["-serial", "chardev:console"],
    ...["-kernel", bootFiles.kernel],
    ...(bootFiles.initramfs === undefined ? [] : ["-initrd", bootFiles.initramfs]),
    ...["-append", bootFiles.commandLine],
    ...deviceTreeArguments(bootFiles.deviceTree),
    ...disk("system", wiring.systemDisk, "0x4"),
    ...disk("model", wiring.dataDisk, "0x5"),
    ...nic(0, wiring.ports.first),
    ...nic(1, wiring.ports.second),
    ...["-device", "virtio-rng-pci,addr=0x6"],
    ...["-chardev", `socket,id=tpm,path=${escape(sockets.tpmSocket)}`],
    ...wiring.profile.tpm("tpm"),
  ];
}

function deviceTreeArguments(tree: BootFiles["deviceTree"]): readonly string[] {
  if (tree === undefined) return [];
  if (tree.customerKey === undefined) return ["-dtb", tree.blob];
  const address = `0x${customerKeyAddress.toString(16)}`;
  return [
    ...["-dtb", tree.blob],
    // As the firmware leaves it in memory for the kernel.
    ...["-device", `loader,file=${escape(tree.customerKey)},addr=${address},force-raw=on`],
  ];
}

/** In QEMU's option syntax a comma ends a value unless it is doubled. */
const escape = (value: string): string => value.replaceAll(",", ",,");
