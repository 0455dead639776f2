import type { FirewallInputs } from "./firewall-inputs.ts";
import { parseAddress, type AddressRange, type Family } from "./firewall-addresses.ts";
import { matching, type Match } from "./firewall-matches.ts";

/** Chains of our table, named after the netfilter hook that they hang on. */
export type Chain = "input" | "output" | "forward";

/** One rule of our table, as data. */
export interface Rule {
  readonly chain: Chain;
  /** Stable and unique in the table; the rule's nft comment, and its key in the state. */
  readonly name: string;
  readonly matches: readonly Match[];
  readonly action: Action;
  /** The user's own words, for whoever reads the file on the node. */
  readonly note?: string;
}

export type Action = "accept" | "drop" | typeof rejection | LogAction;

/** Answers "communication administratively prohibited" (RFC 1812 5.2.7.1, RFC 4443 3.1), so that callers fail at once and say why. */
export const rejection = "reject with icmpx admin-prohibited";

export interface LogAction {
  readonly prefix: string;
  readonly perMinute: number;
}

export type Policy = "accept" | "drop";

/** What the table must be: its base chains with their policies, and the rules in order. */
export interface Ruleset {
  readonly policies: Readonly<Partial<Record<Chain, Policy>>>;
  readonly rules: readonly Rule[];
}

const families = ["ipv4", "ipv6"] as const;

/** The address field of a family that names the peer: who sends on input, who receives on output. */
const peerField = (chain: Chain, family: Family): string =>
  `${family === "ipv4" ? "ip" : "ip6"} ${chain === "input" ? "saddr" : "daddr"}`;

/** The rules that the inputs ask for. Inputs have passed `check`. */
export function rulesetOf(inputs: FirewallInputs): Ruleset {
  const confined = inputs.egress === "allowlist";
  const forwarded = inputs.forward === "drop";
  return {
    policies: {
      input: "drop",
      output: confined ? "drop" : "accept",
      ...(forwarded ? { forward: "drop" } : {}),
    },
    rules: [
      ...inputRules(inputs),
      ...(confined ? outputRules(inputs) : []),
      ...(forwarded ? endOf("forward", inputs.logPerMinute) : []),
    ],
  };
}

function inputRules(inputs: FirewallInputs): Rule[] {
  return [
    rule("input", "base:input-loopback", "accept", matching("meta iif", "lo")),
    ...answers("input"),
    // A packet-too-big about a flow that conntrack does not know (it was there before the table) would count as invalid below.
    ...pathMtuErrors("base:input-pmtu"),
    rule("input", "base:input-invalid", "drop", matching("ct state", "invalid")),
    ...neighbourDiscovery("base"),
    ...dhcpAnswers("base"),
    ...managementRules(inputs),
    ...inputs.allow.filter((entry) => entry.from !== undefined).map((entry) => allowed("input", entry)),
    // Broadcasts and multicasts of a LAN nobody asked for: no answer, and no use of the log's allowance.
    rule("input", "base:input-noise", "drop", matching("meta pkttype", "broadcast", "multicast")),
    ...endOf("input", inputs.logPerMinute),
  ];
}

function outputRules(inputs: FirewallInputs): Rule[] {
  return [
    rule("output", "base:output-loopback", "accept", matching("meta oif", "lo")),
    ...answers("output"),
    ...neighbourSolicitation("base"),
    ...dhcpRequests("base"),
    ...managementAnswers(inputs),
    ...servers("dns", inputs.dns, [matching("meta l4proto", "tcp", "udp"), matching("th dport", "53")]),
    ...servers("ntp", inputs.ntp, [matching("udp dport", "123")]),
    ...inputs.allow.filter((entry) => entry.to !== undefined).map((entry) => allowed("output", entry)),
    ...endOf("output", inputs.logPerMinute),
  ];
}

/**
 * The rules that let an operator in and nothing else, for a boot at which the real ones can't be loaded. Stateless and without log, limit or reject, so
 * that they need no kernel module but nf_tables itself.
 */
export function fallbackRuleset(inputs: FirewallInputs): Ruleset {
  return {
    policies: { input: "drop", output: "drop", forward: "drop" },
    rules: [
      rule("input", "fallback:input-loopback", "accept", matching("meta iif", "lo")),
      ...pathMtuErrors("fallback:input-pmtu"),
      ...neighbourDiscovery("fallback"),
      ...dhcpAnswers("fallback"),
      ...byFamily(managementRanges(inputs), "input").map(([family, peers]) =>
        rule("input", `fallback:ssh-${family}`, "accept", peers, matching("tcp dport", `${inputs.sshPort}`)),
      ),
      rule("output", "fallback:output-loopback", "accept", matching("meta oif", "lo")),
      ...neighbourSolicitation("fallback"),
      ...dhcpRequests("fallback"),
      ...byFamily(managementRanges(inputs), "output").map(([family, peers]) =>
        rule(
          "output",
          `fallback:ssh-answers-${family}`,
          "accept",
          peers,
          matching("tcp sport", `${inputs.sshPort}`),
        ),
      ),
    ],
  };
}

function rule(chain: Chain, name: string, action: Action, ...matches: Match[]): Rule {
  return { chain, name, action, matches };
}

/**
 * Answers only: a packet in the direction that a flow was opened in must match the allowlist again, each time. So taking an entry away ends the flows
 * it allowed, instead of letting them go on for the five days that conntrack remembers an idle connection. On output the errors include our own
 * rejections, which the kernel counts as related to what they reject.
 */
function answers(chain: "input" | "output"): Rule[] {
  return [
    rule(
      chain,
      `base:${chain}-answers`,
      "accept",
      matching("ct state", "established"),
      matching("ct direction", "reply"),
    ),
    rule(
      chain,
      `base:${chain}-icmp-errors`,
      "accept",
      matching("ct state", "related"),
      matching("meta l4proto", "icmp", "icmpv6"),
    ),
  ];
}

/** Without these, large packets vanish behind a smaller link (RFC 1191, RFC 8201; RFC 4890 4.4.1: must not be dropped). */
const pathMtuErrors = (name: string): Rule[] => [
  rule(
    "input",
    `${name}-ipv4`,
    "accept",
    matching("icmp type", "destination-unreachable"),
    matching("icmp code", "frag-needed"),
  ),
  rule("input", `${name}-ipv6`, "accept", matching("icmpv6 type", "packet-too-big")),
];

/**
 * IPv6's ARP, DHCP and IGMP. Hop limit 255 proves that a packet comes from this link (RFC 4861 11.2, RFC 5082); listener queries have hop limit 1 and a
 * link-local source (RFC 3810 5.1): a node that does not answer them is cut off by snooping switches after some minutes.
 */
const neighbourDiscovery = (owner: string): Rule[] => [
  rule(
    "input",
    `${owner}:input-neighbours`,
    "accept",
    matching("icmpv6 type", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"),
    matching("ip6 hoplimit", "255"),
  ),
  rule(
    "input",
    `${owner}:input-listeners`,
    "accept",
    matching("icmpv6 type", "mld-listener-query"),
    matching("ip6 saddr", "fe80::/10"),
    matching("ip6 hoplimit", "1"),
  ),
];

const neighbourSolicitation = (owner: string): Rule[] => [
  rule(
    "output",
    `${owner}:output-neighbours`,
    "accept",
    matching("icmpv6 type", "nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"),
    matching("ip6 hoplimit", "255"),
  ),
  rule(
    "output",
    `${owner}:output-listeners`,
    "accept",
    matching("icmpv6 type", "mld-listener-report", "mld-listener-done", "mld2-listener-report"),
    matching("ip6 hoplimit", "1"),
  ),
];

/**
 * DHCP (RFC 2131 4.1, RFC 8415 7). An answer to a broadcast or multicast does not match the flow that conntrack noted. The first exchange of a boot may
 * go by raw sockets, past any filter; it is the renewal, hours later, that needs these.
 */
const dhcpAnswers = (owner: string): Rule[] => [
  rule(
    "input",
    `${owner}:input-dhcp-ipv4`,
    "accept",
    matching("meta nfproto", "ipv4"),
    matching("udp sport", "67"),
    matching("udp dport", "68"),
  ),
  rule(
    "input",
    `${owner}:input-dhcp-ipv6`,
    "accept",
    matching("ip6 saddr", "fe80::/10"),
    matching("udp sport", "547"),
    matching("udp dport", "546"),
  ),
];

const dhcpRequests = (owner: string): Rule[] => [
  rule(
    "output",
    `${owner}:output-dhcp-ipv4`,
    "accept",
    matching("meta nfproto", "ipv4"),
    matching("udp sport", "68"),
    matching("udp dport", "67"),
  ),
  rule(
    "output",
    `${owner}:output-dhcp-ipv6`,
    "accept",
    matching("ip6 daddr", "ff02::1:2"),
    matching("udp sport", "546"),
    matching("udp dport", "547"),
  ),
];

function managementRules(inputs: FirewallInputs): Rule[] {
  return byFamily(managementRanges(inputs), "input").flatMap(([family, peers]) => [
    rule("input", `management:ssh-${family}`, "accept", peers, matching("tcp dport", `${inputs.sshPort}`)),
    rule(
      "input",
      `management:ping-${family}`,
      "accept",
      peers,
      matching(family === "ipv4" ? "icmp type" : "icmpv6 type", "echo-request"),
    ),
  ]);
}

/**
 * sshd's packets of a connection that conntrack first saw in the middle: at the first load, the node speaks first (the result of loading), and conntrack
 * takes that for a new flow from port 22. Never the opening packet of a flow, so nothing new can be opened from that port.
 */
function managementAnswers(inputs: FirewallInputs): Rule[] {
  return byFamily(managementRanges(inputs), "output").map(([family, peers]) =>
    rule(
      "output",
      `management:ssh-answers-${family}`,
      "accept",
      peers,
      matching("tcp sport", `${inputs.sshPort}`),
      {
        ...matching("tcp flags", "syn"),
        operator: "!",
      },
    ),
  );
}

const managementRanges = (inputs: FirewallInputs): AddressRange[] =>
  inputs.management.map((cidr) => rangeOf(cidr, "management"));

function servers(name: string, addresses: readonly string[], matches: readonly Match[]): Rule[] {
  const ranges = addresses.map((address) => rangeOf(address, name));
  return byFamily(ranges, "output").map(([family, peers]) =>
    rule("output", `${name}:${family}`, "accept", peers, ...matches),
  );
}

function allowed(chain: "input" | "output", entry: FirewallInputs["allow"][number]): Rule {
  const peer = rangeOf((chain === "input" ? entry.from : entry.to) ?? "", `allow ${entry.name}`);
  const note = entry.comment === undefined ? {} : { note: entry.comment };
  return {
    ...rule(
      chain,
      `allow:${entry.name}`,
      "accept",
      addressMatch(chain, [peer]),
      ...service(entry, peer.family),
    ),
    ...note,
  };
}

function service(entry: FirewallInputs["allow"][number], family: Family): Match[] {
  switch (entry.protocol) {
    case "any":
      return [];
    case "icmp":
      return [matching(family === "ipv4" ? "icmp type" : "icmpv6 type", "echo-request")];
    case "tcp":
    case "udp":
      return entry.ports === undefined
        ? [matching("meta l4proto", entry.protocol)]
        : [matching(`${entry.protocol} dport`, ...entry.ports.map(String))];
  }
}

const endOf = (chain: Chain, logPerMinute: number): Rule[] => [
  ...(logPerMinute === 0
    ? []
    : [rule(chain, `base:${chain}-log`, { prefix: `edgeseal ${chain}: `, perMinute: logPerMinute })]),
  rule(chain, `base:${chain}-reject`, rejection),
];

/** One match for the peers of each family that has any. */
function byFamily(ranges: readonly AddressRange[], chain: Chain): [Family, Match][] {
  return families.flatMap((family): [Family, Match][] => {
    const own = ranges.filter((range) => range.family === family);
    return own.length === 0 ? [] : [[family, addressMatch(chain, own)]];
  });
}

function addressMatch(chain: Chain, ranges: readonly AddressRange[]): Match {
  const family = ranges[0]?.family ?? "ipv4";
  return matching(peerField(chain, family), ...ranges);
}

function rangeOf(text: string, where: string): AddressRange {
  const parsed = parseAddress(text, "optional");
  if ("range" in parsed) return parsed.range;
  // `check` refuses these; a mask of `management` is required there and needs no second look here.
  throw new RangeError(`${where}: ${parsed.problem}`);
}
