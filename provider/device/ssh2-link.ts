import type { Socket } from "node:net";
import { StringDecoder } from "node:string_decoder";
import type { Client, ClientChannel } from "ssh2";
import { cancelled, DeviceError, type DeviceErrorDetails } from "./errors.ts";
import { ChannelRefused, LostBefore } from "./nothing-ran.ts";
import type { ExecOptions, ExecResult, Link } from "./transport.ts";

/** More than this on either output of one command is a fault, not an answer; without a bound one device could exhaust the provider. */
const maxOutputBytes = 64 * 1024 * 1024;

/** How long a connection gets to say goodbye. */
const closeGraceMs = 300;

/** Collects one output as UTF-8; a character may be cut in two between pieces. */
class Output {
  readonly #decoder = new StringDecoder("utf8");
  readonly #pieces: string[] = [];
  #bytes = 0;

  add(chunk: Buffer): string {
    this.#bytes += chunk.length;
    const text = this.#decoder.write(chunk);
    this.#pieces.push(text);
    return text;
  }

  get tooMuch(): boolean {
    return this.#bytes > maxOutputBytes;
  }

  end(): string {
    return this.#pieces.join("") + this.#decoder.end();
  }
}

/** Sends pieces one by one, the next when the device has taken enough of those before. Ends early, without a word, when the channel does. */
async function pump(channel: ClientChannel, first: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  const line = { closed: false, resume: (): void => undefined };
  channel.once("close", () => {
    line.closed = true;
    line.resume();
  });
  channel.on("drain", () => line.resume());
  channel.write(first);
  for await (const piece of pieces) {
    // A closed channel takes nothing and never drains.
    if (line.closed) return;
    const drained = new Promise<void>((resolve) => (line.resume = resolve));
    if (!channel.write(piece)) await drained;
  }
  channel.end();
}

/** One authenticated ssh2 connection. */
export class Ssh2Link implements Link {
  readonly #client: Client;
  readonly #socket: Socket;
  readonly #node: string;
  #open = true;
  /** Why the connection went away, when it said so. */
  #fault: Error | undefined;

  constructor(client: Client, socket: Socket, node: string) {
    this.#client = client;
    this.#socket = socket;
    this.#node = node;
    client.on("error", (error: Error) => {
      this.#fault ??= error;
      this.#open = false;
    });
    client.on("end", () => (this.#open = false));
    client.on("close", () => (this.#open = false));
  }

  get open(): boolean {
    return this.#open;
  }

  get #why(): Partial<DeviceErrorDetails> {
    return this.#fault === undefined ? {} : { originalMessage: this.#fault.message, cause: this.#fault };
  }

  #lostBefore(): DeviceError {
    return new LostBefore(this.#node, this.#why);
  }

  #lostWithin(): DeviceError {
    return new DeviceError("unreachable", this.#node, "the connection went away before the command ended", {
      ...this.#why,
      hint: "nothing is known of the device's state now; run the operation again once it is reachable",
    });
  }

  exec(command: string, options: ExecOptions): Promise<ExecResult> {
    const { signal, timeoutMs } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(cancelled(this.#node));
        return;
      }
      if (!this.#open) {
        reject(this.#lostBefore());
        return;
      }

      let channel: ClientChannel | undefined;
      let settled = false;
      const settle = (outcome: () => void): void => {
        if (settled) return;
        settled = true;
        clearTimeout(deadline);
        signal?.removeEventListener("abort", onAbort);
        outcome();
      };
      const giveUp = (error: Error): void => {
        settle(() => {
          reject(error);
          if (channel === undefined) {
            // It did not even open a channel: the connection is dead, and keepalive has yet to notice.
            this.#open = false;
            this.#socket.destroy();
          } else {
            channel.close();
          }
        });
      };
      const deadline = setTimeout(() => {
        giveUp(
          new DeviceError("timedOut", this.#node, `no answer within ${timeoutMs / 1000} s`, {
            hint: "the device may hang or be overloaded, or the network drops packets",
          }),
        );
      }, timeoutMs);
      const onAbort = (): void => giveUp(cancelled(this.#node));
      signal?.addEventListener("abort", onAbort, { once: true });

      const begin = (
        error: (Error & { reason?: unknown }) | undefined,
        opened: ClientChannel | undefined,
      ): void => {
        if (error !== undefined || opened === undefined) {
          settle(() => reject(this.#notOpened(error)));
          return;
        }
        channel = opened;
        if (settled) {
          channel.close();
          return;
        }
        this.#collect(channel, options, giveUp, (result) =>
          settle(() => (result instanceof Error ? reject(result) : resolve(result))),
        );
        if (options.outputProlongs === true) channel.on("data", () => deadline.refresh());
        if (options.content === undefined) {
          channel.end(options.stdin ?? "");
        } else {
          pump(channel, options.stdin ?? "", options.content()).catch((fault: unknown) =>
            giveUp(fault as Error),
          );
        }
      };
      try {
        this.#client.exec(command, begin);
      } catch (error) {
        this.#open = false;
        this.#fault ??= error as Error;
        settle(() => reject(this.#lostBefore()));
      }
    });
  }

  #notOpened(error: (Error & { reason?: unknown }) | undefined): DeviceError {
    if (error?.reason !== undefined) {
      return new ChannelRefused(this.#node, { originalMessage: error.message, cause: error });
    }
    if (this.#open && error?.message === "Unable to exec") {
      return new DeviceError("denied", this.#node, "sshd refused to run a command", {
        hint: "check the login shell and any ForceCommand or `command=` restriction of this user and key",
      });
    }
    return this.#lostBefore();
  }

  #collect(
    channel: ClientChannel,
    options: ExecOptions,
    giveUp: (error: Error) => void,
    finish: (result: ExecResult | DeviceError) => void,
  ): void {
    const stdout = new Output();
    const stderr = new Output();
    let exit: { readonly code: number | undefined; readonly signal?: string } | undefined;
    const receive = (output: Output, chunk: Buffer): string => {
      const text = output.add(chunk);
      if (output.tooMuch) {
        giveUp(
          new DeviceError(
            "unknown",
            this.#node,
            `the device sent more than ${maxOutputBytes / 1024 / 1024} MiB for one command`,
            {
              hint: "its answer was not read; something there prints without end: see what a login as this user and `sudo sh` print",
            },
          ),
        );
      }
      return text;
    };
    channel.on("data", (chunk: Buffer) => {
      const text = receive(stdout, chunk);
      if (text !== "") options.onStdout?.(text);
    });
    channel.stderr.on("data", (chunk: Buffer) => receive(stderr, chunk));
    channel.on("exit", (code: number | null, signal?: string) => {
      exit = code === null ? { code: undefined, signal: (signal ?? "").replace(/^SIG/, "") } : { code };
    });
    // An `error` on a channel would otherwise be thrown at the process; the `close` that follows tells the outcome.
    channel.on("error", () => undefined);
    const ended = (stream: NodeJS.ReadableStream & { readableEnded?: boolean }): Promise<void> =>
      new Promise((resolve) => {
        if (stream.readableEnded === true) resolve();
        else stream.once("end", resolve).once("close", resolve);
      });
    const outputs = Promise.all([ended(channel), ended(channel.stderr)]);
    channel.once("close", () => {
      void outputs.then(() => {
        finish(
          exit === undefined ? this.#lostWithin() : { ...exit, stdout: stdout.end(), stderr: stderr.end() },
        );
      });
    });
  }

  async close(): Promise<void> {
    this.#open = false;
    if (this.#socket.closed) return;
    await new Promise<void>((resolve) => {
      const force = setTimeout(() => this.#socket.destroy(), closeGraceMs);
      this.#socket.once("close", () => {
        clearTimeout(force);
        resolve();
      });
      this.#client.end();
    });
  }
}
