import { createWriteStream, type WriteStream } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";

/**
 * The node's serial console. We listen and QEMU connects to us, so output arrives as it is written, with nothing
 * polled; it is kept in memory and in `logPath`, over all boots of the node.
 */
export class SerialConsole {
  readonly logPath: string;
  readonly #server: Server;
  readonly #log: WriteStream;
  readonly #watchers = new Set<() => void>();
  #text = "";
  #socket: Socket | undefined;
  /** The connection of the boot under way, or of the last one. */
  #ended: Promise<void> = Promise.resolve();

  private constructor(server: Server, logPath: string) {
    this.#server = server;
    this.logPath = logPath;
    this.#log = createWriteStream(logPath, { flags: "a", mode: 0o600 });
    server.on("connection", (socket) => {
      this.#socket = socket;
      socket.setEncoding("utf8");
      this.#ended = new Promise((resolve) => socket.once("close", () => resolve()));
      socket.on("data", (chunk: string) => {
        this.#append(chunk);
      });
      // QEMU's end takes the connection with it; the next boot brings another.
      socket.on("error", () => undefined);
    });
  }

  static async listen(socketPath: string, logPath: string): Promise<SerialConsole> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(socketPath, resolve);
    });
    return new SerialConsole(server, logPath);
  }

  /** Everything since the node was made. */
  text(): string {
    return this.#text;
  }

  /** Where the log ends now: give it to `waitFor` to look only at what comes later. In characters. */
  position(): number {
    return this.#text.length;
  }

  /**
   * Types into the console, as somebody with a keyboard at the node does.
   * @param text with its line ends
   * @throws Error when the node is off
   */
  type(text: string): void {
    if (this.#socket?.writable !== true) throw new Error("nothing is at the other end of the serial console");
    this.#socket.write(text);
  }

  /**
   * Waits for a match.
   * @param options.from position to search from; @default 0, so what was already written counts
   * @param options.timeoutMs @default 120 000, three times an emulated boot
   * @throws Error with the end of the log when the time is over, or the signal's reason
   */
  async waitFor(
    pattern: RegExp,
    options: {
      readonly from?: number;
      readonly timeoutMs?: number;
      readonly signal?: AbortSignal | undefined;
    } = {},
  ): Promise<RegExpExecArray> {
    const { from = 0, timeoutMs = 120_000, signal } = options;
    signal?.throwIfAborted();
    const found = pattern.exec(this.#text.slice(from));
    if (found) return found;
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void): void => {
        clearTimeout(timer);
        this.#watchers.delete(look);
        signal?.removeEventListener("abort", abort);
        settle();
      };
      const look = (): void => {
        const match = pattern.exec(this.#text.slice(from));
        if (match) {
          finish(() => {
            resolve(match);
          });
        }
      };
      const abort = (): void => {
        finish(() => {
          reject(signal?.reason instanceof Error ? signal.reason : new Error("aborted"));
        });
      };
      const timer = setTimeout(() => {
        finish(() => {
          reject(
            new Error(
              `the console did not show ${String(pattern)} within ${String(timeoutMs / 1000)} s; it ended with:\n${this.#text.slice(-2000)}`,
            ),
          );
        });
      }, timeoutMs);
      this.#watchers.add(look);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** Settles once all is read that a machine wrote that is off now. */
  drained(): Promise<void> {
    return this.#ended;
  }

  /** Returns once the log file is complete. */
  async close(): Promise<void> {
    this.#server.close();
    await new Promise<void>((resolve) => this.#log.end(resolve));
  }

  #append(chunk: string): void {
    this.#text += chunk;
    this.#log.write(chunk);
    for (const look of [...this.#watchers]) look();
  }
}
