import { createHash } from "node:crypto";
import { access, constants, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run, spawnBound } from "./bound-process.ts";
import { readBootFiles } from "./firmware.ts";
import { ownArchitecture } from "./foreign-programs.ts";
import { cacheFolder, type Image } from "./image.ts";
import type { Accelerator } from "./profile.ts";

/** Long for a processor of its own, which needs a second or two, and short for a host that only claims to have one. */
const probeTimeoutMs = 20_000;

/**
 * KVM where it really works, else translation in software, as for any other architecture than this machine's. `/dev/kvm` alone proves nothing: nested hosts exist on which
 * it opens, makes a machine, and then fails at some instruction. So the image's own kernel is booted on it once, up to
 * its panic for want of a root file system; the answer is kept per host kernel, processor and QEMU.
 * `EDGESEAL_ACCELERATOR=kvm|tcg` decides instead.
 */
export async function detectAccelerator(image: Image): Promise<Accelerator> {
  if (image.profile.arch !== ownArchitecture) return "tcg";
  const { EDGESEAL_ACCELERATOR: chosen } = process.env;
  if (chosen === "kvm" || chosen === "tcg") return chosen;
  const usable = await access("/dev/kvm", constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (!usable) return "tcg";

  const folder = join(cacheFolder(), "accelerators");
  const file = join(folder, await hostFingerprint(image));
  const known = await readFile(file, "utf8").catch(() => "");
  if (known === "kvm" || known === "tcg") return known;
  const found = (await bootsOnKvm(image)) ? "kvm" : "tcg";
  await mkdir(folder, { recursive: true });
  await writeFile(file, found);
  return found;
}

/** What a snapshot or a probe holds for: the emulator and, where it is used directly, the processor. */
export async function hostFingerprint(image: Image): Promise<string> {
  const [version, kernel, cpuinfo] = await Promise.all([
    run(image.profile.qemu, ["--version"]),
    readFile("/proc/sys/kernel/osrelease", "utf8"),
    readFile("/proc/cpuinfo", "utf8"),
  ]);
  const processor = /^(?:model name|CPU part)\s*:.*$/m.exec(cpuinfo)?.[0] ?? "";
  const flags = /^(?:flags|Features)\s*:.*$/m.exec(cpuinfo)?.[0] ?? "";
  return createHash("sha256")
    .update([version, kernel, processor, flags].join("\0"))
    .digest("hex")
    .slice(0, 16);
}

async function bootsOnKvm(image: Image): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), "edgeseal-kvm-"));
  try {
    const { kernel } = await readBootFiles(image.disk, folder, "raw");
    const qemu = await spawnBound(image.profile.qemu, [
      ...image.profile.machine("kvm"),
      ...["-display", "none", "-no-reboot", "-kernel", kernel],
      // It finds no root file system, panics, and resets at once, which ends QEMU with 0.
      ...["-append", "panic=-1 quiet"],
    ]);
    const timer = setTimeout(() => void qemu.kill(), probeTimeoutMs);
    const { code } = await qemu.ended;
    clearTimeout(timer);
    return code === 0;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
