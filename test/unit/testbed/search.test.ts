import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { foundInFile } from "../../../testbed/search.ts";

let scratch: string;

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "edgeseal-search-"));
});
afterEach(() => {
  rmSync(scratch, { recursive: true });
});

test("what is there is found wherever it lies, and what is not there is not", async () => {
  const [wanted, longer, absent] = [
    Buffer.from("a key of some length"),
    Buffer.from([1, 0, 2]),
    Buffer.from("no"),
  ];
  const pieceLength = 1 << 22;
  for (const at of [
    0,
    pieceLength - 1,
    pieceLength - wanted.length + 1,
    pieceLength,
    2 * pieceLength - wanted.length,
  ]) {
    const content = Buffer.alloc(2 * pieceLength, 0xff);
    wanted.copy(content, at);
    const path = join(scratch, "file");
    writeFileSync(path, content);
    expect(await foundInFile(path, [wanted, longer, absent]), `at ${at}`).toEqual([true, false, false]);
  }
});

test("in an empty file there is nothing", async () => {
  const path = join(scratch, "empty");
  writeFileSync(path, "");
  expect(await foundInFile(path, [Buffer.from("x")])).toEqual([false]);
});
