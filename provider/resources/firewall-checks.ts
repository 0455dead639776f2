import type { InputProblem, Route } from "../resource.ts";
import {
  contains,
  isEverything,
  parseAddress,
  reportedAddress,
  type AddressRange,
  type Mask,
} from "./firewall-addresses.ts";
import type { FirewallInputs } from "./firewall-inputs.ts";

type AllowEntry = FirewallInputs["allow"][number];

/** Faults that the schema can't express; all of them. */
export function firewallProblems(inputs: FirewallInputs): InputProblem[] {
  return [
    ...listProblems("management", inputs.management, "required"),
    ...listProblems("dns", inputs.dns, "forbidden"),
    ...listProblems("ntp", inputs.ntp, "forbidden"),
    ...inputs.allow.flatMap((entry, i) => entryProblems(`allow[${i}]`, entry, inputs)),
    ...duplicateEntries(inputs.allow),
  ];
}

function listProblems(path: string, addresses: readonly string[], mask: Mask): InputProblem[] {
  const seen = new Map<string, number>();
  return addresses.flatMap((text, i) => {
    const parsed = parseAddress(text, mask);
    if ("problem" in parsed) return [{ path: `${path}[${i}]`, message: parsed.problem }];
    const first = seen.get(key(parsed.range));
    if (first !== undefined)
      return [
        { path: `${path}[${i}]`, message: `'${text}' is ${path}[${first}] again; take one of them out` },
      ];
    seen.set(key(parsed.range), i);
    return [];
  });
}

const key = (range: AddressRange): string => `${range.family} ${range.first}-${range.last}`;

function entryProblems(path: string, entry: AllowEntry, inputs: FirewallInputs): InputProblem[] {
  return [...peerProblems(path, entry, inputs), ...portProblems(path, entry)];
}

function peerProblems(path: string, entry: AllowEntry, inputs: FirewallInputs): InputProblem[] {
  if ((entry.to === undefined) === (entry.from === undefined)) {
    const given = entry.to === undefined ? "neither" : "both";
    return [
      {
        path,
        message: `'${entry.name}' has ${given} of \`to\` and \`from\`; exactly one is expected: \`to\` for what the node may reach, \`from\` for what may reach the node`,
      },
    ];
  }
  const side = entry.to === undefined ? "from" : "to";
  const parsed = parseAddress(entry.to ?? entry.from ?? "", "optional");
  if ("problem" in parsed) return [{ path: `${path}.${side}`, message: parsed.problem }];
  if (side === "to" && isEverything(parsed.range))
    return [
      {
        path: `${path}.to`,
        message: `'${entry.to ?? ""}' is every ${parsed.range.family} address, and an allowlist that allows everything is none; name the networks, or say \`egress: open\`, which the deployment gate judges`,
      },
    ];
  return side === "from" ? sshProblems(path, entry, parsed.range, inputs) : [];
}

/** SSH has one door, `management`: a second one would not be seen by whoever reviews the first. */
function sshProblems(
  path: string,
  entry: AllowEntry,
  range: AddressRange,
  inputs: FirewallInputs,
): InputProblem[] {
  const opensSsh =
    entry.protocol === "any" ||
    (entry.protocol === "tcp" &&
      (entry.ports === undefined ||
        portRanges(entry).some(([low, high]) => low <= inputs.sshPort && inputs.sshPort <= high)));
  if (!opensSsh || managementRanges(inputs).some((source) => contains(source, range))) return [];
  return [
    {
      path,
      message: `'${entry.name}' would open SSH (TCP port ${inputs.sshPort}) to ${entry.from ?? ""}; add that source to \`management\` if operators connect from there, else name other ports`,
    },
  ];
}

function portProblems(path: string, entry: AllowEntry): InputProblem[] {
  if (entry.ports === undefined) return [];
  if (entry.protocol === "icmp" || entry.protocol === "any")
    return [
      {
        path: `${path}.ports`,
        message: `protocol '${entry.protocol}' has no ports; take them out, or write \`protocol: tcp\` or \`udp\``,
      },
    ];
  const ranges = portRanges(entry);
  return ranges.flatMap(([low, high], i) => {
    const at = `${path}.ports[${i}]`;
    const given = `'${entry.ports?.[i] ?? ""}'`;
    if (low < 1 || high > 65535) return [{ path: at, message: `${given} is not within ports 1 to 65535` }];
    if (low > high) return [{ path: at, message: `${given} runs backwards; did you mean "${high}-${low}"?` }];
    const overlapped = ranges.slice(0, i).findIndex(([from, to]) => low <= to && from <= high);
    return overlapped === -1
      ? []
      : [{ path: at, message: `${given} overlaps ${path}.ports[${overlapped}]; name each port once` }];
  });
}

const portRanges = (entry: AllowEntry): [number, number][] =>
  (entry.ports ?? []).map((port) => {
    const [low = "", high = low] = String(port).split("-");
    return [Number(low), Number(high)];
  });

function duplicateEntries(entries: readonly AllowEntry[]): InputProblem[] {
  const names = new Map<string, number>();
  const services = new Map<string, number>();
  return entries.flatMap((entry, i) => {
    const named = names.get(entry.name);
    const service = serviceKey(entry);
    const same = service === undefined ? undefined : services.get(service);
    if (named === undefined) names.set(entry.name, i);
    if (service !== undefined && same === undefined) services.set(service, i);
    if (named !== undefined)
      return [
        {
          path: `allow[${i}].name`,
          message: `'${entry.name}' is the name of allow[${named}] too; names key the rules, so each needs its own`,
        },
      ];
    return same === undefined
      ? []
      : [
          {
            path: `allow[${i}]`,
            message: `'${entry.name}' allows the same as allow[${same}] ('${entries[same]?.name ?? ""}'); take one of them out`,
          },
        ];
  });
}

function serviceKey(entry: AllowEntry): string | undefined {
  const parsed = parseAddress(entry.to ?? entry.from ?? "", "optional");
  if ("problem" in parsed) return undefined;
  const ports = portRanges(entry).sort(([a], [b]) => a - b);
  return JSON.stringify([entry.to === undefined, key(parsed.range), entry.protocol, ports]);
}

function managementRanges(inputs: FirewallInputs): AddressRange[] {
  return inputs.management.flatMap((cidr) => {
    const parsed = parseAddress(cidr, "required");
    return "range" in parsed ? [parsed.range] : [];
  });
}

/** Whether the new rules would cut the connection that makes the change. What is not known is not held against it: commit-confirm catches that. */
export function lockouts(inputs: FirewallInputs, route: Route): InputProblem[] {
  const client = route.clientAddress === undefined ? undefined : reportedAddress(route.clientAddress);
  const problems: InputProblem[] = [];
  if (client !== undefined && !managementRanges(inputs).some((source) => contains(source, client)))
    problems.push({
      path: "management",
      message: `this connection comes from ${route.clientAddress ?? ""}, which is in none of ${inputs.management.join(", ")}: the change would lock us out; add a network that holds it, or connect from one that is listed`,
    });
  if (route.serverPort !== undefined && route.serverPort !== inputs.sshPort)
    problems.push({
      path: "sshPort",
      message: `this connection is to port ${route.serverPort} of the node, and port ${inputs.sshPort} would be the only one open for SSH: the change would lock us out; set \`sshPort: ${route.serverPort}\`, or move sshd and the connection first`,
    });
  return problems;
}
