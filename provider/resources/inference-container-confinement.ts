import { baseName, byteOrder } from "./config-files.ts";
import { confinementOf, parseContainerProcesses, type ContainerProcess } from "./container-process.ts";
import { labelOf } from "./inference-container-files.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import { userOf } from "./inference-container-unit.ts";

/*
 * What holds of a container's first process, in words that can be compared: what the inputs ask for, and what the kernel says.
 */

/** Of the service's user, as the node has it. */
export interface AccountIds {
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

/** How what a running container was started from compares with what is there now: the same, another, or its start left no record. */
export type StartedFrom = "this" | "other" | "none";

/** What the node says beside the process itself. */
export interface Around {
  readonly ids: AccountIds;
  readonly startedFrom: Readonly<Record<"seccomp" | "appArmor", StartedFrom>>;
}

/** capabilities(7), by number. */
const capabilityNames =
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE".split(
    " ",
  );

/** Names of the capabilities in sets of hex digits, all together. */
function namesIn(sets: readonly string[]): string {
  const all = sets.reduce((bits, set) => bits | BigInt(`0x${set}`), 0n);
  const names = capabilityNames
    .filter((_, number) => (all >> BigInt(number)) & 1n)
    .map((name) => `CAP_${name}`);
  return names.length === 0
    ? all === 0n
      ? "none"
      : `0x${all.toString(16)}`
    : names.sort(byteOrder).join(" ");
}

const MiB = 1024 * 1024;

/** What the process has to be confined by. */
export function desiredConfinement(inputs: InferenceContainerInputs): Record<string, string> {
  const { name, variant, memoryMaxMiB, tasksMax, tmpMiB, cpuQuotaPercent, confinement } = inputs;
  const { seccomp, appArmor, readOnlyRoot, noNewPrivileges, memoryLock, network, capabilities } = confinement;
  const ownNetwork = network === "none";
  return {
    user: userOf(name),
    groups: "none",
    capabilities: capabilities.length === 0 ? "none" : [...new Set(capabilities)].sort(byteOrder).join(" "),
    noNewPrivileges: noNewPrivileges ? "yes" : "no",
    seccomp: seccomp === "profile" ? "profile" : "none of its own",
    appArmor: appArmor === "profile" ? labelOf(name) : "unconfined",
    namespaces: `cgroup ipc mnt${ownNetwork ? " net" : ""} pid user uts`,
    rootFilesystem: readOnlyRoot ? "read-only" : "writable",
    writable: `/run/inference, /tmp of ${tmpMiB} MiB without exec`,
    mounts: "none but its own",
    ...(ownNetwork ? { interfaces: "lo" } : {}),
    oomScoreAdjust: "500",
    memoryMax: `${memoryMaxMiB} MiB`,
    swapMax: "0 MiB",
    tasksMax: String(tasksMax),
    cpuMax: `${cpuQuotaPercent} %`,
    ...(variant === "llama-server" ? { modelLocked: memoryLock ? "all" : "none" } : {}),
  };
}

/**
 * What the process is confined by; empty when none runs.
 * @param processes what `readContainerProcesses` printed
 * @param container its mounts, network, limits, and how much of the model is locked
 * @param around the service's user, by number, and what the container was started from
 */
export function confinementOfContainer(
  inputs: InferenceContainerInputs,
  processes: string,
  container: string,
  { ids, startedFrom }: Around,
): Record<string, string> {
  const [first] = parseContainerProcesses(processes);
  if (first === undefined) return {};
  const lines = container.split("\n");
  const limit = (key: string): string =>
    lines.find((line) => line.startsWith(`limit ${key} `))?.slice(`limit ${key} `.length) ?? "unknown";
  const mounts = lines
    .filter((line) => line.startsWith("mount "))
    .map((line) => mountOf(line.slice("mount ".length)));
  const observed: Record<string, string> = {
    user: ownerOf(inputs, first, ids),
    // Its own is among them (initgroups(3)).
    groups: first.groups.filter((gid) => gid !== ids.gid).join(" ") || "none",
    capabilities: namesIn(Object.values(first.capabilities)),
    noNewPrivileges: first.noNewPrivileges ? "yes" : "no",
    seccomp: seccompOf(first, container, startedFrom.seccomp),
    appArmor: labelText(first.appArmorLabel, inputs.name, startedFrom.appArmor),
    namespaces: first.ownNamespaces.join(" "),
    rootFilesystem: mounts.find(({ point }) => point === "/")?.writable === false ? "read-only" : "writable",
    writable: writableOf(mounts),
    mounts: strangersAmong(mounts, inputs.confinement.devices).join(", ") || "none but its own",
    interfaces: interfacesOf(lines),
    oomScoreAdjust: String(first.oomScoreAdjust),
    memoryMax: mebibytes(limit("memory.max")),
    swapMax: mebibytes(limit("memory.swap.max")),
    tasksMax: limit("pids.max"),
    cpuMax: cpuOf(limit("cpu.max")),
    modelLocked: lockedOf(container),
  };
  // What is not asked for is not told either: another server does not lock, and the node's interfaces are the node's.
  const asked = desiredConfinement(inputs);
  return Object.fromEntries(Object.entries(observed).filter(([key]) => key in asked));
}

/** By name only where all eight are the service's user and group. */
function ownerOf(
  { name }: InferenceContainerInputs,
  { uids, gids }: ContainerProcess,
  ids: AccountIds,
): string {
  const own = uids.every((uid) => uid === ids.uid) && gids.every((gid) => gid === ids.gid);
  return own ? userOf(name) : `users ${uids.join(" ")}, groups ${gids.join(" ")}`;
}

/** podman's filter comes on top of those that systemd set, which podman's own processes have, too. */
function seccompOf(
  { seccompMode, seccompFilters }: ContainerProcess,
  container: string,
  startedFrom: StartedFrom,
): string {
  if (seccompMode !== 2) return "off";
  const ofMain = Number(/^main Seccomp_filters:\s*(\d+)/m.exec(container)?.[1] ?? Number.NaN);
  return seccompFilters > ofMain ? `profile${asItWas[startedFrom]}` : "none of its own";
}

/** A process keeps what it was started with: nothing else tells a profile that was changed since, in force or not. */
const asItWas: Readonly<Record<StartedFrom, string>> = {
  this: "",
  other: ", as it was before a change",
  none: ", of which its start left no record",
};

/** Debian's profiles of the programs that start a container (/etc/apparmor.d, flags=(unconfined)): they name a process and confine nothing. Another name tells of a profile of somebody's. */
const confineNothing = ["crun (unconfined)", "podman (unconfined)"];

function labelText(label: string | undefined, name: string, startedFrom: StartedFrom): string {
  const { profiles, mode } = confinementOf(label);
  const text = profiles.length === 0 ? mode : `${profiles.join(" and ")} (${mode})`;
  if (confineNothing.includes(text)) return "unconfined";
  return text === labelOf(name) ? `${text}${asItWas[startedFrom]}` : text;
}

interface Mount {
  readonly point: string;
  /** What of its file system is mounted; `/` is all of it. */
  readonly root: string;
  readonly type: string;
  readonly writable: boolean;
  readonly options: readonly string[];
}

/** proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER-OPTIONS */
function mountOf(line: string): Mount {
  const [before = "", after = ""] = line.split(" - ");
  const [, , , root = "", point = "", options = ""] = before.split(" ");
  const [type = "", , superOptions = ""] = after.split(" ");
  const all = [...options.split(","), ...superOptions.split(",")];
  return { point, root, type, writable: !all.includes("ro"), options: all };
}

/** File systems of the kernel's own, in which nothing is kept. */
const kernelTypes: readonly string[] = ["proc", "sysfs", "cgroup2", "devpts", "mqueue", "devtmpfs"];

/** What of a container can be written to and keeps it, but for its root: /dev and what is mounted in it aside, where podman makes what every program expects. */
function writableOf(mounts: readonly Mount[]): string {
  return mounts
    .filter(
      ({ point, type, writable }) =>
        writable && !kernelTypes.includes(type) && point !== "/" && !/^\/(dev|proc|sys)(\/|$)/.test(point),
    )
    .map(({ point, type, options }) => {
      if (type !== "tmpfs" || point.startsWith("/run/")) return point;
      const size = options.flatMap((each) => /^size=(\d+)k$/.exec(each)?.[1] ?? [])[0];
      const exec = options.includes("noexec") && options.includes("nosuid") && options.includes("nodev");
      return `${point} of ${size === undefined ? "any size" : `${Number(size) / 1024} MiB`}${exec ? " without exec" : ""}`;
    })
    .sort(byteOrder)
    .join(", ");
}

/** Files that podman makes for each container. */
const podmansFiles = /^\/(etc\/(hostname|hosts|resolv\.conf|passwd|group)|run\/\.containerenv)$/;
/** Devices of every container (OCI runtime specification, "Default Devices"). */
const defaultDevices = ["null", "zero", "full", "random", "urandom", "tty"].map((each) => `/dev/${each}`);

/** Points where something of the node is mounted that neither the unit nor podman's defaults ask for, read-only or not. */
function strangersAmong(mounts: readonly Mount[], devices: readonly string[]): readonly string[] {
  const expected = ({ point, root, type, writable }: Mount): boolean => {
    // What is to be there is told by `rootFilesystem`, `model` and `writable`.
    if (["/", "/models", "/run/inference", "/tmp"].includes(point)) return true;
    if (podmansFiles.test(point)) return root.endsWith(`/userdata/${baseName(point)}`);
    if ([...defaultDevices, ...devices].includes(point)) return root === point.slice("/dev".length);
    if (point === "/dev" || point === "/dev/shm") return type === "tmpfs" && root === "/";
    if (point === "/dev/pts" || point === "/dev/mqueue") return kernelTypes.includes(type) && root === "/";
    if (point === "/sys/fs/cgroup") return type === "cgroup2";
    if (!/^\/(proc|sys)(\/|$)/.test(point)) return false;
    // Of the kernel's own, a part that is made read-only or masked: by /dev/null, or by an empty file system.
    const part = point.replace(/^\/(proc|sys)/, "") || "/";
    if (type === "proc" || type === "sysfs") return root === part;
    return root === "/null" || (type === "tmpfs" && root === "/" && !writable);
  };
  return mounts
    .filter((mount) => !expected(mount))
    .map(({ point }) => point)
    .sort(byteOrder);
}

const interfacesOf = (lines: readonly string[]): string =>
  lines
    .flatMap((line) => /^net\s+([^\s:|]+):/.exec(line)?.[1] ?? [])
    .sort(byteOrder)
    .join(" ");

const mebibytes = (bytes: string): string => (/^\d+$/.test(bytes) ? `${Number(bytes) / MiB} MiB` : bytes);

/** cgroup-v2: `QUOTA PERIOD` in microseconds, or `max PERIOD`. */
function cpuOf(text: string): string {
  const [quota = "", period = ""] = text.split(" ");
  if (quota === "max") return "none";
  return /^\d+$/.test(quota) ? `${Math.round((Number(quota) / Number(period)) * 100)} %` : text;
}

function lockedOf(container: string): string {
  const sum = (key: string): number =>
    Number(new RegExp(`^map ${key}: (\\d+)`, "m").exec(container)?.[1] ?? 0);
  const locked = sum("Locked");
  if (locked === 0) return "none";
  return locked >= sum("Size") ? "all" : "part";
}
