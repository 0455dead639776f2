import { UnknownObservation } from "../device/probe.ts";
import { matching, type Match } from "./firewall-matches.ts";
import { describeLimit, describeLog, meaningOf, misplaced } from "./firewall-meaning.ts";
import { rejection } from "./firewall-rules.ts";

/** Our table as the kernel has it, read from `nft -j list table`. */
export interface ListedTable {
  readonly dormant: boolean;
  /** Policy by netfilter hook, of chains named like their hook. */
  readonly policies: Readonly<Record<string, string>>;
  /** Where each chain hangs. */
  readonly chains: Readonly<Record<string, string>>;
  /** Meaning of each rule by its name. */
  readonly rules: Readonly<Record<string, string>>;
  readonly order: string[];
}

type Json = Readonly<Record<string, unknown>>;

/**
 * Reads by meaning: counters, handles, how sets and prefixes are written, and which words a version of nft knows make no difference. What it does not
 * understand is never left out: it appears as an unmanaged rule or with its JSON as the meaning.
 * @throws UnknownObservation when the text is not nft's JSON.
 */
export function readTable(listing: string): ListedTable {
  const objects = readObjects(listing);
  const kinds = (kind: string): Json[] =>
    objects.filter((object) => kind in object).map((object) => record(object[kind]));
  const chains = kinds("chain");
  const rules = kinds("rule").map(readRule);
  const named = nameRules(rules);
  const foreign = objects.flatMap((object) =>
    Object.entries(object)
      .filter(([kind]) => !["metainfo", "table", "chain", "rule"].includes(kind))
      .map(([kind, value]): [string, string] => [
        `unmanaged: ${kind} ${text(record(value).name)}`,
        stableJson(without(record(value), "handle")),
      ]),
  );
  return {
    // The only flags that a table can have and stay ours turn it off; nft 1.0.6 prints garbage for their names, so their presence has to do.
    dormant: kinds("table").some((each) => each.flags !== undefined),
    policies: Object.fromEntries(
      chains
        .filter((chain) => chain.policy !== undefined && chain.hook === chain.name)
        .map((chain) => [text(chain.name), text(chain.policy)]),
    ),
    chains: Object.fromEntries(chains.map((chain) => [text(chain.name), describeHook(chain)])),
    rules: Object.fromEntries([
      ...named.map((rule): [string, string] => [rule.key, rule.meaning]),
      ...foreign,
    ]),
    order: chains.flatMap((chain) =>
      misplaced(
        text(chain.name),
        rules
          .filter((rule) => rule.chain === chain.name)
          .flatMap((rule) => named.find((n) => n.rule === rule && n.ours)?.key ?? []),
      ),
    ),
  };
}

function readObjects(listing: string): Json[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(listing);
  } catch {
    throw new UnknownObservation(`nft's listing of our table is not JSON: ${listing.slice(0, 120)}`);
  }
  const objects = record(parsed).nftables;
  if (!Array.isArray(objects))
    throw new UnknownObservation("nft's listing of our table has no 'nftables' list");
  return objects.map(record);
}

interface ListedRule {
  readonly chain: string;
  readonly handle: number;
  readonly comment: string;
  readonly meaning: string;
}

function readRule(rule: Json): ListedRule {
  const chain = text(rule.chain);
  const expressions = Array.isArray(rule.expr) ? rule.expr.map(record) : [];
  return {
    chain,
    handle: typeof rule.handle === "number" ? rule.handle : Number.POSITIVE_INFINITY,
    comment: text(rule.comment),
    meaning: meaningOfExpressions(chain, expressions),
  };
}

/**
 * Keys for the state. Of several rules with one name the one that was loaded first (the lowest handle) is ours, since ours are loaded in one go; a rule
 * without a name of ours is keyed by its meaning, so that its key does not depend on what else is there.
 */
function nameRules(
  rules: readonly ListedRule[],
): { key: string; meaning: string; rule: ListedRule; ours: boolean }[] {
  const taken = new Set<string>();
  return [...rules]
    .sort((a, b) => a.handle - b.handle)
    .map((rule) => {
      const ours =
        /^(base|fallback|management|dns|ntp|allow):./.test(rule.comment) && !taken.has(rule.comment);
      let key = ours ? rule.comment : `unmanaged: ${rule.meaning}`;
      for (let copy = 2; taken.has(key); copy++) key = `unmanaged: ${rule.meaning} (${copy})`;
      taken.add(key);
      return { key, meaning: rule.meaning, rule, ours };
    });
}

function describeHook(chain: Json): string {
  if (chain.hook === undefined) return "no hook";
  const device = chain.dev === undefined ? "" : ` device ${stableJson(chain.dev)}`;
  return `${text(chain.type)} hook ${text(chain.hook)} priority ${text(chain.prio)}${device}`;
}

function meaningOfExpressions(chain: string, expressions: readonly Json[]): string {
  const matches: Match[] = [];
  const actions: string[] = [];
  for (const expression of expressions) {
    if ("counter" in expression) continue;
    const match = "match" in expression ? readMatch(record(expression.match)) : undefined;
    // A condition behind an action (`log tcp dport 1`) is not the same rule as one before it: then the rule is told as it is.
    if (match !== undefined && actions.length === 0) matches.push(match);
    else if (match === undefined && !("match" in expression)) actions.push(describeStatement(expression));
    else return [chain, stableJson(expressions.filter((each) => !("counter" in each)))].join(" ");
  }
  return meaningOf(chain, actions, matches);
}

function describeStatement(expression: Json): string {
  if ("accept" in expression) return "accept";
  if ("drop" in expression) return "drop";
  const { limit, log, reject } = expression;
  if (isExactly(reject, { type: "icmpx", expr: "admin-prohibited" })) return rejection;
  if (
    hasOnly(limit, "rate", "burst", "per") &&
    typeof limit.rate === "number" &&
    typeof limit.burst === "number"
  )
    return describeLimit(limit.rate, text(limit.per), limit.burst);
  if (hasOnly(log, "prefix")) return describeLog(text(log.prefix));
  return stableJson(expression);
}

/** `undefined` when this is no match of a kind that we write or can compare. */
function readMatch(match: Json): Match | undefined {
  const field = readField(record(match.left));
  const values = readValues(match.right);
  const operator = operators[text(match.op)];
  if (field === undefined || values === undefined || operator === undefined) return undefined;
  try {
    const canonical = matching(field, ...values);
    return canonical.field === field || operator === "" ? { ...canonical, operator } : undefined;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

const operators: Readonly<Record<string, Match["operator"]>> = { "==": "", in: "", "!=": "!=", "!": "!" };

function readField(left: Json): string | undefined {
  const { meta, ct, payload } = left;
  if (hasOnly(meta, "key")) return `meta ${text(meta.key)}`;
  if (hasOnly(ct, "key")) return `ct ${text(ct.key)}`;
  if (!hasOnly(payload, "protocol", "field")) return undefined;
  const field = `${text(payload.protocol)} ${text(payload.field)}`;
  return field === "ip protocol" ? "meta l4proto" : field;
}

function readValues(right: unknown): string[] | undefined {
  const list = Array.isArray(right)
    ? right
    : hasOnly(right, "set") && Array.isArray(right.set)
      ? right.set
      : [right];
  const values = list.map(readValue);
  return values.every((value) => value !== undefined) ? values : undefined;
}

function readValue(value: unknown): string | undefined {
  if (typeof value === "string" || typeof value === "number") return `${value}`;
  if (hasOnly(value, "prefix") && hasOnly(value.prefix, "addr", "len"))
    return `${text(value.prefix.addr)}/${text(value.prefix.len)}`;
  if (hasOnly(value, "range") && Array.isArray(value.range)) return value.range.map(text).join("-");
  return undefined;
}

const isRecord = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const record = (value: unknown): Json => (isRecord(value) ? value : {});
const text = (value: unknown): string =>
  typeof value === "string" || typeof value === "number"
    ? `${value}`
    : value === undefined
      ? ""
      : stableJson(value);

function hasOnly<K extends string>(
  value: unknown,
  ...keys: readonly K[]
): value is Readonly<Record<K, unknown>> {
  return isRecord(value) && Object.keys(value).length === keys.length && keys.every((key) => key in value);
}

const isExactly = (value: unknown, expected: Readonly<Record<string, string>>): boolean =>
  hasOnly(value, ...Object.keys(expected)) &&
  Object.entries(expected).every(([key, want]) => value[key] === want);

const without = (value: Json, key: string): Json =>
  Object.fromEntries(Object.entries(value).filter(([name]) => name !== key));

/** JSON with sorted keys: the same for the same thing. */
function stableJson(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    isRecord(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}
