import { describe, expect, test } from "vitest";
import { firewall } from "../../../provider/resources/firewall.ts";
import type { FirewallInputs } from "../../../provider/resources/firewall-inputs.ts";
import { formatRange, mergeRanges, readRange } from "../../../provider/resources/firewall-addresses.ts";
import { fallbackRuleset, rulesetOf } from "../../../provider/resources/firewall-rules.ts";
import { renderRuleset } from "../../../provider/resources/firewall-ruleset.ts";
import { example, noRoute } from "./firewall-example.ts";

const rulesOf = (change: Partial<FirewallInputs>): Record<string, string> =>
  firewall.desired({ ...example, ...change }).rules ?? {};

describe("the rules", () => {
  test("the article's example: two destinations, and a rejection for everything else", () => {
    const article: FirewallInputs["allow"] = [
      { name: "lan", to: "10.0.0.0/8", protocol: "any" },
      { name: "api", to: "203.0.113.5", protocol: "tcp", ports: [443] },
    ];
    const rules = rulesOf({ allow: article, dns: [], ntp: [], logPerMinute: 0 });
    const output = Object.entries(rules).filter(([name]) => /^(allow|dns|ntp):|output-reject$/.test(name));
    expect(output).toEqual([
      ["allow:lan", "output accept ip daddr 10.0.0.0/8"],
      ["allow:api", "output accept ip daddr 203.0.113.5 tcp dport 443"],
      ["base:output-reject", "output reject with icmpx admin-prohibited"],
    ]);
  });

  test("every chain ends with the rejection", () => {
    const { rules } = rulesetOf(example);
    for (const chain of ["input", "output", "forward"])
      expect(rules.filter((rule) => rule.chain === chain).at(-1)?.name).toBe(`base:${chain}-reject`);
  });

  test("names are unique, so that none hides another in the state", () => {
    for (const { rules } of [rulesetOf(example), fallbackRuleset(example)])
      expect(new Set(rules.map(({ name }) => name)).size).toBe(rules.length);
  });

  test("open egress is said by the policy, not hidden in a rule", () => {
    const desired = firewall.desired({ ...example, egress: "open" });
    expect(desired.outputPolicy).toBe("accept");
    expect(Object.values(desired.rules ?? {}).filter((rule) => rule.startsWith("output"))).toEqual([]);
    expect(desired.inputPolicy).toBe("drop");
  });

  test("forwarding left to others has no chain of ours", () => {
    const desired = firewall.desired({ ...example, forward: "leave" });
    expect(desired.forwardPolicy).toBe("none");
    expect(Object.keys(desired.chains ?? {})).toEqual(["input", "output"]);
  });

  test("the order of entries and of addresses in the site file is no difference", () => {
    const turned = { allow: example.allow.toReversed(), dns: example.dns.toReversed() };
    expect(rulesOf(turned)).toEqual(rulesOf({}));
  });

  test("no IPv6 management source, no IPv6 rule for SSH", () => {
    const names = Object.keys(rulesOf({ management: ["10.0.2.0/24"] }));
    expect(names.filter((name) => name.startsWith("management:"))).toEqual([
      "management:ssh-ipv4",
      "management:ping-ipv4",
      "management:ssh-answers-ipv4",
    ]);
  });

  test("the fallback opens nothing but SSH to operators", () => {
    const opens = fallbackRuleset(example).rules.filter(
      (rule) => rule.chain === "input" && !rule.name.includes("input-"),
    );
    expect(opens.map(({ name }) => name)).toEqual(["fallback:ssh-ipv4", "fallback:ssh-ipv6"]);
  });
});

describe("the file", () => {
  const text = renderRuleset(rulesetOf(example), "test");

  test("replaces our table in one transaction, and touches no other", () => {
    const commands = text.split("\n").filter((line) => /^[a-z]/.test(line));
    expect(commands).toEqual(["table inet edgeseal", "delete table inet edgeseal", "table inet edgeseal {"]);
    expect(text).not.toContain("flush");
  });

  test("says in a line above each rule of an entry why that is allowed, and above no other", () => {
    const lines = text.split("\n").map((line) => line.trim());
    const named = new Map(
      lines.flatMap((line, index) => {
        const [, name = ""] = / comment "([^"]+)"$/.exec(line) ?? [];
        return name === "" ? [] : [[name, lines[index - 1] ?? ""] as const];
      }),
    );
    const ofEntry = [...named].filter(([name]) => name.startsWith("allow:api"));
    expect(ofEntry.length).toBeGreaterThan(0);
    for (const [, above] of ofEntry) expect(above).toBe("# the article's API");
    expect(lines.filter((line) => line === "# the article's API")).toHaveLength(ofEntry.length);
  });

  test("counts what each rule decides", () => {
    const deciding = text.split("\n").filter((line) => /\b(accept|drop|reject)\b.* comment /.test(line));
    expect(deciding.length).toBe(
      rulesetOf(example).rules.filter(({ action }) => typeof action === "string").length,
    );
    expect(deciding.filter((line) => !line.includes("counter"))).toEqual([]);
  });
});

describe("the plan", () => {
  const plan = firewall.plan(example, { outcome: "absent" }, noRoute);

  test("installs nft, lets it check, and only then changes anything, commit-confirmed and last", () => {
    expect(plan.map(({ kind }) => kind)).toEqual(["package", "run", "run", "commitConfirm"]);
  });

  test("checks exactly what it will write", () => {
    const checked = plan.flatMap((step) => (step.kind === "run" ? [step.stdin] : []));
    const change = plan.at(-1);
    const written =
      change?.kind === "commitConfirm" ? change.apply.flatMap((s) => (s.kind === "file" ? [s] : [])) : [];
    expect(checked).toEqual(
      written.filter(({ path }) => path.endsWith(".nft")).map(({ content }) => content),
    );
  });

  test("puts every file that it writes under the revert", () => {
    const change = plan.at(-1);
    if (change?.kind !== "commitConfirm") throw new Error("the last step is the commit-confirmed one");
    expect(change.files).toEqual(change.apply.flatMap((step) => (step.kind === "file" ? [step.path] : [])));
  });

  test("taking the firewall back removes what was written, and does nothing where nothing is", () => {
    expect(firewall.revert(example, { outcome: "absent" })).toEqual([]);
  });
});

describe("address ranges", () => {
  // A small fixed generator (numerical recipes' LCG): the same cases in every run.
  function* numbers(seed: number): Generator<number, never> {
    for (let state = seed; ;) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      yield state;
    }
  }

  test("merging keeps exactly the addresses of the parts, disjoint and apart", () => {
    const random = numbers(1);
    const next = (below: number): bigint => BigInt(random.next().value % below);
    for (let round = 0; round < 200; round++) {
      const ranges = Array.from({ length: 6 }, () => {
        const first = next(60);
        return { family: "ipv4" as const, first, last: first + next(8) };
      });
      const merged = mergeRanges(ranges);
      const members = (list: typeof ranges): number[] =>
        Array.from({ length: 80 }, (_, i) => i).filter((i) => list.some((r) => r.first <= i && i <= r.last));
      expect(members(merged)).toEqual(members(ranges));
      merged.slice(1).forEach((range, i) => {
        expect(range.first > (merged[i]?.last ?? 0n) + 1n).toBe(true);
      });
    }
  });

  test("what is written reads back as the same range", () => {
    const random = numbers(2);
    for (let round = 0; round < 500; round++) {
      const first = BigInt(random.next().value) << (round % 2 === 0 ? 0n : 64n);
      const range = {
        family: round % 2 === 0 ? ("ipv4" as const) : ("ipv6" as const),
        first,
        last: first + BigInt(random.next().value % 300),
      };
      if (range.family === "ipv4" && range.last > 0xffffffffn) continue;
      expect(readRange(formatRange(range))).toEqual(range);
    }
  });
});
