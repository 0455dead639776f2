import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { once } from "node:events";

/** How a process ended: by itself with `code`, or by `signal`. */
export interface ProcessEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * A child process that cannot outlive this one, however this one ends: the kernel kills it when its
 * parent dies (PR_SET_PDEATHSIG, prctl(2)), even when that parent was killed with SIGKILL and no handler ran.
 */
export interface BoundProcess {
  readonly child: ChildProcess;
  readonly pid: number;
  /** Settles when the process has ended; never rejects. */
  readonly ended: Promise<ProcessEnd>;
  /** The last 4 KiB that it wrote to standard error, for messages. */
  stderr(): string;
  /** Sends a signal, if it still runs, and waits for the end. */
  kill(signal?: NodeJS.Signals): Promise<ProcessEnd>;
}

/** @throws Error with `code: "ENOENT"` when `setpriv` (util-linux) is missing; a missing `command` shows as exit code 127. */
export async function spawnBound(
  command: string,
  args: readonly string[],
  options: {
    readonly cwd?: string;
    readonly stdio?: StdioOptions;
    readonly env?: NodeJS.ProcessEnv;
  } = {},
): Promise<BoundProcess> {
  const child = spawn("setpriv", ["--pdeathsig", "KILL", "--", command, ...args], {
    stdio: options.stdio ?? ["ignore", "ignore", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  const tail = keepTail(child);
  const ended = new Promise<ProcessEnd>((resolve) => {
    child.once("close", (code, signal) => {
      resolve({ code, signal });
    });
  });
  await once(child, "spawn");
  // A failed signal or write is not a reason to bring the whole program down; the end is seen through `ended`.
  child.on("error", () => undefined);
  return {
    child,
    pid: child.pid as number,
    ended,
    stderr: () => tail.text,
    kill: (signal = "SIGKILL") => {
      child.kill(signal);
      return ended;
    },
  };
}

function keepTail(child: ChildProcess): { readonly text: string } {
  const tail = { text: "" };
  child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
    tail.text = (tail.text + chunk).slice(-4096);
  });
  return tail;
}

/**
 * Runs a program to its end.
 * @param args passed as they are: there is no shell
 * @returns what it wrote to standard output
 * @throws Error with the command, its exit code and its last words
 */
export async function run(
  command: string,
  args: readonly string[],
  options: {
    readonly cwd?: string;
    readonly signal?: AbortSignal | undefined;
    readonly env?: NodeJS.ProcessEnv;
    /** Exit codes that are no failure. @default [0] */
    readonly okCodes?: readonly number[];
    /** Called with each line of standard error. */
    readonly onLine?: (line: string) => void;
  } = {},
): Promise<string> {
  options.signal?.throwIfAborted();
  const bound = await spawnBound(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  bound.child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
    stdout += chunk;
  });
  if (options.onLine) forEachLine(bound.child, options.onLine);
  const abort = (): void => void bound.kill();
  options.signal?.addEventListener("abort", abort, { once: true });
  const { code, signal } = await bound.ended;
  options.signal?.removeEventListener("abort", abort);
  options.signal?.throwIfAborted();
  if (code === null || !(options.okCodes ?? [0]).includes(code)) {
    const how = signal === null ? `exit code ${String(code)}` : `signal ${signal}`;
    throw new Error(`${command} ${args.join(" ")}: ${how}\n${bound.stderr().trim()}`);
  }
  return stdout;
}

function forEachLine(child: ChildProcess, onLine: (line: string) => void): void {
  let rest = "";
  child.stderr?.on("data", (chunk: string) => {
    const lines = (rest + chunk).split(/[\r\n]+/);
    rest = lines.pop() ?? "";
    for (const line of lines) if (line !== "") onLine(line);
  });
}
