import { describe, expect, test } from "vitest";
import { checklist } from "../../../policies/checklist.ts";
import { evaluate, failures } from "../../../policies/evaluate.ts";
import { findingTexts, refusalText } from "../../../policies/message.ts";
import { unknownValue } from "../../../policies/node.ts";
import { declared, waiver } from "./cases.ts";

const now = new Date("2027-01-15T12:00:00Z");
const swapOff = checklist.filter(({ id }) => id === "3.swap-off");
const kept = declared({ swap: { mode: "keep" } });

const judge = (node: typeof kept, waivers: ReturnType<typeof waiver>[] = []) =>
  evaluate({ nodes: [node], waivers }, swapOff, now)[0];

describe("waivers", () => {
  test("one that holds lets a violation through, and keeps what was found in sight", () => {
    expect(judge(kept, [waiver()])).toMatchObject({
      outcome: "waived",
      underlying: "violation",
      evidence: 'swap.mode is "keep"',
      waiver: {
        owner: "platform",
        reason: "bench device",
        expires: "2027-01-31",
        standing: "until 2027-01-31",
      },
    });
  });

  test("one that has expired does not", () => {
    expect(judge(kept, [waiver({ expires: "2027-01-14" })])).toMatchObject({
      outcome: "violation",
      underlying: "violation",
      waiver: { standing: "expired on 2027-01-14" },
    });
  });

  test("one whose date is none does not", () => {
    expect(judge(kept, [waiver({ expires: "never" })])).toMatchObject({ outcome: "violation" });
  });

  test("one that holds covers what can't be known, too", () => {
    expect(judge(declared({ swap: { mode: unknownValue } }), [waiver()])).toMatchObject({
      outcome: "waived",
      underlying: "unknown",
    });
  });

  test("a control that passes is passed, not waived", () => {
    expect(judge(declared(), [waiver()])).toMatchObject({ outcome: "pass" });
    expect(judge(declared(), [waiver()])).not.toHaveProperty("waiver");
  });
});

test("every control is judged on every node", () => {
  const findings = evaluate({ nodes: [declared(), declared({}, "pi-2")], waivers: [] }, checklist, now);
  expect(findings.map(({ node, control }) => [node, control])).toEqual([
    ...checklist.map(({ id }) => ["pi-1", id]),
    ...checklist.map(({ id }) => ["pi-2", id]),
  ]);
});

test.each(["violation", "unknown", "not-covered", "declared-not-enforced"] as const)(
  "%s fails the gate",
  (outcome) => {
    const [control] = swapOff;
    if (control === undefined) throw new Error("no control");
    const fixed = { ...control, evaluate: () => ({ outcome, evidence: "x" }) };
    expect(failures(evaluate({ nodes: [declared()], waivers: [] }, [fixed], now))).toHaveLength(1);
  },
);

describe("messages", () => {
  const nodes = [
    declared({ swap: { mode: "keep" }, firewall: undefined }),
    declared({ swap: { mode: "keep" } }, "pi-2"),
  ];
  const served = checklist.filter(({ id }) =>
    ["3.swap-off", "5.egress-allowlist", "6.supply-chain-checks", "5.mtls"].includes(id),
  );
  const findings = evaluate(
    { nodes, waivers: [waiver({ control: "5.mtls", node: "pi-2", expires: "2026-12-31" })] },
    served,
    now,
  );
  const failing = failures(findings);

  test("the refusal names every control once, with its nodes and the mend; what can only be waived comes last", () => {
    expect(refusalText('site "x"', findings, "nothing was done").split("\n")).toEqual([
      'site "x" does not meet the deployment checklist (7 findings); nothing was done:',
      '  3.swap-off (checklist point 3) on pi-1, pi-2: violation: swap.mode is "keep"',
      "    mend: set `swap: { mode: off, leftoverFiles: remove }`, the defaults",
      "  5.egress-allowlist (checklist point 5) on pi-1: violation: the node has no `firewall` block (edgeseal:network:Firewall)",
      "    mend: set `firewall: { egress: allowlist }` and list each endpoint under `allow`, no wider than a private network",
      "  5.mtls (checklist point 5) on pi-2: not covered: no resource observes this yet (waiver of platform expired on 2026-12-31)",
      "    mend: no resource serves this control yet: waive it with a reason, an owner and an expiry date",
      "  A justified exception goes into `waivers`, with a reason, an owner and an expiry date (docs/checklist.md).",
      "  Not covered are 2 controls that no resource serves yet. Each takes a waiver: fill in why you go without, who answers for it, and its last day (docs/checklist.md):",
      "waivers:",
      '  - { control: 5.mtls, node: pi-1, reason: "", owner: "", expires: YYYY-MM-DD }',
      '  - { control: 6.supply-chain-checks, node: "*", reason: "", owner: "", expires: YYYY-MM-DD }',
    ]);
  });

  test("controls that fail alike share a line", () => {
    const stated = nodes.map((node) => ({
      ...node,
      statements: { "5.mtls": "see the plan", "6.supply-chain-checks": "see the plan" },
    }));
    const alike = evaluate({ nodes: stated, waivers: [] }, served, now);
    expect(refusalText("x", alike)).toContain(
      "  5.mtls, 6.supply-chain-checks (checklist points 5, 6) on pi-1, pi-2: declared, not enforced: stated, observed by no resource: see the plan\n",
    );
    expect(refusalText("x", alike)).not.toContain("waivers:");
  });

  test("the pack's messages say the same, one for each distinct evidence", () => {
    expect(findingTexts(failing.filter(({ control }) => control === "3.swap-off"))).toEqual([
      '3.swap-off (checklist point 3) on pi-1, pi-2: violation: swap.mode is "keep"; mend: set `swap: { mode: off, leftoverFiles: remove }`, the defaults',
    ]);
  });
});
