import { createHash } from "node:crypto";
import type { PartOutput } from "../../../provider/device/probe.ts";
import { bootUnitLinks, managedFiles } from "../../../provider/resources/firewall-boot.ts";
import type { FirewallInputs } from "../../../provider/resources/firewall-inputs.ts";

/** One of everything, as `check` leaves it: the inputs that the listings beside this file were recorded of. */
export const example: FirewallInputs = {
  management: ["10.0.2.0/24", "192.0.2.7/32", "fd00:1::/64"],
  sshPort: 22,
  dns: ["9.9.9.9", "1.1.1.1", "2620:fe::fe"],
  ntp: ["192.0.2.123"],
  egress: "allowlist",
  forward: "drop",
  logPerMinute: 10,
  confirmSeconds: 30,
  allow: [
    { name: "lan", to: "10.0.0.0/8", protocol: "any" },
    { name: "api", to: "203.0.113.5", protocol: "tcp", ports: [443], comment: "the article's API" },
    { name: "mtls", from: "fd00:2::/64", protocol: "tcp", ports: [8443, "9000-9010", 9011] },
    { name: "ping", to: "198.51.100.1", protocol: "icmp" },
    { name: "udp", to: "198.51.100.0/25", protocol: "udp" },
  ],
};

export const noRoute = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

const printed = (stdout: string): PartOutput => ({ code: 0, stdout, stderr: "" });

/** What the probe prints on a node where everything is as the inputs want it; `listing` is nft's JSON of the table. */
export function healthyParts(inputs: FirewallInputs, listing: string): Record<string, PartOutput> {
  const files = managedFiles(inputs).map(({ path, mode, content }) => {
    const digest = createHash("sha256").update(content).digest("hex");
    return `${path} ${mode.slice(1)} root:root sha256:${digest}\n`;
  });
  const links = bootUnitLinks.map((unit) => {
    const kind = unit.endsWith(".target") ? "wants" : "requires";
    return `link=/etc/systemd/system/${unit}.${kind}/edgeseal-firewall.service\n`;
  });
  return {
    tables: printed("table ip foreign\ntable inet edgeseal\n"),
    table: printed(listing),
    files: printed(files.join("")),
    bootUnit: printed(
      "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nBefore=network-pre.target systemd-networkd.service\nDropInPaths=\n" +
        links.join(""),
    ),
    nftablesService: printed(
      ["ExecStart", "ExecReload", "ExecStop"]
        .map(
          (name) =>
            `${name}={ path=/usr/sbin/nft ; argv[]=/usr/sbin/nft include "/etc/edgeseal/firewall.nf[t]" ; }\n`,
        )
        .join("") + "LoadState=loaded\nNeedDaemonReload=no\n",
    ),
  };
}

/** What the probe prints on a node that edgeseal has not touched. */
export const untouchedParts: Record<string, PartOutput> = {
  tables: printed("missing none\n"),
  table: printed(""),
  files: printed(""),
  bootUnit: printed("LoadState=not-found\nUnitFileState=\nActiveState=inactive\nBefore=\nDropInPaths=\n"),
  nftablesService: printed("LoadState=not-found\n"),
};
