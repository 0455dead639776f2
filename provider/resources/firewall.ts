import { diffState } from "../diff.ts";
import { debianPackage } from "../device/step.ts";
import { defineResource, PlanRefused, type Observed } from "../resource.ts";
import { bootUnitLinks, changesRevert, isOurs, managedFiles } from "./firewall-boot.ts";
import { loadRuleset, removeOverride, rulesetChecks, unloadRuleset } from "./firewall-change.ts";
import { firewallProblems, lockouts } from "./firewall-checks.ts";
import { firewallInputs, firewallState, type FirewallInputs, type FirewallState } from "./firewall-inputs.ts";
import { ruleMeaning } from "./firewall-meaning.ts";
import { firewallProbe } from "./firewall-observed.ts";
import { rulesetOf } from "./firewall-rules.ts";
import { hookOf } from "./firewall-ruleset.ts";
import { desiredMarks } from "./managed-files.ts";

/**
 * The node's firewall: one nftables table of our own that rejects what is not listed, in both directions, from before the network is up. It rests on
 * nft(8), RFC 4890 (which ICMPv6 a node can't live without) and NIST SP 800-41 (deny by default, in both directions).
 */
export const firewall = defineResource({
  token: "edgeseal:network:Firewall",
  description:
    "An nftables table of its own (`inet edgeseal`) that rejects whatever is not listed, inbound and outbound, IPv4 and IPv6, from before the network is up. Tables of others are left alone. Changes are commit-confirmed: a rule set that locks the operator out is taken back by the device itself.",
  inputs: firewallInputs,
  state: firewallState,
  check: firewallProblems,
  observe: () => firewallProbe,
  desired: desiredFirewall,
  plan: (inputs, observed, route) => {
    if (diffState(desiredFirewall(inputs), stateOf(observed)).length === 0) return [];
    const [lockout] = lockouts(inputs, route);
    if (lockout !== undefined)
      throw new PlanRefused(`${lockout.path}: ${lockout.message}`, "nothing was changed");
    // Installing needs the network as it was; so does a later repair of a node whose nft was removed.
    const nftMayBeMissing = observed.outcome === "absent" || observed.state.loaded === "unknown";
    return [
      ...(nftMayBeMissing
        ? [debianPackage({ title: "install nftables", package: "nftables", installed: true })]
        : []),
      ...rulesetChecks(inputs),
      ...overridesOf(observed).filter(changesRevert).map(removeOverride),
      loadRuleset(
        inputs,
        overridesOf(observed).filter((path) => !changesRevert(path)),
        rollbackTo(observed),
      ),
    ];
  },
  refusals: lockouts,
  revert: (_inputs, observed) => (observed.outcome === "absent" ? [] : unloadRuleset(overridesOf(observed))),
});

/** Everything but `foreignTables`, which are others' business. */
function desiredFirewall(inputs: FirewallInputs): Partial<FirewallState> {
  const { policies, rules } = rulesetOf(inputs);
  return {
    loaded: "ruleset",
    inputPolicy: policies.input ?? "none",
    outputPolicy: policies.output ?? "none",
    forwardPolicy: policies.forward ?? "none",
    chains: Object.fromEntries(Object.keys(policies).map((chain) => [chain, hookOf(chain)])),
    rules: Object.fromEntries(rules.map((rule) => [rule.name, ruleMeaning(rule)])),
    order: [],
    files: desiredMarks(managedFiles(inputs)),
    bootUnit: {
      state: "enabled",
      active: "active",
      beforeNetwork: true,
      linkedFrom: [...bootUnitLinks],
      overrides: [],
    },
    nftablesService: "harmless",
  };
}

const stateOf = (observed: Observed<FirewallState>): Partial<FirewallState> =>
  observed.outcome === "present" ? observed.state : {};

/** What changes the boot unit and nothing else. A drop-in for all services is somebody's: it stays, and is reported as not in effect. */
const overridesOf = (observed: Observed<FirewallState>): readonly string[] =>
  observed.outcome === "present" ? observed.state.bootUnit.overrides.filter(isOurs) : [];

function rollbackTo(observed: Observed<FirewallState>): string {
  const loaded = observed.outcome === "absent" ? "absent" : observed.state.loaded;
  switch (loaded) {
    case "absent":
    case "unknown":
      return "no edgeseal table: the node as open as it was";
    case "dormant":
      return "the edgeseal table as it was, turned off";
    case "fallback":
      return "the fallback rules: management SSH only";
    case "ruleset":
      return "the rules loaded before";
  }
}
