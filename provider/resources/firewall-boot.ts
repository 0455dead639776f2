import { sandbox } from "../device/unit-sandbox.ts";
import type { FirewallInputs } from "./firewall-inputs.ts";
import { fallbackRuleset, rulesetOf } from "./firewall-rules.ts";
import { renderRuleset, table } from "./firewall-ruleset.ts";
import type { ManagedFile } from "./managed-files.ts";

export const bootUnitName = "edgeseal-firewall.service";

/** Directories of drop-ins that change the boot unit: its own, and that of units whose names begin like its (systemd.unit(5)). */
const ownDropIns = [`${bootUnitName}.d`, "edgeseal-.service.d"] as const;

/** The same, with that of all services. */
export const bootUnitDropIns = [...ownDropIns, "service.d"] as const;

/** Whether a file that changes the boot unit changes no unit of anybody else, and so is ours to remove. */
export const isOurs = (override: string): boolean =>
  override.endsWith(`/${bootUnitName}`) || ownDropIns.some((name) => override.includes(`/${name}/`));

/** Whether it changes the revert of unconfirmed changes as well, so that no such change can be made before it is gone. */
export const changesRevert = (override: string): boolean => override.includes("/edgeseal-.service.d/");

export const paths = {
  directory: "/etc/edgeseal",
  ruleset: "/etc/edgeseal/firewall.nft",
  fallback: "/etc/edgeseal/firewall-fallback.nft",
  bootUnit: `/etc/systemd/system/${bootUnitName}`,
  nftablesDirectory: "/etc/systemd/system/nftables.service.d",
  nftablesDropIn: "/etc/systemd/system/nftables.service.d/edgeseal.conf",
} as const;

/** Services that bring a network up; each of them requires the boot unit, so that none starts when even the fallback can't be loaded. */
const networkServices = [
  "NetworkManager.service",
  "dhcpcd.service",
  "networking.service",
  "systemd-networkd.service",
];

/** Units that pull the boot unit in, sorted. */
export const bootUnitLinks: readonly string[] = [...networkServices, "sysinit.target"].sort();

/** Every file of ours on the node. The rules are for root's eyes: they tell which addresses are trusted. */
export function managedFiles(inputs: FirewallInputs): ManagedFile[] {
  return [
    {
      path: paths.ruleset,
      mode: "0600",
      content: renderRuleset(rulesetOf(inputs), "edgeseal: the firewall of this node"),
    },
    {
      path: paths.fallback,
      mode: "0600",
      content: renderRuleset(
        fallbackRuleset(inputs),
        `edgeseal: loaded at boot when ${paths.ruleset} can't be`,
      ),
    },
    { path: paths.bootUnit, mode: "0644", content: bootUnit },
    { path: paths.nftablesDropIn, mode: "0644", content: nftablesDropIn },
  ];
}

const nft = "/usr/sbin/nft";

/**
 * A table that is in force stays, whatever becomes of the file. Without one, the fallback lets operators in and nothing else. Only when both fail does
 * the unit, and with it the network.
 */
const load = [
  `${nft} -f ${paths.ruleset} && exit 0`,
  `if ${nft} list table ${table} >/dev/null 2>&1; then echo "<3>${paths.ruleset} can not be loaded; the table in force stays" >&2; exit 1; fi`,
  `echo "<3>${paths.ruleset} can not be loaded; loading ${paths.fallback}: management SSH only" >&2`,
  `exec ${nft} -f ${paths.fallback}`,
].join("; ");

export const bootUnit = `# Written by edgeseal.
[Unit]
Description=edgeseal firewall: table ${table}
DefaultDependencies=no
RequiresMountsFor=${paths.directory}
ConditionPathExists=|${paths.ruleset}
ConditionPathExists=|${paths.fallback}
Wants=network-pre.target
Before=network-pre.target ${networkServices.join(" ")}
# Debian's unit flushes every table when it starts.
After=nftables.service
# Stopping would take the network services along that require this unit; there is nothing to stop.
RefuseManualStop=yes
IgnoreOnIsolate=yes
# Changes that come one after the other, each taken back, are no crash loop: a start that is refused would leave the node without rules.
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c '${load}'
ExecReload=${nft} -f ${paths.ruleset}
${sandbox({ capabilities: ["CAP_NET_ADMIN"], addressFamilies: ["AF_NETLINK"] })}

[Install]
WantedBy=sysinit.target
RequiredBy=${networkServices.join(" ")}
`;

/** Our rules in the commands below. As a pattern, since a pattern may match nothing: then Debian's unit still does its own work. */
export const rulesetInclude = `include "${paths.ruleset.replace(/t$/, "[t]")}"`;

/** Debian's unit flushes all tables on start, reload and stop: each of them puts ours back in the same transaction. */
const nftablesDropIn = `# Written by edgeseal: whatever this service does, table ${table} stays in force throughout.
[Service]
ExecStart=
ExecStart=${nft} 'include "/etc/nftables.conf"; ${rulesetInclude}'
ExecReload=
ExecReload=${nft} 'include "/etc/nftables.conf"; ${rulesetInclude}'
ExecStop=
ExecStop=${nft} 'flush ruleset; ${rulesetInclude}'
`;
