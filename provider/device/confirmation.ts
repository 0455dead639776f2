import { newNonce, isComplete, parseProbes } from "./batch.ts";
import { windowSecondsOf } from "./commit-confirm.ts";
import { DeviceError } from "./errors.ts";
import { parsePlanOutput, type PlanOutput } from "./plan-output.ts";
import {
  renderConfirmation,
  renderOutcomeCheck,
  revertJournal,
  type PlanScriptOptions,
} from "./plan-script.ts";
import type { PartOutput, Probe } from "./probe.ts";
import type { Session } from "./session.ts";
import type { CommitConfirmStep, Step } from "./step.ts";
import type { ExecResult } from "./transport.ts";

/*
 * The provider's half of a commit-confirmed change: to get in once more, over a new connection, before the window ends; and else to wait until the device has taken
 * the change back, and to look.
 */

export type Readback = ReadonlyMap<string, Readonly<Record<string, PartOutput>>>;

export interface Confirmed {
  readonly readback: Readback;
  /** Why the change is not in force; none when it was confirmed. */
  readonly failure: DeviceError | undefined;
}

export interface ConfirmationRequest {
  readonly session: Session;
  readonly steps: readonly Step[];
  readonly change: CommitConfirmStep;
  readonly readback: readonly Probe<unknown>[];
  readonly script: Omit<PlanScriptOptions, "nonce" | "lockWaitSeconds">;
  /** `performance.now()` when the device said that the window had begun; so it ends on the device no later than we think. */
  readonly armedAtMs: number;
  readonly signal: AbortSignal | undefined;
  readonly onStdout: (nonce: string, chunk: string) => void;
  readonly onProgress: (message: string) => void;
}

/** Between two attempts to get in. */
const retryMs = 500;
/** From the end of the window to the first look: the timer's accuracy, the revert, and rounding of the device's clock to seconds. */
const settleMs = 1_500;
/** A revert may restart services, and the way in comes back in its own time. */
const returnMs = 90_000;

/** The engine asked to stop, or the session was closed: nobody is to wait for the window's end. The device takes the change back by itself. */
export const isCancelled = (error: unknown): boolean =>
  error instanceof DeviceError && error.kind === "cancelled";

interface Answer {
  readonly output: PlanOutput;
  readonly readback: Readback;
}

function answerOf(result: ExecResult, nonce: string): Answer | undefined {
  const output = parsePlanOutput(result.stdout, nonce);
  // The confirmation itself counts as soon as it is said; the readback only when it is whole.
  if (!isComplete(result.stdout, result.stderr, nonce)) return undefined;
  return { output, readback: parseProbes(result.stdout, result.stderr, nonce) };
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    if (signal?.aborted === true) {
      reject(signal.reason as Error);
      return;
    }
    const timer = setTimeout(
      () => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      },
      Math.max(0, ms),
    );
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/**
 * Confirms the change, or finds out what became of it.
 * @throws DeviceError `cancelled` (the device takes the change back by itself), `unreachable` when the device does not come back after the window.
 */
export async function confirmChange(request: ConfirmationRequest): Promise<Confirmed> {
  const windowMs = windowSecondsOf(request.change) * 1000;
  const endsAtMs = request.armedAtMs + windowMs;
  const attempt = await tryToConfirm(request, endsAtMs);
  if (attempt.answer?.output.confirmation === "confirmed") {
    return { readback: attempt.answer.readback, failure: undefined };
  }
  request.onProgress(`not confirmed; waiting for the device to go back to: ${request.change.rollbackTo}`);
  const known = attempt.answer?.output.confirmation;
  if (known !== "reverted" && known !== "unfinished")
    await sleep(endsAtMs + settleMs - performance.now(), request.signal);
  return lookAfterwards(request, attempt.obstacle);
}

interface Attempt {
  readonly answer: Answer | undefined;
  /** What kept us out last. */
  readonly obstacle: unknown;
}

/** New connections until one carries the confirmation, or the window is over. */
async function tryToConfirm(request: ConfirmationRequest, endsAtMs: number): Promise<Attempt> {
  const { session, signal, onStdout } = request;
  let obstacle: unknown;
  for (;;) {
    const leftMs = endsAtMs - performance.now();
    if (leftMs <= 0) return { answer: undefined, obstacle };
    const nonce = newNonce();
    const confirmation = renderConfirmation(request.steps, request.readback, {
      ...request.script,
      nonce,
      lockWaitSeconds: Math.ceil(leftMs / 1000),
    });
    const window = AbortSignal.timeout(Math.ceil(leftMs));
    // What was said before the connection broke still counts.
    let heard = "";
    try {
      const result = await session.runOnNewConnection(confirmation.script, {
        timeoutMs: confirmation.deadlineSeconds * 1000,
        signal: signal === undefined ? window : AbortSignal.any([signal, window]),
        onStdout: (chunk) => {
          heard += chunk;
          onStdout(nonce, chunk);
        },
      });
      const answer = answerOf(result, nonce);
      if (answer?.output.confirmation !== undefined) return { answer, obstacle };
      obstacle =
        answer?.output.locked === undefined
          ? new Error("its answer was cut off")
          : new Error("its lock is held");
    } catch (error) {
      if (isCancelled(error) && !window.aborted) throw error;
      if (signal?.aborted === true) throw error;
      // Cut off by the window's end, it says nothing of what was in the way.
      obstacle = window.aborted ? (obstacle ?? new Error("no answer until the window ended")) : error;
      // Another key, or no login: trying again changes nothing.
      if (error instanceof DeviceError && (error.kind === "hostKeyMismatch" || error.kind === "denied")) {
        return { answer: undefined, obstacle };
      }
    }
    if (parsePlanOutput(heard, nonce).confirmation === "confirmed") return { answer: undefined, obstacle };
    await sleep(Math.min(retryMs, Math.max(0, endsAtMs - performance.now())), signal);
  }
}

/** After the window: what the device says became of the change, and what it looks like now. */
async function lookAfterwards(request: ConfirmationRequest, obstacle: unknown): Promise<Confirmed> {
  const { session, signal } = request;
  const untilMs = performance.now() + returnMs;
  for (;;) {
    const nonce = newNonce();
    const last = performance.now() >= untilMs;
    try {
      const script = renderOutcomeCheck(request.readback, { nonce, changeNonce: request.script.changeNonce });
      const result = await session.runOnNewConnection(script, {
        timeoutMs: 120_000,
        ...(signal === undefined ? {} : { signal }),
      });
      const answer = answerOf(result, nonce);
      const outcome = answer?.output.outcome;
      if (
        answer !== undefined &&
        outcome !== undefined &&
        (last || (outcome !== "pending" && outcome !== "reverting"))
      ) {
        return { readback: answer.readback, failure: judge(request, answer.output, obstacle) };
      }
    } catch (error) {
      if (isCancelled(error)) throw error;
      if (last) throw notBack(request, error);
    }
    if (last) throw notBack(request, undefined);
    await sleep(retryMs, signal);
  }
}

function detail(obstacle: unknown): { readonly originalMessage?: string; readonly cause?: unknown } {
  if (!(obstacle instanceof Error)) return {};
  const message = obstacle instanceof DeviceError ? obstacle.shortMessage : obstacle.message;
  return { originalMessage: `the new connection: ${message}`, cause: obstacle };
}

function judge(request: ConfirmationRequest, output: PlanOutput, obstacle: unknown): DeviceError | undefined {
  const { session, change } = request;
  switch (output.outcome) {
    case "confirmed":
      return undefined;
    case "reverted":
      return new DeviceError(
        "rolledBack",
        session.node,
        `'${change.title}' could not be confirmed over a new connection, so the device took it back; it is back to: ${change.rollbackTo}`,
        {
          ...detail(obstacle),
          hint: "the change as it is would lock us out: see that it lets in new connections from here",
        },
      );
    case "pending":
    case "reverting":
      return new DeviceError(
        "rolledBack",
        session.node,
        `'${change.title}' could not be confirmed, and taking it back (to: ${change.rollbackTo}) has not succeeded yet`,
        {
          ...(output.outcomeDetail === "" ? detail(obstacle) : { originalMessage: output.outcomeDetail }),
          hint: `the device tries again every 5 s and at every boot; see ${revertJournal} there, and docs/device-layer.md`,
        },
      );
    default:
      return new DeviceError(
        "unknown",
        session.node,
        `the device has no record of how '${change.title}' ended`,
        {
          hint: "refresh to see what is in force",
        },
      );
  }
}

function notBack(request: ConfirmationRequest, error: unknown): DeviceError {
  return new DeviceError(
    "unreachable",
    request.session.node,
    `'${request.change.title}' could not be confirmed, and the device could not be reached after its window`,
    {
      ...(error instanceof Error ? { originalMessage: error.message, cause: error } : {}),
      hint: `it takes the change back by itself (to: ${request.change.rollbackTo}), at the latest at its next boot`,
    },
  );
}
