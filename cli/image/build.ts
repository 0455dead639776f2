import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { cacheFolder } from "../../testbed/image.ts";
import { UserError } from "../errors.ts";
import { readLayout } from "./archive.ts";
import { imageContents } from "./contents.ts";
import { readDeb } from "./deb.ts";
import { layerOf } from "./layer.ts";
import { lockFile, parseLock, type ImageLock } from "./lock-file.ts";
import { digestOf, hexOf, imageOf, layoutOf, sbomName, type OciImage } from "./oci.ts";
import { lockedDebs, type FetchOptions } from "./packages.ts";
import type { Architecture, ImageRecipe } from "./recipe.ts";
import { sbomOf } from "./sbom.ts";

export interface BuildOptions extends FetchOptions {
  /** Folder that the image is put into. @default one in the per-user cache, named by the digest */
  readonly out?: string | undefined;
  /** The lock to build by. @default the file in images/ */
  readonly lock?: ImageLock;
}

export interface BuiltImage {
  readonly image: string;
  readonly arch: Architecture;
  /** Its `dir:` layout. */
  readonly folder: string;
  readonly digest: string;
  readonly bytes: number;
  readonly packages: number;
  /** The bill of materials, in the layout. */
  readonly sbom: string;
  readonly created: string;
}

/**
 * Builds an image by its lock, without root, a daemon or a script of any package.
 * @throws UserError
 */
export async function buildImage(
  recipe: ImageRecipe,
  arch: Architecture,
  options: BuildOptions = {},
): Promise<BuiltImage> {
  const lock = options.lock ?? (await lockOf(recipe, arch));
  const { image, sbom, packages } = await assemble(recipe, arch, lock, options);
  options.signal?.throwIfAborted();
  const folder = resolve(
    options.out ??
      join(cacheFolder(), "inference-images", `${recipe.name}-${arch}-${hexOf(image.digest).slice(0, 16)}`),
  );
  await writeLayout(folder, layoutOf(image, sbom));
  return {
    image: recipe.name,
    arch,
    folder,
    digest: image.digest,
    bytes: [...image.blobs.values()].reduce((sum, { length }) => sum + length, 0),
    packages,
    sbom: join(folder, sbomName),
    created: createdOf(lock).toISOString().replace(".000Z", "Z"),
  };
}

async function lockOf(recipe: ImageRecipe, arch: Architecture): Promise<ImageLock> {
  const path = lockFile(recipe, arch);
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    throw new UserError(`${path} can't be read: ${(error as Error).message}`, {
      hint: `edgeseal image lock --arch ${arch}`,
    });
  });
  return parseLock(path, text);
}

/** The time in the image: SOURCE_DATE_EPOCH (reproducible-builds.org), where somebody sets it, else that of the lock. @throws UserError */
function createdOf({ created }: ImageLock): Date {
  const epoch = process.env["SOURCE_DATE_EPOCH"];
  if (epoch === undefined || epoch === "") return new Date(created);
  if (!/^\d{1,10}$/.test(epoch))
    throw new UserError(`SOURCE_DATE_EPOCH takes seconds since 1970, got '${epoch}'`);
  return new Date(Number(epoch) * 1000);
}

async function assemble(
  recipe: ImageRecipe,
  arch: Architecture,
  lock: ImageLock,
  options: FetchOptions,
): Promise<{ readonly image: OciImage; readonly sbom: Buffer; readonly packages: number }> {
  const paths = await lockedDebs(lock.packages, options);
  options.onProgress?.(`assembling ${recipe.name} for ${arch} from ${paths.length} packages`);
  const debs = await Promise.all(paths.map((path) => readDeb(path, options.signal)));
  const contents = imageContents(recipe, debs);
  const created = createdOf(lock);
  const layer = await layerOf(contents, recipe.folders, created);
  const version = debs
    .find(({ fields }) => fields.get("Package") === recipe.versionOf)
    ?.fields.get("Version");
  if (version === undefined) {
    throw new UserError(`${recipe.versionOf} is not among the locked packages`, {
      hint: "edgeseal image lock",
    });
  }
  const packages = lock.packages.flatMap((locked) => {
    const deb = contents.packages.get(locked.name);
    return deb === undefined ? [] : [{ locked, deb }];
  });
  const sbom = sbomOf({
    recipe,
    arch,
    version,
    created,
    layerSha256: hexOf(digestOf(layer)),
    packages,
  });
  const labels = {
    "org.opencontainers.image.title": recipe.name,
    "org.opencontainers.image.description": recipe.title,
    "org.opencontainers.image.version": version,
    "org.opencontainers.image.created": created.toISOString().replace(".000Z", "Z"),
    "org.opencontainers.image.base.name": "scratch",
  };
  const image = imageOf(layer, sbom, { arch, program: recipe.program, created, labels });
  return { image, sbom, packages: packages.length };
}

/**
 * Puts the files into a folder that is there whole or not at all. One that is this image already is left alone, another image is replaced, and so are others that come there meanwhile: the last one
 * stays.
 * @throws UserError for a folder that is no image
 */
async function writeLayout(folder: string, files: ReadonlyMap<string, Buffer>): Promise<void> {
  if (await holds(folder, files)) return;
  await requireReplaceable(folder);
  await mkdir(dirname(folder), { recursive: true });
  const fresh = await mkdtemp(`${folder}.new-`);
  const former = `${fresh}.former`;
  try {
    for (const [name, bytes] of files) await writeFile(join(fresh, name), bytes, { flush: true });
    while (!(await unless(["ENOTEMPTY", "EEXIST"], rename(fresh, folder)))) {
      // Another build may have put the same one there.
      if (await holds(folder, files)) return;
      await requireReplaceable(folder);
      await unless(["ENOENT"], rename(folder, former));
      await rm(former, { recursive: true, force: true });
    }
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}

/** Whether a folder has these files, to the byte, and no others. */
async function holds(folder: string, files: ReadonlyMap<string, Buffer>): Promise<boolean> {
  const there = await readLayout(folder).catch(() => undefined);
  return there?.size === files.size && [...files].every(([name, bytes]) => there.get(name)?.equals(bytes));
}

/** @throws UserError for what is no image, and stays there */
async function requireReplaceable(folder: string): Promise<void> {
  const found = (path: string) => stat(path).catch(() => undefined);
  for (;;) {
    const there = await found(folder);
    if (there === undefined || (await found(join(folder, "version")))?.isFile()) return;
    // Between the two looks an image may have gone, and another come.
    if ((await found(folder))?.ino === there.ino)
      throw new UserError(`${folder} is there, and is no image`, { hint: "give another --out" });
  }
}

/** Whether it was done, rather than ended by one of these errors. */
async function unless(codes: readonly string[], work: Promise<void>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (error) {
    if (codes.includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}
