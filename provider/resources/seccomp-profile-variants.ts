import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  TCGETS,
  TCGETS2,
  always,
  bits,
  is,
  llamaServerGroups,
  log,
  memory,
  newNamespaces,
  onlyThreads,
  programStart,
  readFiles,
  serve,
  signals,
  socketOf,
  system,
  time,
  type CallGroup,
} from "./seccomp-profile-calls.ts";
import { filterDocument, type FilterEntry } from "./seccomp-profile-filter.ts";
import type { SeccompProfileInputs } from "./seccomp-profile-inputs.ts";
import type { Architecture } from "./seccomp-profile-names.ts";
import type { Variant } from "./server-variants.ts";

/* The servers that there are profiles for, and what becomes of each one's list. */

const anySocket = socketOf([AF_UNIX, AF_INET, AF_INET6], "AF_UNIX, AF_INET and AF_INET6 only");

/** For ollama, which is a Go program that starts one runner for each model and talks to it over TCP on loopback. After the sources, not recorded. */
const ollamaGroups: readonly CallGroup[] = [
  programStart,
  memory,
  {
    ...readFiles,
    name: "files",
    why: "Besides what llama-server reads: the model store is looked through, and its manifests, keys and temporary files are written. AppArmor says where.",
    calls: [
      ...readFiles.calls.filter(({ call }) => call !== "openat"),
      ...always("openat", "faccessat2", "statx", "statfs", "fstatfs", "ftruncate", "pwrite64", "fsync"),
      ...always("mkdirat", "unlinkat", "renameat", "fchmod", "flock", "umask"),
    ],
  },
  log,
  {
    name: "threads and runners",
    why: "Go's threads, and one process for each model that is loaded, which is started, watched and ended. No namespace is made.",
    calls: [
      { call: "clone", when: [[bits(0, newNamespaces, 0)]], whenWords: "in no new namespace" },
      { call: "clone3", answer: "ENOSYS" },
      ...always("futex", "sched_getaffinity", "sched_yield", "gettid", "getpid", "getppid", "tgkill"),
      ...always("kill", "wait4", "waitid", "pidfd_open", "pidfd_send_signal", "pipe2", "dup3", "chdir"),
      ...always("setpgid", "getpgid"),
    ],
  },
  {
    ...signals,
    why: "Go's own handling, with a stack of its own, and its preemption of threads.",
    calls: [...signals.calls, ...always("sigaltstack")],
  },
  {
    ...time,
    calls: [...time.calls, ...always("nanosleep", "timer_create", "timer_settime", "timer_delete")],
  },
  {
    ...system,
    why: "How much memory there is, and who runs it.",
    calls: [...system.calls, ...always("uname", "getuid", "geteuid", "getgid", "getegid")],
  },
  {
    ...serve(anySocket, "HTTP for the gateway, and TCP on loopback to its runners. Go waits with epoll."),
    calls: [
      ...serve(anySocket, "").calls,
      ...always(
        "connect",
        "recvmsg",
        "sendmsg",
        "writev",
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "eventfd2",
      ),
    ],
  },
];

/** For hailo-ollama, which drives a Hailo-10H through HailoRT. After the sources, not recorded. */
const hailoGroups: readonly CallGroup[] = [
  programStart,
  memory,
  {
    ...readFiles,
    name: "files and the accelerator",
    why: "Besides what llama-server reads: the accelerator's device is opened for writing. AppArmor says what else may be.",
    calls: [...readFiles.calls.filter(({ call }) => call !== "openat"), ...always("openat", "flock")],
  },
  {
    ...log,
    name: "its log and the accelerator",
    why: "The log goes to standard output. The accelerator is driven by requests of its own driver, told by the letter of their kind.",
    calls: [
      ...always("write"),
      {
        call: "ioctl",
        // hailo_ioctl_common.h of hailort-drivers: general, vDMA, NNC, SoC, PCIe end point.
        when: [
          [is(1, TCGETS)],
          [is(1, TCGETS2)],
          ...["g", "v", "n", "s", "p"].map((letter) => [bits(1, 0xff00, letter.charCodeAt(0) << 8)]),
        ],
        whenWords: "TCGETS and TCGETS2, and those of the kinds g, v, n, s and p",
      },
    ],
  },
  onlyThreads,
  signals,
  time,
  { ...system, calls: [...system.calls, ...always("uname", "getpid", "gettid")] },
  {
    ...serve(
      anySocket,
      "HTTP on loopback, since it can't listen on a socket file. HailoRT waits for events.",
    ),
    calls: [
      ...serve(anySocket, "").calls,
      ...always("connect", "recvmsg", "sendmsg", "eventfd2", "epoll_create1", "epoll_ctl", "epoll_pwait"),
    ],
  },
];

/** What each variant may call. */
export const callGroups: Readonly<Record<Variant, readonly CallGroup[]>> = {
  "llama-server": llamaServerGroups,
  ollama: ollamaGroups,
  hailo: hailoGroups,
};

/** On which architectures a variant was seen to start, answer and end under its profile. */
export const provenOn: Readonly<Record<Variant, readonly Architecture[]>> = {
  "llama-server": ["x86_64", "aarch64"],
  ollama: [],
  hailo: [],
};

/** The profile, as podman reads it. */
export const seccompDocument = ({ variant, additionalSyscalls }: SeccompProfileInputs): string =>
  filterDocument(filterEntries(variant, additionalSyscalls));

/** What becomes of a variant's profile in podman's format: one entry for each group, and one for each condition. */
export function filterEntries(
  variant: Variant,
  additionalSyscalls: readonly string[],
): readonly FilterEntry[] {
  const entries = callGroups[variant].flatMap(({ name, calls }): FilterEntry[] => {
    const plain = calls.filter(({ when, answer }) => when === undefined && answer === undefined);
    return [
      ...([undefined, "x86_64", "aarch64"] as const).flatMap((only) => {
        const names = plain.filter((each) => each.only === only).map(({ call }) => call);
        const entry = { names, comment: name, action: "allow" as const, when: [], only };
        return names.length === 0 ? [] : [entry];
      }),
      ...calls.flatMap(({ call, only, when, answer, whenWords }) =>
        (when ?? (answer === undefined ? [] : [[]])).map((tests) => ({
          names: [call],
          comment: whenWords === undefined ? name : `${name}: ${whenWords}`,
          action: answer ?? ("allow" as const),
          when: tests,
          only,
        })),
      ),
    ];
  });
  const added = {
    names: additionalSyscalls,
    comment: "additionalSyscalls",
    action: "allow",
    when: [],
    only: undefined,
  } as const;
  // They are allowed whatever is said of them elsewhere.
  const kept = entries.filter(
    ({ names: [name = "", ...more] }) => more.length > 0 || !additionalSyscalls.includes(name),
  );
  return additionalSyscalls.length === 0 ? entries : [...kept, added];
}
