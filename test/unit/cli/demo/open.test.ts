import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openDemo } from "../../../../cli/demo/demo.ts";

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "edgeseal-open-"));
  vi.stubEnv("TMPDIR", scratch);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(scratch, { recursive: true });
});

test("a node that does not start leaves no workspace behind", async () => {
  // No folder for images can be made under a device: the start fails before anything is begun.
  vi.stubEnv("EDGESEAL_CACHE", "/dev/null/cache");
  const said: string[] = [];
  const opening = openDemo({ signal: new AbortController().signal, say: (line) => void said.push(line) });
  await expect(opening).rejects.toThrow("ENOTDIR");
  expect(readdirSync(scratch)).toEqual([]);
});
