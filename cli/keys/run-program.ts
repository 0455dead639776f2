import { spawn } from "node:child_process";
import { buffer } from "node:stream/consumers";
import { KeyUnusable } from "../../provider/trust/signer.ts";

/** A person may have to find a token, touch it, and type a PIN. */
const patienceMs = 5 * 60_000;
/** More than any RSA key gives. */
const longestOutput = 64 * 1024;

export interface ProgramOptions {
  /** Sent on standard input, then end of file. @default the terminal's, for a program that asks */
  readonly stdin?: Uint8Array;
  /** What it writes to standard output: the result, or talk for the user, who sees it on standard error. @default the result */
  readonly stdout?: "result" | "talk";
  /** Added to the environment of this one program. */
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
}

/**
 * Runs a program that holds a private key. Its standard error is the user's: it asks there, and says what went wrong.
 * @param name How it is named in messages.
 * @returns its standard output, when that is the result
 * @throws KeyUnusable
 */
export async function runProgram(
  name: string,
  [program, ...args]: readonly [string, ...string[]],
  { stdin, stdout = "result", env, timeoutMs = patienceMs }: ProgramOptions = {},
): Promise<Buffer> {
  const child = spawn(program, args, {
    stdio: [stdin === undefined ? "inherit" : "pipe", stdout === "result" ? "pipe" : 2, "inherit"],
    env: { ...process.env, ...env },
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  const ended = new Promise<string | undefined>((resolve) => {
    child.once("error", (error: NodeJS.ErrnoException) =>
      resolve(
        error.code === "ENOENT"
          ? "there is no such program"
          : `it can't be run: ${error.code ?? error.message}`,
      ),
    );
    child.once("close", (code, signal) => resolve(howItEnded(code, signal, timeoutMs)));
  });
  // A program that does not read all of it may have its reasons; what counts is how it ends.
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(stdin);
  const [output, fault] = await Promise.all([
    child.stdout === null ? Buffer.alloc(0) : buffer(child.stdout),
    ended,
  ]);
  if (fault !== undefined) throw new KeyUnusable(`${name}: ${fault}`);
  if (output.length > longestOutput) throw new KeyUnusable(`${name}: ${output.length} bytes came back`);
  return output;
}

function howItEnded(code: number | null, signal: string | null, timeoutMs: number): string | undefined {
  if (code === 0) return undefined;
  if (signal === "SIGKILL") return `it did not end within ${timeoutMs / 1000} s, or was killed`;
  return signal === null ? `it ended with exit status ${String(code)}` : `it ended by ${signal}`;
}
