import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { replaceChip, restoreChip } from "../../../testbed/tpm.ts";

let board: string;
let chip: string;

beforeEach(() => {
  board = mkdtempSync(join(tmpdir(), "edgeseal-board-"));
  chip = join(board, "tpm");
  mkdirSync(chip);
  writeFileSync(join(chip, "seeds"), "original");
});
afterEach(() => {
  rmSync(board, { recursive: true });
});

test("another chip is blank, however often it is replaced; back comes the one that the board came with", async () => {
  await replaceChip(chip);
  expect(readdirSync(chip)).toEqual([]);
  writeFileSync(join(chip, "seeds"), "another");
  await replaceChip(chip);
  expect(readdirSync(chip)).toEqual([]);
  await restoreChip(chip);
  expect(readFileSync(join(chip, "seeds"), "utf8")).toBe("original");
  expect(readdirSync(board)).toEqual(["tpm"]);
});

test("there is none to put back while it is on the board, and it stays there", async () => {
  await expect(restoreChip(chip)).rejects.toThrow("the TPM that the board came with is on it");
  expect(readFileSync(join(chip, "seeds"), "utf8")).toBe("original");
});
