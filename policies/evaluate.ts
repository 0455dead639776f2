import type { Control, Outcome, Point } from "./control.ts";
import type { JudgedNode } from "./node.ts";
import { waiverFor, type Waiver } from "./waiver.ts";

/** What was found of one control on one node, waivers counted in. */
export interface Finding {
  readonly control: Control["id"];
  readonly point: Point;
  readonly title: string;
  readonly node: string;
  /** `waived` only when the control does not pass and a waiver holds. */
  readonly outcome: Outcome | "waived";
  /** What the control found, waiver or not. */
  readonly underlying: Outcome;
  readonly evidence: string;
  readonly mend: string;
  /** The waiver that names this control and node, if any, with how long it holds or why it does not. */
  readonly waiver?: {
    readonly owner: string;
    readonly reason: string;
    readonly expires: string;
    readonly standing: string;
  };
}

/** A site to be judged. */
export interface JudgedSite {
  readonly nodes: readonly JudgedNode[];
  readonly waivers: readonly Waiver[];
}

/**
 * The one evaluator of the checklist: every control on every node, in that order. Pure.
 * @param now The moment at which waivers are judged.
 */
export function evaluate(site: JudgedSite, controls: readonly Control[], now: Date): Finding[] {
  return site.nodes.flatMap((node) => controls.map((control) => judge(control, node, site.waivers, now)));
}

/** One control on one node. */
export function judge(control: Control, node: JudgedNode, waivers: readonly Waiver[], now: Date): Finding {
  const { outcome: underlying, evidence } = control.evaluate(node);
  const { id, point, title, mend } = control;
  const finding = { control: id, point, title, node: node.name, underlying, evidence, mend };
  const named = underlying === "pass" ? undefined : waiverFor(waivers, id, node.name, now);
  if (named === undefined) return { ...finding, outcome: underlying };
  const { owner, reason, expires } = named.waiver;
  return {
    ...finding,
    outcome: named.standing.valid ? "waived" : underlying,
    waiver: { owner, reason, expires, standing: named.standing.text },
  };
}

/** Whether the gate lets the finding through. Everything that is not known to be good fails. */
export const lets = (finding: Finding): boolean => finding.outcome === "pass" || finding.outcome === "waived";

/** The findings that fail the gate. */
export const failures = (findings: readonly Finding[]): Finding[] =>
  findings.filter((finding) => !lets(finding));
