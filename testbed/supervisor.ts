import { fork, type ChildProcess } from "node:child_process";
import { UserError } from "../cli/errors.ts";
import { VirtualPi, type StartOptions } from "./virtual-pi.ts";

/**
 * A node that outlives the command that started it: a process of its own in the background holds it, boots it again
 * when it resets itself, and ends it on SIGTERM. Started as `node supervisor.ts OPTIONS`, with a channel to its parent.
 */
type Message =
  | { readonly kind: "progress"; readonly text: string }
  | { readonly kind: "ready" }
  | { readonly kind: "failed"; readonly text: string; readonly hint?: string; readonly isUserError: boolean };

/** What the command line of a supervisor begins with: `pi down` ends nothing else. */
export const supervisorFile = import.meta.filename;

/**
 * Starts a node in the background; returns once it answers.
 * @throws UserError as `VirtualPi.start` does
 */
export async function startSupervised(
  options: Pick<StartOptions, "name" | "network" | "from">,
  onProgress: (message: string) => void,
  signal?: AbortSignal,
): Promise<void> {
  const child = fork(supervisorFile, [JSON.stringify(options)], {
    detached: true,
    stdio: ["ignore", "ignore", "ignore", "ipc"],
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
  // Before it is ready it is ours to end; it takes what it has begun with it.
  const abort = (): void => void child.kill("SIGTERM");
  signal?.addEventListener("abort", abort, { once: true });
  try {
    await readyOrFailed(child, onProgress);
    signal?.throwIfAborted();
  } finally {
    signal?.removeEventListener("abort", abort);
    if (child.connected) child.disconnect();
    child.unref();
  }
}

function readyOrFailed(child: ChildProcess, onProgress: (message: string) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    child.on("message", (message: Message) => {
      if (message.kind === "progress") onProgress(message.text);
      else if (message.kind === "ready") resolve();
      else {
        reject(
          message.isUserError
            ? new UserError(message.text, message.hint === undefined ? {} : { hint: message.hint })
            : new Error(message.text),
        );
      }
    });
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      reject(new Error(`the node's supervisor ended (${signal ?? String(code)}) before the node was ready`));
    });
  });
}

async function supervise(options: StartOptions): Promise<void> {
  const tell = (message: Message): void => {
    // The parent may be gone: a node that is coming up then comes up all the same.
    if (process.connected) process.send?.(message, () => undefined);
  };
  const ending = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    process.once(signal, () => {
      ending.abort(new Error(signal));
    });
  }
  try {
    const pi = await VirtualPi.start({
      ...options,
      signal: ending.signal,
      onProgress: (text) => {
        tell({ kind: "progress", text });
      },
      onOff: () => {
        ending.abort(new Error("the node went off"));
      },
    });
    tell({ kind: "ready" });
    await pi.stopped;
  } catch (error) {
    tell({
      kind: "failed",
      text: error instanceof Error ? error.message : String(error),
      isUserError: error instanceof UserError,
      ...(error instanceof UserError && error.hint !== undefined && { hint: error.hint }),
    });
    process.exitCode = 1;
  }
  if (process.connected) process.disconnect();
}

if (process.argv[1] === supervisorFile) {
  await supervise(JSON.parse(process.argv[2] ?? "{}") as StartOptions);
}
