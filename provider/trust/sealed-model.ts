import { createCipheriv, createDecipheriv, createHash } from "node:crypto";

/*
 * The file format of a model that is encrypted on its way to one node, `FILE.sealed`: a header, then chunks of 1 MiB, each encrypted with AES-256-GCM and followed by its tag. Nonces are a
 * counter and a mark of the last chunk (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015), and the header is
 * associated data of every chunk: a chunk that is changed, moved, missing or another file's does not open, nor does a file that was cut off.
 *
 * A key is for one file: the nonces start at zero in each. What the bytes of a model are worth is not said here, since whoever knows the public keys of a node's TPM can encrypt to it: that is
 * the statement's to say (model-statement.ts).
 *
 * `provider/resources/on-device/open-sealed-model.py` is the reader on a node.
 */

const magic = Buffer.from("edgeseal model 1");
const chunkBytes = 1024 * 1024;
const tagBytes = 16;
const keyBytes = 32;
/** Magic, chunk size (4 bytes), size of the plaintext (8 bytes), its SHA-256. */
const headerBytes = magic.length + 4 + 8 + 32;

/** What was encrypted, and has to come out again. */
export interface SealedContent {
  /** 64 lower-case hex digits. */
  readonly sha256: string;
  /** At least 1. */
  readonly bytes: number;
}

/** A sealed model can't be made or opened. Nothing that was read of it before counts. */
export class SealedModelRefused extends Error {
  override readonly name = "SealedModelRefused";
}

/**
 * Encrypts a model.
 * @param content What the source is known to hold.
 * @param key 32 random bytes that have encrypted nothing yet.
 * @throws SealedModelRefused when the source is not that content
 */
export async function* sealModel(
  content: SealedContent,
  source: AsyncIterable<Uint8Array>,
  key: Uint8Array,
): AsyncGenerator<Buffer> {
  const header = headerOf(content);
  const count = chunksIn(content);
  const hash = createHash("sha256");
  let index = 0;
  let bytes = 0;
  yield header;
  for await (const chunk of piecesOf(source, chunkBytes)) {
    hash.update(chunk);
    bytes += chunk.length;
    if (bytes > content.bytes) break;
    const cipher = createCipheriv("aes-256-gcm", required(key), nonceOf(index, index === count - 1));
    cipher.setAAD(header);
    yield Buffer.concat([cipher.update(chunk), cipher.final(), cipher.getAuthTag()]);
    index++;
  }
  if (bytes !== content.bytes || hash.digest("hex") !== content.sha256)
    throw new SealedModelRefused("the model was changed while it was read");
}

/**
 * Decrypts a model.
 * @returns Its bytes. They count when all have come, and not before.
 * @throws SealedModelRefused
 */
export async function* openSealedModel(
  source: AsyncIterable<Uint8Array>,
  key: Uint8Array,
): AsyncGenerator<Buffer> {
  const pieces = piecesOf(source, chunkBytes + tagBytes, headerBytes);
  const { value: header } = await pieces.next();
  const content = readHeader(header ?? Buffer.alloc(0));
  const count = chunksIn(content);
  const hash = createHash("sha256");
  let index = 0;
  let bytes = 0;
  for await (const piece of pieces) {
    const size = Math.min(chunkBytes, content.bytes - bytes);
    if (index === count || piece.length !== size + tagBytes)
      throw new SealedModelRefused(`the sealed model has not the size that its header says: chunk ${index}`);
    const decipher = createDecipheriv("aes-256-gcm", required(key), nonceOf(index, index === count - 1), {
      authTagLength: tagBytes,
    });
    decipher.setAAD(header ?? Buffer.alloc(0)).setAuthTag(piece.subarray(size));
    const chunk = opened(decipher, piece.subarray(0, size), index);
    hash.update(chunk);
    bytes += size;
    index++;
    yield chunk;
  }
  if (index !== count)
    throw new SealedModelRefused(`the sealed model was cut off: ${index} of ${count} chunks`);
  if (hash.digest("hex") !== content.sha256)
    throw new SealedModelRefused("what came out of the sealed model has not the digest that its header says");
}

function opened(decipher: ReturnType<typeof createDecipheriv>, bytes: Buffer, index: number): Buffer {
  try {
    return Buffer.concat([decipher.update(bytes), decipher.final()]);
  } catch (error) {
    throw new SealedModelRefused(
      `chunk ${index} of the sealed model does not open: it was changed, or is another file's, or the key is another`,
      { cause: error },
    );
  }
}

function headerOf({ sha256, bytes }: SealedContent): Buffer {
  if (!/^[0-9a-f]{64}$/.test(sha256) || !Number.isSafeInteger(bytes) || bytes < 1)
    throw new TypeError(`expected a digest and a size of at least 1 byte, got ${sha256} and ${bytes}`);
  const header = Buffer.alloc(headerBytes);
  magic.copy(header);
  header.writeUInt32BE(chunkBytes, magic.length);
  header.writeBigUInt64BE(BigInt(bytes), magic.length + 4);
  header.write(sha256, magic.length + 12, "hex");
  return header;
}

function readHeader(header: Buffer): SealedContent {
  if (header.length !== headerBytes || !header.subarray(0, magic.length).equals(magic))
    throw new SealedModelRefused("this is no sealed model, or one of another version");
  const bytes = header.readBigUInt64BE(magic.length + 4);
  if (header.readUInt32BE(magic.length) !== chunkBytes || bytes < 1n || bytes > Number.MAX_SAFE_INTEGER)
    throw new SealedModelRefused("the header of the sealed model has sizes that are none");
  return { sha256: header.subarray(magic.length + 12).toString("hex"), bytes: Number(bytes) };
}

const chunksIn = ({ bytes }: SealedContent): number => Math.ceil(bytes / chunkBytes);

/** 11 bytes that count, and one that says whether a chunk is the last. */
function nonceOf(index: number, last: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(index, 5, 6);
  nonce.writeUInt8(last ? 1 : 0, 11);
  return nonce;
}

function required(key: Uint8Array): Uint8Array {
  if (key.length !== keyBytes) throw new TypeError(`expected a key of ${keyBytes} bytes, got ${key.length}`);
  return key;
}

/** The same bytes in pieces of one size, but for the first, where it has one of its own, and what is left at the end. */
async function* piecesOf(
  source: AsyncIterable<Uint8Array>,
  size: number,
  first = size,
): AsyncGenerator<Buffer, undefined> {
  let wanted = first;
  let pending: Uint8Array[] = [];
  let held = 0;
  for await (const bytes of source) {
    pending.push(bytes);
    held += bytes.length;
    if (held < wanted) continue;
    let rest = Buffer.concat(pending);
    while (rest.length >= wanted) {
      yield rest.subarray(0, wanted);
      rest = rest.subarray(wanted);
      wanted = size;
    }
    pending = rest.length === 0 ? [] : [rest];
    held = rest.length;
  }
  if (held > 0) yield Buffer.concat(pending);
  return undefined;
}
