/** Conditional sections of config.txt whose settings hold on a Pi 5, a Compute Module 5 or a Pi 500. What a section that depends on more than the board says can't be known here. */
const sections: ReadonlySet<string> = new Set(["all", "pi5", "cm5", "pi500"]);

/** What config.txt says of the files that boot. */
interface BootSettings {
  readonly kernel: string | undefined;
  /** By name. */
  readonly initramfs: string | undefined;
  readonly autoInitramfs: boolean;
  readonly prefix: string;
}

function readSettings(lines: readonly string[]): BootSettings {
  let initramfs: string | undefined;
  let applies = true;
  const settings = new Map<string, string>();
  for (const raw of lines) {
    const line = raw.replace(/#.*$/, "").trim();
    const section = /^\[(.+)\]$/.exec(line)?.[1];
    if (section !== undefined) applies = sections.has(section.toLowerCase());
    if (!applies || section !== undefined) continue;
    // The one setting without an equals sign: `initramfs FILE followkernel`.
    initramfs = /^initramfs\s+(\S+)/.exec(line)?.[1] ?? initramfs;
    const [, key, value] = /^([a-z_0-9]+)\s*=\s*(.*)$/.exec(line) ?? [];
    if (key !== undefined && value !== undefined) settings.set(key, value.trim());
  }
  return {
    kernel: settings.get("kernel"),
    initramfs,
    autoInitramfs: settings.get("auto_initramfs") === "1",
    prefix: settings.get("os_prefix") ?? "",
  };
}

/** The initramfs's name for a kernel's with `auto_initramfs=1`: `kernel` becomes `initramfs`, and the extension goes. */
const autoName = (kernel: string): string => kernel.replace(/\.img$/, "").replace(/^kernel/, "initramfs");

/**
 * The name of the initramfs that a Pi 5's firmware loads from the boot partition, by config.txt (Raspberry Pi documentation, "config.txt", boot options); `undefined`
 * when it loads none.
 * @param config The lines of config.txt; those that say nothing of the files that boot may be left out.
 * @param names What is at the top of the boot partition.
 */
export function initramfsThatBoots(
  config: readonly string[],
  names: ReadonlySet<string>,
): string | undefined {
  const { kernel, initramfs, autoInitramfs, prefix } = readSettings(config);
  const kernels = kernel === undefined ? ["kernel_2712.img", "kernel8.img"] : [kernel];
  const booted = kernels.find((name) => names.has(prefix + name));
  const name = initramfs ?? (autoInitramfs && booted !== undefined ? autoName(booted) : undefined);
  return name !== undefined && names.has(prefix + name) ? prefix + name : undefined;
}
