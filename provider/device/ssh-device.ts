import { setTimeout } from "node:timers/promises";
import type { Observed, ResourceKind, Route } from "../resource.ts";
import {
  newNonce,
  parseProbes,
  renderProbes,
  renderScript,
  requireComplete,
  unfinishedPart,
} from "./batch.ts";
import type { ApplyResult, CallOptions, Device } from "./device.ts";
import { pendingProbe, type PendingChange } from "./commit-confirm.ts";
import { cancelled, DeviceError } from "./errors.ts";
import { manifestEntry, manifestProbe, probesOfManifest } from "./manifest.ts";
import type { Breakpoint } from "./plan-points.ts";
import { applyPlan } from "./plan-runner.ts";
import { extraSecondsOf, type PartOutput, type Probe } from "./probe.ts";
import type { ChallengeTpm } from "./required-tpm.ts";
import { routeProbe } from "./route.ts";
import { Semaphore } from "./semaphore.ts";
import type { Session } from "./session.ts";
import type { Step } from "./step.ts";

export interface SshDeviceOptions {
  readonly kinds: readonly ResourceKind[];
  readonly owner: string;
  readonly maxAgeMs: number;
  readonly observeTimeoutMs: number;
  readonly challengeTpm?: ChallengeTpm | undefined;
  readonly breakpoint: Breakpoint | undefined;
}

/** What the device may need, once a window is over, to put back what was saved. */
const settlingSeconds = 3;

type Answers = ReadonlyMap<string, Readonly<Record<string, PartOutput>>>;

/** What the device said, and when it was asked. */
interface Observation {
  readonly takenAt: number;
  readonly answers: Answers;
}

/** Questions that wait for their turn; whoever comes before it joins. */
interface Batch {
  readonly wanted: Map<string, Probe<Observed<unknown>>>;
  readonly answers: Promise<Answers>;
}

/**
 * A device behind one session. Batches of probes and plans take turns, in order: so nothing is read in the middle of a change, and what a change
 * read back answers those who waited for it.
 */
export class SshDevice implements Device {
  readonly #session: Session;
  readonly #options: SshDeviceOptions;
  readonly #closing = new AbortController();
  readonly #turns = new Semaphore(1);
  /** Input-dependent probes of this node that we know of: from its manifest, or asked for in this process. */
  readonly #dependent = new Map<string, Probe<Observed<unknown>>>();
  /** Probe ids to take out of the manifest with the next plan. */
  readonly #forgotten = new Set<string>();
  #observation: Observation | undefined;
  #pending: Batch | undefined;
  #route: Route | undefined;

  constructor(session: Session, options: SshDeviceOptions) {
    this.#session = session;
    this.#options = options;
  }

  async observe<S>(kind: ResourceKind, inputs: object, options: CallOptions = {}): Promise<Observed<S>> {
    const probe = kind.observe(inputs as never);
    this.#forgotten.delete(probe.id);
    if (kind.observe.length > 0) this.#dependent.set(probe.id, probe);
    const answers = await this.#ask(probe, options.signal);
    return probe.parse(answers.get(probe.id) ?? {});
  }

  knownRoute(): Route | undefined {
    return this.#session.connected ? this.#route : undefined;
  }

  async route(options: CallOptions = {}): Promise<Route> {
    const known = this.knownRoute();
    if (known !== undefined) return known;
    const answers = await this.#ask(routeProbe, options.signal);
    return routeIn(answers);
  }

  async apply<S>(
    kind: ResourceKind,
    inputs: object,
    steps: readonly Step[],
    options: CallOptions = {},
  ): Promise<ApplyResult<S>> {
    const probe = kind.observe(inputs as never);
    const dependent = kind.observe.length > 0 && !this.#forgotten.has(probe.id);
    if (dependent) this.#dependent.set(probe.id, probe);
    const release = await this.#turn(options.signal);
    try {
      // Whatever the plan does, what was known before is not known any more.
      this.#observation = undefined;
      // What takes long is asked of those who want it.
      const others = [...this.#dependent.values()].filter((each) => extraSecondsOf([each]) === 0);
      const readback = unique([...this.#standing(), ...others, probe]);
      const drop = [...this.#forgotten];
      const result = await applyPlan(this.#session, steps, readback, {
        purpose: kind.token,
        owner: this.#options.owner,
        signal:
          options.signal === undefined
            ? this.#closing.signal
            : AbortSignal.any([options.signal, this.#closing.signal]),
        manifest: {
          set: new Map(dependent ? [[probe.id, manifestEntry(kind, inputs)]] : []),
          drop,
        },
        ...(this.#options.challengeTpm === undefined ? {} : { challengeTpm: this.#options.challengeTpm }),
        ...(options.onProgress === undefined ? {} : { onProgress: options.onProgress }),
        ...(options.onWarning === undefined ? {} : { onWarning: options.onWarning }),
        ...(this.#options.breakpoint === undefined ? {} : { breakpoint: this.#options.breakpoint }),
      });
      for (const id of drop) this.#forgotten.delete(id);
      const parts = result.readback.get(probe.id);
      // Nothing was read back (the connection went away, the lock was held): only the failure is known.
      if (parts === undefined && result.failure !== undefined) throw result.failure;
      if (parts !== undefined) this.#learn(result.readback, performance.now());
      return {
        steps: result.steps,
        observed: probe.parse(parts ?? {}) as Observed<S>,
        failure: result.failure,
      };
    } finally {
      release();
    }
  }

  forget(kind: ResourceKind, inputs: object): void {
    if (kind.observe.length === 0) return;
    const { id } = kind.observe(inputs as never);
    this.#dependent.delete(id);
    this.#forgotten.add(id);
  }

  async close(): Promise<void> {
    this.#closing.abort(cancelled(this.#session.node));
    await this.#session.close();
  }

  async #turn(signal?: AbortSignal): Promise<() => void> {
    const either =
      signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
    try {
      return await this.#turns.acquire(either);
    } catch {
      throw cancelled(this.#session.node);
    }
  }

  /** What every first read of a node asks: all that needs no inputs. */
  #standing(): readonly Probe<Observed<unknown>>[] {
    const kinds = this.#options.kinds.filter((kind) => kind.observe.length === 0);
    return [
      routeProbe,
      manifestProbe,
      pendingProbe as Probe<never>,
      ...kinds.map((kind) => kind.observe({})),
    ];
  }

  #fresh(): Answers | undefined {
    if (this.#observation === undefined) return undefined;
    return performance.now() - this.#observation.takenAt < this.#options.maxAgeMs
      ? this.#observation.answers
      : undefined;
  }

  async #ask(probe: Probe<Observed<unknown>>, signal: AbortSignal | undefined): Promise<Answers> {
    if (this.#closing.signal.aborted || signal?.aborted === true) throw cancelled(this.#session.node);
    const known = this.#fresh();
    if (known?.has(probe.id) === true) return known;
    this.#pending ??= this.#schedule();
    const { wanted, answers } = this.#pending;
    wanted.set(probe.id, probe);
    if (signal === undefined) return answers;
    return Promise.race([answers, this.#abortOf(signal)]);
  }

  /** Rejects when the signal is aborted: one caller leaves, and the batch goes on for the others. */
  #abortOf(signal: AbortSignal): Promise<never> {
    return new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(cancelled(this.#session.node)), { once: true });
    });
  }

  #schedule(): Batch {
    const wanted = new Map<string, Probe<Observed<unknown>>>();
    const answers = this.#answer(wanted);
    answers.catch(() => undefined);
    return { wanted, answers };
  }

  async #answer(wanted: ReadonlyMap<string, Probe<Observed<unknown>>>): Promise<Answers> {
    const release = await this.#turn();
    try {
      // The questions are put together once the connection stands, so that all who asked meanwhile are in.
      if (!this.#session.connected) await this.#session.connect();
      this.#pending = undefined;
      const known = this.#fresh();
      if (known === undefined) {
        const probes = unique([...this.#standing(), ...this.#dependent.values(), ...wanted.values()]);
        return await this.#settled(probes);
      }
      if ([...wanted.keys()].every((id) => known.has(id))) return known;
      const lacking = unique([...this.#dependent.values(), ...wanted.values()]).filter(
        ({ id }) => !known.has(id),
      );
      return await this.#batch(lacking, known);
    } finally {
      if (this.#pending?.wanted === wanted) this.#pending = undefined;
      release();
    }
  }

  /**
   * A change that waits for its confirmation is no state yet: whoever made it is gone, or at it elsewhere. The device takes it back or it is confirmed
   * when its window ends, and what is there then is what counts.
   */
  async #settled(probes: readonly Probe<Observed<unknown>>[]): Promise<Answers> {
    const first = await this.#batch(probes, new Map());
    const pending = pendingIn(first);
    if (pending === undefined) return first;
    this.#observation = undefined;
    await setTimeout((pending.secondsLeft + settlingSeconds) * 1000, undefined, {
      signal: this.#closing.signal,
    }).catch(() => {
      throw cancelled(this.#session.node);
    });
    const second = await this.#batch(probes, new Map());
    const still = pendingIn(second);
    if (still === undefined) return second;
    this.#observation = undefined;
    throw new DeviceError(
      "locked",
      this.#session.node,
      `a change waits for its confirmation: '${still.title}'`,
      {
        hint: `what is there now may not last; look again in ${still.secondsLeft} s, when the device has gone back to: ${still.rollbackTo}`,
      },
    );
  }

  /** One exec. `known` are answers of the same observation that stay. */
  async #batch(probes: readonly Probe<Observed<unknown>>[], known: Answers): Promise<Answers> {
    const nonce = newNonce();
    const askedAt = performance.now();
    let heard = "";
    const result = await this.#session
      .run(renderScript(renderProbes(probes, nonce), nonce), {
        timeoutMs: this.#options.observeTimeoutMs + extraSecondsOf(probes) * 1000,
        readOnly: true,
        onStdout: (chunk) => (heard = (heard + chunk).slice(-64 * 1024)),
      })
      .catch((error: unknown) => {
        throw this.#naming(error, unfinishedPart(heard, nonce));
      });
    requireComplete(this.#session.node, result, nonce);
    const answers = new Map([...known, ...parseProbes(result.stdout, result.stderr, nonce)]);
    this.#learn(answers, known.size === 0 ? askedAt : (this.#observation?.takenAt ?? askedAt));
    return answers;
  }

  #learn(answers: Answers, takenAt: number): void {
    this.#observation = { takenAt, answers };
    this.#route = routeIn(answers);
    for (const probe of probesOfManifest(answers.get(manifestProbe.id), this.#options.kinds)) {
      if (!this.#forgotten.has(probe.id)) this.#dependent.set(probe.id, probe);
    }
  }

  /** A hanging probe makes the whole batch late: say which. */
  #naming(error: unknown, part: string | undefined): unknown {
    if (part === undefined || !(error instanceof DeviceError) || error.kind !== "timedOut") return error;
    return new DeviceError(error.kind, error.node, `${error.shortMessage}, while it looked at '${part}'`, {
      hint: error.hint,
      cause: error,
    });
  }
}

function unique(probes: readonly Probe<Observed<unknown>>[]): readonly Probe<Observed<unknown>>[] {
  return [...new Map(probes.map((probe) => [probe.id, probe])).values()];
}

const pendingIn = (answers: Answers): PendingChange | undefined =>
  pendingProbe.parse(answers.get(pendingProbe.id) ?? {});

function routeIn(answers: Answers): Route {
  const observed = routeProbe.parse(answers.get(routeProbe.id) ?? {});
  if (observed.outcome === "absent") throw new TypeError("a connection always has a route");
  return observed.state;
}
