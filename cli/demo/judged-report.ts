import type { Control } from "../../policies/control.ts";
import { failures, type Finding } from "../../policies/evaluate.ts";
import { findingLines } from "../report-lines.ts";
import { holds, type Voice } from "./step.ts";

/** What the demo site's node has to pass in every chapter on what was read back from it: a waiver is not good enough. */
const served: readonly Control["id"][] = [
  "3.swap-off",
  "3.core-dumps-off",
  "5.default-deny",
  "5.egress-allowlist",
];

/** Widest line of the table, in characters. */
const width = 120;

/**
 * Shows every control with its evidence as observed, and holds the checklist to be met: what resources serve passes, the rest is waived to a day.
 * @param more what has to pass as well
 * @throws NotAsItShouldBe
 */
export function judgeReport(
  voice: Voice,
  findings: readonly Finding[],
  more: readonly Control["id"][] = [],
): void {
  const table = findingLines(findings, width);
  for (const line of table) voice.say(`  ${line}`);
  const found = (those: readonly Finding[]): string =>
    those.length === 0 ? "no finding at all" : findingLines(those, width).join("\n");

  const failing = failures(findings);
  holds(
    voice,
    findings.length > 0 && failing.length === 0,
    "the report, judged on what was read back, meets the checklist",
    found(failing),
  );
  for (const control of [...served, ...more]) {
    const own = findings.filter((finding) => finding.control === control);
    holds(
      voice,
      own.length > 0 && own.every(({ outcome }) => outcome === "pass"),
      `${control} passes, without a waiver`,
      found(own),
    );
  }
  const undated = findings.filter(
    ({ outcome, waiver }) =>
      outcome === "waived" && (waiver === undefined || !waiver.standing.includes(waiver.expires)),
  );
  holds(voice, undated.length === 0, "each waiver is shown with the day it ends", found(undated));
}
