import { randomBytes } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { openSealedModel, sealModel, SealedModelRefused } from "../../../provider/trust/sealed-model.ts";
import { alterations, chunkBytes, inPieces, sealedBytes } from "./sealed-example.ts";

const key = randomBytes(32);
const content = randomBytes(2 * chunkBytes + 4711);

const open = (sealed: Buffer, by = key, pieceBytes = 100_000): Promise<Buffer> =>
  buffer(openSealedModel(inPieces(sealed, pieceBytes), by));

describe("a sealed model", () => {
  test.each([1, 16, chunkBytes - 1, chunkBytes, chunkBytes + 1, 2 * chunkBytes, 2 * chunkBytes + 4711])(
    "of %i bytes comes out as it went in, whatever pieces it is read in",
    async (bytes) => {
      const plain = content.subarray(0, bytes);
      const sealed = await sealedBytes(plain, key);
      expect(sealed).toHaveLength(60 + bytes + 16 * Math.ceil(bytes / chunkBytes));
      for (const size of [7777, 3 * chunkBytes])
        expect((await open(sealed, key, size)).equals(plain)).toBe(true);
    },
  );

  test("shows nothing of what is in it", async () => {
    const sealed = await sealedBytes(Buffer.alloc(3 * chunkBytes), key);
    for (let at = 0; at < 3; at++)
      expect(sealed.includes(Buffer.alloc(32), 60 + at * chunkBytes)).toBe(false);
    // Equal chunks are not equal in it.
    const chunk = (index: number) => sealed.subarray(60 + index * (chunkBytes + 16)).subarray(0, chunkBytes);
    expect(chunk(0).equals(chunk(1))).toBe(false);
  });

  test.each(alterations)("$what: refused", async ({ alter }) => {
    const sealed = await sealedBytes(content, key);
    const other = await sealedBytes(randomBytes(content.length), key);
    const altered = alter(Buffer.from(sealed), other);
    expect(altered.equals(sealed)).toBe(false);
    await expect(open(altered)).rejects.toThrow(SealedModelRefused);
    // By a tag or a size, not only by the digest of what came out.
    await expect(open(altered)).rejects.not.toThrow("what came out");
    // The control.
    expect((await open(sealed)).equals(content)).toBe(true);
  });

  test("does not open with another key", async () => {
    const sealed = await sealedBytes(content, key);
    await expect(open(sealed, randomBytes(32))).rejects.toThrow("chunk 0 of the sealed model does not open");
  });

  test("is not made of a file that changed after its digest was taken", async () => {
    const made = (source: Buffer): Promise<Buffer> =>
      sealedBytes(source, key, { sha256: sha256Hex(content), bytes: content.length });
    for (const source of [
      content.subarray(1),
      Buffer.concat([content, content]),
      randomBytes(content.length),
    ])
      await expect(made(source)).rejects.toThrow("was changed while it was read");
    expect(await made(content)).toHaveLength(60 + content.length + 3 * 16);
  });

  test.each([
    ["a key of 16 bytes", { sha256: sha256Hex("x"), bytes: 1 }, randomBytes(16)],
    ["no digest", { sha256: "x", bytes: 1 }, key],
    ["no bytes", { sha256: sha256Hex(""), bytes: 0 }, key],
  ])("is not made with %s", async (_, told, by) => {
    const sealing = sealModel(told, inPieces(Buffer.from("x"), 1), by);
    await expect(buffer(sealing)).rejects.toThrow(TypeError);
  });
});
