import type { Outcome } from "./control.ts";
import { failures, type Finding } from "./evaluate.ts";

const outcomeWords: Readonly<Record<Outcome | "waived", string>> = {
  pass: "pass",
  violation: "violation",
  unknown: "unknown",
  "declared-not-enforced": "declared, not enforced",
  "not-covered": "not covered",
  waived: "waived",
};

/** An outcome in words, for tables and messages. */
export const outcomeText = (outcome: Outcome | "waived"): string => outcomeWords[outcome];

/** Findings that say the same of several nodes, or of several controls that no resource serves. */
interface Group {
  readonly first: Finding;
  readonly controls: readonly string[];
  readonly nodes: readonly string[];
}

/**
 * What the pack reports of one control: one sentence with the mend for each distinct evidence, e.g.
 * `3.swap-off (checklist point 3) on pi-1, pi-2: violation: swap.mode is "keep"; mend: ...`.
 */
export function findingTexts(findings: readonly Finding[]): string[] {
  return acrossNodes(findings).map(
    ({ first, nodes }) =>
      `${first.control} (checklist point ${first.point}) on ${nodes.join(", ")}: ${verdict(first)}; mend: ${first.mend}`,
  );
}

/**
 * What the gate says when it refuses: every finding that fails, on which nodes, with its mend; violations first. Controls that no resource serves, and
 * nobody has waived, come last, as the waivers that they take.
 * @param subject What was judged, e.g. `site "factory-3"`.
 * @param findings All of them, those that the gate lets through included.
 * @param consequence What follows from it, as a clause: `no device was reached`.
 */
export function refusalText(subject: string, findings: readonly Finding[], consequence?: string): string {
  const failing = failures(findings);
  const [unserved, others] = [failing.filter(lacksWaiver), failing.filter((each) => !lacksWaiver(each))];
  return [
    `${subject} does not meet the deployment checklist (${counted(failing.length, "finding")})${consequence === undefined ? "" : `; ${consequence}`}:`,
    ...acrossControls(acrossNodes(others))
      .sort((a, b) => rank(a.first) - rank(b.first))
      .flatMap(({ first, controls, nodes }) => [
        `  ${controls.join(", ")} (${pointsOf(controls)}) on ${nodes.join(", ")}: ${verdict(first)}`,
        `    mend: ${first.mend}`,
      ]),
    ...(others.length === 0
      ? []
      : [
          "  A justified exception goes into `waivers`, with a reason, an owner and an expiry date (docs/checklist.md).",
        ]),
    ...(unserved.length === 0 ? [] : waiverLines(unserved, findings)),
  ].join("\n");
}

const lacksWaiver = (finding: Finding): boolean =>
  finding.outcome === "not-covered" && finding.waiver === undefined;

const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;

/**
 * The waivers that controls which no resource serves take, as YAML for a site file. Not one of them passes as it stands: an exception is for a person
 * to justify, to own and to end.
 */
function waiverLines(unserved: readonly Finding[], findings: readonly Finding[]): string[] {
  const allNodes = new Set(findings.map(({ node }) => node));
  const entries = acrossNodes(unserved).flatMap(({ first: { control }, nodes }) =>
    (nodes.length > 1 && nodes.length === allNodes.size ? ['"*"'] : nodes).map(
      (node) => `  - { control: ${control}, node: ${node}, reason: "", owner: "", expires: YYYY-MM-DD }`,
    ),
  );
  return [
    `  Not covered are ${counted(new Set(unserved.map(({ control }) => control)).size, "control")} that no resource serves yet. Each takes a waiver: fill in why you go without, who answers for it, and its last day (docs/checklist.md):`,
    "waivers:",
    ...entries,
  ];
}

/** Control ids begin with the point they serve. */
function pointsOf(controls: readonly string[]): string {
  const points = [...new Set(controls.map((id) => id.slice(0, id.indexOf("."))))];
  return `checklist ${points.length === 1 ? "point" : "points"} ${points.join(", ")}`;
}

const verdict = (finding: Finding): string =>
  `${outcomeText(finding.outcome)}: ${finding.evidence}${waiverNote(finding)}`;

/** What a waiver that names the finding says of itself; empty without one. */
const waiverNote = ({ waiver }: Finding): string =>
  waiver === undefined ? "" : ` (waiver of ${waiver.owner} ${waiver.standing})`;

/** What can be mended comes before what can only be waived. */
const order: readonly Finding["outcome"][] = ["violation", "unknown", "declared-not-enforced", "not-covered"];
const rank = ({ outcome }: Finding): number => order.indexOf(outcome);

function acrossNodes(findings: readonly Finding[]): Group[] {
  const groups = Map.groupBy(findings, (each) => JSON.stringify([each.control, verdict(each)]));
  return [...groups.values()].flatMap((same) => {
    const [first] = same;
    return first === undefined
      ? []
      : [{ first, controls: [first.control], nodes: [...new Set(same.map(({ node }) => node))] }];
  });
}

function acrossControls(groups: readonly Group[]): Group[] {
  const merged = Map.groupBy(groups, ({ first, nodes }) =>
    JSON.stringify([verdict(first), first.mend, nodes]),
  );
  return [...merged.values()].flatMap((same) => {
    const [first] = same;
    return first === undefined ? [] : [{ ...first, controls: same.flatMap(({ controls }) => controls) }];
  });
}
