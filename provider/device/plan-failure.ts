import { DeviceError, type DeviceErrorDetails } from "./errors.ts";
import type { AllowedReboot, PlanOutput, StepFailure } from "./plan-output.ts";
import type { PlanPoint } from "./plan-points.ts";
import { revertJournal } from "./plan-script.ts";
import { redact } from "./redact.ts";
import type { CommitConfirmStep } from "./step.ts";

/** Lines of a step's output that are shown. */
const shownLines = 20;

const plain = (text: string): string => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");

/** The last lines of what a step printed, without control characters and secrets. */
function shown(output: string, secrets: readonly string[]): string {
  return plain(redact(output, secrets)).trim().split("\n").slice(-shownLines).join("\n");
}

/** Everything that a plan carries on standard input: none of it belongs in a message. */
function secretsOf(point: PlanPoint | undefined): readonly string[] {
  if (point?.step?.kind === "run") return point.step.stdin === undefined ? [] : [point.step.stdin];
  return point?.step?.kind === "file" ? [point.step.content] : [];
}

const devicesOwn = (text: string): string => plain(text).replace(/\s+/g, " ").trim().slice(0, 200);

function ofLock(node: string, output: PlanOutput): DeviceError | undefined {
  const { locked, pending, trouble } = output;
  if (locked !== undefined) {
    const who = devicesOwn(locked.owner) || "somebody";
    const what = devicesOwn(locked.purpose) || "a plan";
    return new DeviceError("locked", node, `${who} is changing this node: ${what}`, {
      hint: `nothing was done; run the operation again when that has ended (${locked.secondsLeft} s at most)`,
    });
  }
  if (pending !== undefined) {
    const title = devicesOwn(pending.title);
    const back = devicesOwn(pending.rollbackTo);
    switch (pending.state) {
      case "waiting":
        return new DeviceError("locked", node, `a change waits for its confirmation: '${title}'`, {
          hint: `nothing was done; unless it is confirmed, the device takes it back in ${pending.secondsLeft} s (to: ${back}); run the operation again then`,
        });
      case "reverted":
        return new DeviceError("locked", node, `an unconfirmed change was found and taken back: '${title}'`, {
          hint: `the node is back to: ${back}; what was planned started from something else, so run the operation again`,
        });
      case "trouble":
        return new DeviceError("locked", node, `an unconfirmed change can't be taken back: '${title}'`, {
          originalMessage: devicesOwn(pending.trouble) || "its revert did not run",
          hint: `the device tries again every 5 s and at every boot; see ${revertJournal} there, and docs/device-layer.md`,
        });
    }
  }
  if (trouble === undefined) return undefined;
  return new DeviceError("stepFailed", node, devicesOwn(trouble), {
    hint: "nothing was done; check that /run on the device is writable and not full",
  });
}

/** Causes that a step can't help, as the C library words them (LC_ALL=C) and apt does; and what to do about each. */
const causes: readonly { readonly said: RegExp; readonly mend: string }[] = [
  {
    said: /No space left on device|Disk quota exceeded|enough free space/,
    mend: "make room on the device (`df -h` and `df -i` there tell what is full)",
  },
  {
    said: /Read-only file system/,
    mend: "see on the device what is mounted read-only, and why (`findmnt -O ro`, `dmesg`): the kernel does so to a card that fails, which then has to be replaced",
  },
];

function mendOf({ how, output }: StepFailure): string {
  if (how === "timedOut")
    return "see on the device what hangs or keeps it busy (`top`, `dmesg`, its journal)";
  if (how === "late") return "give the change a longer window, or wait until the node is less busy";
  return causes.find(({ said }) => said.test(output))?.mend ?? "mend the cause";
}

/** Bytes as a person compares them. */
export const mebibytes = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;

function ofStep(
  node: string,
  failure: StepFailure,
  point: PlanPoint | undefined,
  back: string | undefined,
): DeviceError {
  const title = point?.title ?? failure.id;
  const text = shown(failure.output, secretsOf(point));
  const details: DeviceErrorDetails = {
    ...(text === "" ? {} : { originalMessage: text }),
    hint: `${back ?? "the steps after it were not run"}; ${mendOf(failure)}, and run the operation again${back === undefined ? ": it goes on from here" : ""}`,
  };
  switch (failure.how) {
    case "failed":
      return new DeviceError(
        "stepFailed",
        node,
        `'${title}' failed with exit status ${failure.code}`,
        details,
      );
    case "timedOut":
      return new DeviceError(
        "timedOut",
        node,
        `'${title}' did not end within ${failure.boundSeconds} s and was killed`,
        details,
      );
    case "unapproved": {
      const isTrial = point?.step?.kind === "reboot" && point.step.approvedWith !== undefined;
      const [boot, orElse] = isTrial
        ? ["boot after the trial", "Or"]
        : ["next boot", `Or \`edgeseal update ${node}\`; or`];
      return new DeviceError(
        "refused",
        node,
        `'${title}' was not done: the state that the ${boot} would measure has no approval on the node, so its sealed volumes would stay locked`,
        {
          ...details,
          hint: `run \`edgeseal approve ${node}\`, have the approval reviewed, and run the operation again: it ships the \`approval\` that it is given (a site file's is read anew) before the reboot. ${orElse} set rebootUnapproved: allow, and the node boots with its volumes locked`,
        },
      );
    }
    case "approvalUnknown":
      return new DeviceError(
        "refused",
        node,
        `'${title}' was not done: it can't be told whether the state that the next boot would measure is approved, and sealed volumes may stay locked`,
        {
          ...details,
          hint: "mend the measuring program (edgeseal:boot:MeasuredBoot); or set rebootUnapproved: allow",
        },
      );
    case "noRoom": {
      const [needed = 0, free = 0] = failure.output.split(" ").map(Number);
      return new DeviceError(
        "refused",
        node,
        `'${title}' needs ${mebibytes(needed)} more on the device, where ${mebibytes(free)} are free`,
        {
          hint: "nothing was sent; make room there, or choose another file system, and run the operation again",
        },
      );
    }
    case "stillUp":
      return stillUp(node, title, failure.boundSeconds);
    case "late":
      return new DeviceError("timedOut", node, `the window ended before '${title}' could run`, details);
    case "precondition":
      return new DeviceError(
        "preconditionFailed",
        node,
        `the device is no longer as the plan for '${title}' assumed`,
        {
          ...details,
          hint: back ?? "it was not done, nor anything after it; refresh, and look at the new plan",
        },
      );
    case "fenced":
      return new DeviceError("fenced", node, `somebody else took over the node before '${title}'`, {
        hint: back ?? "nothing was done after that; run the operation again",
      });
  }
}

/** A node that took the request for a reboot and is in the same boot long after it. */
export function stillUp(node: string, title: string, seconds: number): DeviceError {
  return new DeviceError(
    "timedOut",
    node,
    `'${title}': the node was told to reboot and is still in the same boot after ${seconds} s`,
    {
      hint: "something keeps it from shutting down: see `systemctl list-jobs` and the journal there",
    },
  );
}

/** Why a plan did not run to its end, from what its script said; `undefined` when it did. */
export function failureIn(
  node: string,
  output: PlanOutput,
  points: readonly PlanPoint[],
  change: CommitConfirmStep | undefined,
): DeviceError | undefined {
  const beforeSteps = ofLock(node, output);
  if (beforeSteps !== undefined) return beforeSteps;
  const { failure } = output;
  if (failure === undefined) return undefined;
  return ofStep(
    node,
    failure,
    points.find(({ id }) => id === failure.id),
    change === undefined ? undefined : takenBack(output, change),
  );
}

function takenBack(output: PlanOutput, change: CommitConfirmStep): string | undefined {
  if (output.reverted) return `the change was taken back at once; the node is back to: ${change.rollbackTo}`;
  if (output.revertTrouble === undefined) return undefined;
  return `taking the change back (to: ${change.rollbackTo}) has not succeeded yet: ${devicesOwn(output.revertTrouble) || `see ${revertJournal} on the device`}`;
}

/** What a user is told of a step that failed, and was not to stop the plan. */
export function warned(node: string, point: PlanPoint | undefined, output: string): string {
  const text = shown(output, secretsOf(point));
  return `${node}: '${point?.title ?? "a step"}': ${text === "" ? "it failed without a word" : text}`;
}

/** What a user is told of a reboot that they allowed. */
export function lockedAfter(node: string, title: string, { approval, output }: AllowedReboot): string {
  const why =
    approval === "none"
      ? "the state that the node boots into has no approval on it, so its sealed volumes will stay locked"
      : "it can't be told whether the state that the node boots into is approved, and its sealed volumes may stay locked";
  const text = shown(output, []);
  return `${node}: '${title}': ${why}${text === "" ? "" : ` (${text})`}`;
}
