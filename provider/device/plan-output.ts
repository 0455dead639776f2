import { isBootId } from "./reboot-script.ts";

/*
 * What a plan's script says of itself, cut out of its output: lines `@NONCE VERB WORD...`.
 */

/** How a step ended that did not succeed. */
export interface StepFailure {
  readonly id: string;
  readonly how:
    | "failed"
    | "timedOut"
    | "precondition"
    | "late"
    | "fenced"
    /** An upload for which there is not enough room: `output` has the bytes that it needs and those that are free. */
    | "noRoom"
    /** A reboot that was not asked for: the next boot's state has no approval, or it can't be told whether it has. */
    | "unapproved"
    | "approvalUnknown"
    /** A reboot that was asked for and did not come. */
    | "stillUp";
  readonly code: number;
  /** Deadline that it had, in seconds. */
  readonly boundSeconds: number;
  /** The last of its output. */
  readonly output: string;
}

export interface PlanOutput {
  /** Ids of the steps that began, and that ended well. */
  readonly begun: readonly string[];
  readonly done: readonly string[];
  readonly failure: StepFailure | undefined;
  readonly locked:
    { readonly owner: string; readonly purpose: string; readonly secondsLeft: number } | undefined;
  readonly pending:
    | {
        readonly title: string;
        readonly rollbackTo: string;
        /** `waiting` for its confirmation, was overdue and `reverted` now, or can't be reverted (`trouble`). */
        readonly state: "waiting" | "reverted" | "trouble";
        readonly secondsLeft: number;
        readonly trouble: string;
      }
    | undefined;
  /** The device could not even begin. */
  readonly trouble: string | undefined;
  readonly armed: boolean;
  readonly applied: boolean;
  /** The change was taken back by the plan's own script, or that failed. */
  readonly reverted: boolean;
  readonly revertTrouble: string | undefined;
  readonly confirmation: "confirmed" | "reverted" | "other" | "same-connection" | "unfinished" | undefined;
  readonly outcome: "pending" | "reverting" | "reverted" | "confirmed" | "gone" | undefined;
  /** Why the device took the change back, or what hinders it. */
  readonly outcomeDetail: string;
  /** Boot id of the boot that is to end: said right before the reboot is asked for. */
  readonly rebooting: string | undefined;
  /** Boot id of the boot after it. */
  readonly booted: string | undefined;
}

export interface Said {
  readonly verb: string;
  readonly rest: string;
}

/** Every line that the script said, as far as they came over whole. */
export function said(stdout: string, nonce: string): readonly Said[] {
  const prefix = `@${nonce} `;
  const whole = stdout.slice(0, stdout.lastIndexOf("\n") + 1);
  return whole
    .split("\n")
    .filter((line) => line.startsWith(prefix))
    .map((line) => {
      const text = line.slice(prefix.length);
      const at = text.indexOf(" ");
      return at === -1 ? { verb: text, rest: "" } : { verb: text.slice(0, at), rest: text.slice(at + 1) };
    });
}

const fromBase64 = (text: string | undefined): string => Buffer.from(text ?? "", "base64").toString("utf8");

/** timeout(1): 124 when the command ended on TERM, 137 when it took KILL. */
const isTimeout = (code: number): boolean => code === 124 || code === 137;

/** A reboot that is made although volumes will stay locked, or may. */
export interface AllowedReboot {
  readonly id: string;
  readonly approval: "none" | "unknown";
  /** What the check of the approval said. */
  readonly output: string;
}

export function allowedRebootOf({ verb, rest }: Said): AllowedReboot | undefined {
  if (verb !== "allowed-unapproved" && verb !== "allowed-approval-unknown") return undefined;
  const [id = "", , output] = rest.split(" ");
  return {
    id,
    approval: verb === "allowed-unapproved" ? "none" : "unknown",
    output: fromBase64(output),
  };
}

/** A step that failed, and only warns of it. */
export function warningOf({ verb, rest }: Said): { id: string; output: string } | undefined {
  if (verb !== "warned") return undefined;
  const [id = "", , output] = rest.split(" ");
  return { id, output: fromBase64(output) };
}

function failureOf({ verb, rest }: Said): StepFailure | undefined {
  const [id = "", code = "", ...words] = rest.split(" ");
  const plain = { id, code: Number(code), boundSeconds: 0, output: "" };
  switch (verb) {
    case "failed":
      return {
        ...plain,
        how: isTimeout(plain.code) ? "timedOut" : "failed",
        boundSeconds: Number(words[0]),
        output: fromBase64(words[1]),
      };
    case "precondition":
      return { ...plain, how: "precondition", output: fromBase64(words[0]) };
    case "unapproved":
      return { ...plain, how: "unapproved", output: fromBase64(words[0]) };
    case "approval-unknown":
      return { ...plain, how: "approvalUnknown", output: fromBase64(words[0]) };
    case "no-room":
      return { ...plain, code: 0, how: "noRoom", output: [code, ...words].join(" ") };
    case "still-up":
      return { ...plain, how: "stillUp", boundSeconds: Number(words[0]) };
    case "late":
      return { ...plain, how: "late", code: 0 };
    case "fenced":
      return { ...plain, how: "fenced", code: 0 };
    default:
      return undefined;
  }
}

const bootIdIn = (text: string | undefined): string | undefined =>
  text !== undefined && isBootId(text) ? text : undefined;

const pendingStates: Readonly<Record<string, "waiting" | "reverted" | "trouble">> = {
  pending: "waiting",
  "pending-reverted": "reverted",
  "pending-trouble": "trouble",
};

/** Reads the output of any of the scripts in `plan-script.ts`. Pure. */
export function parsePlanOutput(stdout: string, nonce: string): PlanOutput {
  const lines = said(stdout, nonce);
  const first = (verb: string): string | undefined => lines.find((line) => line.verb === verb)?.rest;
  const all = (verb: string): readonly string[] =>
    lines.filter((line) => line.verb === verb).map((line) => line.rest);
  const pendingLine = lines.find((line) => line.verb in pendingStates);
  const pendingState = pendingLine === undefined ? undefined : pendingStates[pendingLine.verb];
  const notLocked = first("locked");
  const confirmation = first("confirmed") === undefined ? first("unconfirmed") : "confirmed";
  const revertTrouble = first("revert-failed");
  return {
    begun: all("begin-step"),
    done: all("end-step"),
    failure: lines.map(failureOf).find((each) => each !== undefined),
    locked:
      notLocked === undefined
        ? undefined
        : {
            secondsLeft: Number(notLocked),
            owner: first("lock-owner") ?? "",
            purpose: first("lock-purpose") ?? "",
          },
    pending:
      pendingLine === undefined || pendingState === undefined
        ? undefined
        : {
            state: pendingState,
            title: first("pending-title") ?? "",
            rollbackTo: first("pending-rollback-to") ?? "",
            secondsLeft: pendingState === "waiting" ? Number(pendingLine.rest) : 0,
            trouble: pendingState === "trouble" ? pendingLine.rest : "",
          },
    trouble:
      first("trouble") ??
      (first("not-locked") !== undefined && notLocked === undefined
        ? "no lock can be taken in /run/edgeseal"
        : undefined),
    armed: first("armed") !== undefined,
    applied: first("applied") !== undefined,
    reverted: first("reverted") !== undefined,
    revertTrouble,
    confirmation: confirmation as PlanOutput["confirmation"],
    outcome: first("outcome") as PlanOutput["outcome"],
    outcomeDetail: first("outcome-reason") ?? first("outcome-trouble") ?? "",
    rebooting: bootIdIn(first("rebooting")),
    booted: bootIdIn(first("booted")),
  };
}
