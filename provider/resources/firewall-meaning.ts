import { canonicalMatches, describeMatch, type Match } from "./firewall-matches.ts";
import type { Action, Rule } from "./firewall-rules.ts";

/** What a rule means, in one line: chain, action, conditions. Two rules that do the same have the same line. */
export function meaningOf(chain: string, actions: readonly string[], matches: readonly Match[]): string {
  return [chain, ...actions, ...canonicalMatches(matches).map(describeMatch)].join(" ");
}

export const ruleMeaning = (rule: Rule): string =>
  meaningOf(rule.chain, describeAction(rule.action), rule.matches);

export function describeAction(action: Action): string[] {
  return typeof action === "string"
    ? [action]
    : [describeLimit(action.perMinute), describeLog(action.prefix)];
}

export const describeLimit = (rate: number, per = "minute", burst = 5): string =>
  `limit ${rate}/${per} burst ${burst}`;
export const describeLog = (prefix: string): string => `log "${prefix}"`;

/**
 * Where in its chain a rule must stand. Rules of one rank may stand in any order: they all accept, so the same packets pass. Only what drops, rejects or
 * logs divides the ranks; so taking out one rule or adding one is one difference, and never moves another.
 */
function rankOf(name: string): number {
  const [, , word = ""] = /^(base|fallback):(?:input|output|forward)-(.*)$/.exec(name) ?? [];
  if (/^(loopback|answers|icmp-errors|pmtu-ipv[46])$/.test(word)) return 0;
  const dividing = ["invalid", "", "noise", "log", "reject"].indexOf(word);
  return dividing === -1 ? 2 : dividing + 1;
}

/**
 * The rules that stand behind one that must come after them, as sentences.
 * @param names names of our rules in the order in which the kernel walks them.
 */
export function misplaced(chain: string, names: readonly string[]): string[] {
  let last: string | undefined;
  return names.flatMap((name) => {
    if (last === undefined || rankOf(name) >= rankOf(last)) {
      last = name;
      return [];
    }
    return [`${chain}: ${name} stands after ${last}`];
  });
}
