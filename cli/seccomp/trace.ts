import { spawn } from "node:child_process";
import { createReadStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { callGroups } from "../../provider/resources/seccomp-profile-variants.ts";
import { UserError } from "../errors.ts";
import type { Calls } from "./record-file.ts";

/** Arguments that profiles have conditions on, by call. Others are left out of a record: addresses, which differ from run to run. */
const judgedArguments: ReadonlyMap<string, ReadonlySet<number>> = new Map(
  Object.values(callGroups)
    .flat()
    .flatMap(({ calls }) => calls)
    .filter(({ when }) => when !== undefined)
    .map(({ call, when = [] }) => [call, new Set(when.flat().map(({ argument }) => argument))]),
);

/** What a trace is made of, for the line of one call: `17 openat(0xffffff9c, 0x7f..., 0x80000) = 0x3`, or its beginning. */
const line = /^(?:\d+ +)?([a-z_][a-z0-9_]*)\(([^)<]*)/;

/** Counts the calls in the lines of `strace -f -e raw=all`. */
export async function callsIn(lines: AsyncIterable<string> | Iterable<string>): Promise<Calls> {
  const times = new Map<string, number>();
  const seen = new Map<string, Set<string>>();
  for await (const text of lines) {
    const [, call, rest = ""] = line.exec(text) ?? [];
    if (call === undefined) continue;
    times.set(call, (times.get(call) ?? 0) + 1);
    const judged = judgedArguments.get(call);
    if (judged === undefined) continue;
    const args = rest.split(",").map((each) => each.trim());
    const kept = args
      .slice(0, Math.max(...judged) + 1)
      .map((each, place) => (judged.has(place) ? each : "0"));
    seen.set(call, (seen.get(call) ?? new Set()).add(kept.join(" ")));
  }
  const byName = <T>(map: ReadonlyMap<string, T>) => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    times: Object.fromEntries(byName(times)),
    arguments: Object.fromEntries(byName(seen).map(([call, all]) => [call, [...all].sort()])),
  };
}

/**
 * Runs a program, and everything that it starts, under strace. Its input and output are the terminal's; an interrupt is its alone to answer.
 * @throws UserError where strace is not there or may not trace
 */
export async function trace(
  command: readonly string[],
): Promise<{ readonly calls: Calls; readonly end: string }> {
  const folder = await mkdtemp(join(tmpdir(), "edgeseal-record-"));
  const ignore = (): void => undefined;
  process.on("SIGINT", ignore);
  try {
    const output = join(folder, "trace");
    const end = await ended([
      "-f",
      "-qq",
      "-e",
      "raw=all",
      "-e",
      "signal=none",
      "-o",
      output,
      "--",
      ...command,
    ]);
    const calls = await callsIn(createInterface({ input: createReadStream(output) }));
    if (Object.keys(calls.times).length === 0)
      throw new UserError(`no system call of ${command[0] ?? ""} was seen (${end})`, {
        hint: "see what strace said above; in a container it needs CAP_SYS_PTRACE",
      });
    return { calls, end };
  } finally {
    process.off("SIGINT", ignore);
    await rm(folder, { recursive: true, force: true });
  }
}

async function ended(args: readonly string[]): Promise<string> {
  // Its own messages, and the program's output, go to standard error: standard output is the comparison.
  const strace = spawn("strace", args, { stdio: ["inherit", 2, "inherit"] });
  return new Promise((resolve, reject) => {
    strace.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        error.code === "ENOENT"
          ? new UserError("strace is not installed", { hint: "sudo apt-get install strace" })
          : error,
      ),
    );
    strace.once("close", (code, signal) =>
      resolve(signal === null ? `exit status ${String(code)}` : `ended by ${signal}`),
    );
  });
}
