import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execFileSync } from "node:child_process";
import { afterEach, beforeEach, expect, test } from "vitest";
import { addFiles } from "../../testbed/added-files.ts";
import { spawnBound } from "../../testbed/bound-process.ts";
import { runWithForeignPrograms } from "../../testbed/foreign-programs.ts";
import { until } from "../../testbed/until.ts";

/* How the image of another architecture is made on this machine. */

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "edgeseal-foreign-"));
});
afterEach(() => {
  rmSync(scratch, { recursive: true });
});

const lines: string[] = [];
const run = async (script: string, signal?: AbortSignal): Promise<readonly string[]> => {
  lines.length = 0;
  await runWithForeignPrograms("arm64", ["sh", "-c", script], {
    signal,
    onLine: (line) => void lines.push(line),
  });
  return lines;
};

const registered = (): readonly string[] =>
  existsSync("/proc/sys/fs/binfmt_misc") ? readdirSync("/proc/sys/fs/binfmt_misc").sort() : [];

test("a program for arm64 runs there, as root with all user ids, and this machine is as it was", async () => {
  const before = registered();
  expect(await run("arch-test arm64; id -u; xargs </proc/self/uid_map")).toEqual([
    "arm64: ok",
    "0",
    "0 0 4294967295",
  ]);
  await run(`touch ${scratch}/one && chown 1234:5678 ${scratch}/one`);
  expect(execFileSync("stat", ["-c", "%u:%g", join(scratch, "one")], { encoding: "utf8" })).toBe(
    "1234:5678\n",
  );
  expect(registered()).toEqual(before);
});

test("a failure is told with the exit code and the last words", async () => {
  await expect(run("echo so it is >&2; exit 7")).rejects.toThrow(/exit code 7\nso it is$/);
});

/** Whether a process runs whose command line has these words. */
const runs = (words: string): boolean =>
  readdirSync("/proc").some((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").join(" ").startsWith(words);
    } catch {
      return false;
    }
  });

test("what it started ends with it: when it is given up, and when the process that asked for it is killed", async () => {
  const wait = (seconds: number): string => `touch ${scratch}/begun; exec sleep ${String(seconds)}`;
  const begun = (): boolean => existsSync(join(scratch, "begun"));

  const giveUp = new AbortController();
  const running = run(wait(98_001), giveUp.signal);
  await until(scratch, begun);
  giveUp.abort();
  await expect(running).rejects.toThrow();
  await gone("sleep 98001");

  rmSync(join(scratch, "begun"));
  const program = join(scratch, "asks.ts");
  const module = join(import.meta.dirname, "../../testbed/foreign-programs.ts");
  writeFileSync(
    program,
    `import { runWithForeignPrograms } from ${JSON.stringify(module)};
await runWithForeignPrograms("arm64", ["sh", "-c", ${JSON.stringify(wait(98_002))}], { onLine: () => {} });`,
  );
  const asker = await spawnBound(process.execPath, ["--disable-warning=ExperimentalWarning", program]);
  await until(scratch, begun);
  await expect.poll(() => runs("sleep 98002"), { timeout: 10_000 }).toBe(true);
  await asker.kill("SIGKILL");
  await gone("sleep 98002");
});

/** The kernel ends them at once; seeing it takes a look or two. */
const gone = (words: string): Promise<void> =>
  expect.poll(() => runs(words), { timeout: 10_000 }).toBe(false);

test("files are added to the file system on a disk, and none is replaced", async () => {
  const disk = join(scratch, "disk.raw");
  const partition = { number: 2, offset: 1024 * 1024, size: 8 * 1024 * 1024 };
  execFileSync("truncate", ["-s", "16M", disk]);
  execFileSync("mkfs.ext4", ["-q", "-F", "-E", `offset=${String(partition.offset)}`, disk, "8192k"]);
  const folder = join(scratch, "files");
  execFileSync("sh", [
    "-c",
    `mkdir -p "${folder}/usr/lib" && echo one >"${folder}/usr/lib/one" && echo two >"${folder}/two" && chmod 700 "${folder}/two"`,
  ]);
  await addFiles(disk, partition, folder);
  const debugfs = (request: string): string =>
    execFileSync("debugfs", ["-R", request, `${disk}?offset=${String(partition.offset)}`], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  expect(debugfs("cat /usr/lib/one")).toBe("one\n");
  expect(debugfs("stat /usr/lib/one")).toMatch(/Mode: +0644[^]*User: +0 +Group: +0/);
  expect(debugfs("stat /two")).toMatch(/Mode: +0755/);
  await expect(addFiles(disk, partition, folder)).rejects.toThrow("on the disk already");
});
