import { setTimeout as pause } from "node:timers/promises";
import { isComplete, newNonce, parseProbes, requireComplete } from "./batch.ts";
import { isCancelled, type Readback } from "./confirmation.ts";
import { cancelled, DeviceError } from "./errors.ts";
import { stillUp } from "./plan-failure.ts";
import { parsePlanOutput, type PlanOutput } from "./plan-output.ts";
import { isReboot, type RebootPoint } from "./plan-points.ts";
import { renderAfterReboot, type PlanScriptOptions } from "./plan-script.ts";
import type { Probe } from "./probe.ts";
import type { Session } from "./session.ts";
import type { Step } from "./step.ts";
import type { ExecResult } from "./transport.ts";

/*
 * The provider's half of a reboot: to hear the node go down, to get in again, and to prove that it is another boot.
 */

/** An exec that may end with the boot that it runs in. */
interface EndingExec {
  readonly nonce: string;
  readonly exec: Promise<ExecResult>;
  /** Settles, with `performance.now()`, when the device says that it is asking for the reboot. */
  readonly asked: Promise<number>;
  /** What it printed so far, and when it last did. */
  readonly heard: () => { readonly text: string; readonly atMs: number };
  /** Ends it here. On the device it ends with its next line feed, where it still runs. */
  readonly giveUp: () => void;
}

export interface RebootRequest {
  readonly session: Session;
  readonly steps: readonly Step[];
  /** The reboot that the plan ends with. */
  readonly point: RebootPoint;
  readonly readback: readonly Probe<unknown>[];
  readonly script: Omit<PlanScriptOptions, "nonce" | "manifest">;
  /** The exec of the plan, which runs. */
  readonly first: EndingExec;
  readonly signal: AbortSignal | undefined;
  readonly onStdout: (nonce: string, chunk: string) => void;
  readonly onProgress: (message: string) => void;
}

/** What was done before and in the boots that followed, and read in the last of them. */
interface AfterReboot {
  readonly output: PlanOutput;
  readonly readback: Readback;
}

/** Either there was no reboot, and the exec ran to its end; or there was one. */
export type ThroughReboot =
  { readonly result: ExecResult; readonly after: undefined } | { readonly after: AfterReboot };

/** A boot that is to end: which one, the exec that asked for that, and what for. */
interface Going {
  readonly bootBefore: string;
  readonly exec: EndingExec;
  readonly point: RebootPoint;
}

/** What became of it. */
type Turn =
  /** It did not end; the exec ran to its end in it. */
  | { readonly how: "stayed"; readonly exec: EndingExec; readonly result: ExecResult }
  /** An exec in the next one ran to its end. */
  | { readonly how: "back"; readonly exec: EndingExec; readonly result: ExecResult }
  /** An exec in the next one asked for the one after it. */
  | { readonly how: "again"; readonly going: Going };

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
 * Waits for the node to go down and to come back, as often as the plan reboots it, and reads back in the last boot.
 * @throws DeviceError as the exec, as long as no reboot was asked for; then `unreachable` when the node does not come back in time, `timedOut` when it is still in the boot that was to
 * end, `cancelled` (the node reboots all the same).
 */
export async function throughReboot(request: RebootRequest): Promise<ThroughReboot> {
  const { first, point } = request;
  const asked = await askedIn(first);
  if ("result" in asked) return { result: asked.result, after: undefined };
  const begun: string[] = [];
  const done: string[] = [];
  let going: Going = { ...asked, exec: first, point };
  for (;;) {
    const turn = await throughBoot(request, going);
    if (turn.how === "stayed" && turn.exec === first) return { result: turn.result, after: undefined };
    if (turn.how !== "stayed") {
      const { text } = going.exec.heard();
      const before = parsePlanOutput(text, going.exec.nonce);
      begun.push(...before.begun);
      done.push(...before.done, going.point.id);
    }
    if (turn.how === "again") {
      going = turn.going;
      continue;
    }
    const { stdout, stderr } = turn.result;
    const output = parsePlanOutput(stdout, turn.exec.nonce);
    return {
      after: {
        output: { ...output, begun: [...begun, ...output.begun], done: [...done, ...output.done] },
        readback: parseProbes(stdout, stderr, turn.exec.nonce),
      },
    };
  }
}

/** How an exec goes on that may end with the boot: it runs to its end, or asks for the end of the boot that it names. */
async function askedIn({
  exec,
  asked,
  heard,
  nonce,
}: EndingExec): Promise<{ readonly result: ExecResult } | { readonly bootBefore: string }> {
  const first = await Promise.race([exec, asked]).catch((error: unknown) => {
    // What it said arrives before its end.
    if (parsePlanOutput(heard().text, nonce).rebooting === undefined || isCancelled(error)) throw error;
    return undefined;
  });
  if (typeof first === "object" && isComplete(first.stdout, first.stderr, nonce)) return { result: first };
  const bootBefore = parsePlanOutput(heard().text, nonce).rebooting;
  if (bootBefore === undefined) return { result: typeof first === "object" ? first : await exec };
  return { bootBefore };
}

async function throughBoot(request: RebootRequest, going: Going): Promise<Turn> {
  const { exec } = going;
  using _telling = tellWaiting(request.session.node, request.onProgress);
  const ended = await goneDown(exec);
  if (ended !== undefined && isComplete(ended.stdout, ended.stderr, exec.nonce)) {
    return { how: "stayed", exec, result: ended };
  }
  exec.giveUp();
  return await comeBack(request, going, await exec.asked);
}

/** The end of the exec that asked for the reboot; nothing when the connection went away, or fell silent. */
async function goneDown({ exec, heard }: EndingExec): Promise<ExecResult | undefined> {
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

/** Gets in again, and does in the new boot what is to be done there. */
async function comeBack(request: RebootRequest, going: Going, askedAtMs: number): Promise<Turn> {
  const untilMs = askedAtMs + going.point.step.waitSeconds * 1000;
  let obstacle: unknown;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 1.5, longestPauseMs)) {
    const attempt = await tryToGetIn(request, going, untilMs);
    if (attempt.turn !== undefined) return attempt.turn;
    obstacle = attempt.obstacle ?? obstacle;
    const leftMs = untilMs - performance.now();
    if (leftMs <= 0) throw notBack(request.session.node, going.point, obstacle);
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
  readonly turn: Turn | undefined;
  /** What kept us out; undefined when it was only that the time was over. */
  readonly obstacle: unknown;
}

async function tryToGetIn(request: RebootRequest, going: Going, untilMs: number): Promise<Attempt> {
  const { session, signal } = request;
  const nonce = newNonce();
  const { script, deadlineSeconds, points } = renderAfterReboot(request.steps, request.readback, {
    ...request.script,
    nonce,
    bootBefore: going.bootBefore,
    reboot: going.point.id,
  });
  let heard = "";
  let heardAtMs = performance.now();
  const asked = Promise.withResolvers<number>();
  const abandon = new AbortController();
  // The time is for coming back; who is back is heard out.
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), Math.max(0, untilMs - performance.now()));
  const exec: EndingExec = {
    nonce,
    exec: session.runOnNewConnection(script, {
      timeoutMs: deadlineSeconds * 1000,
      attempts: 1,
      signal: AbortSignal.any([late.signal, abandon.signal, ...(signal === undefined ? [] : [signal])]),
      onStdout: (chunk) => {
        clearTimeout(timer);
        heard += chunk;
        heardAtMs = performance.now();
        if (parsePlanOutput(heard, nonce).rebooting !== undefined) asked.resolve(heardAtMs);
        request.onStdout(nonce, chunk);
      },
    }),
    asked: asked.promise,
    heard: () => ({ text: heard, atMs: heardAtMs }),
    giveUp: () => abandon.abort(cancelled(session.node, "since the node reboots")),
  };
  try {
    const end = await askedIn(exec);
    if ("bootBefore" in end) {
      const point = points.find(isReboot);
      if (point === undefined) throw new TypeError("a reboot was asked for that is not in the plan");
      return { turn: { how: "again", going: { ...end, exec, point } }, obstacle: undefined };
    }
    const { result } = end;
    const output = parsePlanOutput(result.stdout, nonce);
    if (!isComplete(result.stdout, result.stderr, nonce)) {
      if (output.begun.length > 0) requireComplete(session.node, result, nonce);
      return { turn: undefined, obstacle: new Error("its answer was cut off") };
    }
    return output.booted === undefined
      ? { turn: undefined, obstacle: new SameBoot() }
      : { turn: { how: "back", exec, result }, obstacle: undefined };
  } catch (error) {
    if (signal?.aborted === true || (isCancelled(error) && !late.signal.aborted)) throw error;
    // What may have been done in part is not begun again without a look.
    if (parsePlanOutput(heard, nonce).begun.length > 0) throw error;
    return { turn: undefined, obstacle: late.signal.aborted ? undefined : error };
  } finally {
    clearTimeout(timer);
  }
}

function notBack(node: string, { step }: RebootPoint, obstacle: unknown): DeviceError {
  if (obstacle instanceof SameBoot) return stillUp(node, step.title, step.waitSeconds);
  const [message, hint] = whatToLookAt(obstacle);
  return new DeviceError(
    "unreachable",
    node,
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
