import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import type { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";

/** The programs as they are shipped. */
export const onDevice = (name: string): string =>
  fileURLToPath(new URL(`../../../provider/resources/on-device/${name}`, import.meta.url));

export const sha256 = (content: string | Uint8Array): string =>
  createHash("sha256").update(content).digest("hex");

/** Standard output, standard error and exit status of a run. */
export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Gets the other end of what the program takes for its TPM. */
  readonly serve?: (tpm: Duplex) => void;
  readonly stdin?: string;
  /** What runs the program. */
  readonly shell?: readonly [string, ...string[]];
  /** Where it finds its tools. */
  readonly path?: string;
}

/** Runs the measuring program on a folder. */
export async function runMeasure(
  root: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Run> {
  const [command, ...first] = options.shell ?? ["sh"];
  const child = spawn(command, [...first, onDevice("measure"), ...args, "--root", root], {
    env: { PATH: options.path ?? "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdio: [options.stdin === undefined ? "ignore" : "pipe", "pipe", "pipe", "pipe"],
  });
  const tpm = child.stdio[3] as unknown as Duplex;
  tpm.on("error", () => undefined);
  options.serve?.(tpm);
  child.stdin?.end(options.stdin);
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    new Promise<number>((resolve) => child.once("exit", (status) => resolve(status ?? -1))),
  ]);
  tpm.destroy();
  return { code, stdout, stderr };
}

/** A folder that stands for a node, as the measuring program sees it with `--root`. */
export class MeasuredNode {
  readonly root: string;
  /** Where the program finds its tools. */
  path = "/usr/sbin:/usr/bin:/sbin:/bin";
  /** What runs the program. */
  shell: readonly [string, ...string[]] = ["sh"];

  constructor(files: Readonly<Record<string, string | Uint8Array>> = {}) {
    this.root = mkdtempSync(join(tmpdir(), "edgeseal-measured-"));
    for (const [path, content] of Object.entries(files)) this.write(path, content);
  }

  write(path: string, content: string | Uint8Array): void {
    const real = join(this.root, path);
    mkdirSync(dirname(real), { recursive: true });
    writeFileSync(real, content);
  }

  /** A program for `path`, before all others. */
  tool(name: string, script: string): void {
    this.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
    const path = join(this.root, "bin");
    chmodSync(join(path, name), 0o755);
    if (!this.path.startsWith(path)) this.path = `${path}:${this.path}`;
  }

  remove(path: string): void {
    rmSync(join(this.root, path), { recursive: true, force: true });
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), "utf8");
  }

  list(path: string): readonly string[] {
    return readdirSync(join(this.root, path)).sort();
  }

  link(path: string, target: string): void {
    mkdirSync(dirname(join(this.root, path)), { recursive: true });
    symlinkSync(target, join(this.root, path));
  }

  measure(args: readonly string[], options: RunOptions = {}): Promise<Run> {
    return runMeasure(this.root, args, { shell: this.shell, path: this.path, ...options });
  }

  /** As in the initramfs, with this TPM. */
  extend(tpm: FakeTpm | ((tpm: Duplex) => void)): Promise<Run> {
    const serve = tpm instanceof FakeTpm ? tpm.serve : tpm;
    return this.measure(["--extend", "--tpm", "-"], { serve });
  }

  /** What the program leaves in /run is gone after a boot. */
  reboot(): void {
    this.remove("/run/edgeseal");
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/**
 * A TPM that knows two commands, byte by byte, and one PCR. It answers each write with one write, as /dev/tpm0 does, and refuses a command that comes in
 * pieces: the kernel would take each piece for a command.
 */
export class FakeTpm {
  pcr11 = "0".repeat(64);
  /** In hex, as they came. */
  readonly commands: string[] = [];
  /** Gives the answer to the command of this number, from 0, in its stead; `undefined`: none, the TPM is gone. */
  readonly #faults: ReadonlyMap<number, string | undefined>;

  constructor(faults: Readonly<Record<number, string | undefined>> = {}) {
    this.#faults = new Map(Object.entries(faults).map(([number, answer]) => [Number(number), answer]));
  }

  serve = (tpm: Duplex): void => {
    tpm.on("data", (bytes: Buffer) => {
      const number = this.commands.push(bytes.toString("hex")) - 1;
      const answer = this.#faults.has(number) ? this.#faults.get(number) : this.#answer(bytes);
      if (answer === undefined) tpm.end();
      else if (answer.length === 2 * 10) tpm.end(Buffer.from(answer, "hex"));
      else tpm.write(Buffer.from(answer, "hex"));
    });
  };

  #answer(command: Buffer): string {
    const hex = command.toString("hex");
    if (command.length !== command.readUInt32BE(2)) return "80010000000a00000142"; // TPM_RC_COMMAND_SIZE
    if (hex === "8001000000140000017e00000001000b03000800") {
      return `80010000003e000000000000001600000001000b03000800000000010020${this.pcr11}`;
    }
    const extend =
      "80020000004100000182" +
      "0000000b" +
      "00000009" +
      "40000009" +
      "0000" +
      "00" +
      "0000" +
      "00000001" +
      "000b";
    if (hex.startsWith(extend) && command.length === 65) {
      this.pcr11 = sha256(Buffer.concat([Buffer.from(this.pcr11, "hex"), command.subarray(33)]));
      return "80020000001300000000" + "00000000" + "0000" + "01" + "0000";
    }
    return "80010000000a00000143"; // TPM_RC_COMMAND_CODE
  }
}

/** The boot partition of a Pi 5, in small. */
export const bootFiles: Readonly<Record<string, string>> = {
  "/boot/firmware/bcm2712-rpi-5-b.dtb": "device tree blob",
  "/boot/firmware/cmdline.txt": "console=serial0,115200 root=PARTUUID=4f1c-02 rootwait\n",
  "/boot/firmware/config.txt": "auto_initramfs=1\n[pi5]\ndtoverlay=tpm-slb9670\n",
  "/boot/firmware/initramfs_2712": "initramfs",
  "/boot/firmware/kernel_2712.img": "kernel",
  "/boot/firmware/overlays/README": "overlays",
  "/boot/firmware/overlays/tpm-slb9670.dtbo": "overlay",
};

/** The rest of what the program looks at. */
export const systemFiles: Readonly<Record<string, string>> = {
  "/etc/edgeseal/measure.conf": "NODE=pi-1\n",
  "/etc/fstab": "PARTUUID=4f1c-01 /boot/firmware vfat defaults 0 2\nPARTUUID=4f1c-02 / ext4 defaults 0 1\n",
  "/proc/cmdline": "coherent_pool=1M  console=ttyAMA10,115200 root=PARTUUID=4f1c-02 rootwait\n",
  "/proc/uptime": "6.12 20.5\n",
};

/** A device tree as a Pi 5's firmware leaves it, as far as the projection looks at it, with what is left out. */
export const deviceTree: Readonly<Record<string, string | Uint8Array>> = Object.fromEntries(
  Object.entries({
    model: "Raspberry Pi 5 Model B Rev 1.0\0",
    compatible: "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "serial-number": "c36b093f773d46b8\0",
    "soc@107c000000/mmc@fff000/status": "okay\0",
    "system/linux,serial": Buffer.from("c36b093f773d46b8", "hex"),
    "chosen/bootargs": "coherent_pool=1M  console=ttyAMA10,115200 root=PARTUUID=4f1c-02 rootwait\0",
    "chosen/kaslr-seed": Buffer.from("0011223344556677", "hex"),
    "chosen/rng-seed": Buffer.alloc(64, 7),
    "chosen/linux,initrd-start": Buffer.from("000000002da85000", "hex"),
    "chosen/linux,initrd-end": Buffer.from("000000002efffff0", "hex"),
    "chosen/os_prefix": "\0",
    "chosen/overlay_prefix": "overlays/\0",
    "chosen/rpi-duid": "0000911045808726\0",
    "chosen/user-warnings": "low voltage\0",
    "chosen/power/power_reset": Buffer.alloc(4),
    "chosen/power/max_current": Buffer.from("00001388", "hex"),
    "chosen/bootloader/version": "83b5e5e61a70a93caee65cbd6aea77bdd485e5b0\0",
    "chosen/bootloader/signed": Buffer.alloc(4),
    "chosen/bootloader/boot-mode": Buffer.from("00000001", "hex"),
    "chosen/bootloader/partition": Buffer.from("00000001", "hex"),
    "chosen/bootloader/tryboot": Buffer.alloc(4),
    "chosen/bootloader/rsts": Buffer.from("00001000", "hex"),
    "chosen/bootloader/count": Buffer.from("00000001", "hex"),
    "chosen/bootloader/arg1": Buffer.alloc(4),
  }).map(([path, value]) => [`/proc/device-tree/${path}`, value]),
);
