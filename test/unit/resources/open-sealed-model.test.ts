import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { alterations, chunkBytes, sealedBytes } from "../trust/sealed-example.ts";

/* The reader on a node, against what the writer in TypeScript writes. */

const program = fileURLToPath(
  new URL("../../../provider/resources/on-device/open-sealed-model.py", import.meta.url),
);
const key = randomBytes(32);
const content = randomBytes(2 * chunkBytes + 4711);

let folder: string;
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "edgeseal-sealed-"))));
afterEach(() => rmSync(folder, { recursive: true }));

interface Opening {
  readonly code: number | null;
  readonly said: string;
  /** What was left under the name that was to be written. */
  readonly left: Buffer | undefined;
}

function open(sealed: Buffer, { by = key, plain = content } = {}): Opening {
  const [source, target] = [join(folder, "sealed"), join(folder, "opened")] as const;
  rmSync(target, { force: true });
  writeFileSync(source, sealed);
  const { status, stderr } = spawnSync(
    "python3",
    ["-I", program, source, target, `${plain.length}`, sha256Hex(plain)],
    { input: by },
  );
  return {
    code: status,
    said: stderr.toString().trim(),
    left: existsSync(target) ? readFileSync(target) : undefined,
  };
}

test.each([1, 16, chunkBytes - 1, chunkBytes, chunkBytes + 1, 2 * chunkBytes, 2 * chunkBytes + 4711])(
  "a sealed model of %i bytes comes out as it went in",
  async (bytes) => {
    const plain = content.subarray(0, bytes);
    const { code, said, left } = open(await sealedBytes(plain, key), { plain });
    expect({ code, said }).toEqual({ code: 0, said: "" });
    expect(left?.equals(plain)).toBe(true);
  },
);

describe("nothing is kept of a sealed model", () => {
  test.each(alterations)("where $what", async ({ alter }) => {
    const sealed = await sealedBytes(content, key);
    const other = await sealedBytes(randomBytes(content.length), key);
    const { code, said, left } = open(alter(Buffer.from(sealed), other));
    expect(code).toBe(1);
    expect(said).toMatch(/^the sealed model was not opened, and nothing of it was kept: .+$/);
    // By a tag or a size, not only by the digest of what came out.
    expect(said).not.toContain("what came out");
    expect(left).toBeUndefined();
    // The control.
    expect(open(sealed).code).toBe(0);
  });

  test("with another key", async () => {
    const { code, said, left } = open(await sealedBytes(content, key), { by: randomBytes(32) });
    expect(code).toBe(1);
    expect(said).toContain("chunk 0 does not open");
    expect(left).toBeUndefined();
  });

  test.each([0, 31, 33])("with a key of %i bytes", async (bytes) => {
    const { code, said, left } = open(await sealedBytes(content, key), { by: randomBytes(bytes) });
    expect([code, said, left]).toEqual([1, `the key has ${bytes} bytes in place of 32`, undefined]);
  });

  test("that is whole, and another one than was asked for", async () => {
    const other = randomBytes(content.length);
    const { code, said, left } = open(await sealedBytes(other, key));
    expect(code).toBe(1);
    expect(said).toContain("its header is for another model than the statement");
    expect(left).toBeUndefined();
    expect(open(await sealedBytes(other, key), { plain: other }).code).toBe(0);
  });
});

test("the file of somebody else is not written over", async () => {
  writeFileSync(join(folder, "sealed"), await sealedBytes(content, key));
  writeFileSync(join(folder, "opened"), "theirs");
  const words = [
    "-I",
    program,
    join(folder, "sealed"),
    join(folder, "opened"),
    `${content.length}`,
    sha256Hex(content),
  ];
  expect(spawnSync("python3", words, { input: key }).status).toBe(1);
  expect(readFileSync(join(folder, "opened"), "utf8")).toBe("theirs");
});
