import { renderProbes, renderScript } from "./batch.ts";
import { boundedStep, killAfterSeconds } from "./bounded-step.ts";
import { giveUp, pendingCheck, renderConfirm, renderOutcome, windowSecondsOf } from "./commit-confirm.ts";
import { renderManifestChange, type ManifestChange } from "./manifest.ts";
import { renderLock } from "./node-lock.ts";
import { isAfter, isReboot, pointsOf, type Breakpoint, type PlanPoint } from "./plan-points.ts";
import { extraSecondsOf, type Probe } from "./probe.ts";
import {
  rebootFunction,
  rebootSecondsOf,
  renderReboot,
  renderReturn,
  returnSeconds,
} from "./reboot-script.ts";
import { renderStep } from "./render.ts";
import { revertUnit, stateDirectory } from "./revert-script.ts";
import { quote } from "./shell-quote.ts";
import type { CommitConfirmStep, Step } from "./step.ts";

/*
 * A whole plan as one script: lock, check for a pending change, steps, manifest, readback. The lock is let go by the EXIT trap.
 *
 * Before and after each step the script says so on standard output. When nobody is there any more to hear it (the provider was killed, the connection is gone), it
 * ends right there, and the lock with it. Only within the window of a commit-confirmed change it goes on, since the change may be what cut the connection; what becomes of
 * it is decided by confirmation or timer.
 */

export interface PlanScriptOptions {
  readonly nonce: string;
  /** Nonce of the commit-confirmed change in the plan. */
  readonly changeNonce: string;
  readonly owner: string;
  readonly purpose: string;
  readonly lockWaitSeconds: number;
  readonly manifest?: ManifestChange | undefined;
  readonly breakpoint?: Breakpoint | undefined;
}

export interface PlanScript {
  readonly script: string;
  readonly points: readonly PlanPoint[];
  /** Sum of the deadlines of everything in it, in seconds. */
  readonly deadlineSeconds: number;
}

export const preconditionSeconds = 30;
/** Probes end by themselves; this is what all of them together may take on a busy Pi. */
const readbackSeconds = (probes: readonly Probe<unknown>[]): number => 120 + extraSecondsOf(probes);
/** A revert: its own deadline, plus files put back on a slow card. */
export const revertSeconds = 130;

/** Shell function `say`: prints one marker. */
export const say = (nonce: string): string => `say() { printf '\\n@%s %s\\n' ${nonce} "$*" 2>/dev/null; }`;

const breakHere = `
break_here() {
  [ -z "$stopped" ] || return 0
  say break "$1" "$2"
  while printf '\\n' 2>/dev/null; do sleep 0.05; done
  exit 141
}`;

const planStep = `
stopped= armed_until= armed_nonce=
lost() { [ -n "$armed_until" ] || exit 141; }
limit() {
  bound=$1 after=${killAfterSeconds}
  [ -n "$armed_until" ] || return 0
  uptime
  after=1 left=$((armed_until - now - 3))
  [ "$bound" -le "$left" ] || bound=$left
  # Taken back already, by whomever: nothing may be written after that.
  [ "$left" -ge 1 ] && [ "$(cat ${stateDirectory}/pending/nonce 2>/dev/null)" = "$armed_nonce" ]
}
kept() { base64 -w 0 <"$work/log" 2>/dev/null; }
plan_step() {
  [ -z "$stopped" ] || return 0
  say begin-step "$1" || lost
  if ! lock_holds; then stopped=fenced; say fenced "$1"; return 0; fi
  if [ -n "$5" ]; then
    limit ${preconditionSeconds} || { stopped=window; say late "$1"; return 0; }
    bounded "$bound" "$after" "$5" ''
    if [ "$code" -ne 0 ]; then stopped=precondition; say precondition "$1" "$code" "$(kept)"; return 0; fi
  fi
  limit "$2" || { stopped=window; say late "$1"; return 0; }
  bounded "$bound" "$after" "$3" "$4"
  if [ "$code" -ne 0 ] && [ "$6" = warn ]; then say warned "$1" "$code" "$(kept)" || lost; code=0; fi
  if [ "$code" -ne 0 ]; then stopped=failed; say failed "$1" "$code" "$bound" "$(kept)"; return 0; fi
  say end-step "$1" || lost
}
plan_exit() { trap '' HUP INT TERM PIPE; work_end; lock_release; }
trap plan_exit EXIT
trap 'exit 143' HUP INT TERM
trap : PIPE
`;

function renderPoint(point: PlanPoint, breakpoint: Breakpoint | undefined): readonly string[] {
  if (point.step === undefined || point.step.kind === "upload") return [];
  const pause = (when: Breakpoint["when"]): readonly string[] =>
    breakpoint?.at === point.id && breakpoint.when === when ? [`break_here ${quote(point.id)} ${when}`] : [];
  // What comes after a reboot runs in another exec.
  if (point.step.kind === "reboot") return [...pause("before"), renderReboot(point.id, point.step)];
  const { script, stdinBase64, timeoutSeconds } = renderStep(point.step);
  const words = [
    quote(point.id),
    String(timeoutSeconds),
    quote(script),
    quote(stdinBase64),
    quote(point.step.precondition ?? ""),
    point.step.kind === "run" ? (point.step.onFailure ?? "fail") : "fail",
  ];
  return [...pause("before"), `plan_step ${words.join(" ")}`, ...pause("after")];
}

function deadlineOf(points: readonly PlanPoint[]): number {
  let seconds = 0;
  for (const { step } of points) {
    if (step === undefined || step.kind === "upload") continue;
    seconds +=
      (step.kind === "reboot" ? rebootSecondsOf(step) : renderStep(step).timeoutSeconds) +
      2 * killAfterSeconds;
    if (step.precondition !== undefined) seconds += preconditionSeconds + 2 * killAfterSeconds;
  }
  return seconds;
}

/** The commit-confirmed change of a plan, if it has one. */
export function changeOf(steps: readonly Step[]): CommitConfirmStep | undefined {
  const last = steps.at(-1);
  return last?.kind === "commitConfirm" ? last : undefined;
}

/** What every script with steps in it defines. */
export function functions(
  options: Pick<PlanScriptOptions, "nonce" | "owner" | "purpose" | "lockWaitSeconds">,
  heldSeconds: number,
): readonly string[] {
  return [
    say(options.nonce),
    renderLock({
      owner: options.owner,
      purpose: options.purpose,
      expirySeconds: heldSeconds,
      waitSeconds: options.lockWaitSeconds,
    }),
    boundedStep,
    pendingCheck,
    giveUp,
    breakHere,
    planStep,
  ];
}

/** Without the lock, no step after it does anything. */
export const takeLock = [
  `if ! lock_acquire; then stopped=locked; say not-locked`,
  `elif ! pending_absent; then stopped=pending`,
  `elif ! work_begin; then stopped=trouble; say trouble 'no directory can be made in /run/edgeseal'; fi`,
].join("\n");

/**
 * The script of the first exec of a plan.
 * @throws TypeError as `renderStep` and `pointsOf`.
 */
export function renderPlan(
  steps: readonly Step[],
  readback: readonly Probe<unknown>[],
  options: PlanScriptOptions,
): PlanScript {
  const { nonce, changeNonce, breakpoint } = options;
  const points = pointsOf(steps, changeNonce);
  const change = changeOf(steps);
  if (change !== undefined) windowSecondsOf(change);
  const stepSeconds = deadlineOf(points.filter(({ phase }) => phase !== "after"));
  const heldSeconds = stepSeconds + readbackSeconds(readback) + revertSeconds;
  const ofPhase = (phase: PlanPoint["phase"]): readonly string[] =>
    points.filter((point) => point.phase === phase).flatMap((point) => renderPoint(point, breakpoint));
  const pending = `${stateDirectory}/pending`;
  const changeLines =
    change === undefined
      ? []
      : [
          ...ofPhase("arm"),
          `if [ -z "$stopped" ]; then`,
          `  if read -r armed_until <${pending}/deadline; then armed_nonce=${changeNonce}; say armed || :`,
          `  else stopped=window; say trouble 'the window was over before the change began'; fi`,
          `fi`,
          ...ofPhase("apply"),
          `if [ -z "$stopped" ]; then true >${pending}/applied; say applied || :`,
          `elif [ "$(cat ${pending}/nonce 2>/dev/null)" = ${changeNonce} ]; then give_up; fi`,
        ];
  const body = [
    ...functions(options, heldSeconds),
    ...(points.some(isReboot) ? [rebootFunction] : []),
    takeLock,
    ...ofPhase("step"),
    ...changeLines,
    // A failed plan may have done half of its work, so its probe belongs in the manifest all the same.
    ...(options.manifest === undefined
      ? []
      : [`case $stopped in locked | pending) ;; *) ${renderManifestChange(options.manifest)} ;; esac`]),
    // Ends here when the node goes down: the answer that counts is that of the new boot.
    ...ofPhase("reboot"),
    // After a change the answer counts that comes over the new connection.
    `if ${change === undefined ? ":" : `[ -n "$stopped" ]`}; then`,
    ":",
    renderProbes(readback, nonce),
    "fi",
  ].join("\n");
  return {
    script: renderScript(body, nonce),
    points,
    deadlineSeconds: heldSeconds + options.lockWaitSeconds + revertSeconds,
  };
}

/** The script of the second exec: the confirmation, and what the node looks like after it. */
export function renderConfirmation(
  steps: readonly Step[],
  readback: readonly Probe<unknown>[],
  options: PlanScriptOptions,
): PlanScript {
  const { nonce, changeNonce, breakpoint } = options;
  const point = pointsOf(steps, changeNonce).find(({ phase }) => phase === "confirm");
  const pause = (when: Breakpoint["when"]): string =>
    point !== undefined && breakpoint?.at === point.id && breakpoint.when === when
      ? `break_here ${quote(point.id)} ${when}`
      : ":";
  const body = [
    "stopped=",
    say(nonce),
    renderLock({
      ...options,
      expirySeconds: readbackSeconds(readback) + revertSeconds,
      waitSeconds: options.lockWaitSeconds,
    }),
    giveUp,
    renderConfirm(changeNonce),
    breakHere,
    `trap lock_release EXIT`,
    `trap 'exit 143' HUP INT TERM`,
    `trap : PIPE`,
    `if lock_acquire; then`,
    pause("before"),
    `confirm`,
    pause("after"),
    `fi`,
    renderProbes(readback, nonce),
  ].join("\n");
  return {
    script: renderScript(body, nonce),
    points: point === undefined ? [] : [point],
    deadlineSeconds: options.lockWaitSeconds + readbackSeconds(readback) + revertSeconds,
  };
}

/** The script of the exec after a reboot, by the id of its point: that it is another boot, what is to be done in it, and what the node looks like then. */
export function renderAfterReboot(
  steps: readonly Step[],
  readback: readonly Probe<unknown>[],
  options: Omit<PlanScriptOptions, "manifest"> & { readonly bootBefore: string; readonly reboot: string },
): PlanScript {
  const { nonce, breakpoint, reboot } = options;
  const points = pointsOf(steps, options.changeNonce).filter((point) => isAfter(point, reboot));
  const stepSeconds = deadlineOf(points);
  const heldSeconds = stepSeconds + readbackSeconds(readback);
  const pause =
    breakpoint?.at === reboot && breakpoint.when === "after" ? `break_here ${quote(reboot)} after` : ":";
  const inNewBoot = [
    pause,
    ...(points.length === 0 ? [] : [takeLock, ...points.flatMap((point) => renderPoint(point, breakpoint))]),
    renderProbes(readback, nonce),
  ];
  const body = [
    ...functions(options, heldSeconds),
    ...(points.some(isReboot) ? [rebootFunction] : []),
    renderReturn(options.bootBefore, inNewBoot.join("\n")),
  ];
  return {
    script: renderScript(body.join("\n"), nonce),
    points,
    deadlineSeconds: heldSeconds + options.lockWaitSeconds + returnSeconds,
  };
}

/** The script that finds out how a change ended that we could not confirm. Changes nothing, takes no lock. */
export function renderOutcomeCheck(
  readback: readonly Probe<unknown>[],
  options: { readonly nonce: string; readonly changeNonce: string },
): string {
  return renderScript(
    [
      say(options.nonce),
      renderOutcome(options.changeNonce),
      "outcome",
      renderProbes(readback, options.nonce),
    ].join("\n"),
    options.nonce,
  );
}

/** What a person at the device runs to see what the revert did. */
export const revertJournal = `journalctl -u ${revertUnit}`;
