import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { directoriesBeforeEtc, unitDirectories } from "./boot-units.ts";
import { bootUnitDropIns, bootUnitName, paths, rulesetInclude } from "./firewall-boot.ts";
import type { FirewallState } from "./firewall-inputs.ts";
import { readTable } from "./firewall-listing.ts";
import { table } from "./firewall-ruleset.ts";
import { parseMarks, readMarks } from "./managed-files.ts";

/** The commands of Debian's unit that we replace, and those that a drop-in may add. */
const mustKeep = ["ExecStart", "ExecReload", "ExecStop"] as const;
const mayFlush = [...mustKeep, "ExecStartPre", "ExecStartPost", "ExecStopPost"] as const;

const ownFiles = [paths.ruleset, paths.fallback, paths.bootUnit, paths.nftablesDropIn];

/** Asks the kernel, the files and systemd; needs no inputs, so that it travels with the first batch of every node. */
export const firewallProbe: Probe<Observed<FirewallState>> = {
  id: "edgeseal:network:Firewall",
  parts: {
    // A table outlives the nft that loaded it. Only a kernel without a symbol of nf_tables, be it built in or a module, certainly has none.
    tables: `command -v nft >/dev/null 2>&1 || {
  if awk '/nf_tables/ { found = 1; exit } END { exit found || NR == 0 }' /proc/kallsyms 2>/dev/null
  then echo missing none; else echo missing; fi
  exit 0
}
nft list tables`,
    // Looking for the table in a list, since a table that is not there and an nft that can't ask end with the same status.
    table: `command -v nft >/dev/null 2>&1 || exit 0
tables=$(nft list tables) || exit 1
printf '%s\\n' "$tables" | grep -qx 'table ${table}' || exit 0
nft -j list table ${table}`,
    files: readMarks(ownFiles),
    bootUnit: `systemctl show -p LoadState,UnitFileState,ActiveState,Before,DropInPaths ${bootUnitName} || exit 1
for link in /etc/systemd/system/*.wants/${bootUnitName} /etc/systemd/system/*.requires/${bootUnitName}; do
  # systemd takes a link to an empty file, such as /dev/null, for none.
  if [ -L "$link" ] && { [ ! -e "$link" ] || [ -s "$link" ]; }; then printf 'link=%s\\n' "$link"; fi
done
# What systemd has not read yet counts at the next boot.
for d in ${unitDirectories.join(" ")}; do
  for f in ${bootUnitDropIns.map((name) => `"$d"/${name}/*.conf`).join(" ")}; do
    own=/etc/systemd/system/\${f#"$d"/}
    if [ -s "$f" ] && { [ ! -e "$own" ] || [ -s "$own" ]; }; then printf 'override=%s\\n' "$f"; fi
  done
done
for d in ${directoriesBeforeEtc.join(" ")}; do
  f=$d/${bootUnitName}
  if [ -e "$f" ] || [ -L "$f" ]; then printf 'override=%s\\n' "$f"; fi
done`,
    nftablesService: `systemctl show -p LoadState,NeedDaemonReload,${mayFlush.join(",")} nftables.service`,
  },
  parse: parseFirewall,
};

function parseFirewall(parts: Readonly<Record<string, PartOutput>>): Observed<FirewallState> {
  const tables = outputOf(parts, "tables").trim();
  const nftMissing = tables === "missing" || tables === "missing none";
  const kernel = kernelState(outputOf(parts, "table"), nftMissing);
  const files = parseMarks(outputOf(parts, "files"));
  const unit = readUnit(outputOf(parts, "bootUnit"));
  const nftablesService = readNftablesService(outputOf(parts, "nftablesService"));
  const nothingOfOurs =
    (kernel.loaded === "absent" || tables === "missing none") &&
    Object.keys(files).length === 0 &&
    unit.linkedFrom.length === 0;
  if (nothingOfOurs) return { outcome: "absent" };
  return {
    outcome: "present",
    state: {
      ...kernel,
      files,
      bootUnit: unit,
      nftablesService,
      foreignTables: nftMissing ? [] : foreignTables(tables),
    },
  };
}

type KernelState = Pick<
  FirewallState,
  "loaded" | "inputPolicy" | "outputPolicy" | "forwardPolicy" | "chains" | "rules" | "order"
>;

function kernelState(listing: string, nftMissing: boolean): KernelState {
  if (nftMissing) return { loaded: "unknown", order: [] };
  if (listing.trim() === "") return { loaded: "absent", order: [] };
  const { dormant, policies, chains, rules, order } = readTable(listing);
  const isFallback = "fallback:input-loopback" in rules && !("base:input-loopback" in rules);
  return {
    loaded: dormant ? "dormant" : isFallback ? "fallback" : "ruleset",
    inputPolicy: policies.input ?? "none",
    outputPolicy: policies.output ?? "none",
    forwardPolicy: policies.forward ?? "none",
    chains,
    rules,
    order,
  };
}

function foreignTables(tables: string): string[] {
  return tables
    .split("\n")
    .map((line) => line.replace(/^table /, "").trim())
    .filter((name) => name !== "" && name !== table)
    .sort();
}

/** Lines of path, mode, owner and digest, as the probe prints them. The paths have no spaces. */
function readUnit(text: string): FirewallState["bootUnit"] {
  const properties = readProperties(text);
  const loadState = single(properties, "LoadState");
  const unitFileState = single(properties, "UnitFileState");
  const linkedFrom = (properties.get("link") ?? []).map(
    (link) => /([^/]+)\.(?:wants|requires)\/[^/]+$/.exec(link)?.[1] ?? link,
  );
  return {
    state: loadState === "masked" || unitFileState === "" ? loadState : unitFileState,
    active: single(properties, "ActiveState"),
    beforeNetwork: single(properties, "Before").split(" ").includes("network-pre.target"),
    linkedFrom: linkedFrom.sort(),
    overrides: [
      ...new Set([
        ...single(properties, "DropInPaths")
          .split(" ")
          .filter((path) => path !== ""),
        ...(properties.get("override") ?? []),
      ]),
    ].sort(),
  };
}

function readNftablesService(text: string): FirewallState["nftablesService"] {
  const properties = readProperties(text);
  const loadState = single(properties, "LoadState");
  if (loadState === "not-found" || loadState === "masked") return "harmless";
  const keeps = (name: string): boolean => {
    const commands = properties.get(name) ?? [];
    return commands.length > 0 && commands.every((command) => command.includes(rulesetInclude));
  };
  const spares = (name: string): boolean =>
    (properties.get(name) ?? []).every(
      (command) => command.includes(rulesetInclude) || !/\bnft\b/.test(command),
    );
  // Until systemd has read its files again, what it says of its commands is not what the next boot makes of them.
  const current = single(properties, "NeedDaemonReload") === "no";
  return current && mustKeep.every(keeps) && mayFlush.every(spares) ? "harmless" : "flushes";
}

function readProperties(text: string): Map<string, string[]> {
  const properties = new Map<string, string[]>();
  for (const line of text.split("\n")) {
    const at = line.indexOf("=");
    if (at === -1) continue;
    const key = line.slice(0, at);
    properties.set(key, [...(properties.get(key) ?? []), line.slice(at + 1)]);
  }
  return properties;
}

/** @throws UnknownObservation when systemd did not print the property at all. */
function single(properties: ReadonlyMap<string, readonly string[]>, name: string): string {
  const value = properties.get(name)?.[0];
  if (value === undefined) throw new UnknownObservation(`systemd did not say '${name}' of a unit`);
  return value;
}
