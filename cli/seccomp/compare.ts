import { actionOn, parseFilter } from "../../provider/resources/seccomp-profile-filter.ts";
import { callGroups, seccompDocument } from "../../provider/resources/seccomp-profile-variants.ts";
import type { Variant } from "../../provider/resources/server-variants.ts";
import type { CallRecord } from "./record-file.ts";

/** A record held against a profile. */
export interface Comparison {
  /** Seen, and refused by the profile: the server would not do what it did. With the arguments that decide, where there are such. */
  readonly refused: readonly string[];
  /** Seen, and answered with another error on purpose, with that error. */
  readonly answered: Readonly<Record<string, string>>;
  /** In the profile and not seen, without a reason. */
  readonly unseen: readonly string[];
  /** In the profile and not seen, with the reason. */
  readonly explained: Readonly<Record<string, string>>;
}

/** Compares what was seen with what a variant's profile allows on the same architecture. */
export function compare(record: CallRecord, variant: Variant): Comparison {
  const text = seccompDocument({ name: "inference", variant, additionalSyscalls: [] });
  const filter = parseFilter(text, record.architecture);
  if (filter === undefined) throw new Error("edgeseal's own profile can't be read");
  const refused: string[] = [];
  const answered: Record<string, string> = {};
  for (const call of Object.keys(record.times)) {
    const ways = record.arguments[call] ?? [""];
    for (const way of ways) {
      const action = actionOn(filter, call, way === "" ? [] : way.split(" ").map(BigInt));
      if (action === "allow") continue;
      if (action === filter.otherwise)
        refused.push(way === "" ? call : `${call}(${way.split(" ").join(", ")})`);
      else answered[call] = action;
    }
  }
  const calls = callGroups[variant].flatMap((group) => group.calls);
  const reasons = new Map(calls.map(({ call, unrecorded }) => [call, unrecorded]));
  const missing = [...filter.calls.keys()].filter((call) => record.times[call] === undefined).sort();
  const explained = missing.flatMap((call): [string, string][] => {
    const why = reasons.get(call);
    return why === undefined ? [] : [[call, why]];
  });
  return {
    refused,
    answered,
    unseen: missing.filter((call) => reasons.get(call) === undefined),
    explained: Object.fromEntries(explained),
  };
}

/** What a person reads. */
export function comparisonLines(record: CallRecord, variant: Variant, comparison: Comparison): string[] {
  const { refused, answered, unseen, explained } = comparison;
  const count = Object.keys(record.times).length;
  const list = (title: string, items: readonly string[]): string[] =>
    items.length === 0 ? [] : [`${title}:`, ...items.map((each) => `  ${each}`)];
  const notes = (named: Readonly<Record<string, string>>): string[] =>
    Object.entries(named).map(([call, why]) => `${call}: ${why}`);
  const names = [...new Set(refused.map((each) => each.replace(/\(.*/, "")))];
  return [
    `${count} system calls were seen on ${record.architecture}, and held against the profile for ${variant}`,
    ...list("seen, and refused by the profile", refused),
    ...list("seen, and answered with an error on purpose", notes(answered)),
    ...list("in the profile and not seen", unseen),
    ...list("in the profile for another reason", notes(explained)),
    ...(names.length === 0
      ? ["the profile refuses nothing of it"]
      : [
          "to allow them all the same, which the gate looks at:",
          `  additionalSyscalls: [${names.join(", ")}]`,
        ]),
  ];
}
