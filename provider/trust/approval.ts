import type { KeyObject } from "node:crypto";
import { inputValidator } from "../check/input-validator.ts";
import { isProperties } from "../host/values.ts";
import type { InputProblem } from "../resource.ts";
import { approvalSchema, type Approval, type ApprovedState } from "./approval-schema.ts";
import { AmbiguousJson, canonicalJson, parseUnambiguousJson } from "./canonical-json.ts";
import { eventKey, eventText, logObjections, pcr11Of, type MeasuredEvent } from "./event-log.ts";
import {
  policyPcrDigest,
  signChecked,
  signPcrPolicy,
  systemdSignature,
  verifiesPcrPolicy,
  type SystemdSignature,
} from "./pcr-policy.ts";
import { zeroPcr } from "./pcr.ts";
import { fingerprint, readPublicKey, verifies } from "./public-key.ts";
import type { SigningKey } from "./signer.ts";

/*
 * approvals/<node>.json: the boot states of a node that the site's policy key has approved. Public; reviewed in pull requests, shipped by `pulumi up`.
 *
 * Each state has the signature that the TPM and systemd want, which knows nothing of nodes or generations. The document as a whole has another one, which does: a state
 * can't be moved to another node's file, and a file of a revoked generation stays one.
 */

/** An approval can't be used. `message` has every problem, one a line. */
export class ApprovalRefused extends Error {
  override readonly name = "ApprovalRefused";
  readonly problems: readonly InputProblem[];
  constructor(problems: readonly InputProblem[]) {
    super(problems.map(({ path, message }) => (path === "" ? message : `${path}: ${message}`)).join("\n"));
    this.problems = problems;
  }
}

const validator = inputValidator(approvalSchema);

/** What an approval has to be. */
export interface ExpectedApproval {
  /** The node that it is for. */
  readonly node: string;
  /** The site's current generation of the policy key. */
  readonly generation: number;
  /** The public half of that generation's policy key, in PEM. */
  readonly publicKeyPem: string;
}

/**
 * Reads the text of `approvals/<node>.json`. Only its form is judged here; `verifyApproval` judges what it says.
 * @throws ApprovalRefused with every problem.
 */
export function parseApproval(text: string): Approval {
  let value;
  try {
    value = parseUnambiguousJson(text);
  } catch (error) {
    if (error instanceof AmbiguousJson) throw new ApprovalRefused([{ path: "", message: error.message }]);
    throw error;
  }
  const problems = shapeProblems(value);
  if (problems.length > 0) throw new ApprovalRefused(problems);
  return value as unknown as Approval;
}

function shapeProblems(given: unknown): readonly InputProblem[] {
  return isProperties(given)
    ? validator.validate(given, []).problems
    : [{ path: "", message: "expected a JSON object, as `edgeseal approve` writes it" }];
}

/**
 * Everything that keeps an approval from being used for a node; empty when it may be.
 * @param given The parsed JSON.
 * @throws PublicKeyRefused when the expected key is no policy key.
 */
export function verifyApproval(given: unknown, expected: ExpectedApproval): readonly InputProblem[] {
  const publicKey = readPublicKey(expected.publicKeyPem, "policy");
  const shape = shapeProblems(given);
  if (shape.length > 0) return shape;
  const approval = given as Approval;
  return [
    ...identityProblems(approval, expected, publicKey),
    // Of signatures by another key there is nothing to say but that.
    ...(approval.policyKey === fingerprint(publicKey) ? signatureProblems(approval, publicKey) : []),
    ...approval.states.flatMap((each, index) => stateProblems(each, index, approval)),
  ];
}

function identityProblems(
  { node, generation, policyKey }: Approval,
  expected: ExpectedApproval,
  publicKey: KeyObject,
): readonly InputProblem[] {
  const problems: InputProblem[] = [];
  const mend = `run \`edgeseal approve ${expected.node}\` with the current policy key`;
  if (node !== expected.node) {
    problems.push({
      path: "node",
      message: `this is the approval of ${node}, and is used for ${expected.node}: an approval stands for one node; run \`edgeseal approve ${expected.node}\``,
    });
  }
  if (generation < expected.generation) {
    problems.push({
      path: "generation",
      message: `of generation ${generation} of the policy key, which generation ${expected.generation} revoked; ${mend}`,
    });
  } else if (generation > expected.generation) {
    problems.push({
      path: "generation",
      message: `of generation ${generation} of the policy key, and the site's current one is ${expected.generation}; give the site the public key of generation ${generation}, if it was rotated`,
    });
  }
  const wanted = fingerprint(publicKey);
  if (policyKey !== wanted && generation === expected.generation) {
    problems.push({
      path: "policyKey",
      message: `signed by another key: ${short(policyKey)}, where the site's policy key of generation ${expected.generation} is ${short(wanted)}; ${mend}`,
    });
  }
  return problems;
}

function signatureProblems(approval: Approval, publicKey: KeyObject): readonly InputProblem[] {
  const mend = "take it from version control again, or approve anew with `edgeseal approve`";
  const problems: InputProblem[] = approval.states.flatMap((each, index) =>
    isCanonicalBase64(each.sig) && verifiesPcrPolicy(publicKey, { ...each, pol: policyPcrDigest(each.pcr11) })
      ? []
      : [
          {
            path: `states[${index}].sig`,
            message: `not a signature of the policy key over this state, so no TPM would accept it; ${mend}`,
          },
        ],
  );
  const message = signedMessage(approval);
  const signature = Buffer.from(approval.signature, "base64");
  if (!isCanonicalBase64(approval.signature) || !verifies(publicKey, message, signature)) {
    problems.push({
      path: "signature",
      message: `not a signature of the policy key over this document: something in it was changed after it was signed; ${mend}`,
    });
  }
  return problems;
}

/** Base64 has unused bits at its end; with them, one signature would have several spellings, and not every reader takes all. */
const isCanonicalBase64 = (text: string): boolean => Buffer.from(text, "base64").toString("base64") === text;

function stateProblems(each: ApprovedState, index: number, approval: Approval): readonly InputProblem[] {
  const path = `states[${index}]`;
  const problems: InputProblem[] = [];
  const first = approval.states.findIndex(({ pcr11 }) => pcr11 === each.pcr11);
  if (first < index) {
    problems.push({
      path: `${path}.pcr11`,
      message: `the same value as in states[${first}]; a state is approved once`,
    });
  }
  const pol = policyPcrDigest(each.pcr11);
  if (each.pol !== pol) {
    problems.push({
      path: `${path}.pol`,
      message: `not the policy digest of this value of PCR 11, which is ${short(pol)}`,
    });
  }
  if (Number.isNaN(Date.parse(each.approvedAt))) {
    problems.push({ path: `${path}.approvedAt`, message: `there is no such time: ${each.approvedAt}` });
  }
  return [...problems, ...eventProblems(each, path, approval.node)];
}

function eventProblems(
  { pcr11, events }: ApprovedState,
  path: string,
  node: string,
): readonly InputProblem[] {
  const problems: InputProblem[] = logObjections({ start: zeroPcr, events }, node).map((objection) => ({
    path: `${path}.events`,
    message: objection,
  }));
  const replayed = pcr11Of(events);
  if (replayed !== pcr11) {
    problems.push({
      path: `${path}.events`,
      message: `these events lead to ${short(replayed)}, not to the approved value ${short(pcr11)}: what is shown is not what is approved`,
    });
  }
  const keys = events.map(eventKey);
  events.forEach((each, index) => {
    if (keys.indexOf(eventKey(each)) < index) {
      problems.push({ path: `${path}.events[${index}]`, message: `${eventText(each)} is there twice` });
    }
  });
  return problems;
}

const short = (digest: string): string => `${digest.slice(0, 16)}...`;

/** What the signature of a document is over. Its first line keeps it apart from everything else that a policy key signs. */
function signedMessage({
  signature: _,
  ...signed
}: Omit<Approval, "signature"> & { signature?: string }): Buffer {
  return Buffer.from(`edgeseal approval v1\n${canonicalJson(signed)}`);
}

/**
 * Approves one state.
 * @param now RFC 3339 in UTC, to the second.
 * @throws KeyUnusable
 */
export async function approveState(
  key: SigningKey,
  {
    events,
    reason,
    now,
  }: { readonly events: readonly MeasuredEvent[]; readonly reason: string; readonly now: string },
): Promise<ApprovedState> {
  const policy = await signPcrPolicy(key, pcr11Of(events));
  return {
    ...policy,
    approvedAt: now,
    reason,
    events: events.map(({ type, name, digest }) => ({ type, name, digest })),
  };
}

/**
 * Signs a document, and verifies the result as its readers will.
 * @throws KeyUnusable when the key can't be used; ApprovalRefused when what it would sign is not to be signed.
 */
export async function signApproval(
  key: SigningKey,
  { node, generation, states }: Pick<Approval, "node" | "generation" | "states">,
): Promise<Approval> {
  const unsigned = { version: 1 as const, node, generation, policyKey: fingerprint(key.publicKey), states };
  const signature = await signChecked(key, signedMessage(unsigned));
  const approval: Approval = { ...unsigned, signature: signature.toString("base64") };
  const publicKeyPem = key.publicKey.export({ type: "spki", format: "pem" }).toString();
  const problems = verifyApproval(approval, { node, generation, publicKeyPem });
  if (problems.length > 0) throw new ApprovalRefused(problems);
  return approval;
}

/** The file that the node gets for systemd's `tpm2-signature=`. Verify the approval first. */
export const signatureFile = ({ policyKey, states }: Approval): SystemdSignature =>
  systemdSignature(policyKey, states);

/** An event over four lines, as `JSON.stringify` indents it. */
const spreadEvent = /\{\n\s+("type": .*)\n\s+("name": .*)\n\s+("digest": .*)\n\s+\}/g;

/** The text of `approvals/<node>.json`: an event a line, so that a review shows which changed. */
export const formatApproval = (approval: Approval): string =>
  `${JSON.stringify(approval, undefined, 2).replaceAll(spreadEvent, "{ $1 $2 $3 }")}\n`;
