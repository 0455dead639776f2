import type { Connection } from "../connection.ts";

/** What one remote command gave. A command that ran and failed is a result, not an error. */
export interface ExecResult {
  /** Exit status; `undefined` when the command was ended by a signal. */
  readonly code: number | undefined;
  /** Signal name without `SIG`, when one ended the command. */
  readonly signal?: string;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecOptions {
  /** Sent on standard input, then end of file. The only way by which a secret may travel. */
  readonly stdin?: string;
  /** What follows on standard input, before end of file: taken piece by piece, as fast as the device reads. What it throws ends the command, and is thrown. */
  readonly content?: () => AsyncIterable<Uint8Array>;
  /** Deadline for the whole command, in milliseconds. On expiry the channel is closed and `timedOut` is thrown. */
  readonly timeoutMs: number;
  /** Whether each piece of output sets the deadline anew: for what takes long and says that it goes on. Default false. */
  readonly outputProlongs?: boolean;
  readonly signal?: AbortSignal;
  /** Called with each piece of standard output as it arrives (progress markers of a plan). */
  readonly onStdout?: (chunk: string) => void;
}

/** One authenticated connection to a device. */
export interface Link {
  /**
   * Runs one command.
   * @throws DeviceError `unreachable` when the connection goes away before the exit status, `timedOut`, `cancelled`.
   */
  exec(command: string, options: ExecOptions): Promise<ExecResult>;
  /** Closes the connection; idempotent. Resolves when the socket is closed. */
  close(): Promise<void>;
  /** Whether it can still carry an `exec`. */
  readonly open: boolean;
}

/** A way to reach a device. Holds no state of its own; `Session` decides when to connect. */
export interface Transport {
  /**
   * Connects, verifies the pinned host key before anything is sent, and authenticates.
   * @throws DeviceError `unreachable`, `hostKeyMismatch`, `denied`, `timedOut`, `cancelled`.
   */
  connect(
    connection: Connection,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<Link>;
}
