import type { Connection } from "../connection.ts";
import { newNonce } from "./batch.ts";
import { cancelled, DeviceError } from "./errors.ts";
import { ChannelRefused, LostBefore } from "./nothing-ran.ts";
import {
  killAfterSeconds,
  noDeadline,
  remoteCommand,
  requireStarted,
  standardInput,
} from "./privileged-shell.ts";
import { Semaphore } from "./semaphore.ts";
import type { ExecResult, Link, Transport } from "./transport.ts";

export interface RunOptions {
  /**
   * Deadline, in milliseconds. The device itself ends the script (TERM, 5 s later KILL, to the whole process group) when it has passed, connection
   * or not; the caller gets `timedOut` soon after, also when the device does not answer any more. Time for connecting is not counted.
   */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Called with each piece of standard output as it arrives (progress markers of a plan). */
  readonly onStdout?: (chunk: string) => void;
  /**
   * Follows the script on standard input. The device then has no deadline but those of the script itself, and `timeoutMs` is how long it may say nothing: how long the whole takes is a matter of the line.
   */
  readonly content?: () => AsyncIterable<Uint8Array>;
  /** The script only reads: when a connection that was idle turns out to be dead, run it again on a new one, once. Default false. */
  readonly readOnly?: boolean;
  /** For a new connection: attempts to make it. Default: those of the session. */
  readonly attempts?: number;
}

/** What runs scripts on one device. */
export interface Runner {
  /** The node's name in its site, for messages. */
  readonly node: string;
  /**
   * Runs one script as root in one exec on the current connection. The script travels on standard input; `/bin/sh` runs it with a clean
   * environment: `LC_ALL=C`, `PATH=/usr/sbin:/usr/bin:/sbin:/bin`, `HOME=/root`, `SSH_CONNECTION`, and nothing else.
   * @throws DeviceError `unreachable`, `hostKeyMismatch`, `denied`, `timedOut`, `refused`, `cancelled`.
   */
  run(script: string, options: RunOptions): Promise<ExecResult>;
}

/** One device, reached by one connection that is opened when first needed and kept. */
export interface Session extends Runner {
  /** The same on a new connection, which takes the old one's place once it carried the exec; the old one is closed then. */
  runOnNewConnection(script: string, options: RunOptions): Promise<ExecResult>;
  /**
   * Opens the connection, when there is none.
   * @returns what runs scripts over this connection and no other: with it gone that is `unreachable`, and nothing is sent
   * @throws as `run`, but for `timedOut` of a script
   */
  connect(signal?: AbortSignal): Promise<Runner>;
  /** Closes every connection and ends what runs, with `cancelled`; idempotent. Later calls fail with `cancelled`. */
  close(): Promise<void>;
  /** Whether there is a connection that can carry an exec right now. */
  readonly connected: boolean;
  /** What this session made so far. */
  readonly counts: { readonly connections: number; readonly execs: number };
}

export interface SessionOptions {
  readonly connection: Connection;
  readonly transport: Transport;
  /** Deadline of one attempt to connect, in milliseconds. Default 20 000: a handshake under emulation takes 4 s. */
  readonly connectTimeoutMs?: number;
  /** Attempts to connect before giving up; only `unreachable` is tried again (sshd restarting, MaxStartups reached). Default 3. */
  readonly attempts?: number;
  /** Pause before the second attempt, in milliseconds; doubled for each further one, of which a random half is taken off. Default 400. */
  readonly backoffMs?: number;
  /**
   * How long a failed connection answers for further calls, in milliseconds. Default 5000: the engine asks for a node's resources two at a time,
   * and an unreachable node must not cost its time-out for each pair.
   */
  readonly failureHoldMs?: number;
  /** What the client waits for beyond the device's own deadline, in milliseconds. Default 10 000. */
  readonly graceMs?: number;
}

/**
 * Handshakes under way at once in this process. Each costs milliseconds of CPU here, and sshd starts to drop unauthenticated connections at 10
 * (MaxStartups 10:30:100), which counts when several nodes are behind one relay.
 */
const handshakes = new Semaphore(8);

/** Execs at once on one connection: reads coalesce and writes queue, so more than two are never needed; sshd's MaxSessions is 10. */
const execsAtOnce = 4;

/** Waits; rejects with the signal's reason as soon as it is aborted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}

class SshSession implements Session {
  readonly node: string;
  readonly #options: Required<SessionOptions>;
  readonly #closing = new AbortController();
  readonly #links = new Set<Link>();
  /** Connections that carried an exec, so that a fault of theirs is likely one of the line while they were idle. */
  readonly #used = new WeakSet<Link>();
  readonly #execs = new Semaphore(execsAtOnce);
  /** Memoized connection under way or made. */
  #current: Promise<Link> | undefined;
  #link: Link | undefined;
  #failure: { readonly error: Error; readonly until: number } | undefined;
  #running = 0;
  readonly #ended = new EventTarget();
  #connections = 0;
  #execCount = 0;

  constructor(options: SessionOptions) {
    this.node = options.connection.node;
    this.#options = {
      connectTimeoutMs: 20_000,
      attempts: 3,
      backoffMs: 400,
      failureHoldMs: 5_000,
      graceMs: 10_000,
      ...options,
    };
  }

  get counts(): { readonly connections: number; readonly execs: number } {
    return { connections: this.#connections, execs: this.#execCount };
  }

  get connected(): boolean {
    return this.#link?.open === true;
  }

  async run(script: string, options: RunOptions): Promise<ExecResult> {
    const link = await this.#orCancelled(this.#ensureLink(), options.signal);
    const usedBefore = this.#used.has(link);
    try {
      return await this.#exec(link, script, options);
    } catch (error) {
      // The line went dead while nobody spoke. What is sure not to have begun, or only looks, is worth one new connection.
      const died =
        error instanceof DeviceError &&
        (error.kind === "unreachable" || (error.kind === "timedOut" && !link.open));
      const harmless = error instanceof LostBefore || (died && options.readOnly === true);
      if (!harmless || !usedBefore) throw error;
      return await this.#exec(await this.#orCancelled(this.#ensureLink(), options.signal), script, options);
    }
  }

  async connect(signal?: AbortSignal): Promise<Runner> {
    const link = await this.#orCancelled(this.#ensureLink(), signal);
    return { node: this.node, run: (script, options) => this.#exec(link, script, options) };
  }

  async runOnNewConnection(script: string, options: RunOptions): Promise<ExecResult> {
    // Nobody else waits for this connection: it ends with the call.
    const link = await this.#connect(options.signal, options.attempts);
    let result: ExecResult;
    try {
      result = await this.#exec(link, script, options);
    } catch (error) {
      await this.#drop(link);
      throw error;
    }
    const old = this.#link;
    this.#link = link;
    this.#current = Promise.resolve(link);
    this.#failure = undefined;
    if (old !== undefined) await this.#drop(old);
    return result;
  }

  async close(): Promise<void> {
    this.#closing.abort(cancelled(this.node));
    await Promise.all([...this.#links].map((link) => this.#drop(link)));
  }

  async #drop(link: Link): Promise<void> {
    await link.close();
    this.#links.delete(link);
  }

  /** Lets one caller leave without disturbing what others wait for too. */
  async #orCancelled<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    if (signal === undefined) return work;
    work.catch(() => undefined);
    if (signal.aborted) throw cancelled(this.node);
    let onAbort = (): void => undefined;
    const left = new Promise<never>((_resolve, reject) => {
      onAbort = () => reject(cancelled(this.node));
      signal.addEventListener("abort", onAbort, { once: true });
    });
    try {
      return await Promise.race([work, left]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #ensureLink(): Promise<Link> {
    if (this.#closing.signal.aborted) return Promise.reject(cancelled(this.node));
    if (this.#link?.open === false) {
      void this.#drop(this.#link);
      this.#link = undefined;
      this.#current = undefined;
    }
    if (this.#current !== undefined) return this.#current;
    if (this.#failure !== undefined && performance.now() < this.#failure.until) {
      return Promise.reject(this.#failure.error);
    }
    const connecting = this.#connect().then(
      (link) => {
        this.#failure = undefined;
        this.#link = link;
        return link;
      },
      (error: unknown) => {
        this.#failure = { error: error as Error, until: performance.now() + this.#options.failureHoldMs };
        this.#current = undefined;
        throw error;
      },
    );
    this.#current = connecting;
    return connecting;
  }

  async #connect(given?: AbortSignal, attempts = this.#options.attempts): Promise<Link> {
    const { backoffMs } = this.#options;
    const closing = this.#closing.signal;
    const signal = given === undefined ? closing : AbortSignal.any([closing, given]);
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#connectOnce(signal);
      } catch (error) {
        if (signal.aborted) throw cancelled(this.node);
        const worthwhile = error instanceof DeviceError && error.kind === "unreachable";
        if (!worthwhile || attempt >= attempts) throw error;
        const longest = backoffMs * 2 ** (attempt - 1);
        await pause(longest * (0.5 + Math.random() / 2), signal);
      }
    }
  }

  async #connectOnce(signal: AbortSignal): Promise<Link> {
    const { transport, connection, connectTimeoutMs } = this.#options;
    const release = await handshakes.acquire(signal);
    try {
      signal.throwIfAborted();
      const link = await transport.connect(connection, { timeoutMs: connectTimeoutMs, signal });
      this.#connections += 1;
      this.#links.add(link);
      if (signal.aborted) {
        await this.#drop(link);
        throw cancelled(this.node);
      }
      return link;
    } finally {
      release();
    }
  }

  async #exec(link: Link, script: string, options: RunOptions): Promise<ExecResult> {
    const { connection, graceMs } = this.#options;
    const closing = this.#closing.signal;
    const signal = options.signal === undefined ? closing : AbortSignal.any([closing, options.signal]);
    const timeoutSeconds = Math.ceil(options.timeoutMs / 1000);
    const { content } = options;
    const nonce = newNonce();
    let release: () => void;
    try {
      release = await this.#execs.acquire(signal);
    } catch {
      throw cancelled(this.node);
    }
    try {
      this.#running += 1;
      for (let refusals = 0; ;) {
        this.#execCount += 1;
        const begun = performance.now();
        try {
          const result = await link.exec(remoteCommand(connection), {
            stdin: standardInput(
              script,
              nonce,
              content === undefined ? timeoutSeconds : noDeadline,
              content !== undefined,
            ),
            ...(content === undefined ? {} : { content, outputProlongs: true }),
            timeoutMs: (timeoutSeconds + killAfterSeconds) * 1000 + graceMs,
            signal,
            ...(options.onStdout === undefined ? {} : { onStdout: options.onStdout }),
          });
          this.#used.add(link);
          requireStarted(connection, result, nonce);
          if (content === undefined) this.#requireInTime(result, performance.now() - begun, timeoutSeconds);
          return result;
        } catch (error) {
          // Nothing ran, so it may be sent again: when another exec of ours has ended, or, with none, when sshd has taken note of its end.
          if (!(error instanceof ChannelRefused)) throw error;
          if (this.#running > 1) {
            this.#running -= 1;
            await new Promise((resolve) => this.#ended.addEventListener("ended", resolve, { once: true }));
            this.#running += 1;
          } else {
            if (refusals >= 5) throw error;
            await pause(20 * 2 ** refusals, signal);
            refusals += 1;
          }
        }
      }
    } finally {
      this.#running -= 1;
      this.#ended.dispatchEvent(new Event("ended"));
      release();
    }
  }

  /**
   * `timeout` exits with 124, or goes down by the KILL that it sends to its process group (137 where a shell reports it). A script may end so
   * too, but not at that time.
   */
  #requireInTime(result: ExecResult, tookMs: number, timeoutSeconds: number): void {
    const ended = result.code === 124 || result.code === 137 || result.signal === "KILL";
    if (ended && tookMs >= timeoutSeconds * 1000 - 50) {
      throw new DeviceError(
        "timedOut",
        this.node,
        `the script did not end within ${timeoutSeconds} s and was ended on the device`,
        {
          hint: "something on the device hangs or is overloaded; its journal may tell what",
        },
      );
    }
  }
}

/** A session for one device; makes no connection yet. */
export function createSession(options: SessionOptions): Session {
  return new SshSession(options);
}
