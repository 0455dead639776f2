import { renderMatch } from "./firewall-matches.ts";
import type { Action, Chain, Rule, Ruleset } from "./firewall-rules.ts";

/** Our table. Everything of ours is in it, and nothing else of the device's netfilter is ever touched. */
export const table = "inet edgeseal";

/** Priority `filter`: after address translation on output, so that rules see where a packet really goes. */
const priority = 0;

export const hookOf = (chain: string): string => `filter hook ${chain} priority ${priority}`;

/**
 * The whole table as one nft transaction: taken away and put back in the same commit, so that there is no moment without it. `nft -f` of this text is
 * loading, reloading and repairing alike.
 */
export function renderRuleset(ruleset: Ruleset, heading: string): string {
  const chains = Object.entries(ruleset.policies).map(([chain, policy]) =>
    [
      `\tchain ${chain} {`,
      `\t\ttype ${hookOf(chain)}; policy ${policy};`,
      ...ruleset.rules.filter((rule) => rule.chain === (chain as Chain)).flatMap(renderRule),
      "\t}",
    ].join("\n"),
  );
  return [
    `# ${heading}`,
    "# Written by edgeseal; changes made here are found as drift and undone.",
    replaceTable,
    `table ${table} {`,
    chains.join("\n\n"),
    "}",
    "",
  ].join("\n");
}

/** Makes the table go, whether it was there or not: deleting needs it to be there, and `destroy` is too new for Debian bookworm. */
export const replaceTable = `table ${table}\ndelete table ${table}`;

function renderRule(rule: Rule): string[] {
  const parts = [...rule.matches.map(renderMatch), renderAction(rule.action), `comment "${rule.name}"`];
  return [...(rule.note === undefined ? [] : [`\t\t# ${rule.note}`]), `\t\t${parts.join(" ")}`];
}

function renderAction(action: Action): string {
  if (typeof action === "string") return `counter ${action}`;
  return `limit rate ${action.perMinute}/minute burst 5 packets log prefix "${action.prefix}"`;
}
