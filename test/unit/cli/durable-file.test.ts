import { execFileSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { expect, test } from "vitest";
import { writeDurably } from "../../../cli/durable-file.ts";
import { scratchFolder } from "./scratch.ts";

const scratch = scratchFolder();

test("a file has its content and its mode, and nothing is left beside it", async () => {
  await writeDurably(scratch("a"), "one", 0o600);
  await writeDurably(scratch("a"), "two", 0o644);
  expect(readFileSync(scratch("a"), "utf8")).toBe("two");
  expect(statSync(scratch("a")).mode & 0o777).toBe(0o644);
  expect(readdirSync(scratch())).toEqual(["a"]);
});

test.each(["000", "077"])("the mode does not depend on the umask %s", (umask) => {
  const module = JSON.stringify(new URL("../../../cli/durable-file.ts", import.meta.url).href);
  const program = `import { writeDurably } from ${module}; await writeDurably(process.argv[1], "x", 0o640);`;
  const words = [process.execPath, "--input-type=module", "-e", program, scratch("a")].map(
    (word) => `'${word}'`,
  );
  execFileSync("sh", ["-c", `umask ${umask}; exec ${words.join(" ")}`]);
  expect(statSync(scratch("a")).mode & 0o777).toBe(0o640);
});

test("a link is replaced, not followed", async () => {
  writeFileSync(scratch("target"), "old");
  symlinkSync(scratch("target"), scratch("a"));
  await writeDurably(scratch("a"), "new", 0o600);
  expect(readFileSync(scratch("target"), "utf8")).toBe("old");
  expect(readFileSync(scratch("a"), "utf8")).toBe("new");
});

test("what was there stays when the new content can't be written", async () => {
  mkdirSync(scratch("a"));
  chmodSync(scratch("a"), 0o700);
  await expect(writeDurably(scratch("a"), "x", 0o600)).rejects.toThrow();
  expect(readdirSync(scratch())).toEqual(["a"]);
});
