import type { BlockName, InputsOf, JudgedNode, RawBlock, StateOf } from "./node.ts";
import { blockTypes, isSeveral, siteFileBlock, unknownValue } from "./node.ts";

/** The nine points of the deployment checklist (docs/checklist.md). */
export type Point = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9;

/**
 * What a control found before waivers.
 * - `pass`: the evidence shows that the control holds.
 * - `violation`: the evidence shows that it does not, or the block it needs is missing.
 * - `unknown`: the evidence can't be determined.
 * - `declared-not-enforced`: somebody states that it holds; no resource enforces or observes it.
 * - `not-covered`: nothing is stated, and no resource serves it yet.
 *
 * Everything but `pass` fails the gate.
 */
export type Outcome = "pass" | "violation" | "unknown" | "declared-not-enforced" | "not-covered";

export interface Judgement {
  readonly outcome: Outcome;
  /** The facts the judgement was made on, as declared or as observed. */
  readonly evidence: string;
}

/** One policy; serves one point of the checklist. Pure. */
export interface Control {
  /** `POINT.NAME`, e.g. `3.swap-off`; what waivers name. */
  readonly id: `${Point}.${string}`;
  readonly point: Point;
  /** What holds when the control passes. */
  readonly title: string;
  /** What to do when it does not. */
  readonly mend: string;
  /** The block it judges; `undefined` when no resource serves it yet. */
  readonly block: BlockName | undefined;
  /** Other blocks whose state it takes into account. */
  readonly alsoReads: readonly BlockName[];
  readonly evaluate: (node: JudgedNode) => Judgement;
}

export const pass = (evidence: string): Judgement => ({ outcome: "pass", evidence });
export const violation = (evidence: string): Judgement => ({ outcome: "violation", evidence });
export const unknown = (evidence: string): Judgement => ({ outcome: "unknown", evidence });

/** A violation with every fault; without one a pass, on the evidence. */
export const verdict = (faults: readonly string[], evidence: string): Judgement =>
  faults.length === 0 ? pass(evidence) : violation(faults.join("; "));

type Key<T> = keyof T & string;

/** What a judgement is given: what it reads is there, the rest may be missing. */
type Sure<T, K extends keyof T> = Pick<T, K> & Partial<T>;

/** A control over one block, with a judgement for each basis and the properties each judgement reads. */
export interface BlockControl<
  B extends BlockName,
  I extends Key<InputsOf<B>>,
  S extends Key<StateOf<B>>,
> extends Omit<Control, "evaluate" | "block" | "alsoReads"> {
  readonly block: B;
  readonly alsoReads?: readonly BlockName[];
  /** Of a block with several resources: the names that have to be among them. */
  readonly names?: readonly string[];
  readonly declared: {
    /** Inputs the judgement reads. One that is missing or unknown makes the outcome `unknown`. */
    readonly reads: readonly I[];
    readonly judge: (inputs: Sure<InputsOf<B>, I>, node: JudgedNode) => Judgement;
  };
  readonly observed: {
    /** Properties of the state the judgement reads; likewise. */
    readonly reads: readonly S[];
    readonly judge: (state: Sure<StateOf<B>, S>, node: JudgedNode) => Judgement;
  };
}

/**
 * A control that a resource serves. The judgements are only called with everything they read present and known: a missing block is a violation,
 * a missing or unknown property is `unknown`, and so is a value that a judgement can't handle. Of several resources the worst decides.
 */
export function control<B extends BlockName, I extends Key<InputsOf<B>>, S extends Key<StateOf<B>>>(
  rule: BlockControl<B, I, S>,
): Control {
  const { id, point, title, mend, block, alsoReads = [], names = [] } = rule;
  const one = (node: JudgedNode, label: string, found: unknown): Judgement => {
    const side = node.basis === "declared" ? rule.declared : rule.observed;
    const lacking = notRead(node, label, found, side.reads);
    if (lacking !== undefined) return lacking;
    try {
      // Recorded state may come from another version of the provider, so its shape is not to be trusted: what does not fit ends below.
      return (side.judge as (block: unknown, node: JudgedNode) => Judgement)(found, node);
    } catch {
      return unknown(`${side.reads.map((key) => `${label}.${key}`).join(", ")}: not of the expected shape`);
    }
  };
  return {
    id,
    point,
    title,
    mend,
    block,
    alsoReads,
    evaluate: (node) => {
      const found = node.blocks[block];
      if (found === undefined) return violation(missingBlock(node, block));
      if (!isSeveral(block) || found === unknownValue) return one(node, block, found);
      const each = Object.entries(found).map(([name, instance]) => {
        const { outcome, evidence } = one(node, `${block}.${name}`, instance);
        return { outcome, evidence: `${name}: ${evidence}` };
      });
      const missing = names
        .filter((name) => node.partial !== true && !(name in found))
        .map((name) => violation(`the node has no \`${block}.${name}\` (${blockTypes[block]})`));
      return worst([...missing, ...each]);
    },
  };
}

/** That a property which a judgement reads is missing or not known; `undefined` where all are there. */
export function notRead(
  { basis }: JudgedNode,
  label: string,
  found: unknown,
  reads: readonly string[],
): Judgement | undefined {
  for (const key of reads) {
    const path = `${label}.${key}`;
    const value = found === unknownValue ? found : (found as RawBlock)[key];
    if (holdsUnknown(value)) return unknown(`${path} is not known at this time`);
    if (value === undefined) return unknown(`${path} is not ${basis}`);
  }
  return undefined;
}

const byGravity: readonly Outcome[] = [
  "violation",
  "unknown",
  "not-covered",
  "declared-not-enforced",
  "pass",
];

/** The outcome of the worst, with the evidence of all that are as bad. */
function worst(judgements: readonly Judgement[]): Judgement {
  const outcome = byGravity.find((each) => judgements.some((judgement) => judgement.outcome === each));
  if (outcome === undefined) return unknown("there is nothing to judge");
  const evidence = judgements.filter((each) => each.outcome === outcome).map((each) => each.evidence);
  return { outcome, evidence: evidence.join("; ") };
}

/** A control that no resource serves yet: never passes; a statement turns `not-covered` into `declared-not-enforced`. */
export function uncovered(rule: Omit<Control, "evaluate" | "block" | "alsoReads" | "mend">): Control {
  return {
    ...rule,
    block: undefined,
    alsoReads: [],
    mend: "no resource serves this control yet: waive it with a reason, an owner and an expiry date",
    evaluate: (node) => {
      const statement = node.statements?.[rule.id];
      return statement === undefined
        ? { outcome: "not-covered", evidence: "no resource observes this yet" }
        : { outcome: "declared-not-enforced", evidence: `stated, observed by no resource: ${statement}` };
    },
  };
}

function missingBlock(node: JudgedNode, block: BlockName): string {
  return node.basis === "declared"
    ? `the node has no \`${block}\` block (${blockTypes[block]})${siteFileBlock(block) === block ? "" : `, which \`${siteFileBlock(block)}\` in a site file brings`}`
    : `the state has no ${blockTypes[block]} of this node`;
}

/** Whether a value is not known, or holds one that is not. */
export function holdsUnknown(value: unknown): boolean {
  if (value === unknownValue) return true;
  if (Array.isArray(value)) return value.some(holdsUnknown);
  return typeof value === "object" && value !== null && Object.values(value).some(holdsUnknown);
}
