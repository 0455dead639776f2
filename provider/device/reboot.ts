import { setTimeout as pause } from "node:timers/promises";
import { isComplete, newNonce, parseProbes, requireComplete } from "./batch.ts";
import { isCancelled, type Readback } from "./confirmation.ts";
import { DeviceError } from "./errors.ts";
import { stillUp } from "./plan-failure.ts";
import { parsePlanOutput, type PlanOutput } from "./plan-output.ts";
import { renderAfterReboot, type PlanScriptOptions } from "./plan-script.ts";
import type { Probe } from "./probe.ts";
import type { Session } from "./session.ts";
import type { RebootStep, Step } from "./step.ts";
import type { ExecResult } from "./transport.ts";

/*
 * The provider's half of a reboot: to hear the node go down, to get in again, and to prove that it is another boot.
 */

export interface RebootRequest {
  readonly session: Session;
  readonly steps: readonly Step[];
  readonly step: RebootStep;
  readonly readback: readonly Probe<unknown>[];
  readonly script: Omit<PlanScriptOptions, "nonce" | "manifest">;
  /** The exec of the plan, which runs. */
  readonly exec: Promise<ExecResult>;
  readonly nonce: string;
  /** Settles, with `performance.now()`, when the device says that it is asking for the reboot. */
  readonly asked: Promise<number>;
  /** What that exec printed so far, and when it last did. */
  readonly heard: () => { readonly text: string; readonly atMs: number };
  /** Ends that exec here. On the device it ends with its next line feed, where it still runs. */
  readonly giveUpExec: () => void;
  readonly signal: AbortSignal | undefined;
  readonly onStdout: (nonce: string, chunk: string) => void;
  readonly onProgress: (message: string) => void;
}

/** What was done and read in the new boot. */
interface AfterReboot {
  readonly output: PlanOutput;
  readonly readback: Readback;
}

/** Either there was no reboot, and the exec ran to its end; or there was one. */
export type ThroughReboot =
  { readonly result: ExecResult; readonly after: undefined } | { readonly after: AfterReboot };

/** Pauses between attempts to get in, in milliseconds: the first, and the longest. */
const firstPauseMs = 500;
const longestPauseMs = 5_000;
/**
 * After a login that was refused or cut off: sshd answers before the system lets anybody in but root (pam_nologin(8)), and holds each such login against an address for 5 s, from 15 s on
 * by not answering it (PerSourcePenalties in sshd_config(5)).
 */
const refusedPauseMs = 6_000;
/** How often the user is told that it still takes its time. */
const progressMs = 5_000;
/** A node that goes down prints a line feed each second; after this long without one the connection is taken for gone, whatever TCP says. */
const silenceMs = 10_000;

/**
 * Waits for the node to go down and to come back, and reads back in the new boot.
 * @throws DeviceError as the exec, as long as no reboot was asked for; then `unreachable` when the node does not come back in time, `timedOut` when it is still in the boot that was to
 * end, `cancelled` (the node reboots all the same).
 */
export async function throughReboot(request: RebootRequest): Promise<ThroughReboot> {
  const { session, exec, asked, heard, nonce } = request;
  const first = await Promise.race([exec, asked]).catch((error: unknown) => {
    // What it said arrives before its end.
    if (parsePlanOutput(heard().text, nonce).rebooting === undefined || isCancelled(error)) throw error;
    return undefined;
  });
  if (typeof first === "object" && isComplete(first.stdout, first.stderr, nonce)) {
    return { result: first, after: undefined };
  }
  const bootBefore = parsePlanOutput(heard().text, nonce).rebooting;
  if (bootBefore === undefined) {
    return { result: typeof first === "object" ? first : await exec, after: undefined };
  }
  using _telling = tellWaiting(session.node, request.onProgress);
  const ended = typeof first === "object" ? first : await goneDown(request);
  if (ended !== undefined && isComplete(ended.stdout, ended.stderr, nonce)) {
    return { result: ended, after: undefined };
  }
  request.giveUpExec();
  return { after: await comeBack(request, bootBefore, await asked) };
}

/** The end of the exec that asked for the reboot; nothing when the connection went away, or fell silent. */
async function goneDown({ exec, heard }: RebootRequest): Promise<ExecResult | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const silent = new Promise<undefined>((resolve) => {
    timer = setInterval(() => {
      if (performance.now() - heard().atMs > silenceMs) resolve(undefined);
    }, 1_000);
  });
  try {
    return await Promise.race([exec, silent]);
  } catch (error) {
    if (isCancelled(error)) throw error;
    return undefined;
  } finally {
    clearInterval(timer);
  }
}

/** Tells the user that waiting goes on, until disposed of. */
function tellWaiting(node: string, onProgress: (message: string) => void): Disposable {
  const since = performance.now();
  const tell = (): void =>
    onProgress(`waiting for ${node} to come back, ${Math.round((performance.now() - since) / 1000)} s`);
  tell();
  const timer = setInterval(tell, progressMs);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Gets in again and reads back, in the new boot. */
async function comeBack(request: RebootRequest, bootBefore: string, askedAtMs: number): Promise<AfterReboot> {
  const untilMs = askedAtMs + request.step.waitSeconds * 1000;
  let obstacle: unknown;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 1.5, longestPauseMs)) {
    const attempt = await tryToGetIn(request, bootBefore, untilMs);
    if (attempt.after !== undefined) return attempt.after;
    obstacle = attempt.obstacle ?? obstacle;
    const leftMs = untilMs - performance.now();
    if (leftMs <= 0) throw notBack(request, obstacle);
    const ms = isRefused(attempt.obstacle) ? refusedPauseMs : pauseMs * (0.5 + Math.random() / 2);
    const { signal } = request;
    await pause(Math.min(leftMs, ms), undefined, signal === undefined ? {} : { signal }).catch(() => {
      throw new DeviceError("cancelled", request.session.node, "cancelled", {
        hint: "the node reboots all the same; run the operation again to go on from here",
      });
    });
  }
}

/** Whether sshd answered, and then did not let us in. */
const isRefused = (obstacle: unknown): boolean =>
  obstacle instanceof DeviceError &&
  (obstacle.kind === "denied" || /before login/.test(obstacle.originalMessage ?? ""));

/** The boot that was to end answered. */
class SameBoot extends Error {
  override readonly name = "SameBoot";
}

interface Attempt {
  readonly after: AfterReboot | undefined;
  /** What kept us out; undefined when it was only that the time was over. */
  readonly obstacle: unknown;
}

async function tryToGetIn(request: RebootRequest, bootBefore: string, untilMs: number): Promise<Attempt> {
  const { session, signal } = request;
  const nonce = newNonce();
  const { script, deadlineSeconds } = renderAfterReboot(request.steps, request.readback, {
    ...request.script,
    nonce,
    bootBefore,
  });
  let heard = "";
  // The time is for coming back; who is back is heard out.
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), Math.max(0, untilMs - performance.now()));
  try {
    const result = await session.runOnNewConnection(script, {
      timeoutMs: deadlineSeconds * 1000,
      attempts: 1,
      signal: signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]),
      onStdout: (chunk) => {
        clearTimeout(timer);
        heard += chunk;
        request.onStdout(nonce, chunk);
      },
    });
    const output = parsePlanOutput(result.stdout, nonce);
    if (!isComplete(result.stdout, result.stderr, nonce)) {
      if (output.begun.length > 0) requireComplete(session.node, result, nonce);
      return { after: undefined, obstacle: new Error("its answer was cut off") };
    }
    return output.booted === undefined
      ? { after: undefined, obstacle: new SameBoot() }
      : {
          after: { output, readback: parseProbes(result.stdout, result.stderr, nonce) },
          obstacle: undefined,
        };
  } catch (error) {
    if (signal?.aborted === true || (isCancelled(error) && !late.signal.aborted)) throw error;
    // What may have been done in part is not begun again without a look.
    if (parsePlanOutput(heard, nonce).begun.length > 0) throw error;
    return { after: undefined, obstacle: late.signal.aborted ? undefined : error };
  } finally {
    clearTimeout(timer);
  }
}

function notBack(request: RebootRequest, obstacle: unknown): DeviceError {
  const { session, step } = request;
  if (obstacle instanceof SameBoot) return stillUp(session.node, step.title, step.waitSeconds);
  const [message, hint] = whatToLookAt(obstacle);
  return new DeviceError(
    "unreachable",
    session.node,
    `'${step.title}': the node ${message} within ${step.waitSeconds} s after it was told to reboot`,
    {
      ...(obstacle instanceof Error
        ? {
            originalMessage: obstacle instanceof DeviceError ? obstacle.shortMessage : obstacle.message,
            cause: obstacle,
          }
        : {}),
      hint: `${hint}; once it answers, run the operation again, it goes on from there`,
    },
  );
}

function whatToLookAt(obstacle: unknown): readonly [string, string] {
  if (isRefused(obstacle)) {
    return [
      "came back, but let nobody in",
      "look at its screen or serial console: while it starts, or in emergency mode, only root is let in",
    ];
  }
  if (obstacle instanceof DeviceError && obstacle.kind === "hostKeyMismatch") {
    return [
      "did not come back with its own host key",
      "see whether another machine has its address now, or it booted another system",
    ];
  }
  return [
    "did not come back",
    "look at its screen or serial console for where the boot stopped, see whether it has another address now, and switch it off and on again",
  ];
}
