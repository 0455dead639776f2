import { newNonce, parseProbes, requireComplete } from "./batch.ts";
import { windowSecondsOf } from "./commit-confirm.ts";
import { confirmChange, isCancelled, type Readback } from "./confirmation.ts";
import type { StepReport } from "./device.ts";
import { cancelled, DeviceError } from "./errors.ts";
import type { ManifestChange } from "./manifest.ts";
import { failureIn, lockedAfter, warned } from "./plan-failure.ts";
import { allowedRebootOf, parsePlanOutput, said, warningOf, type PlanOutput } from "./plan-output.ts";
import { isReboot, stepsOf, type Breakpoint, type PlanPoint } from "./plan-points.ts";
import { changeOf, renderPlan } from "./plan-script.ts";
import type { Probe } from "./probe.ts";
import { throughReboot } from "./reboot.ts";
import { challenged, requiredTpm, type ChallengeTpm } from "./required-tpm.ts";
import type { Session } from "./session.ts";
import type { Step } from "./step.ts";
import type { ExecResult } from "./transport.ts";
import { hasUploads, sendUploads } from "./upload.ts";

export type { Breakpoint } from "./plan-points.ts";
export { stepsOf } from "./plan-points.ts";

export interface ApplyPlanOptions {
  /** What for; shown to whom the node lock keeps out. */
  readonly purpose: string;
  /** Who; shown to whom the node lock keeps out. */
  readonly owner: string;
  readonly signal?: AbortSignal;
  readonly manifest?: ManifestChange;
  readonly breakpoint?: Breakpoint;
  /** How the TPM is challenged that a step asks for. A plan with such a step is malformed without it. */
  readonly challengeTpm?: ChallengeTpm;
  /** Called with the title of each step as it begins on the device. */
  readonly onProgress?: (message: string) => void;
  /** Called with what the user has to know of the node, and that nothing is stopped by. */
  readonly onWarning?: (message: string) => void;
  /** How long to wait for another plan on this node, in seconds. Default 20: what a killed provider left running ends meanwhile, mostly. */
  readonly lockWaitSeconds?: number;
}

export interface PlanResult {
  /** Steps that began, in order, those of a commit-confirmed change one by one. */
  readonly steps: readonly StepReport[];
  /** What was read back; over the new connection when there was a confirmation. Empty when nothing could be read. */
  readonly readback: Readback;
  readonly failure?: DeviceError;
}

const defaultLockWaitSeconds = 20;

/** Listens to the script's markers while it runs. */
class Progress {
  readonly #onMarker: (verb: string, rest: string) => void;
  readonly #tails = new Map<string, string>();

  constructor(onMarker: (verb: string, rest: string) => void) {
    this.#onMarker = onMarker;
  }

  heard(nonce: string, chunk: string): void {
    const text = (this.#tails.get(nonce) ?? "") + chunk;
    const end = text.lastIndexOf("\n") + 1;
    for (const { verb, rest } of said(text.slice(0, end), nonce)) this.#onMarker(verb, rest);
    this.#tails.set(nonce, text.slice(end));
  }
}

/**
 * Applies a plan and reads back, in one exec. Each upload before it takes one exec more; a plan for one TPM only takes the execs of a challenge before it, on the same connection; a plan that ends with a commit-confirmed change or a reboot takes one new connection with one exec more; what is read back then is
 * the state after it.
 *
 * What stopped the plan on the device is in `failure`, beside what was read back.
 * @throws DeviceError when the device did not answer to the end (`unreachable`, `timedOut`, `denied`, `hostKeyMismatch`, `unknown`, `cancelled`). The plan may then have run in part, and can be run again.
 * @throws TypeError when the plan itself is malformed; nothing was sent.
 */
export async function applyPlan(
  session: Session,
  steps: readonly Step[],
  readback: readonly Probe<unknown>[],
  options: ApplyPlanOptions,
): Promise<PlanResult> {
  if (!hasUploads(steps)) return runPlan(session, steps, readback, options);
  const lockWaitSeconds = options.lockWaitSeconds ?? defaultLockWaitSeconds;
  const { owner, purpose, breakpoint } = options;
  const script = { changeNonce: newNonce(), owner, purpose, breakpoint, lockWaitSeconds };
  // A malformed plan is found before anything large is on its way.
  renderPlan(steps, readback, { ...script, nonce: newNonce(), manifest: options.manifest });
  requiredTpm(stepsOf(steps));
  const uploaded = await sendUploads(session, steps, {
    script,
    signal: options.signal,
    onProgress: options.onProgress,
  });
  if (uploaded.failure !== undefined) return { ...uploaded, readback: new Map() };
  const result = await runPlan(session, steps, readback, options);
  return { ...result, steps: [...uploaded.steps, ...result.steps] };
}

/** All but the uploads of a plan. */
async function runPlan(
  session: Session,
  steps: readonly Step[],
  readback: readonly Probe<unknown>[],
  options: ApplyPlanOptions,
): Promise<PlanResult> {
  const nonce = newNonce();
  const changeNonce = newNonce();
  const change = changeOf(steps);
  const lockWaitSeconds = options.lockWaitSeconds ?? defaultLockWaitSeconds;
  const shared = {
    changeNonce,
    owner: options.owner,
    purpose: options.purpose,
    breakpoint: options.breakpoint,
  };
  const plan = renderPlan(steps, readback, {
    ...shared,
    nonce,
    manifest: options.manifest,
    lockWaitSeconds,
  });
  const titles = new Map(plan.points.map(({ id, title }) => [id, title]));
  const tpm = requiredTpm(plan.points);
  if (tpm !== undefined) options.onProgress?.(`challenge the TPM, for: ${tpm.title}`);
  const runner =
    tpm === undefined ? session : await challenged(session, tpm, options.challengeTpm, options.signal);

  let armedAtMs: number | undefined;
  const armed = Promise.withResolvers<undefined>();
  const rebooting = Promise.withResolvers<number>();
  const progress = new Progress((verb, rest) => {
    const allowed = allowedRebootOf({ verb, rest });
    if (allowed !== undefined)
      options.onWarning?.(lockedAfter(session.node, titles.get(allowed.id) ?? allowed.id, allowed));
    const warning = warningOf({ verb, rest });
    if (warning !== undefined) {
      const point = plan.points.find(({ id }) => id === warning.id);
      options.onWarning?.(warned(session.node, point, warning.output));
    }
    if (verb === "rebooting") rebooting.resolve(performance.now());
    if (verb === "begin-step") options.onProgress?.(titles.get(rest) ?? rest);
    if (verb === "break") options.breakpoint?.reached();
    if (verb === "armed") {
      armedAtMs ??= performance.now();
      armed.resolve(undefined);
    }
  });

  const abandon = new AbortController();
  const signal =
    options.signal === undefined ? abandon.signal : AbortSignal.any([options.signal, abandon.signal]);
  let heard = "";
  let heardAtMs = performance.now();
  const exec = runner.run(plan.script, {
    timeoutMs: plan.deadlineSeconds * 1000,
    signal,
    onStdout: (chunk) => {
      heard += chunk;
      heardAtMs = performance.now();
      progress.heard(nonce, chunk);
    },
  });

  const concludeExec = (result: ExecResult): PlanResult => {
    requireComplete(session.node, result, nonce);
    const output = parsePlanOutput(result.stdout, nonce);
    return conclude(output, plan.points, {
      readback: parseProbes(result.stdout, result.stderr, nonce),
      failure: failureIn(session.node, output, plan.points, change),
    });
  };
  const reboot = plan.points.find(isReboot);
  if (reboot !== undefined) {
    const through = await throughReboot({
      session,
      steps,
      point: reboot,
      readback,
      script: { ...shared, lockWaitSeconds },
      first: {
        nonce,
        exec,
        asked: rebooting.promise,
        heard: () => ({ text: heard, atMs: heardAtMs }),
        giveUp: () => abandon.abort(cancelled(session.node, "since the node reboots")),
      },
      signal: options.signal,
      onStdout: (of, chunk) => progress.heard(of, chunk),
      onProgress: (message) => options.onProgress?.(message),
    });
    if (through.after === undefined) return concludeExec(through.result);
    const { output, readback: seen } = through.after;
    const failure = failureIn(session.node, output, plan.points, undefined);
    return conclude(output, plan.points, { readback: seen, failure });
  }
  if (change === undefined) return concludeExec(await exec);

  const result = await firstExec(exec, armed.promise, windowSecondsOf(change) * 1000, () => armedAtMs);
  const early = result === undefined ? undefined : concludeExec(result);
  if (early !== undefined && (early.failure !== undefined || armedAtMs === undefined)) return early;
  options.onProgress?.(`confirm: ${change.title}`);
  const confirmed = await confirmChange({
    session,
    steps,
    change,
    readback,
    script: shared,
    armedAtMs: armedAtMs ?? performance.now(),
    signal: options.signal,
    onStdout: (of, chunk) => progress.heard(of, chunk),
    onProgress: (message) => options.onProgress?.(message),
  });
  // A step that failed late says better why there was nothing to confirm.
  const late = result ?? (await within(lateExecMs, exec));
  abandon.abort(cancelled(session.node, "since the change is decided"));
  const output = parsePlanOutput(late?.stdout ?? heard, nonce);
  const failure =
    confirmed.failure && (failureIn(session.node, output, plan.points, change) ?? confirmed.failure);
  return conclude(output, plan.points, { readback: confirmed.readback, failure });
}

/** How long the first exec may still take to end, once the change is decided. */
const lateExecMs = 1_000;

async function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, ms, undefined)));
  try {
    return await Promise.race([work.catch(() => undefined), passed]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The first exec of a commit-confirmed plan, or `undefined` when the window had begun and the connection gave no answer any more: then the change may have cut it, and the new
 * connection decides.
 */
async function firstExec(
  exec: Promise<ExecResult>,
  armed: Promise<undefined>,
  windowMs: number,
  armedAtMs: () => number | undefined,
): Promise<ExecResult | undefined> {
  try {
    // Slow steps use up the window too; the second connection then waits on the device for their end.
    const silence = armed.then(() => within(Math.min(windowMs / 3, 10_000), exec));
    return await Promise.race([exec, silence]);
  } catch (error) {
    if (armedAtMs() === undefined || isCancelled(error)) throw error;
    return undefined;
  }
}

function conclude(
  output: Pick<PlanOutput, "begun" | "done">,
  points: readonly PlanPoint[],
  end: { readonly readback: Readback; readonly failure: DeviceError | undefined },
): PlanResult {
  const done = new Set(output.done);
  const titles = new Map(points.map(({ id, title }) => [id, title]));
  const steps = output.begun.map((id): StepReport => ({
    title: titles.get(id) ?? id,
    outcome: done.has(id) ? "done" : "failed",
  }));
  return { steps, readback: end.readback, ...(end.failure === undefined ? {} : { failure: end.failure }) };
}
