import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { UserError } from "../../cli/errors.ts";
import type { CallRecord } from "../../cli/seccomp/record-file.ts";
import { register } from "../../cli/seccomp.ts";
import { parseFilter } from "../../provider/resources/seccomp-profile-filter.ts";

/* `edgeseal seccomp record` with real small programs under a real strace. */

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-seccomp-"));
  writeFileSync(join(folder, "text"), "some text\n");
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

const inFolder = (name: string): string => join(folder, name);

/** Standard output of the command, and its status; what the program under strace writes goes to standard error. */
async function record(...args: readonly string[]): Promise<{ readonly code: number; readonly said: string }> {
  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  const before = process.exitCode;
  process.exitCode = 0;
  try {
    const program = new Command("edgeseal");
    register(program);
    await program.parseAsync(["seccomp", "record", ...args], { from: "user" });
    return { code: process.exitCode, said: log.mock.calls.flat().join("\n") };
  } finally {
    process.exitCode = before;
    log.mockRestore();
  }
}

test("a program that only reads a file makes no call that llama-server's profile refuses", async () => {
  const { code, said } = await record("--json", "--", "/bin/true", inFolder("text"));
  const found = JSON.parse(said) as CallRecord & { comparison: { refused: string[]; unseen: string[] } };
  expect(found.times).toMatchObject({ execve: 1, openat: expect.any(Number) as number });
  // The arguments that the profile judges, and zeros for the others.
  expect(found.arguments["openat"]).toContain("0 0 0x80000");
  expect(found.comparison.refused).toEqual([]);
  expect(found.comparison.unseen).toContain("accept4");
  expect(code).toBe(0);
});

test("one that makes a folder, and a file, does: with the call, its arguments, and the mend", async () => {
  const script = `mkdir ${inFolder("made")} && echo x >${inFolder("written")}`;
  const { code, said } = await record("--", "/bin/sh", "-c", script);
  expect(readFileSync(inFolder("written"), "utf8")).toBe("x\n");
  expect(said).toMatch(/^seen, and refused by the profile:\n( {2}.*\n)* {2}mkdir(at)?\n/m);
  // O_WRONLY, O_CREAT and O_TRUNC.
  expect(said).toMatch(/^ {2}openat\(0, 0, 0x241\)$/m);
  expect(said).toMatch(/additionalSyscalls: \[.*mkdir.*\]/);
  expect(code).toBe(1);
});

test("several runs are one record, and a profile can be written of it", async () => {
  const calls = inFolder("calls.json");
  await record("--merge", calls, "--", "/bin/true");
  await record(
    ...["--merge", calls, "--write-profile", inFolder("profile.json")],
    ...["--", "/bin/mkdir", inFolder("made")],
  );
  const merged = JSON.parse(readFileSync(calls, "utf8")) as CallRecord;
  expect(merged.commands).toEqual(["/bin/true", `/bin/mkdir ${inFolder("made")}`]);
  expect(merged.times["execve"]).toBe(2);
  const written = parseFilter(readFileSync(inFolder("profile.json"), "utf8"), merged.architecture);
  expect([...(written?.calls.keys() ?? [])].sort()).toEqual(Object.keys(merged.times).sort());
  expect(written?.otherwise).toBe("EPERM");
});

test("a file that is no record is refused before anything runs", async () => {
  await expect(record("--merge", inFolder("text"), "--", "/bin/rm", inFolder("text"))).rejects.toThrow(
    /text is no record of system calls/,
  );
  expect(readFileSync(inFolder("text"), "utf8")).toBe("some text\n");
});

test("without strace it says what to install", async () => {
  vi.stubEnv("PATH", folder);
  const fault = await record("--", "/bin/true").catch((error: unknown) => error);
  expect(fault).toBeInstanceOf(UserError);
  expect(fault).toMatchObject({ message: "strace is not installed", hint: "sudo apt-get install strace" });
});
