/*
 * System calls that are tried on the node, and those among them that no inference server needs and attacks on the kernel begin with.
 */

export interface TriedCall {
  /** One word. */
  readonly name: string;
  readonly call: string;
  /** Arguments with which the call changes nothing where it is let through: mostly it fails for another reason than a filter's. */
  readonly arguments: readonly number[];
  /** Whether a profile that lets it through is no strict one. */
  readonly dangerous: boolean;
}

const dangerous = (name: string, args: readonly number[], call = name): TriedCall => ({
  name,
  call,
  arguments: args,
  dangerous: true,
});
const other = (name: string, args: readonly number[], call = name): TriedCall => ({
  ...dangerous(name, args, call),
  dangerous: false,
});

const CLONE_FS = 0x200;
const CLONE_SIGHAND = 0x800;
const CLONE_NEWUSER = 0x10000000;
/** No type of a socket. */
const noType = 0x7ffffff0;

/** In this order, on the node and in messages. */
export const triedCalls: readonly TriedCall[] = [
  // Namespaces, with which a process gets capabilities over parts of the kernel that are not for it.
  dangerous("unshare", [0]),
  dangerous("setns", [-1, 0]),
  dangerous("clone-new-user-namespace", [CLONE_NEWUSER + CLONE_FS], "clone"),
  dangerous("clone3", [0, 0]),
  // The file system's layout.
  dangerous("mount", [0, 0, 0, 0, 0]),
  dangerous("umount2", [0, 0]),
  dangerous("pivot_root", [0, 0]),
  dangerous("chroot", [0]),
  dangerous("fsopen", [0, 0]),
  dangerous("open_tree", [-1, 0, 0]),
  dangerous("move_mount", [-1, 0, -1, 0, 0]),
  dangerous("mknodat", [-1, 0, 0, 0]),
  dangerous("open_by_handle_at", [-1, 0, 0]),
  // Other processes.
  dangerous("ptrace", [1, 0, 0, 0]),
  dangerous("process_vm_readv", [0, 0, 0, 0, 0, 1]),
  dangerous("process_vm_writev", [0, 0, 0, 0, 0, 1]),
  dangerous("pidfd_getfd", [-1, 0, 0]),
  // Big parts of the kernel that many ways to its privileges led through.
  dangerous("bpf", [-1, 0, 0]),
  dangerous("perf_event_open", [0, 0, -1, -1, 0]),
  dangerous("io_uring_setup", [0, 0]),
  dangerous("userfaultfd", [-1]),
  dangerous("keyctl", [-1, 0, 0, 0, 0]),
  dangerous("add_key", [0, 0, 0, 0, 0]),
  dangerous("request_key", [0, 0, 0, 0]),
  dangerous("finit_module", [-1, 0, 0]),
  dangerous("socket-packet", [17, noType, 0], "socket"),
  dangerous("socket-netlink", [16, noType, 0], "socket"),
  dangerous("socket-alg", [38, noType, 0], "socket"),
  dangerous("socket-vsock", [40, noType, 0], "socket"),
  // Code that came with data.
  dangerous("mmap-write-execute", [0, 0, 6, 0x22, -1, 0], "mmap"),
  dangerous("mprotect-execute", [0, 0, 4], "mprotect"),
  dangerous("execveat", [-1, 0, 0, 0, 0]),
  dangerous("memfd_create", [0, 0]),
  dangerous("personality", [0xffffffff]),
  dangerous("prctl", [-1, 0, 0, 0, 0]),
  dangerous("ioctl-tiocsti", [-1, 0x5412, 0], "ioctl"),
  dangerous("setresuid", [-1, -1, -1]),
  // What one server needs and another does not.
  other("clone-process", [CLONE_SIGHAND], "clone"),
  other("kill", [0x7fffffff, 0]),
  other("openat-write", [-1, 0, 1, 0], "openat"),
  other("openat-read", [-1, 0, 0, 0], "openat"),
  other("socket-unix", [1, noType, 0], "socket"),
  other("socket-inet", [2, noType, 0], "socket"),
  other("socket-inet6", [10, noType, 0], "socket"),
  other("connect", [-1, 0, 0]),
];
