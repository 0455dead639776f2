import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { run, spawnBound } from "../../../testbed/bound-process.ts";

const source = join(import.meta.dirname, "../../../testbed/bound-process.ts");

/** A parent that starts `sleep`, writes its process id, and waits; the sleeper keeps the parent's standard output open. */
function parentOf(startSleeper: string) {
  return spawn(process.execPath, ["--input-type=module", "--eval", startSleeper], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

async function sleeperOf(parent: ReturnType<typeof parentOf>): Promise<number> {
  const [chunk] = (await once(parent.stdout, "data")) as [Buffer];
  return Number(chunk.toString());
}

/** The process's state letter (proc_pid_stat(5)); Z while it is dead and its new parent has not asked for it yet. */
async function stateOf(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  return stat === undefined ? "gone" : stat.charAt(stat.lastIndexOf(")") + 2);
}

describe("a bound process", () => {
  test("dies with a parent that was killed outright", async () => {
    const parent = parentOf(`
      const { spawnBound } = await import(${JSON.stringify(source)});
      const { pid } = await spawnBound("sleep", ["600"], { stdio: ["ignore", "inherit", "inherit"] });
      process.stdout.write(String(pid));
      setInterval(() => {}, 1000);
    `);
    const pid = await sleeperOf(parent);
    parent.kill("SIGKILL");
    // The end of the stream: nobody has it open any more, the sleeper included.
    await once(parent, "close");
    expect(await stateOf(pid)).toMatch(/^(gone|Z)$/);
  });

  test("which an ordinary child does not", async () => {
    const parent = parentOf(`
      const { spawn } = await import("node:child_process");
      const { pid } = spawn("sleep", ["600"], { stdio: ["ignore", "inherit", "inherit"] });
      process.stdout.write(String(pid));
      setInterval(() => {}, 1000);
    `);
    const pid = await sleeperOf(parent);
    parent.kill("SIGKILL");
    await once(parent, "exit");
    expect(await stateOf(pid)).toMatch(/^[RS]$/);
    process.kill(pid, "SIGKILL");
    await once(parent, "close");
  });

  test("says how it ended", async () => {
    const sleeper = await spawnBound("sleep", ["600"]);
    expect(await sleeper.kill("SIGTERM")).toEqual({ code: null, signal: "SIGTERM" });
  });
});

describe("run", () => {
  test("passes arguments as they are, without a shell", async () => {
    expect(await run("printf", ["%s|", "$HOME", "a b", "`id`"])).toBe("$HOME|a b|`id`|");
  });

  test("throws with the command, its exit code and its last words", async () => {
    await expect(run("ls", ["/nowhere/at/all"])).rejects.toThrow(
      /^ls \/nowhere\/at\/all: exit code 2\nls: .*\/nowhere\/at\/all/,
    );
  });

  test("takes the exit codes that its caller calls good", async () => {
    expect(await run("grep", ["x", "/dev/null"], { okCodes: [0, 1] })).toBe("");
  });

  test("ends the program when it is aborted", async () => {
    const aborted = run("sleep", ["600"], { signal: AbortSignal.timeout(50) });
    await expect(aborted).rejects.toThrow(/timeout/i);
  });
});
