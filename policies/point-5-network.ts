import { control, uncovered, verdict } from "./control.ts";
import { isTooWide } from "./reach.ts";

/** Point 5: segmented network: mTLS to known endpoints only, every other egress blocked. */
export const networkControls = [
  control({
    id: "5.default-deny",
    point: 5,
    title: "What is not listed may not reach the node or pass through it, from before the network is up",
    mend: "give the node a `firewall` block: `management` with the networks you administer it from, `forward: drop`, and narrow `from` entries",
    block: "firewall",
    declared: {
      reads: ["management", "forward", "allow"],
      judge: ({ management, forward, allow }) => {
        const sources = [...management, ...allow.flatMap(({ from }) => (from === undefined ? [] : [from]))];
        return verdict(
          [
            ...wide(sources).map(
              (source) => `sources include ${source}, which is wider than any private network`,
            ),
            ...(forward === "drop" ? [] : [`firewall.forward is ${quote(forward)}`]),
          ],
          `SSH from ${management.join(", ")} only; forward ${forward}`,
        );
      },
    },
    observed: {
      reads: ["loaded", "order", "bootUnit", "nftablesService"],
      judge: ({ loaded, inputPolicy, forwardPolicy, rules = {}, order, bootUnit, nftablesService }) =>
        verdict(
          [
            ...(loaded === "ruleset" ? [] : [`loaded: ${loaded}`]),
            ...(inputPolicy === "drop" ? [] : [`input policy ${inputPolicy ?? "not there"}`]),
            ...(forwardPolicy === "drop" ? [] : [`forward policy ${forwardPolicy ?? "not there"}`]),
            ...foreignRules(rules).map((rule) => `rule not ours: ${rule}`),
            ...openRules(rules, "input", "saddr"),
            ...order.map((rule) => `out of order: ${rule}`),
            ...(bootUnit.state === "enabled" && bootUnit.beforeNetwork
              ? []
              : [
                  `boot unit ${bootUnit.state}, ${bootUnit.beforeNetwork ? "before" : "not before"} the network`,
                ]),
            ...bootUnit.overrides.map((path) => `boot unit changed by ${path}`),
            ...(nftablesService === "harmless" ? [] : [`nftables.service ${nftablesService}`]),
          ],
          `input policy ${inputPolicy ?? ""}, forward policy ${forwardPolicy ?? ""}, ${count(rules, "input")} input rules; boot unit ${bootUnit.state}, before the network`,
        ),
    },
  }),
  control({
    id: "5.egress-allowlist",
    point: 5,
    title: "The node opens connections to listed endpoints only",
    mend: "set `firewall: { egress: allowlist }` and list each endpoint under `allow`, no wider than a private network",
    block: "firewall",
    declared: {
      reads: ["egress", "allow", "dns", "ntp"],
      judge: ({ egress, allow, dns, ntp }) => {
        const targets = [...allow.flatMap(({ to }) => (to === undefined ? [] : [to])), ...dns, ...ntp];
        return verdict(
          [
            ...(egress === "allowlist" ? [] : [`firewall.egress is ${quote(egress)}`]),
            ...wide(targets).map(
              (target) => `the allowlist has ${target}, which is wider than any private network`,
            ),
          ],
          targets.length === 0 ? "egress to nothing" : `egress to ${targets.join(", ")} only`,
        );
      },
    },
    observed: {
      reads: ["loaded"],
      judge: ({ loaded, outputPolicy, rules = {} }) =>
        verdict(
          [
            ...(loaded === "ruleset" ? [] : [`loaded: ${loaded}`]),
            ...(outputPolicy === "drop" ? [] : [`output policy ${outputPolicy ?? "not there"}`]),
            ...foreignRules(rules).map((rule) => `rule not ours: ${rule}`),
            ...openRules(rules, "output", "daddr"),
          ],
          `output policy ${outputPolicy ?? ""}, ${count(rules, "output")} output rules`,
        ),
    },
  }),
  uncovered({
    id: "5.mtls",
    point: 5,
    title: "Connections to and from the inference service are mutually authenticated (mTLS)",
  }),
] as const;

const wide = (ranges: readonly string[]): string[] => ranges.filter(isTooWide);

const foreignRules = (rules: Readonly<Record<string, string>>): string[] =>
  Object.keys(rules).filter((name) => name.startsWith("unmanaged:"));

/** Accepting rules of a chain that name no peer, or one that is too wide. Our base rules (loopback, answers, discovery, DHCP) name none. */
function openRules(
  rules: Readonly<Record<string, string>>,
  chain: string,
  field: "saddr" | "daddr",
): string[] {
  return Object.entries(rules)
    .filter(([name, text]) => {
      if (!text.startsWith(`${chain} accept`)) return false;
      const peers = new RegExp(`\\b${field} (\\{[^}]*\\}|\\S+)`).exec(text)?.[1];
      if (peers === undefined) return !name.startsWith("base:") || text.trim() === `${chain} accept`;
      return peers
        .replaceAll(/[{}\s]/g, "")
        .split(",")
        .some(isTooWide);
    })
    .map(([name]) => `rule ${quote(name)} is open`);
}

const count = (rules: Readonly<Record<string, string>>, chain: string): number =>
  Object.values(rules).filter((text) => text.startsWith(`${chain} `)).length;

const quote = (value: unknown): string => JSON.stringify(value);
