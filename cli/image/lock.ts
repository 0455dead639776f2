import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../testbed/bound-process.ts";
import { debianMirror } from "../../testbed/debian-mirror.ts";
import { cacheFolder } from "../../testbed/image.ts";
import { writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";
import { timestamp } from "../keys/key-store.ts";
import { imageContents } from "./contents.ts";
import { readDeb, type DebPackage } from "./deb.ts";
import { formatLock, lockFile, parseLock, type ImageLock, type LockedPackage } from "./lock-file.ts";
import { debsFolder, fileSha256, type FetchOptions } from "./packages.ts";
import type { Architecture, ImageRecipe } from "./recipe.ts";

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** What a refresh of a lock found. */
export interface LockChange {
  readonly arch: Architecture;
  readonly file: string;
  readonly packages: number;
  /** `NAME OLD -> NEW`, one for each package that differs; empty when the file stays as it is. */
  readonly changes: readonly string[];
}

export interface LockOptions extends FetchOptions {
  readonly now: Date;
  /** Only compare. */
  readonly check?: boolean;
}

/**
 * Locks a recipe to what the mirror has now: apt resolves the dependencies and verifies Debian's signature of the index and the digest of each package, in a place
 * of its own, so that it needs no root and leaves this machine's packages alone.
 * @throws UserError
 */
export async function lockImage(
  recipe: ImageRecipe,
  arch: Architecture,
  { now, check = false, ...options }: LockOptions,
): Promise<LockChange> {
  const file = lockFile(recipe, arch);
  const former = await readFile(file, "utf8").then(
    (text) => parseLock(file, text),
    (error: unknown): ImageLock => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return { created: "", packages: [] };
      throw error;
    },
  );
  const debs = await resolve(recipe, arch, options);
  const { packages: used } = imageContents(
    recipe,
    debs.map(({ deb }) => deb),
  );
  const packages = debs.flatMap(({ locked }) => (used.has(locked.name) ? [locked] : []));
  const changes = differences(former.packages, packages);
  if (changes.length > 0 && !check)
    await writeDurably(file, formatLock({ created: timestamp(now), packages }), 0o644);
  return { arch, file, packages: packages.length, changes };
}

/** What apt would install, with nothing installed yet. */
async function resolve(
  { suite, packages }: ImageRecipe,
  arch: Architecture,
  { mirror: given, signal, onProgress }: FetchOptions,
): Promise<readonly { readonly locked: LockedPackage; readonly deb: DebPackage }[]> {
  const mirror = (given ?? (await debianMirror())).replace(/\/+$/, "");
  await mkdir(debsFolder(), { recursive: true, mode: 0o700 });
  const place = await mkdtemp(join(cacheFolder(), "apt-"));
  try {
    const source = `deb [arch=${arch} signed-by=${keyring}] ${mirror} ${suite} main\n`;
    const configuration = await aptConfiguration(place, source, arch);
    const apt = async (...words: readonly string[]): Promise<string> =>
      run("apt-get", ["--quiet", ...words], {
        signal,
        env: { ...process.env, APT_CONFIG: configuration, LC_ALL: "C.UTF-8" },
      }).catch((error: unknown) => {
        signal?.throwIfAborted();
        const said = (error as Error).message.trim().split("\n").slice(1).join("\n");
        throw new UserError(`apt-get ${words[0] ?? ""}: ${said}`, {
          cause: error,
          hint: `is ${mirror} there, does it have ${suite} for ${arch}, and is the package debian-archive-keyring installed?`,
        });
      });
    onProgress?.(`${arch}: reading the index of ${suite} from ${mirror}`);
    await apt("update", "--error-on=any");
    const paths = archivePaths(await apt("install", "--print-uris", "--yes", ...packages), mirror);
    onProgress?.(`${arch}: fetching ${paths.size} packages, of which the image takes what it needs`);
    await apt("install", "--download-only", "--yes", ...packages);
    return await Promise.all(
      [...paths].map(async ([name, path]) => {
        const archive = join(place, "archives", name);
        const [deb, sha256] = await Promise.all([readDeb(archive, signal), fileSha256(archive)]);
        await rename(archive, join(debsFolder(), `${sha256}.deb`));
        const field = (of: string): string => deb.fields.get(of) ?? "";
        return { deb, locked: { name: field("Package"), version: field("Version"), sha256, path } };
      }),
    );
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

/** apt's names of archives, and where they are on the mirror, from `--print-uris`: 'URI' NAME SIZE DIGEST. */
export function archivePaths(printed: string, mirror: string): ReadonlyMap<string, string> {
  const lines = printed.matchAll(/^'(\S+)' (\S+\.deb) \d+/gm);
  return new Map([...lines].map(([, uri = "", name = ""]) => [name, uri.slice(mirror.length + 1)]));
}

/** apt in a place of its own; of this machine's configuration only how the network is reached. */
async function aptConfiguration(place: string, source: string, arch: Architecture): Promise<string> {
  for (const folder of ["state/lists/partial", "archives/partial"])
    await mkdir(join(place, folder), { recursive: true });
  await writeFile(join(place, "status"), "");
  await writeFile(join(place, "sources.list"), source);
  const network = (await run("apt-config", ["dump", "--format", '%F "%v";%n', "Acquire"]))
    .split("\n")
    .filter((line) => /^Acquire::(https?|proxy|retries)\b/i.test(line));
  const path = join(place, "apt.conf");
  const settings = {
    "Dir::Etc::main": "-",
    "Dir::Etc::parts": "-",
    "Dir::Etc::sourcelist": join(place, "sources.list"),
    "Dir::Etc::sourceparts": "-",
    "Dir::Etc::preferences": "-",
    "Dir::Etc::preferencesparts": "-",
    "Dir::State": join(place, "state"),
    "Dir::State::status": join(place, "status"),
    "Dir::Cache": place,
    "Dir::Cache::archives": join(place, "archives"),
    "APT::Architecture": arch,
    "APT::Architectures": arch,
    "APT::Install-Recommends": "false",
    "APT::Sandbox::User": "",
    // A mirror of sid that was not updated for a week is one all the same; what is locked is seen in the review.
    "Acquire::Check-Valid-Until": "false",
    "Acquire::Languages": "none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} "${value}";`);
  await writeFile(path, [...network, ...lines, ""].join("\n"));
  return path;
}

function differences(
  former: readonly LockedPackage[],
  packages: readonly LockedPackage[],
): readonly string[] {
  const versions = (of: readonly LockedPackage[]) => new Map(of.map((each) => [each.name, each]));
  const [before, after] = [versions(former), versions(packages)];
  return [...new Set([...before.keys(), ...after.keys()])].sort().flatMap((name) => {
    const [old, fresh] = [before.get(name), after.get(name)];
    if (old?.sha256 === fresh?.sha256) return [];
    const same = old?.version === fresh?.version ? " (another build of it)" : "";
    return [`${name} ${old?.version ?? "none"} -> ${fresh?.version ?? "none"}${same}`];
  });
}
