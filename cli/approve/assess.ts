import type { Approval, ApprovedState } from "../../provider/trust/approval-schema.ts";
import { verifyApproval } from "../../provider/trust/approval.ts";
import { diffLogs, type EventChange } from "../../provider/trust/event-diff.ts";
import {
  eventText,
  judgeReplay,
  logObjections,
  measuredTexts,
  parseEventLog,
  pcr11Of,
  type EventLog,
  type MeasuredTexts,
} from "../../provider/trust/event-log.ts";
import { UserError } from "../errors.ts";
import { checkAgainstArtifacts, type ArtifactCheck, type ArtifactEvents } from "./artifacts.ts";
import type { PolicyKey } from "./policy-key.ts";
import type { NodeReading, WhichState } from "./read-node.ts";

/** What approving a state would mean. */
export interface Assessment {
  readonly node: string;
  readonly which: WhichState;
  readonly log: EventLog;
  /** The value of PCR 11 that the log leads to. */
  readonly pcr11: string;
  /** What keeps the measurement from being approved at all. */
  readonly objections: readonly string[];
  /** The state that it is compared with: the newest one that was approved, of whatever generation; `undefined` for a node's first. */
  readonly base: (ApprovedState & { readonly generation: number }) | undefined;
  readonly changes: readonly EventChange[];
  /** Whether the current generation has approved it already. */
  readonly approved: boolean;
  /** Approved states of this generation, which stay. */
  readonly kept: Approval["states"];
  readonly generation: number;
  /** Generation of the policy key that the site file names, if it is not this one. */
  readonly otherSiteGeneration: number | undefined;
  /** How many approved states are of a revoked generation, and are not carried over. */
  readonly left: number;
  readonly artifacts: ArtifactCheck | undefined;
  /** Whether the measuring program is the one of this version of edgeseal. */
  readonly ownProgram: boolean;
}

export interface AssessmentInput {
  readonly node: string;
  readonly which: WhichState;
  readonly reading: NodeReading;
  /** The node's approval so far. */
  readonly approval: Approval | undefined;
  /** Texts of approved events. */
  readonly approvedTexts: MeasuredTexts;
  readonly key: Pick<PolicyKey, "generation" | "publicKeyPem" | "revoked">;
  readonly artifacts: ArtifactEvents | undefined;
  /** Generation of the policy key that the site file names, where one was read. */
  readonly siteGeneration: number | undefined;
  /** Digest of the measuring program of this version. */
  readonly programDigest: string;
}

/**
 * Works out what a measurement is, against what was approved. Pure.
 * @throws EventLogRefused; UserError for an approval that must not be built on.
 */
export function assess(input: AssessmentInput): Assessment {
  const { node, which, reading, approval, key } = input;
  const log = parseEventLog(reading.log);
  const pcr11 = pcr11Of(log.events);
  const isCurrent = approval?.generation === key.generation;
  if (approval !== undefined) requireUsable(approval, node, key);
  const newest = approval?.states.at(-1);
  const texts = new Map([...input.approvedTexts, ...measuredTexts(reading.texts)]);
  return {
    node,
    which,
    log,
    pcr11,
    objections: [...logObjections(log, node), ...replayObjections(which, log, reading.pcr11)],
    base: newest && approval && { ...newest, generation: approval.generation },
    changes: diffLogs(newest?.events ?? [], log.events, texts),
    approved: isCurrent && approval.states.some((state) => state.pcr11 === pcr11),
    generation: key.generation,
    otherSiteGeneration: input.siteGeneration === key.generation ? undefined : input.siteGeneration,
    kept: isCurrent ? approval.states : [],
    left: isCurrent ? 0 : (approval?.states.length ?? 0),
    artifacts: input.artifacts && checkAgainstArtifacts(log.events, reading.texts, input.artifacts),
    ownProgram: log.events.some(({ type, digest }) => type === "program" && digest === input.programDigest),
  };
}

/** The log of this boot has to explain what the TPM says. What the next boot will be, no TPM says yet. */
function replayObjections(which: WhichState, log: EventLog, pcr11: string | undefined): readonly string[] {
  if (which !== "current") return [];
  if (pcr11 === undefined)
    return ["the node does not show PCR 11, so nothing says that this log is that of this boot"];
  return judgeReplay(log, pcr11) === "tampered"
    ? [
        `the log does not explain PCR 11, which is ${pcr11}: something else was extended, or the log was changed`,
      ]
    : [];
}

/**
 * An approval that is built on is signed again, with all that is in it: so it has to be right.
 * @throws UserError
 */
function requireUsable(approval: Approval, node: string, key: AssessmentInput["key"]): void {
  if (approval.generation > key.generation) {
    throw new UserError(
      `the approval of ${node} is of generation ${approval.generation} of the policy key, and yours is generation ${key.generation}: it was revoked`,
      { hint: "use the current policy key" },
    );
  }
  const pem =
    approval.generation === key.generation ? key.publicKeyPem : key.revoked.get(approval.generation);
  // Of a revoked generation only the events are looked at, to say what changed. Without its key not even that can be believed.
  if (pem === undefined) {
    throw new UserError(
      `the approval of ${node} is of generation ${approval.generation} of the policy key, whose public half is not here, so it can't be checked`,
      { hint: "give --keys DIR, or move the file away: everything then counts as new" },
    );
  }
  const problems = verifyApproval(approval, { node, generation: approval.generation, publicKeyPem: pem });
  if (problems.length === 0) return;
  const list = problems.map(({ path, message }) => `${path}: ${message}`).join("\n");
  throw new UserError(`the approval of ${node} can't be built on:\n${list}`);
}

/** A reason in one line, where none was given: what changed. */
export function reasonOf({ base, changes, which }: Pick<Assessment, "base" | "changes" | "which">): string {
  if (base === undefined) return `first approved state (${which === "current" ? "running" : "next"} boot)`;
  const named = changes.filter(({ type, name }) => changes.length === 1 || type !== "tree" || name !== "/");
  const words = named.map((change) => `${change.change} ${eventText(change)}`).join(", ");
  // Names come from the device; what a reason may not have is replaced.
  const text = (words === "" ? "no change" : words).replaceAll(/[^\x20-\x7e]/g, "?");
  return text.length <= 200 ? text : `${text.slice(0, 197)}...`;
}
