import { CallFailed } from "./errors.ts";

/** How long a call that was cancelled may take to clean up before it is answered for it. */
const defaultGraceMs = 4000;

export interface CallLimits {
  /** Fires when the engine gives this one call up. */
  readonly given: AbortSignal;
  /** The user's time-out for the operation (`customTimeouts`), in seconds; 0 for none. */
  readonly timeoutSeconds: number;
}

/** The calls in progress, which end together when the engine cancels. */
export class Calls {
  readonly #stopping = new AbortController();
  readonly #running = new Set<Promise<unknown>>();
  readonly #graceMs: number;

  constructor(graceMs: number = defaultGraceMs) {
    this.#graceMs = graceMs;
  }

  get cancelled(): boolean {
    return this.#stopping.signal.aborted;
  }

  /**
   * Runs `work`, which must end soon after its signal fires. It gets the time to report what it had changed; one that does not use it is answered for.
   * @throws CallFailed `cancelled` or `timedOut` when the work failed after its signal fired and did not say more, or did not end.
   */
  async run<T>(limits: CallLimits, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.cancelled)
      throw new CallFailed("cancelled", "the provider is shutting down; run the operation again");
    const timeout = limits.timeoutSeconds > 0 ? AbortSignal.timeout(limits.timeoutSeconds * 1000) : undefined;
    const signal = AbortSignal.any([
      this.#stopping.signal,
      limits.given,
      ...(timeout === undefined ? [] : [timeout]),
    ]);
    const reason = (): CallFailed =>
      timeout?.aborted === true && !this.cancelled && !limits.given.aborted
        ? new CallFailed(
            "timedOut",
            `not done within ${limits.timeoutSeconds} s (customTimeouts); give it more time, or see what keeps the node busy, and run \`pulumi refresh\` to record what was done until then`,
          )
        : new CallFailed("cancelled", "cancelled; run `pulumi refresh` to record what was done until then");
    const done = work(signal).catch((error: unknown) => {
      // An operation that only says "cancelled" knows less than we do of why.
      const plain = error instanceof CallFailed && error.reason === "cancelled";
      throw signal.aborted && plain && timeout?.aborted === true ? reason() : error;
    });
    this.#running.add(done);
    const forget = (): unknown => this.#running.delete(done);
    done.then(forget, forget);
    const overdue = Promise.withResolvers<never>();
    let timer: NodeJS.Timeout | undefined;
    const onAbort = (): void => {
      timer = setTimeout(() => overdue.reject(reason()), this.#graceMs);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([done, overdue.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
      clearTimeout(timer);
    }
  }

  /** Makes every call in progress, and every later one, fail. Resolves when those in progress have ended, or their grace is over. */
  async cancel(): Promise<void> {
    this.#stopping.abort();
    if (this.#running.size === 0) return;
    const grace = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => grace.resolve(undefined), this.#graceMs);
    await Promise.race([Promise.allSettled(this.#running), grace.promise]);
    clearTimeout(timer);
  }
}
