import { readdirSync, readFileSync } from "node:fs";
import type { PulumiWorkspace } from "../cli/pulumi.ts";

/** What one run of the Pulumi CLI cost this machine. */
export interface EngineRun {
  readonly seconds: number;
  /** User and system time of the CLI and of all that it started: program, language host, provider. What devices do is not in it. */
  readonly cpuSeconds: number;
  /** The highest `VmHWM` (proc(5)) of a provider process, in MB; `undefined` when none ran. Up to 20 ms before its end are not seen. */
  readonly providerPeakMb: number | undefined;
}

const sampleEveryMs = 20;
/** No run of a benchmark takes longer, unless something hangs. */
const deadlineMs = 120_000;
/** Clock ticks a second in /proc (USER_HZ): 100 on every architecture that Debian has. */
const ticksPerSecond = 100;

/**
 * Runs `pulumi WORDS`.
 * @throws Error with all output when it does not end well.
 */
export async function runEngine(
  workspace: PulumiWorkspace,
  words: readonly string[],
  signal: AbortSignal,
): Promise<EngineRun> {
  let timer: NodeJS.Timeout | undefined;
  let peakKb = 0;
  const cpuBefore = childrenCpuSeconds();
  try {
    const result = await workspace.run(words, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(deadlineMs)]),
      onStart: (pid) => {
        timer = setInterval(() => {
          peakKb = Math.max(peakKb, ...childrenOf(pid).filter(isProvider).map(peakKbOf));
        }, sampleEveryMs);
      },
    });
    if (result.code !== 0)
      throw new Error(
        `pulumi ${words.join(" ")} ended with ${result.code}:\n${result.stdout}${result.stderr}`,
      );
    return {
      seconds: result.milliseconds / 1000,
      cpuSeconds: childrenCpuSeconds() - cpuBefore,
      providerPeakMb: peakKb === 0 ? undefined : peakKb / 1024,
    };
  } finally {
    clearInterval(timer);
  }
}

/** Time of all children of this process that have ended, and of theirs (`cutime` and `cstime` in /proc/self/stat). */
function childrenCpuSeconds(): number {
  const stat = readFileSync("/proc/self/stat", "utf8");
  // The second field is the command in parentheses, which may hold spaces; the next is the third.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[16 - 3]) + Number(fields[17 - 3])) / ticksPerSecond;
}

/** A process's children belong to the threads that started them. */
function childrenOf(pid: number): readonly number[] {
  return entries(`/proc/${pid}/task`)
    .flatMap((thread) => text(`/proc/${pid}/task/${thread}/children`).split(" "))
    .filter((child) => child !== "")
    .map(Number);
}

const isProvider = (pid: number): boolean =>
  text(`/proc/${pid}/cmdline`)
    .split("\0")
    .some((word) => word.endsWith("/provider/main.ts"));

const peakKbOf = (pid: number): number =>
  Number(/VmHWM:\s*(\d+)/.exec(text(`/proc/${pid}/status`))?.[1] ?? 0);

function text(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // It ended while we looked.
    return "";
  }
}

function entries(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
