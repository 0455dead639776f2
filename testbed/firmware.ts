import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { run } from "./bound-process.ts";
import type { DeviceTree } from "./device-tree.ts";
import { bootPartition, extractPartition } from "./disk.ts";

/** What the firmware found on the boot partition and hands to the kernel. */
export interface BootFiles {
  /** Paths on this machine of copies. */
  readonly kernel: string;
  readonly initramfs?: string;
  /** The kernel's command line: the first line of cmdline.txt. */
  readonly commandLine: string;
  /** The name on the boot partition that the kernel was read from. */
  readonly kernelName: string;
  /** Of a board that is described by one. */
  readonly deviceTree?: DeviceTree;
}

/** What config.txt says of those settings that this firmware knows. */
export interface FirmwareConfig {
  /** Names on the boot partition, in the order in which they are tried. */
  readonly kernels: readonly string[];
  /** The initramfs by name; `auto` derives it from the kernel's name; undefined: none. */
  readonly initramfs: string | undefined;
  readonly commandLineFile: string;
}

/** The conditional sections of config.txt that hold on a Pi 5; and in a boot that was asked to try, `[tryboot]`. */
const pi5Sections = new Set(["all", "pi5"]);

/**
 * What the kernel says last when it was restarted as by `reboot "0 tryboot"` (kernel/reboot.c). On a Pi its driver sets a bit for the firmware, which outlasts the reset; here the
 * console is what outlasts it.
 */
const tryMark = "Restarting system with command '0 tryboot'";

/** Whether a machine that printed this before it reset asked the firmware to try. */
export const asksToTry = (console: string): boolean => console.includes(tryMark);

/**
 * Reads config.txt as a Pi 5's bootloader does, as far as it decides which files boot: `kernel`, `auto_initramfs`,
 * `initramfs`, `cmdline`, `os_prefix`, and the sections `[all]`, `[pi5]`, `[none]`. Everything else, such as
 * device tree parameters, is for hardware that the virtual board does not have.
 * Source: Raspberry Pi documentation, "config.txt", boot options and conditional filters.
 */
export function parseConfig(text: string, tryboot = false): FirmwareConfig {
  const settings = new Map<string, string>();
  let initramfs: string | undefined;
  let applies = true;
  for (const raw of text.split("\n")) {
    const line = raw.replace(/#.*$/, "").trim();
    const section = /^\[(.+)\]$/.exec(line)?.[1];
    if (section !== undefined) {
      const name = section.toLowerCase();
      applies = pi5Sections.has(name) || (tryboot && name === "tryboot");
      continue;
    }
    if (!applies || line === "") continue;
    // The one setting without an equals sign: `initramfs FILE followkernel`.
    const named = /^initramfs\s+(\S+)/.exec(line)?.[1];
    if (named !== undefined) initramfs = named;
    const [key, value] = splitOnce(line, "=");
    if (value !== undefined) settings.set(key.trim(), value.trim());
  }
  const prefix = settings.get("os_prefix") ?? "";
  const kernel = settings.get("kernel");
  return {
    kernels: (kernel === undefined ? ["kernel_2712.img", "kernel8.img"] : [kernel]).map(
      (name) => prefix + name,
    ),
    initramfs:
      initramfs === undefined
        ? settings.get("auto_initramfs") === "1"
          ? "auto"
          : undefined
        : prefix + initramfs,
    commandLineFile: prefix + (settings.get("cmdline") ?? "cmdline.txt"),
  };
}

/** The name that `auto_initramfs=1` looks for: `kernel` becomes `initramfs`, and the extension goes. */
export function initramfsNameFor(kernel: string): string {
  const folder = kernel.slice(0, kernel.lastIndexOf("/") + 1);
  const name = kernel.slice(folder.length).replace(/\.img$/, "");
  return folder + name.replace(/^kernel/, "initramfs");
}

/**
 * Plays the firmware: reads what is on the boot partition of this disk *now*, so that whatever an update in the node
 * or an attacker wrote there is what boots.
 * @param folder where the copies go; made if missing
 * @param tryboot reads tryboot.txt in the place of config.txt, when there is one
 * @throws Error when there is nothing to boot, as a Pi would stop
 */
export async function readBootFiles(
  disk: string,
  folder: string,
  format: "raw" | "qcow2" = "qcow2",
  tryboot = false,
): Promise<BootFiles> {
  await mkdir(folder, { recursive: true });
  const partition = join(folder, "boot.img");
  await extractPartition(disk, bootPartition, partition, format);
  try {
    const tried = tryboot ? await tryRead(partition, "tryboot.txt", folder) : undefined;
    const config = parseConfig(tried ?? (await tryRead(partition, "config.txt", folder)) ?? "", tryboot);
    const kernelPath = join(folder, "kernel");
    let kernelName: string | undefined;
    for (const name of config.kernels) {
      if (await tryCopy(partition, name, kernelPath)) {
        kernelName = name;
        break;
      }
    }
    if (kernelName === undefined) {
      throw new Error(`firmware: none of ${config.kernels.join(", ")} is on the boot partition of ${disk}`);
    }
    const initramfsName = config.initramfs === "auto" ? initramfsNameFor(kernelName) : config.initramfs;
    const initramfs = join(folder, "initramfs");
    const hasInitramfs = initramfsName !== undefined && (await tryCopy(partition, initramfsName, initramfs));
    const commandLine = (await tryRead(partition, config.commandLineFile, folder)) ?? "";
    return {
      kernel: kernelPath,
      ...(hasInitramfs && { initramfs }),
      commandLine: commandLine.split("\n")[0]?.trim() ?? "",
      kernelName,
    };
  } finally {
    await rm(partition, { force: true });
  }
}

async function tryCopy(partition: string, name: string, target: string): Promise<boolean> {
  await rm(target, { force: true });
  return run("mcopy", ["-n", "-i", partition, `::${name}`, target]).then(
    () => true,
    (error: unknown) => {
      // mtools has one exit code for all faults.
      if (error instanceof Error && /not found/i.test(error.message)) return false;
      throw error;
    },
  );
}

async function tryRead(partition: string, name: string, folder: string): Promise<string | undefined> {
  const path = join(folder, "text");
  if (!(await tryCopy(partition, name, path))) return undefined;
  const text = await readFile(path, "utf8");
  await rm(path);
  return text;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}
