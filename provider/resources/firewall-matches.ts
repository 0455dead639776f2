import {
  formatRange,
  isEverything,
  mergeRanges,
  readRange,
  type AddressRange,
} from "./firewall-addresses.ts";

/**
 * A condition on a packet in canonical form: the same condition has the same `values`, however it was written and however the node's nft lists it.
 * Addresses and numbers are merged ranges, names are the ones below.
 */
export interface Match {
  /** In nft's words, e.g. `ip daddr`, `tcp dport`, `ct state`. `meta` is always spelled out. */
  readonly field: string;
  /** `""`: is one of; `!=`: is none of; `!`: has none of these flags. */
  readonly operator: "" | "!=" | "!";
  readonly values: readonly string[];
}

/**
 * Numbers that one nft writes as such and another as a word: 1.0.6 knows ICMP codes by name, 1.1 does not; protocols are words only where
 * /etc/protocols is there, which a minimal Debian lacks. (Compared on both.)
 */
const words: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "meta l4proto": { "1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "ipv6-icmp": "icmpv6" },
  "icmp code": { "4": "frag-needed" },
  "meta iif": { "1": "lo" },
  "meta oif": { "1": "lo" },
};

/** What to write so that every nft version reads it, with or without /etc/protocols. */
const numbers: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "meta l4proto": { icmp: "1", tcp: "6", udp: "17", icmpv6: "58" },
};

const isAddressField = (field: string): boolean => /^ip6? [sd]addr$/.test(field);
const isNumberField = (field: string): boolean => /(^| )([sd]port|hoplimit|ttl)$/.test(field);

/**
 * A match in canonical form.
 * @throws RangeError when a value of an address or number field is none.
 */
export function matching(field: string, ...values: (string | AddressRange)[]): Match {
  if (isAddressField(field)) {
    const ranges = mergeRanges(values.map((value) => (typeof value === "string" ? readRange(value) : value)));
    // nft drops a match that every packet of the family passes; what is left is the family.
    const everything = ranges.find(isEverything);
    if (everything !== undefined) return { field: "meta nfproto", operator: "", values: [everything.family] };
    return { field, operator: "", values: ranges.map(formatRange) };
  }
  const texts = values.map(String);
  if (isNumberField(field)) return { field, operator: "", values: mergeNumbers(texts) };
  const named = texts.map((value) => words[field]?.[value] ?? value);
  return { field, operator: "", values: [...new Set(named)].sort() };
}

/** A match as nft reads it. */
export function renderMatch(match: Match): string {
  const values = match.values.map((value) => quote(match.field, numbers[match.field]?.[value] ?? value));
  const set = values.length === 1 ? (values[0] ?? "") : `{ ${values.join(", ")} }`;
  return [match.field, match.operator, set].filter((part) => part !== "").join(" ");
}

const quote = (field: string, value: string): string =>
  /^meta [io]if(name)?$/.test(field) ? `"${value}"` : value;

/** A match as a person reads it in the state. */
export function describeMatch(match: Match): string {
  const field = match.field.replace(/^meta /, "");
  return [field, match.operator, match.values.join(",")].filter((part) => part !== "").join(" ");
}

const fieldOrder = [
  "meta nfproto",
  "meta iif",
  "meta oif",
  "meta pkttype",
  "ct state",
  "ct direction",
  "ip saddr",
  "ip daddr",
  "ip6 saddr",
  "ip6 daddr",
  "ip6 hoplimit",
  "meta l4proto",
];

/**
 * The matches of one rule in canonical order, without those that others imply: nft adds `meta nfproto ipv4` or `meta l4proto tcp` where a field needs
 * it, and lists it or not, depending on its version.
 */
export function canonicalMatches(matches: readonly Match[]): Match[] {
  const implied = (match: Match): boolean => {
    const only = match.operator === "" && match.values.length === 1 ? match.values[0] : undefined;
    const others = matches.filter((other) => other !== match);
    const has = (pattern: RegExp): boolean => others.some((other) => pattern.test(other.field));
    if (match.field === "meta nfproto") {
      if (only === "ipv4") return has(/^(ip|icmp) /);
      return only === "ipv6" && has(/^(ip6|icmpv6) /);
    }
    return match.field === "meta l4proto" && only !== undefined && has(new RegExp(`^${only} `));
  };
  const rank = (match: Match): number => {
    const known = fieldOrder.indexOf(match.field);
    return known === -1 ? fieldOrder.length : known;
  };
  return matches
    .filter((match) => !implied(match))
    .sort((a, b) => rank(a) - rank(b) || (a.field < b.field ? -1 : a.field > b.field ? 1 : 0));
}

function mergeNumbers(values: readonly string[]): string[] {
  const ranges = values.map((value) => {
    const [, first, last] = /^(\d+)(?:-(\d+))?$/.exec(value) ?? [];
    if (first === undefined) throw new RangeError(`'${value}' is not a number or a range of numbers`);
    return { first: BigInt(first), last: BigInt(last ?? first) };
  });
  return mergeRanges(ranges).map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`));
}
