import type { Outcome } from "../../../policies/control.ts";
import type { JudgedNode } from "../../../policies/node.ts";

/** One case of one control: what is judged, what comes out, and on which evidence. */
export interface Case {
  readonly title: string;
  readonly node: JudgedNode;
  readonly outcome: Outcome;
  readonly evidence: string;
}

export const pass = (title: string, node: JudgedNode, evidence: string): Case => ({
  title,
  node,
  outcome: "pass",
  evidence,
});
export const fail = (title: string, node: JudgedNode, evidence: string): Case => ({
  title,
  node,
  outcome: "violation",
  evidence,
});
export const unclear = (title: string, node: JudgedNode, evidence: string): Case => ({
  title,
  node,
  outcome: "unknown",
  evidence,
});
