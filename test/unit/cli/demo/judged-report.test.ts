import { expect, test } from "vitest";
import { judgeReport } from "../../../../cli/demo/judged-report.ts";
import { NotAsItShouldBe } from "../../../../cli/demo/step.ts";
import { checklist } from "../../../../policies/checklist.ts";
import type { Control } from "../../../../policies/control.ts";
import type { Finding } from "../../../../policies/evaluate.ts";

const held = ["3.swap-off", "3.core-dumps-off", "5.default-deny", "5.egress-allowlist"];

/** The demo's node: what the demo holds to pass does, everything else is waived. */
const good: readonly Finding[] = checklist.map(({ id, point, title, mend }) => {
  const common = { control: id, point, title, mend, node: "pi-demo", evidence: `what was read of ${id}` };
  return held.includes(id)
    ? { ...common, outcome: "pass", underlying: "pass" }
    : {
        ...common,
        outcome: "waived",
        underlying: "not-covered",
        waiver: {
          owner: "platform",
          reason: "a virtual Pi",
          expires: "2999-12-31",
          standing: "until 2999-12-31",
        },
      };
});

const but = (control: string, change: (finding: Finding) => Finding): Finding[] =>
  good.map((finding) => (finding.control === control ? change(finding) : finding));

function said(findings: readonly Finding[], more?: readonly Control["id"][]): string[] {
  const lines: string[] = [];
  judgeReport({ say: (line) => void lines.push(line) }, findings, more);
  return lines;
}

test("the table is shown, with each claim that holds", () => {
  const lines = said(good);
  for (const { id } of checklist)
    expect(
      lines.some((line) => line.startsWith(`  ${id} `)),
      id,
    ).toBe(true);
  expect(lines.filter((line) => line.startsWith("  ok  "))).toEqual([
    "  ok  the report, judged on what was read back, meets the checklist",
    ...held.map((control) => `  ok  ${control} passes, without a waiver`),
    "  ok  each waiver is shown with the day it ends",
  ]);
});

test("a control that fails ends the step, with its evidence", () => {
  const bad = but("1.tpm", ({ waiver: _, ...finding }) => ({
    ...finding,
    outcome: "violation",
    underlying: "violation",
    evidence: "no TPM at all",
  }));
  expect(() => said(bad)).toThrow(NotAsItShouldBe);
  expect(() => said(bad)).toThrow(
    /meets the checklist\nfound: [^]*1\.tpm +pi-demo +violation +no TPM at all/,
  );
});

test("no finding at all is no success", () => {
  expect(() => said([])).toThrow("found: no finding at all");
});

test.each(held)("%s may not be waived", (control) => {
  const waived = but(control, (finding) => ({
    ...finding,
    outcome: "waived",
    underlying: "violation",
    waiver: { owner: "platform", reason: "later", expires: "2999-12-31", standing: "until 2999-12-31" },
  }));
  expect(() => said(waived)).toThrow(`expected: ${control} passes, without a waiver`);
});

test.each(held)("%s may not be left out", (control) => {
  expect(() => said(good.filter((finding) => finding.control !== control))).toThrow(
    `expected: ${control} passes, without a waiver`,
  );
});

test("a waiver whose last day is not shown ends the step", () => {
  const undated = but("1.tpm", (finding) => ({
    ...finding,
    waiver: { owner: "platform", reason: "later", expires: "2999-12-31", standing: "for some time" },
  }));
  expect(() => said(undated)).toThrow("expected: each waiver is shown with the day it ends");
});

test("what a chapter holds besides may not be waived either", () => {
  expect(() => said(good, ["1.tpm"])).toThrow("expected: 1.tpm passes, without a waiver");
});
