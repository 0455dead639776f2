import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { run } from "../../testbed/bound-process.ts";
import { debianMirror } from "../../testbed/debian-mirror.ts";
import { cacheFolder } from "../../testbed/image.ts";
import { UserError } from "../errors.ts";
import type { LockedPackage } from "./lock-file.ts";

/** apt's own downloader: it goes by the proxy that apt is configured with. */
const aptHelper = "/usr/lib/apt/apt-helper";

export interface FetchOptions {
  /** Address of a Debian mirror. @default the one that this machine's apt uses */
  readonly mirror?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (message: string) => void;
}

/** Where packages are kept, by their digests: once fetched, an image can be built when the mirror has newer ones. */
export const debsFolder = (): string => join(cacheFolder(), "debs");

const debPath = ({ sha256 }: Pick<LockedPackage, "sha256">): string => join(debsFolder(), `${sha256}.deb`);

/**
 * The .deb files of the locked packages, from the per-user cache or else from a mirror: none that is not the locked one, to the byte.
 * @returns their paths, in the order of the packages
 * @throws UserError
 */
export async function lockedDebs(
  packages: readonly LockedPackage[],
  options: FetchOptions = {},
): Promise<readonly string[]> {
  await mkdir(debsFolder(), { recursive: true, mode: 0o700 });
  const paths: string[] = [];
  for (const each of packages) {
    const path = debPath(each);
    const cached = await fileSha256(path).catch(() => undefined);
    if (cached !== each.sha256) await fetchDeb(each, path, options);
    paths.push(path);
  }
  return paths;
}

async function fetchDeb(
  wanted: LockedPackage,
  path: string,
  { mirror: given, signal, onProgress }: FetchOptions,
): Promise<void> {
  const mirror = (given ?? (await debianMirror())).replace(/\/+$/, "");
  if (process.env["EDGESEAL_OFFLINE"] === "1")
    throw new UserError(`${wanted.name} ${wanted.version} is not in ${debsFolder()}, and EDGESEAL_OFFLINE=1`);
  onProgress?.(`fetching ${wanted.name} ${wanted.version}`);
  const folder = await mkdtemp(join(debsFolder(), ".fetching-"));
  try {
    const file = join(folder, "deb");
    await download(`${mirror}/${wanted.path}`, file, signal).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw new UserError(
        `${wanted.name} ${wanted.version} can't be had from ${mirror}: ${lastLine(error)}`,
        {
          cause: error,
          hint: "when the mirror has a newer one: `edgeseal image lock`, look at the change, commit it; or name a mirror that keeps old ones: --mirror https://snapshot.debian.org/archive/debian/YYYYMMDDTHHMMSSZ",
        },
      );
    });
    const found = await fileSha256(file);
    if (found !== wanted.sha256) {
      throw new UserError(
        `${mirror}/${wanted.path} is not the locked package: SHA-256 ${found}, expected ${wanted.sha256}`,
        { hint: "a mirror never changes a file: find out who did, before anything is locked anew" },
      );
    }
    await rename(file, path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** apt takes a path with an epoch or a plus in its percent-encoding only from some mirrors; as it stands in the index it works with all. */
async function download(url: string, file: string, signal: AbortSignal | undefined): Promise<void> {
  await run(aptHelper, ["-o", "APT::Sandbox::User=", "download-file", url, file], { signal });
}

const lastLine = (error: unknown): string =>
  (error as Error).message.trim().split("\n").at(-1)?.replace(/^E: /, "") ?? "";

/** SHA-256 of a file, in hex. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}
