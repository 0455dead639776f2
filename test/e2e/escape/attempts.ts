/*
 * Ways out of the inference container, and what stops each: the table of docs/escape-suite.md, and what the test on the virtual Pi expects of every combination of layers that it tries.
 */

/** What can be taken away by itself. */
export const layers = ["seccomp", "unit", "appArmor", "rights", "container", "limits"] as const;
export type Layer = (typeof layers)[number];

/** A layer in words: what it is of, and how the test takes it away. */
export interface LayerWords {
  readonly name: string;
  readonly what: string;
  readonly away: string;
}

export const layerWords: Readonly<Record<Layer, LayerWords>> = {
  seccomp: {
    name: "seccomp profile",
    what: "the system calls of `security:SeccompProfile`, in the container",
    away: "`confinement.seccomp: unconfined`",
  },
  unit: {
    name: "unit's filters",
    what: "`SystemCallFilter=`, `RestrictAddressFamilies=`, `RestrictNamespaces=`, `MemoryDenyWriteExecute=` and the like, of the unit, podman among it",
    away: "these lines left out of the unit",
  },
  appArmor: {
    name: "AppArmor",
    what: "both profiles of `security:AppArmorProfile`",
    away: "`confinement.appArmor: unconfined`",
  },
  rights: {
    name: "no rights",
    what: "no capability, an ordinary user outside, the model root's alone to change, the kernel's `unprivileged_bpf_disabled`",
    away: "`CAP_SYS_ADMIN`, `CAP_SYS_PTRACE` and `CAP_NET_RAW` by `confinement.capabilities`, the model given to the service's user, `unprivileged_bpf_disabled` 0",
  },
  container: {
    name: "namespaces and mounts",
    what: "own network, processes and files; the root, the model and the control groups read-only; `/tmp` without exec",
    away: "`confinement.readOnlyRoot: false`; in podman's command `--pid host`, `unmask=ALL`, the model writable, `/tmp` with exec, the node's root as `/node`; an interface into its network, and no `IPAddressDeny=`",
  },
  limits: {
    name: "limits",
    what: "memory and number of processes, of the control group",
    away: "`tasksMax` and `memoryMaxMiB` higher than what is tried",
  },
};

/** One layer that stops an attempt, whatever the others do. */
export interface Stop {
  readonly layer: Layer;
  /** What of the layer, where its name does not say it. */
  readonly by?: string;
  /** What the attempt fails with; `killed` when its process is gone. */
  readonly error: string;
}

export interface Attempt {
  /** As the probe knows it. */
  readonly name: string;
  /** In words, with the system call. */
  readonly what: string;
  /** A number that the probe takes: of the process that it is aimed at, or how much of something. */
  readonly number?: number | "conmon";
  /** In the order in which the kernel asks them. Each of them is enough by itself, and with all of them away the attempt goes through. */
  readonly stoppedBy: readonly Stop[];
}

const seccomp: Stop = { layer: "seccomp", error: "EPERM" };
const appArmor: Stop = { layer: "appArmor", error: "EACCES" };
const rights = (by: string, error = "EPERM"): Stop => ({ layer: "rights", by, error });
const container = (by: string, error: string): Stop => ({ layer: "container", by, error });
const readOnly = (what: string): Stop => container(`${what} is mounted read-only`, "EROFS");
const limits = (by: string, error: string): Stop => ({ layer: "limits", by, error });

/** Limits that the attempts go over, and how far. */
export const memoryMaxMiB = 256;
export const tasksMax = 64;
const atOnce = 100;
const allocatedMiB = 384;

/** In the order in which they are tried. The last one may cost the process. */
export const attempts: readonly Attempt[] = [
  {
    name: "mount",
    what: "mount a file system (`mount`)",
    stoppedBy: [seccomp, appArmor, rights("no `CAP_SYS_ADMIN`")],
  },
  {
    name: "unshare",
    what: "make a user namespace, and with it capabilities (`unshare`)",
    stoppedBy: [seccomp, appArmor],
  },
  {
    name: "ptrace",
    what: "take over a process of the same user outside, conmon (`ptrace`)",
    number: "conmon",
    stoppedBy: [
      seccomp,
      { layer: "unit", by: "`SystemCallFilter=`", error: "EPERM" },
      container("own process namespace", "ESRCH"),
      rights("no `CAP_SYS_PTRACE`"),
      { layer: "appArmor", by: "which refuses the capability", error: "EPERM" },
    ],
  },
  {
    name: "signal",
    what: "send a signal to that process (`kill`)",
    number: "conmon",
    stoppedBy: [seccomp, container("own process namespace", "ESRCH"), appArmor],
  },
  {
    name: "bpf",
    what: "make a BPF map (`bpf`)",
    stoppedBy: [seccomp, rights("`unprivileged_bpf_disabled`")],
  },
  { name: "keyctl", what: "reach the user's keyring (`keyctl`)", stoppedBy: [seccomp] },
  { name: "add-key", what: "add a key to the kernel's (`add_key`)", stoppedBy: [seccomp] },
  { name: "io-uring", what: "set up io_uring (`io_uring_setup`)", stoppedBy: [seccomp] },
  {
    name: "packet-socket",
    what: "read the link's packets (`socket`, AF_PACKET)",
    stoppedBy: [
      seccomp,
      { layer: "unit", by: "`RestrictAddressFamilies=`", error: "EAFNOSUPPORT" },
      appArmor,
      rights("no `CAP_NET_RAW`"),
    ],
  },
  {
    name: "raw-socket",
    what: "forge ICMP (`socket`, SOCK_RAW)",
    stoppedBy: [seccomp, appArmor, rights("no `CAP_NET_RAW`")],
  },
  {
    name: "netlink-socket",
    what: "talk to the kernel's network (`socket`, AF_NETLINK)",
    stoppedBy: [seccomp, appArmor],
  },
  {
    name: "tcp",
    what: "connect to the node's sshd (`connect`)",
    stoppedBy: [seccomp, appArmor, container("own network namespace", "ENETUNREACH")],
  },
  {
    name: "udp",
    what: "send a byte to another machine (`sendto`)",
    stoppedBy: [seccomp, appArmor, container("own network namespace", "ENETUNREACH")],
  },
  {
    name: "read-image",
    what: "read a file of the image that the server does not need (`openat`)",
    stoppedBy: [appArmor],
  },
  {
    name: "read-environment",
    what: "read `/proc/self/environ`",
    stoppedBy: [appArmor],
  },
  {
    name: "read-node",
    what: "read a file of the node, `/etc/machine-id`",
    stoppedBy: [container("own mounts", "ENOENT"), appArmor],
  },
  {
    name: "write-model",
    what: "change the model's file",
    stoppedBy: [seccomp, rights("it is root's", "EACCES"), readOnly("it"), appArmor],
  },
  {
    name: "write-image",
    what: "put a file beside the server's libraries",
    stoppedBy: [seccomp, readOnly("the root"), appArmor],
  },
  {
    name: "make-cgroup",
    what: "make a control group (`mkdir` in `/sys/fs/cgroup`)",
    stoppedBy: [seccomp, readOnly("it"), appArmor],
  },
  {
    name: "execute-other",
    what: "run another program of the image (`execve`)",
    stoppedBy: [appArmor],
  },
  {
    name: "execute-written",
    what: "write a program to `/tmp` and run it",
    stoppedBy: [seccomp, container("`/tmp` is mounted noexec", "EACCES"), appArmor],
  },
  {
    name: "execute-memory",
    what: "run a program from memory (`memfd_create`, `execveat`)",
    stoppedBy: [seccomp, appArmor],
  },
  {
    name: "writable-code",
    what: "have memory that is writable and executable (`mmap`)",
    stoppedBy: [seccomp, { layer: "unit", by: "`MemoryDenyWriteExecute=`", error: "EACCES" }],
  },
  {
    name: "processes",
    what: `start ${atOnce} processes (\`clone\`)`,
    number: atOnce,
    stoppedBy: [seccomp, limits("`--pids-limit`, `TasksMax=`", "EAGAIN")],
  },
  {
    name: "threads",
    what: `start ${atOnce} threads (\`clone\`)`,
    number: atOnce,
    stoppedBy: [limits("`--pids-limit`, `TasksMax=`", "EAGAIN")],
  },
  {
    name: "memory",
    what: `use ${allocatedMiB} MiB where ${memoryMaxMiB} are allowed`,
    number: allocatedMiB,
    stoppedBy: [limits("`MemoryMax=`", "killed")],
  },
];

export const wentThrough = "went through";

/** What becomes of an attempt where these layers are there and the others are not. */
export const expectedOf = ({ stoppedBy }: Attempt, on: readonly Layer[]): string =>
  stoppedBy.find(({ layer }) => on.includes(layer))?.error ?? wentThrough;

/** Layers that some attempt is stopped by alone. */
export const alone = layers.filter((layer) =>
  attempts.some(({ stoppedBy }) => stoppedBy.every((stop) => stop.layer === layer)),
);

/** The combinations that are tried, each in a container of its own: all, each by itself, all but one where that one is all that stops something, and none. */
export const combinations: readonly { readonly title: string; readonly on: readonly Layer[] }[] = [
  { title: "with every layer", on: layers },
  ...alone.map((away) => ({
    title: `without ${layerWords[away].name}`,
    on: layers.filter((layer) => layer !== away),
  })),
  ...layers.map((layer) => ({ title: `with ${layerWords[layer].name} alone`, on: [layer] })),
  { title: "with none of them", on: [] },
];

const words = ({ layer, by, error }: Stop): string =>
  `${layerWords[layer].name}${by === undefined ? "" : ` (${by})`}: ${error}`;

/** Rows of the documentation's tables, cells with one space on each side. */
export const attemptRows = (): readonly string[] =>
  attempts.map(({ what, stoppedBy: [first, ...behind] }) => {
    const cells = [what, first === undefined ? "" : words(first), behind.map(words).join("; ")];
    return `| ${cells.join(" | ")} |`.replaceAll("|  |", "| |");
  });

export const layerRows = (): readonly string[] =>
  layers.map((layer) => {
    const { name, what, away } = layerWords[layer];
    return `| ${name} | ${what} | ${away} |`;
  });
