import { spawn } from "node:child_process";

/** A person may have to unlock a vault, or touch a token. */
const patienceMs = 120_000;
/** More than any private key has. */
const longestKey = 64 * 1024;

/** What came of it. Nothing that the command said is in a fault: either of its outputs could hold a piece of the key. */
export type Answer = { readonly printed: string } | { readonly fault: string };

/** Runs a command until it ends, says too much, takes too long, or is not wanted any more. */
function run(command: string, unwanted: AbortSignal): Promise<Answer> {
  return new Promise((resolve) => {
    // A session of its own: what the shell started is in one group, and ends with it.
    const child = spawn("/bin/sh", ["-c", command], { stdio: ["ignore", "pipe", "ignore"], detached: true });
    const chunks: Buffer[] = [];
    let length = 0;
    const endGroup = (): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      } catch {
        // Nothing of it is left.
      }
    };
    const settle = (answer: Answer): void => {
      clearTimeout(deadline);
      unwanted.removeEventListener("abort", stop);
      endGroup();
      // What left the group may still hold it open.
      child.stdout.destroy();
      resolve(answer);
    };
    const stop = (): void => settle({ fault: "was cancelled" });
    const deadline = setTimeout(
      () => settle({ fault: `did not end within ${patienceMs / 1000} s` }),
      patienceMs,
    );
    unwanted.addEventListener("abort", stop, { once: true });
    child.stdout.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      length += chunk.length;
      if (length > longestKey)
        settle({ fault: `printed more than ${longestKey} bytes, which is no private key` });
    });
    child.once("error", ({ code, message }: NodeJS.ErrnoException) =>
      settle({ fault: `can't be run: ${code ?? message}` }),
    );
    // What it left in the background would keep its output open.
    child.once("exit", endGroup);
    child.once("close", (code: number | null) => {
      if (code !== 0) settle({ fault: code === null ? "was killed" : `ended with exit status ${code}` });
      else if (length === 0) settle({ fault: "printed nothing" });
      else settle({ printed: Buffer.concat(chunks).toString("utf8") });
    });
  });
}

interface Asking {
  readonly answer: Promise<Answer>;
  readonly unwanted: AbortController;
  waiting: number;
}

/**
 * Commands that print a private key. Each is asked once, whatever came of it and however many nodes and connections it is for: it may ask a person. One that nobody
 * waits for any more is ended, and asked again by the next who needs it.
 */
export class IdentityCommands {
  readonly #asked = new Map<string, Asking>();

  /** @returns `undefined` when the signal came first */
  async ask(command: string, signal: AbortSignal | undefined): Promise<Answer | undefined> {
    const asking = this.#asking(command);
    asking.waiting++;
    let leave: () => void = () => undefined;
    const left = new Promise<undefined>((resolve) => (leave = () => resolve(undefined)));
    signal?.addEventListener("abort", leave, { once: true });
    if (signal?.aborted === true) leave();
    try {
      return await Promise.race([left, asking.answer]);
    } finally {
      signal?.removeEventListener("abort", leave);
      asking.waiting--;
      if (signal?.aborted === true && asking.waiting === 0) {
        asking.unwanted.abort();
        if ("fault" in (await asking.answer)) this.#asked.delete(command);
      }
    }
  }

  #asking(command: string): Asking {
    const known = this.#asked.get(command);
    if (known !== undefined) return known;
    const unwanted = new AbortController();
    const asking = { answer: run(command, unwanted.signal), unwanted, waiting: 0 };
    this.#asked.set(command, asking);
    return asking;
  }
}
