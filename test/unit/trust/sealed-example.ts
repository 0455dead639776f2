import { buffer } from "node:stream/consumers";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { sealModel, type SealedContent } from "../../../provider/trust/sealed-model.ts";

/* Sealed models, and what may become of one on its way, for both readers: that in TypeScript and that on a node. */

export const chunkBytes = 1024 * 1024;
const headerBytes = 60;
const sealedChunk = chunkBytes + 16;

export async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield await Promise.resolve(bytes.subarray(at, at + size));
}

export async function sealedBytes(
  plain: Buffer,
  key: Buffer,
  content: SealedContent = { sha256: sha256Hex(plain), bytes: plain.length },
): Promise<Buffer> {
  return buffer(sealModel(content, inPieces(plain, 300_000), key));
}

const chunk = (sealed: Buffer, index: number): Buffer =>
  sealed.subarray(headerBytes + index * sealedChunk, headerBytes + (index + 1) * sealedChunk);

const flipped = (sealed: Buffer, at: number): Buffer => {
  sealed.writeUInt8(sealed.readUInt8(at) ^ 1, at);
  return sealed;
};

export interface Alteration {
  readonly what: string;
  /**
   * @param sealed A model of three chunks, the last a short one; a copy.
   * @param other Another model of that size, sealed with the same key.
   */
  readonly alter: (sealed: Buffer, other: Buffer) => Buffer;
}

const without = (sealed: Buffer, index: number): Buffer =>
  Buffer.concat([
    sealed.subarray(0, headerBytes + index * sealedChunk),
    sealed.subarray(headerBytes + (index + 1) * sealedChunk),
  ]);

export const alterations: readonly Alteration[] = [
  ...[0, 1, 2].map((index) => ({
    what: `chunk ${index} is missing`,
    alter: (sealed: Buffer) => without(sealed, index),
  })),
  {
    what: "two chunks have changed places",
    alter: (sealed) =>
      Buffer.concat([sealed.subarray(0, headerBytes), chunk(sealed, 1), chunk(sealed, 0), chunk(sealed, 2)]),
  },
  {
    what: "a chunk is there twice, in place of another",
    alter: (sealed) =>
      Buffer.concat([sealed.subarray(0, headerBytes), chunk(sealed, 0), chunk(sealed, 0), chunk(sealed, 2)]),
  },
  { what: "its last byte is missing", alter: (sealed) => sealed.subarray(0, -1) },
  { what: "it was cut off within a chunk", alter: (sealed) => sealed.subarray(0, headerBytes + 4711) },
  { what: "it is a header alone", alter: (sealed) => sealed.subarray(0, headerBytes) },
  { what: "it is a part of a header", alter: (sealed) => sealed.subarray(0, headerBytes - 1) },
  { what: "nothing is left of it", alter: () => Buffer.alloc(0) },
  {
    what: "it was cut off after two chunks, and its header says that it is no longer",
    alter: (sealed) => {
      sealed.writeBigUInt64BE(BigInt(2 * chunkBytes), 20);
      return sealed.subarray(0, headerBytes + 2 * sealedChunk);
    },
  },
  { what: "a byte was added", alter: (sealed) => Buffer.concat([sealed, Buffer.alloc(1)]) },
  { what: "a chunk was added", alter: (sealed) => Buffer.concat([sealed, chunk(sealed, 2)]) },
  { what: "a bit of the first chunk is flipped", alter: (sealed) => flipped(sealed, headerBytes) },
  { what: "a bit of the last chunk is flipped", alter: (sealed) => flipped(sealed, sealed.length - 17) },
  {
    what: "a bit of the first tag is flipped",
    alter: (sealed) => flipped(sealed, headerBytes + sealedChunk - 1),
  },
  { what: "a bit of the last tag is flipped", alter: (sealed) => flipped(sealed, sealed.length - 1) },
  { what: "another magic", alter: (sealed) => flipped(sealed, 15) },
  { what: "another chunk size", alter: (sealed) => flipped(sealed, 19) },
  { what: "another size", alter: (sealed) => flipped(sealed, 27) },
  { what: "another digest", alter: (sealed) => flipped(sealed, 28) },
  {
    what: "the header of another model that has the same key",
    alter: (sealed, other) => Buffer.concat([other.subarray(0, headerBytes), sealed.subarray(headerBytes)]),
  },
  {
    what: "a chunk of another model that has the same key",
    alter: (sealed, other) =>
      Buffer.concat([
        sealed.subarray(0, headerBytes),
        chunk(other, 0),
        sealed.subarray(headerBytes + sealedChunk),
      ]),
  },
];
