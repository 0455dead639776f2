import { createHash, type Hash } from "node:crypto";
import { mkdir, mkdtemp, readFile, readdir, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join, relative } from "node:path";
import { UserError } from "../cli/errors.ts";
import { withLock } from "./cache-lock.ts";
import { addFiles } from "./added-files.ts";
import { masterBootRecord, rootPartition } from "./disk.ts";
import { buildForeignImage } from "./foreign-image.ts";
import { ownArchitecture } from "./foreign-programs.ts";
import { buildImage } from "./image/build.ts";
import { amd64, type Profile } from "./profile.ts";

/** A built image of the virtual Pi. Nothing in it is written to again: nodes put copy-on-write layers over it. */
export interface Image {
  /** Hash of the recipe: the same recipe is built once per user and machine. */
  readonly hash: string;
  readonly profile: Profile;
  readonly folder: string;
  /** The system disk, raw and sparse. */
  readonly disk: string;
  /** The node's ssh host key, as in known_hosts: `ssh-ed25519 AAAA...`. */
  readonly hostKey: string;
  /** Private keys that the node's admin user accepts: the operator's, and the testbed's own. */
  readonly identityFiles: { readonly operator: string; readonly testbed: string };
}

export interface ImageOptions {
  /** @default amd64 */
  readonly profile?: Profile;
  readonly signal?: AbortSignal | undefined;
  /** Told what is being done, when something has to be. */
  readonly onProgress?: ((message: string) => void) | undefined;
}

/** The per-user cache: `$EDGESEAL_CACHE`, else `$XDG_CACHE_HOME/edgeseal`, else `~/.cache/edgeseal`. */
export function cacheFolder(): string {
  const { EDGESEAL_CACHE, XDG_CACHE_HOME } = process.env;
  if (EDGESEAL_CACHE) return EDGESEAL_CACHE;
  return join(XDG_CACHE_HOME ? XDG_CACHE_HOME : join(homedir(), ".cache"), "edgeseal");
}

/**
 * The image of the current recipe, built (about a minute; another architecture's, some twenty) if the cache does not have it.
 * Two builders at once: the second waits and takes the first one's.
 * @throws UserError when it has to be built and this user is not root
 */
export async function ensureImage(options: ImageOptions = {}): Promise<Image> {
  const profile = options.profile ?? amd64;
  const hash = await recipeHash(profile);
  const images = join(cacheFolder(), "images");
  const folder = join(images, hash);
  if (await exists(folder)) return describeImage(hash, folder, profile);

  // Before anything is made: a folder of this user's would be in root's way, and one of root's in this user's.
  requireRoot(
    "building the virtual Pi's image",
    `./edgeseal ${profile === amd64 ? "pi image" : "test arm64"}`,
  );
  const onProgress = options.onProgress ?? (() => undefined);
  await mkdir(images, { recursive: true, mode: 0o700 });
  await withLock(
    join(images, `${hash}.lock`),
    async () => {
      if (await exists(folder)) return;
      const started = performance.now();
      const unfinished = `building-${hash}-`;
      for (const name of await readdir(images))
        if (name.startsWith(unfinished)) await rm(join(images, name), { recursive: true });
      const isOwn = profile.arch === ownArchitecture;
      onProgress(`building the virtual Pi's image (${isOwn ? "1 to 2" : "some 20"} min, once)`);
      const building = await mkdtemp(join(images, unfinished));
      try {
        await (isOwn ? buildImage : buildForeignImage)(building, {
          profile,
          signal: options.signal,
          onProgress,
        });
        if (profile.ownFiles !== undefined)
          await addFiles(join(building, "disk.raw"), rootPartition, profile.ownFiles, options.signal);
        await rename(building, folder);
      } catch (error) {
        await rm(building, { recursive: true, force: true });
        throw error;
      }
      onProgress(`image ready after ${((performance.now() - started) / 1000).toFixed(0)} s: ${folder}`);
    },
    {
      signal: options.signal,
      onWait: () => {
        onProgress("waiting for another process that builds the same image");
      },
    },
  );
  return describeImage(hash, folder, profile);
}

async function describeImage(hash: string, folder: string, profile: Profile): Promise<Image> {
  const [type, key] = (await readFile(join(folder, "keys/host_ed25519.pub"), "utf8")).trim().split(" ");
  return {
    hash,
    profile,
    folder,
    disk: join(folder, "disk.raw"),
    hostKey: `${String(type)} ${String(key)}`,
    identityFiles: {
      operator: join(folder, "keys/operator_ed25519"),
      testbed: join(folder, "keys/testbed_ed25519"),
    },
  };
}

/** Over everything that makes the image: the recipe's folder, the disk layout, and the profile's values. */
export async function recipeHash(profile: Profile): Promise<string> {
  const hash = createHash("sha256");
  await hashFolder(hash, join(import.meta.dirname, "image"));
  if (profile.ownFiles !== undefined) await hashFolder(hash, profile.ownFiles);
  hash.update(masterBootRecord("00000000"));
  hash.update(
    JSON.stringify([profile.arch, profile.kernelPackage, profile.console, profile.initramfsModules]),
  );
  return hash.digest("hex").slice(0, 16);
}

async function hashFolder(hash: Hash, folder: string): Promise<void> {
  const files = (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  for (const path of files.sort()) {
    const content = await readFile(path);
    const { mode } = await stat(path);
    hash
      .update(`${relative(folder, path)}\0${String(mode & 0o100)}\0${String(content.length)}\0`)
      .update(content);
  }
}

/**
 * @param purpose what needs root, as the beginning of a sentence
 * @param command what takes root for it, with sudo
 * @throws UserError when this user is not root
 */
export function requireRoot(purpose: string, command: string): void {
  if (process.getuid?.() !== 0)
    throw new UserError(`${purpose} needs root`, { hint: `run ${command}, which takes root with sudo` });
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
