import type { FirewallInputs } from "../../provider/resources/firewall-inputs.ts";
import { network } from "../../testbed/namespace/node.ts";

/** What a node in namespaces has for a firewall: the operator gets in, and one destination may be reached. */
export const nodeFirewall: FirewallInputs = {
  management: [`${network.operator}/32`],
  sshPort: 22,
  dns: [],
  ntp: [],
  egress: "allowlist",
  forward: "drop",
  logPerMinute: 10,
  confirmSeconds: 30,
  allow: [{ name: "api", to: "203.0.113.5", protocol: "tcp", ports: [443] }],
};
