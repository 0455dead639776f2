import type { ArgumentTest } from "./seccomp-profile-filter.ts";
import type { Architecture } from "./seccomp-profile-names.ts";

/*
 * The system calls that an inference server may make, in groups, each with its reason. They were recorded (`edgeseal seccomp record`) of starts, completions, streaming chats and
 * orderly ends; what was not recorded says why it is there all the same. docs/resources/seccomp-profile.md shows this list, and a test holds it to it.
 */

export interface AllowedCall {
  readonly call: string;
  /** The other architecture has no such call, or the C library makes another one of it there. */
  readonly only?: Architecture;
  /** Allowed where all conditions of one of these hold. Default: always. */
  readonly when?: readonly (readonly ArgumentTest[])[];
  /** The conditions in words. */
  readonly whenWords?: string;
  /** Refused with this error in the place of EPERM. */
  readonly answer?: "ENOSYS";
  /** Why it is there though it was not recorded. */
  readonly unrecorded?: string;
}

export interface CallGroup {
  readonly name: string;
  /** What the calls are for, and why the server needs them. */
  readonly why: string;
  readonly calls: readonly AllowedCall[];
}

export const always = (...names: readonly string[]): readonly AllowedCall[] =>
  names.map((call) => ({ call }));
export const onlyOn = (only: Architecture, ...names: readonly string[]): readonly AllowedCall[] =>
  names.map((call) => ({ call, only }));

// Of the kernel's headers; the same on both architectures.
const PROT_WRITE = 0x2;
const PROT_EXEC = 0x4;
/** O_ACCMODE, O_CREAT, O_TRUNC and O_TMPFILE without O_DIRECTORY. */
const writesFiles = 0x3 | 0x40 | 0x200 | 0x400000;
const CLONE_THREAD = 0x10000;
/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. */
export const newNamespaces = 0x7e020000;
export const TCGETS = 0x5401;
export const TCGETS2 = 0x802c542a;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;

export const is = (argument: number, equals: number): ArgumentTest => ({ argument, equals });
export const bits = (argument: number, mask: number, equals: number): ArgumentTest => ({
  argument,
  mask,
  equals,
});

export const socketOf = (families: readonly number[], whenWords: string): AllowedCall => ({
  call: "socket",
  when: families.map((family) => [is(0, family)]),
  whenWords,
});

export const programStart: CallGroup = {
  name: "start and end",
  why: "The container runtime starts the server (execve), the dynamic loader sets up its main thread, and it ends. Limits can be read and not set.",
  calls: [
    ...always("execve", "brk", "set_tid_address", "set_robust_list", "rseq", "getrandom"),
    ...onlyOn("x86_64", "arch_prctl"),
    { call: "prlimit64", when: [[is(0, 0), is(2, 0)]], whenWords: "of itself, and reading only" },
    ...always("exit", "exit_group"),
  ],
};

export const memory: CallGroup = {
  name: "memory",
  why: "Libraries and the model are mapped, buffers are allocated, and the model is locked. No memory is writable and executable at once, and none becomes executable.",
  calls: [
    {
      call: "mmap",
      when: [[bits(2, PROT_WRITE, 0)], [bits(2, PROT_EXEC, 0)]],
      whenWords: "not both writable and executable",
    },
    { call: "mprotect", when: [[bits(2, PROT_EXEC, 0)]], whenWords: "not to executable" },
    ...always("munmap", "madvise", "mlock"),
  ],
};

export const readFiles: CallGroup = {
  name: "reading files",
  why: "Libraries, the locale, /proc/cpuinfo and the model are read; each file of ggml's back ends is opened to see whether it fits the processor. No file is opened for writing or made.",
  calls: [
    {
      call: "openat",
      when: [[bits(2, writesFiles, 0)]],
      whenWords: "for reading only",
    },
    ...always("read", "pread64", "lseek", "close", "fstat", "newfstatat", "getdents64", "getcwd"),
    ...always("fadvise64", "fcntl"),
    ...onlyOn("x86_64", "access", "readlink"),
    ...onlyOn("aarch64", "faccessat", "readlinkat"),
  ],
};

export const log: CallGroup = {
  name: "its log",
  why: "The log goes to standard output, which is asked whether it is a terminal.",
  calls: [
    ...always("write"),
    { call: "ioctl", when: [[is(1, TCGETS)], [is(1, TCGETS2)]], whenWords: "TCGETS and TCGETS2 only" },
  ],
};

export const onlyThreads: CallGroup = {
  name: "threads",
  why: "One thread for each connection and each share of the computing. No other process is started, and no namespace made. The flags of clone3 lie in memory, where a filter can't look: it is answered as an old kernel would, and the C library uses clone.",
  calls: [
    {
      call: "clone",
      when: [[bits(0, newNamespaces + CLONE_THREAD, CLONE_THREAD)]],
      whenWords: "a thread of the same process, in no new namespace",
      unrecorded: "what the C library makes its threads with once clone3 is refused",
    },
    { call: "clone3", answer: "ENOSYS" },
    ...always("futex", "sched_getaffinity"),
  ],
};

export const signals: CallGroup = {
  name: "signals",
  why: "SIGTERM and SIGINT end the server in order, and threads block them.",
  calls: always("rt_sigaction", "rt_sigprocmask", "rt_sigreturn"),
};

export const time: CallGroup = {
  name: "time",
  why: "Short waits, and the clock.",
  calls: [
    ...always("clock_nanosleep"),
    {
      call: "clock_gettime",
      unrecorded:
        "read without a system call, unless the kernel's clock source does not allow for it, as in some virtual machines",
    },
    {
      call: "restart_syscall",
      unrecorded:
        "the kernel's own, to go on waiting after the process was stopped and continued, or its control group frozen and thawed",
    },
  ],
};

export const system: CallGroup = {
  name: "the machine",
  why: "How much memory there is.",
  calls: always("sysinfo"),
};

export const serve = (socket: AllowedCall, why: string): CallGroup => ({
  name: "answering",
  why,
  calls: [
    socket,
    ...always("bind", "listen", "accept4", "recvfrom", "sendto", "shutdown"),
    ...always("setsockopt", "getsockopt", "getsockname", "getpeername"),
    ...onlyOn("x86_64", "poll"),
    ...onlyOn("aarch64", "ppoll"),
  ],
});

/** For llama-server, which reads a model and answers on a socket file. */
export const llamaServerGroups: readonly CallGroup[] = [
  programStart,
  memory,
  readFiles,
  log,
  onlyThreads,
  signals,
  time,
  system,
  serve(
    socketOf([AF_UNIX], "AF_UNIX only"),
    "HTTP over a socket file, which the gateway or a proxy connects to. No other kind of socket can be made, and no connection opened.",
  ),
];
