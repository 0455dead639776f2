import { checklist } from "../policies/checklist.ts";
import { lets, type Finding } from "../policies/evaluate.ts";
import { outcomeText } from "../policies/message.ts";
import { recordedResources } from "../policies/recorded-state.ts";
import { evaluateObserved, type StackResource } from "../policies/stack.ts";
import { tableLines } from "./table.ts";

export interface ReportOptions {
  /** When waivers are judged. @default now. */
  readonly now?: Date;
  /** Widest line in characters. @default 120. */
  readonly width?: number;
}

/**
 * Every control on every node of an exported state, judged on what was read back from the devices.
 * @param exported What `pulumi stack export` printed.
 * @param site The site to hold it against, in place of the one that is recorded in the state.
 * @throws NotAState
 */
export function reportFindings(exported: string, now: Date, site?: StackResource): Finding[] {
  const recorded = recordedResources(exported);
  return evaluateObserved(
    site === undefined ? recorded : [site, ...recorded.filter(isDevice)],
    checklist,
    now,
  );
}

/** The table that `edgeseal report` prints, line by line. */
export function reportLines(exported: string, options: ReportOptions = {}): string[] {
  const { now = new Date(), width = 120 } = options;
  return findingLines(reportFindings(exported, now), width);
}

export function findingLines(findings: readonly Finding[], width: number): string[] {
  const rows = findings.map((finding) => [
    finding.control,
    finding.node,
    outcomeText(finding.outcome),
    finding.evidence,
    waiverText(finding),
  ]);
  return [
    ...tableLines(["CONTROL", "NODE", "OUTCOME", "EVIDENCE, AS OBSERVED", "WAIVER"], rows, width),
    "",
    summaryText(findings),
  ];
}

/** `21 controls on 1 node: 4 pass, 17 waived`. */
export function summaryText(findings: readonly Finding[]): string {
  const outcomes = Map.groupBy(findings, ({ outcome }) => outcome);
  const counts = [...outcomes].map(([outcome, same]) => `${same.length} ${outcomeText(outcome)}`);
  const nodes = new Set(findings.map(({ node }) => node)).size;
  const controls = new Set(findings.map(({ control }) => control)).size;
  const failing = findings.filter((finding) => !lets(finding)).length;
  const verdict = failing === 0 ? "the checklist is met, waivers counted in" : `${failing} not met`;
  return `${controls} controls on ${nodes} node${nodes === 1 ? "" : "s"}: ${counts.join(", ")}; ${verdict}`;
}

const waiverText = ({ waiver }: Finding): string =>
  waiver === undefined ? "" : `${waiver.standing} (${waiver.owner}: ${waiver.reason})`;

const isDevice = (resource: StackResource): boolean => !resource.type.startsWith("edgeseal:index:");
