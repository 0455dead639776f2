import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { TpmKeys } from "../../provider/resources/tpm-keys.ts";
import { makeCredential, tpm2ToolsCredential } from "../../provider/trust/credential.ts";
import { sealedManifestText } from "../../provider/trust/sealed-manifest.ts";
import {
  openSealedModel,
  sealModel,
  SealedModelRefused,
  type SealedContent,
} from "../../provider/trust/sealed-model.ts";
import { syncFolder, writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";
import { digestOfFiles } from "./file-digest.ts";

export interface EncryptModelOptions {
  /** Name of the node. */
  readonly node: string;
  /** The sealed file; beside it, with `.json` after its name, what goes with it. */
  readonly out: string;
  readonly signal: AbortSignal;
  readonly onProgress: (message: string) => void;
}

export interface EncryptedModel {
  readonly sealed: string;
  readonly manifest: string;
  readonly node: string;
  readonly endorsementKeySha256: string;
  readonly plaintext: SealedContent;
  readonly ciphertext: SealedContent;
}

/**
 * Encrypts a model's file so that one node's TPM alone gives the key. Both files are there when it is done, or neither is new.
 * @throws UserError
 */
export async function encryptModel(
  file: string,
  { endorsementKey, storageKeyName }: TpmKeys,
  { node, out, signal, onProgress }: EncryptModelOptions,
): Promise<EncryptedModel> {
  onProgress(`hashing ${file}`);
  const plaintext = contentOf(file, await digestOfFiles([file], { signal }));
  // Of this file alone, and kept nowhere: whoever needs it again encrypts again.
  const key = randomBytes(32);
  const unfinished = join(dirname(out), `.${basename(out)}.${randomBytes(6).toString("hex")}.tmp`);
  try {
    const ciphertext = await write(unfinished, sealModel(plaintext, chunksOf(file), key), {
      signal,
      onBytes: progressOf("encrypted", plaintext.bytes, onProgress),
    });
    // A file that does not open is better found here than at the node.
    const read = progressOf("read back", plaintext.bytes, onProgress);
    for await (const chunk of openSealedModel(chunksOf(unfinished), key)) {
      signal.throwIfAborted();
      read(chunk.length);
    }
    const credential = makeCredential(endorsementKey, storageKeyName, key);
    const endorsementKeySha256 = endorsementKey.digest;
    const manifest = `${out}.json`;
    signal.throwIfAborted();
    await rename(unfinished, out);
    await syncFolder(dirname(out));
    await writeDurably(
      manifest,
      sealedManifestText({
        version: 1,
        node,
        endorsementKeySha256,
        plaintext,
        ciphertext,
        credential: tpm2ToolsCredential(credential).toString("base64"),
      }),
      0o644,
    );
    return { sealed: out, manifest, node, endorsementKeySha256, plaintext, ciphertext };
  } catch (error) {
    await rm(unfinished, { force: true });
    signal.throwIfAborted();
    const { code } = error as NodeJS.ErrnoException;
    if (error instanceof SealedModelRefused || code !== undefined)
      throw new UserError(`${file} was not encrypted: ${(error as Error).message}`, { cause: error });
    throw error;
  } finally {
    key.fill(0);
  }
}

function contentOf(file: string, content: SealedContent): SealedContent {
  if (content.bytes === 0) throw new UserError(`${file} is empty`);
  return content;
}

const chunksOf = (path: string): AsyncIterable<Buffer> =>
  createReadStream(path, { highWaterMark: 1024 * 1024 });

async function write(
  path: string,
  pieces: AsyncIterable<Buffer>,
  { signal, onBytes }: { readonly signal: AbortSignal; readonly onBytes: (count: number) => void },
): Promise<SealedContent> {
  const hash = createHash("sha256");
  let bytes = 0;
  await using file = await open(path, "wx", 0o644);
  for await (const piece of pieces) {
    signal.throwIfAborted();
    hash.update(piece);
    bytes += piece.length;
    await file.appendFile(piece);
    onBytes(piece.length);
  }
  await file.sync();
  return { sha256: hash.digest("hex"), bytes };
}

/** Says each tenth. */
function progressOf(
  what: string,
  total: number,
  onProgress: (message: string) => void,
): (count: number) => void {
  let done = 0;
  let said = 0;
  return (count) => {
    done += count;
    const tenths = Math.min(10, Math.floor((10 * done) / total));
    if (tenths > said) onProgress(`${what}: ${10 * tenths} %`);
    said = tenths;
  };
}
