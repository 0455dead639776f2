import { readFile, readdir, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { run } from "../bound-process.ts";
import { debianMirror } from "../debian-mirror.ts";
import { bootPartition, createSystemDisk, rootPartition } from "../disk.ts";
import type { Profile } from "../profile.ts";
import { packages, suite } from "./recipe.ts";

const recipeFolder = import.meta.dirname;

export interface BuildOptions {
  readonly profile: Profile;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress: (message: string) => void;
}

/**
 * Builds the image into an empty folder: `disk.raw` (sparse) and `keys/`.
 * Has to run as root: it makes a root file system whose files belong to many users.
 */
export async function buildImage(folder: string, options: BuildOptions): Promise<void> {
  const { profile, signal, onProgress } = options;
  const diskId = randomBytes(4).toString("hex");
  const root = join(folder, "root");
  await makeKeys(join(folder, "keys"), signal);
  const overlay = await packOverlay(folder, signal);

  const customizeArguments = [diskId, profile.console, profile.initramfsModules.join(" ")];
  onProgress(`installing Debian ${suite} (${profile.arch})`);
  await run(
    "unshare",
    [
      // In namespaces of its own: with it go all processes that it started and all that it mounted in the new root,
      // even if it is killed.
      ...["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "mmdebstrap"],
      `--architectures=${profile.arch}`,
      "--variant=minbase",
      "--format=directory",
      `--include=${packages(profile).join(",")}`,
      // Nobody reads manuals on a node, and fewer files pack faster.
      ...["man", "doc", "locale", "info"].map((kind) => `--dpkgopt=path-exclude=/usr/share/${kind}/*`),
      `--customize-hook=tar-in ${shellWord(overlay)} /`,
      `--customize-hook=copy-in ${shellWord(join(recipeFolder, "customize.sh"))} /`,
      `--customize-hook=chroot "$1" /customize.sh ${customizeArguments.map(shellWord).join(" ")}`,
      `--customize-hook=rm "$1/customize.sh"`,
      suite,
      root,
      await debianMirror(),
    ],
    { signal, onLine: progressOf(onProgress) },
  );

  onProgress("packing the disk");
  await packDisk(folder, root, diskId, signal);
  await rm(root, { recursive: true });
  await rm(overlay);
}

/**
 * Three key pairs: the node's host key, the operator's (what a site file would name), and the testbed's own, so that
 * sshd's journal tells the testbed's connections from those of the product under test.
 */
async function makeKeys(folder: string, signal: AbortSignal | undefined): Promise<void> {
  await mkdir(folder, { mode: 0o700 });
  for (const name of ["host", "operator", "testbed"]) {
    await run(
      "ssh-keygen",
      ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", join(folder, `${name}_ed25519`)],
      {
        signal,
      },
    );
  }
  const publicKeys = await Promise.all(
    ["operator", "testbed"].map((name) => readFile(join(folder, `${name}_ed25519.pub`), "utf8")),
  );
  await writeFile(join(folder, "authorized_keys"), publicKeys.join(""));
}

/** One archive of the recipe's files and the keys, owned by root whoever owns the checkout. */
async function packOverlay(folder: string, signal: AbortSignal | undefined): Promise<string> {
  const path = join(folder, "overlay.tar");
  const normal = ["--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"];
  await run("tar", ["-c", "-f", path, ...normal, "-C", join(recipeFolder, "root"), "."], { signal });
  const keys = ["authorized_keys", "host_ed25519", "host_ed25519.pub"].map((name) => `keys/${name}`);
  await run("tar", ["-r", "-f", path, ...normal, "-C", folder, ...keys], { signal });
  // The node has it; the private half has no business outside.
  await rm(join(folder, "keys", "host_ed25519"));
  return path;
}

async function packDisk(
  folder: string,
  root: string,
  diskId: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const disk = join(folder, "disk.raw");
  const boot = join(folder, "boot");
  await rename(join(root, "boot/firmware"), boot);
  await mkdir(join(root, "boot/firmware"));
  // mmdebstrap leaves it empty. Each boot of the image would then be a first boot, with another id.
  await writeFile(join(root, "etc/machine-id"), `${randomBytes(16).toString("hex")}\n`, { mode: 0o444 });
  await createSystemDisk(disk, diskId);
  const kib = (bytes: number): string => String(bytes / 1024);
  await run(
    "mkfs.vfat",
    [
      "-F",
      "32",
      "-n",
      "BOOTFS",
      "--offset",
      String(bootPartition.offset / 512),
      disk,
      kib(bootPartition.size),
    ],
    { signal },
  );
  const files = (await readdir(boot)).map((name) => join(boot, name));
  await run("mcopy", ["-s", "-i", `${disk}@@${String(bootPartition.offset)}`, ...files, "::"], { signal });
  await run(
    "mkfs.ext4",
    [
      ...["-q", "-F", "-L", "rootfs", "-m", "1", "-d", root],
      // No lazy initialization: a kernel thread would go on writing for minutes after the first boot.
      ...["-E", `offset=${String(rootPartition.offset)},lazy_itable_init=0,lazy_journal_init=0`],
      disk,
      `${kib(rootPartition.size)}k`,
    ],
    { signal },
  );
  await rm(boot, { recursive: true });
}

/** mmdebstrap's own stages ("I: downloading packages with apt..."), without its warnings and progress bars. */
function progressOf(onProgress: (message: string) => void): (line: string) => void {
  return (line) => {
    const stage = /^I: ((?:downloading|extracting|installing|cleaning) .*?)\.*$/.exec(line)?.[1];
    if (stage !== undefined) onProgress(stage);
  };
}

/** mmdebstrap reads hooks as shell words. */
function shellWord(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
