import { UnknownObservation } from "../device/probe.ts";
import { byteOrder } from "./config-files.ts";

/*
 * The processes of an inference container, as the kernel has them. Whatever unit, profile and command line say: what holds is what stands here.
 */

/** The name of a service: a part of unit, user, profile and file names. */
export const serviceName = "^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$";

/** The unit that runs the container of a service. */
export const inferenceUnit = (service: string): string => `edgeseal-${service}.service`;

/** Namespaces that a process can have of its own (namespaces(7)). */
export const namespaceKinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] as const;
export type NamespaceKind = (typeof namespaceKinds)[number];

/** One process, as /proc shows it to the host's root. */
export interface ContainerProcess {
  readonly pid: number;
  /** Its number in its own process namespace: 1 is the one that the container was started for. */
  readonly innerPid: number;
  /** Path as the process sees it, e.g. `/usr/bin/llama-server`. */
  readonly executable: string;
  /** Real, effective, saved and file system user, as the host counts users. */
  readonly uids: readonly number[];
  readonly gids: readonly number[];
  /** Supplementary groups. */
  readonly groups: readonly number[];
  /** Sets of capabilities, as 16 hex digits; `0000000000000000` is none. */
  readonly capabilities: Readonly<
    Record<"inheritable" | "permitted" | "effective" | "bounding" | "ambient", string>
  >;
  readonly noNewPrivileges: boolean;
  /** 0 is off, 1 strict, 2 filter (proc_pid_status(5)). */
  readonly seccompMode: number;
  /** How many filters are stacked. */
  readonly seccompFilters: number;
  /** What AppArmor confines it by, as the kernel writes it; `undefined` where AppArmor is off. */
  readonly appArmorLabel: string | undefined;
  readonly oomScoreAdjust: number;
  /** Memory that it locked, in KiB. */
  readonly lockedKiB: number;
  /** Memory of it that is in swap, in KiB. */
  readonly swappedKiB: number;
  readonly threads: number;
  /** Namespaces that are not those of pid 1. Sorted. */
  readonly ownNamespaces: readonly NamespaceKind[];
}

const statusKeys = [
  "NSpid",
  "Uid",
  "Gid",
  "Groups",
  ...["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"],
  ...["NoNewPrivs", "Seccomp", "Seccomp_filters"],
  ...["VmLck", "VmSwap", "Threads"],
] as const;

/**
 * Shell that prints what `parseContainerProcesses` reads: the processes of the container in the unit of a service, and nothing when none runs. They are found
 * by their control group, which podman makes below the unit's (`--cgroups=split`) and which no process of the container can leave; conmon and podman are in others.
 */
export function readContainerProcesses(service: string): string {
  if (!new RegExp(serviceName).test(service)) throw new TypeError(`not the name of a service: ${service}`);
  const unit = inferenceUnit(service);
  const namespaces = (pid: string): string =>
    namespaceKinds.map((kind) => `/proc/${pid}/ns/${kind}`).join(" ");
  // A unit's slice is its own business.
  return `for f in /sys/fs/cgroup/*.slice/${unit}/libpod-payload-*/cgroup.procs /sys/fs/cgroup/*.slice/*.slice/${unit}/libpod-payload-*/cgroup.procs \\
  /sys/fs/cgroup/*.slice/${unit}/libpod-payload-*/*/cgroup.procs /sys/fs/cgroup/*.slice/*.slice/${unit}/libpod-payload-*/*/cgroup.procs; do
  [ -r "$f" ] || continue
  while read -r p; do
    status=$(grep -sE '^(${statusKeys.join("|")}):' /proc/$p/status) || continue
    label= oom=
    # Without AppArmor the file is there, and can't be read.
    { read -r label <"/proc/$p/attr/current"; read -r oom <"/proc/$p/oom_score_adj"; } 2>/dev/null
    printf 'process %s\\n%s\\noom: %s\\nlabel: %s\\n' "$p" "$status" "$oom" "$label"
    readlink /proc/$p/exe ${namespaces("$p")} | sed 's/^/own /'
  done <"$f"
done
readlink ${namespaces("1")} | sed 's/^/init /'`;
}

/**
 * What `readContainerProcesses` printed, the container's first process first. One that ended meanwhile is left out.
 * @throws UnknownObservation for a process of which something is missing that decides how it is confined
 */
export function parseContainerProcesses(output: string): readonly ContainerProcess[] {
  const [beginning = "", ...blocks] = output.split(/^process /m);
  const ofInit = namespacesIn(output, "init ");
  if (beginning.trim() !== "" && blocks.length === 0 && ofInit.size === 0)
    throw new UnknownObservation(`unexpected line of processes: '${beginning.slice(0, 120)}'`);
  return blocks
    .flatMap((block) => processOf(block, ofInit) ?? [])
    .sort((a, b) => a.innerPid - b.innerPid || a.pid - b.pid);
}

function namespacesIn(text: string, before: "own " | "init "): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, kind] =
      /^([a-z]+):\[\d+\]$/.exec(line.startsWith(before) ? line.slice(before.length) : "") ?? [];
    if (kind !== undefined) found.set(kind, line.slice(before.length));
  }
  return found;
}

function processOf(block: string, ofInit: ReadonlyMap<string, string>): ContainerProcess | undefined {
  const pid = Number.parseInt(block, 10);
  const own = namespacesIn(block, "own ");
  // The links of a process that ended can't be read.
  const executable = /^own (\/.*)$/m.exec(block)?.[1];
  if (executable === undefined || own.size === 0) return undefined;
  const value = (key: string): string | undefined =>
    new RegExp(`^${key}:[ \\t]*(.*?)[ \\t]*$`, "m").exec(block)?.[1];
  const must = (key: string): string => {
    const found = value(key);
    if (found === undefined || found === "")
      throw new UnknownObservation(`the device does not tell '${key}' of process ${pid}`);
    return found;
  };
  const numbers = (text: string): number[] => text.split(/\s+/).filter(Boolean).map(Number);
  return {
    pid,
    innerPid: numbers(must("NSpid")).at(-1) ?? pid,
    executable,
    uids: numbers(must("Uid")),
    gids: numbers(must("Gid")),
    groups: numbers(value("Groups") ?? ""),
    capabilities: {
      inheritable: must("CapInh"),
      permitted: must("CapPrm"),
      effective: must("CapEff"),
      bounding: must("CapBnd"),
      ambient: must("CapAmb"),
    },
    noNewPrivileges: must("NoNewPrivs") === "1",
    seccompMode: Number(must("Seccomp")),
    seccompFilters: Number(must("Seccomp_filters")),
    appArmorLabel: value("label") || undefined,
    oomScoreAdjust: Number(must("oom")),
    // A process that is about to end has no memory any more.
    lockedKiB: Number.parseInt(value("VmLck") ?? "0", 10),
    swappedKiB: Number.parseInt(value("VmSwap") ?? "0", 10),
    threads: Number(must("Threads")),
    ownNamespaces: namespaceKinds.filter((kind) => own.has(kind) && own.get(kind) !== ofInit.get(kind)),
  };
}

/** An AppArmor label taken apart. */
export interface Confinement {
  /** Profiles that all have to allow what the process does. Sorted. */
  readonly profiles: readonly string[];
  /** `enforce`, `complain`, `mixed`, or what else the kernel says; `unconfined` where nothing holds, `unknown` where the kernel names a profile and no mode. */
  readonly mode: string;
}

/** What an AppArmor label means: profiles stacked on each other (`a//&b (enforce)`), or `unconfined`. */
export function confinementOf(label: string | undefined): Confinement {
  if (label === undefined || label === "unconfined") return { profiles: [], mode: "unconfined" };
  const [, names = label, mode = "unknown"] = /^(.+) \(([a-z]+)\)$/.exec(label) ?? [];
  return { profiles: names.split("//&").sort(byteOrder), mode };
}
