import type { ExecResult } from "./transport.ts";

export interface RunOptions {
  /**
   * Deadline, in milliseconds. The device itself ends the script (TERM, 5 s later KILL, to the whole process group) when it has passed, connection
   * or not; the caller gets `timedOut` soon after, also when the device does not answer any more.
   */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Called with each piece of standard output as it arrives (progress markers of a plan). */
  readonly onStdout?: (chunk: string) => void;
}

/** One device, reached by one connection that is opened when first needed and kept. */
export interface Session {
  /** The node's name in its site, for messages. */
  readonly node: string;
  /**
   * Runs one script as root in one exec on the current connection. The script travels on standard input; `/bin/sh` runs it with a clean
   * environment: `LC_ALL=C`, `PATH=/usr/sbin:/usr/bin:/sbin:/bin`, `HOME=/root`, `SSH_CONNECTION`, and nothing else.
   * @throws DeviceError `unreachable`, `hostKeyMismatch`, `denied`, `timedOut`, `cancelled`.
   */
  run(script: string, options: RunOptions): Promise<ExecResult>;
  /** The same on a new connection, which takes the old one's place once it carried the exec; the old one is closed then. */
  runOnNewConnection(script: string, options: RunOptions): Promise<ExecResult>;
  /** Closes every connection and ends what runs, with `cancelled`; idempotent. Later calls fail with `cancelled`. */
  close(): Promise<void>;
  /** What this session made so far. */
  readonly counts: { readonly connections: number; readonly execs: number };
}
