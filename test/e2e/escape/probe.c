/*
 * What foreign code in the server could try, one way out at a time: runs in the place of llama-server, in an image of
 * the tests. On the server's socket file it answers GET /health, as that one does, and GET /try/NAME/NUMBER with one line:
 * 0 when NAME went through, else the number of the error. What is tried is undone where it went through.
 *
 * Freestanding, for x86_64: a C library makes calls of its own, which would be the first that the profile refuses.
 */

enum {
  sys_read = 0, sys_write = 1, sys_close = 3, sys_lseek = 8, sys_mmap = 9, sys_munmap = 11, sys_rt_sigaction = 13,
  sys_socket = 41, sys_connect = 42, sys_sendto = 44, sys_recvfrom = 45, sys_bind = 49, sys_listen = 50, sys_clone = 56,
  sys_execve = 59, sys_exit = 60, sys_wait4 = 61, sys_kill = 62, sys_mkdir = 83, sys_rmdir = 84, sys_ptrace = 101, sys_mlock = 149, sys_mount = 165,
  sys_umount2 = 166, sys_futex = 202, sys_exit_group = 231, sys_clock_nanosleep = 230, sys_add_key = 248,
  sys_keyctl = 250, sys_openat = 257, sys_unlinkat = 263, sys_unshare = 272, sys_accept4 = 288,
  sys_memfd_create = 319, sys_bpf = 321, sys_execveat = 322, sys_io_uring_setup = 425,
};

enum { AT_FDCWD = -100, O_RDONLY = 0, O_WRONLY = 1, O_CREAT = 0100, O_EXCL = 0200, O_CLOEXEC = 02000000 };
enum { AF_UNIX = 1, AF_INET = 2, AF_NETLINK = 16, AF_PACKET = 17, SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3 };
enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20 };
enum { EINTR = 4 };
enum { SIGTERM = 15, SIGCHLD = 17, CLONE_NEWUSER = 0x10000000 };
/* CLONE_VM, FS, FILES, SIGHAND, THREAD and SYSVSEM: as the C library makes threads. */
enum { thread_flags = 0x50f00 };

long raw(long number, long a, long b, long c, long d, long e, long f);
void start(void);
asm(".globl raw\n"
    "raw:\n"
    "  mov %rdi, %rax\n"
    "  mov %rsi, %rdi\n"
    "  mov %rdx, %rsi\n"
    "  mov %rcx, %rdx\n"
    "  mov %r8, %r10\n"
    "  mov %r9, %r8\n"
    "  mov 8(%rsp), %r9\n"
    "  syscall\n"
    "  ret\n"
    ".globl _start\n"
    "_start:\n"
    "  mov %rsp, %rdi\n"
    "  and $-16, %rsp\n"
    "  call serve\n");
#define call(number, ...) padded(number, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define padded(number, a, b, c, d, e, f, ...) \
  raw(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* --- what is tried --- */

static int listening, connection;

/* Errors as they are; everything else is a success. */
static long outcome(long result) { return result < 0 ? result : 0; }

static long closed(long descriptor) {
  if (descriptor >= 0) call(sys_close, descriptor);
  return outcome(descriptor);
}

/* In a process of its own, which keeps what it got to itself; where none can be made, in this one. */
static long in_child(long (*attempt)(long), long number) {
  int status = 0;
  long child = call(sys_clone, SIGCHLD);
  if (child < 0) return attempt(number);
  if (child == 0) call(sys_exit_group, -attempt(number));
  /* One that was ended by a signal, or is not told of, did not go through: an error that no row names. */
  if (call(sys_wait4, child, &status, 0, 0) != child || status & 0x7f) return -EINTR;
  return -(status >> 8 & 0xff);
}

static long try_mount(long unused) {
  long result = call(sys_mount, "none", "/tmp", "tmpfs", 0, 0);
  if (result == 0) call(sys_umount2, "/tmp", 2);
  return result;
}

static long unshare_user(long unused) { return call(sys_unshare, CLONE_NEWUSER); }
static long try_unshare(long unused) { return in_child(unshare_user, 0); }

/* PTRACE_SEIZE does not stop the other one, and ends with the process that asked for it. */
static long seize(long process) { return call(sys_ptrace, 0x4206, process, 0, 0); }
static long try_ptrace(long process) { return in_child(seize, process); }

/* Signal 0 is none: it asks whether one could be sent. */
static long try_signal(long process) { return call(sys_kill, process, 0); }

/* BPF_MAP_CREATE: an array of one. */
static long try_bpf(long unused) {
  static int attributes[32] = {2, 4, 4, 1};
  return closed(call(sys_bpf, 0, attributes, sizeof attributes));
}

/* KEYCTL_GET_KEYRING_ID of KEY_SPEC_USER_KEYRING, which processes of one user share. */
static long try_keyctl(long unused) { return outcome(call(sys_keyctl, 0, -4, 1)); }
/* To KEY_SPEC_PROCESS_KEYRING. */
static long try_add_key(long unused) { return outcome(call(sys_add_key, "user", "escape", "x", 1, -2)); }

static long try_io_uring(long unused) {
  static long parameters[16];
  return closed(call(sys_io_uring_setup, 1, parameters));
}

/* ETH_P_ALL, in the order of the network. */
static long try_packet_socket(long unused) { return closed(call(sys_socket, AF_PACKET, SOCK_RAW, 0x0300)); }
/* ICMP. */
static long try_raw_socket(long unused) { return closed(call(sys_socket, AF_INET, SOCK_RAW, 1)); }
static long try_netlink_socket(long unused) { return closed(call(sys_socket, AF_NETLINK, SOCK_RAW, 0)); }

/* TCP to the node's sshd, at its address where the container has a link to it. */
static long try_tcp(long unused) {
  static unsigned char address[16] = {AF_INET, 0, 0, 22, 10, 9, 9, 1};
  long result, descriptor = call(sys_socket, AF_INET, SOCK_STREAM, 0);
  if (descriptor < 0) return descriptor;
  result = call(sys_connect, descriptor, address, sizeof address);
  closed(descriptor);
  return result;
}

/* One byte by UDP to the node's router, port 9: to be thrown away. */
static long try_udp(long unused) {
  static unsigned char address[16] = {AF_INET, 0, 0, 9, 10, 0, 2, 2};
  long result, descriptor = call(sys_socket, AF_INET, SOCK_DGRAM, 0);
  if (descriptor < 0) return descriptor;
  result = outcome(call(sys_sendto, descriptor, "x", 1, 0, address, sizeof address));
  closed(descriptor);
  return result;
}

static long read_from(const char *path) {
  char byte;
  long result, descriptor = call(sys_openat, AT_FDCWD, path, O_RDONLY);
  if (descriptor < 0) return descriptor;
  result = outcome(call(sys_read, descriptor, &byte, 1));
  closed(descriptor);
  return result;
}

static long try_read_image(long unused) { return read_from("/etc/not-for-the-server"); }
static long try_read_environment(long unused) { return read_from("/proc/self/environ"); }
static long try_read_node(long unused) { return read_from("/node/etc/machine-id"); }

static long write_to(const char *path, int flags, const char *text, long length) {
  long result, descriptor = call(sys_openat, AT_FDCWD, path, O_WRONLY | flags, 0600);
  if (descriptor < 0) return descriptor;
  result = outcome(call(sys_write, descriptor, text, length));
  closed(descriptor);
  return result;
}

/* The byte that is there already. */
static long try_write_model(long unused) { return write_to("/models/model.gguf", 0, "G", 1); }

static long try_write_image(long unused) {
  long result = write_to("/usr/lib/escape", O_CREAT | O_EXCL, "x", 1);
  if (result == 0) call(sys_unlinkat, AT_FDCWD, "/usr/lib/escape", 0);
  return result;
}

/* Where ways out by a release_agent begin. */
static long try_make_cgroup(long unused) {
  long result = call(sys_mkdir, "/sys/fs/cgroup/escape", 0700);
  if (result == 0) call(sys_rmdir, "/sys/fs/cgroup/escape");
  return result;
}

/* Arguments of this program with which it goes on where another process image of it was: it says 0, and serves. */
static char listening_digit[2], connection_digit[2];
static char *resumed[] = {"escape", "resume", listening_digit, connection_digit, 0};
static char *environment[] = {0};

static long execute(const char *path) { return call(sys_execve, path, resumed, environment); }
static long try_execute_other(long unused) { return execute("/usr/bin/other"); }

/* This program into `to`, which is closed where `path` is what it is executed by. */
static long copied_to(long to) {
  static char buffer[65536];
  long length, written, from = call(sys_openat, AT_FDCWD, "/usr/bin/llama-server", O_RDONLY | O_CLOEXEC);
  if (from < 0) return from;
  while ((length = call(sys_read, from, buffer, sizeof buffer)) > 0) {
    written = call(sys_write, to, buffer, length);
    if (written < 0) length = written;
    if (length < 0) break;
  }
  closed(from);
  return length;
}

static long try_execute_written(long unused) {
  long result, to = call(sys_openat, AT_FDCWD, "/tmp/escape", O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
  if (to < 0) return to;
  result = copied_to(to);
  closed(to);
  return result < 0 ? result : execute("/tmp/escape");
}

static long try_execute_memory(long unused) {
  long result, to = call(sys_memfd_create, "escape", 1);
  if (to < 0) return to;
  result = copied_to(to);
  if (result >= 0) result = call(sys_execveat, to, "", resumed, environment, 0x1000);
  closed(to);
  return result;
}

static long mapped(long length, int protection, int flags) {
  return call(sys_mmap, 0, length, protection, flags | MAP_ANONYMOUS, -1, 0);
}

static long try_writable_code(long unused) {
  long memory = mapped(4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE);
  if (memory > 0) call(sys_munmap, memory, 4096);
  return outcome(memory);
}

/* --- limits --- */

enum { most = 128 };
/* Shared with those that are made: they wait until `open`, and note their end. */
static struct gate { int open; int ended[most]; } *gate;
static long stacks[most][256];

static void wait_and_end(int number) {
  while (!gate->open) call(sys_futex, &gate->open, 0, 0, 0);
  gate->ended[number] = 1;
  call(sys_exit, 0);
}

static int made;
/* A thread starts here, by the `ret` of the call that made it; the next one is made only when it has its number. */
static volatile int begun;
static void thread(void) {
  int number = made;
  begun = 1;
  wait_and_end(number);
}

static void pause(void) {
  static long millisecond[2] = {0, 1000000};
  call(sys_clock_nanosleep, 1, 0, millisecond, 0);
}

static long make_thread(int number) {
  /* Its last word but one is where the thread begins; aligned as the entry of a function has it. */
  long *top = (long *)(((long)&stacks[number][250]) & -16);
  long result;
  *top = (long)thread;
  begun = 0;
  result = call(sys_clone, thread_flags, top);
  while (result > 0 && !begun) pause();
  return result;
}

static long make_process(int number) {
  long result = call(sys_clone, SIGCHLD);
  if (result == 0) wait_and_end(number);
  return result;
}

/* As many at once, or the error of the first that could not be made. All of them end. */
static long at_once(long wanted, long (*make)(int)) {
  int number;
  long memory = mapped(4096, PROT_READ | PROT_WRITE, MAP_SHARED), result = 0;
  if (memory < 0) return memory;
  gate = (struct gate *)memory;
  for (made = 0; made < wanted && made < most; made++) {
    result = make(made);
    if (result < 0) break;
  }
  gate->open = 1;
  call(sys_futex, &gate->open, 1, most, 0);
  for (number = 0; number < made; number++)
    while (!gate->ended[number]) pause();
  if (make == make_process)
    for (number = 0; number < made; number++) call(sys_wait4, -1, 0, 0, 0);
  pause();
  call(sys_munmap, memory, 4096);
  return outcome(result);
}

static long try_processes(long wanted) { return at_once(wanted, make_process); }
static long try_threads(long wanted) { return at_once(wanted, make_thread); }

/* In MiB. */
static long try_memory(long wanted) {
  long at, length = wanted << 20, memory = mapped(length, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  if (memory < 0) return memory;
  for (at = 0; at < length; at += 4096) ((volatile char *)memory)[at] = 1;
  call(sys_munmap, memory, length);
  return 0;
}

static const struct {
  const char *name;
  long (*attempt)(long);
} attempts[] = {
  {"mount", try_mount},
  {"unshare", try_unshare},
  {"ptrace", try_ptrace},
  {"signal", try_signal},
  {"bpf", try_bpf},
  {"keyctl", try_keyctl},
  {"add-key", try_add_key},
  {"io-uring", try_io_uring},
  {"packet-socket", try_packet_socket},
  {"raw-socket", try_raw_socket},
  {"netlink-socket", try_netlink_socket},
  {"tcp", try_tcp},
  {"udp", try_udp},
  {"read-image", try_read_image},
  {"read-environment", try_read_environment},
  {"read-node", try_read_node},
  {"write-model", try_write_model},
  {"write-image", try_write_image},
  {"make-cgroup", try_make_cgroup},
  {"execute-other", try_execute_other},
  {"execute-written", try_execute_written},
  {"execute-memory", try_execute_memory},
  {"writable-code", try_writable_code},
  {"processes", try_processes},
  {"threads", try_threads},
  {"memory", try_memory},
};

/* --- answering --- */

static void say(long number) {
  static const char head[] = "HTTP/1.0 200 OK\r\n\r\n";
  char digits[24];
  int at = sizeof digits;
  digits[--at] = '\n';
  do digits[--at] = '0' + number % 10;
  while (number /= 10);
  /* 0x4000 is MSG_NOSIGNAL: who asked may be gone. */
  call(sys_sendto, connection, head, sizeof head - 1, 0x4000, 0, 0);
  call(sys_sendto, connection, digits + at, sizeof digits - at, 0x4000, 0, 0);
  call(sys_close, connection);
}

/* What is after `prefix`, or 0 where `text` does not begin so. */
static const char *after(const char *text, const char *prefix) {
  while (*prefix)
    if (*text++ != *prefix++) return 0;
  return text;
}

static long number_in(const char *text) {
  long number = 0;
  while (*text >= '0' && *text <= '9') number = number * 10 + (*text++ - '0');
  return number;
}

static void answer(const char *request) {
  unsigned each;
  const char *rest, *number, *name = after(request, "GET /try/");
  if (name == 0) {
    say(0);
    return;
  }
  for (each = 0; each < sizeof attempts / sizeof *attempts; each++) {
    rest = after(name, attempts[each].name);
    number = rest ? after(rest, "/") : 0;
    if (number) {
      say(-attempts[each].attempt(number_in(number)));
      return;
    }
  }
  /* No error of the kernel's. */
  say(9999);
}

static void end(int signal) { call(sys_exit_group, 0); }

/* As the first process of its namespace it gets no signal that it has no handler for. */
static void end_when_told(void) {
  static struct { void (*handler)(int); long flags; void (*restorer)(void); long mask; } action;
  action.handler = end;
  action.flags = 0x04000000;
  action.restorer = pause;
  call(sys_rt_sigaction, SIGTERM, &action, 0, 8);
}

/* As the server does: what holds of it is read from this. */
static void lock_model(void) {
  long descriptor = call(sys_openat, AT_FDCWD, "/models/model.gguf", O_RDONLY | O_CLOEXEC);
  long length = call(sys_lseek, descriptor, 0, 2);
  long memory = call(sys_mmap, 0, length, PROT_READ, MAP_SHARED, descriptor, 0);
  if (memory > 0) call(sys_mlock, memory, length);
  closed(descriptor);
}

static int socket_file(void) {
  static struct { short family; char path[108]; } address = {AF_UNIX, "/run/inference/http.sock"};
  int descriptor = call(sys_socket, AF_UNIX, SOCK_STREAM, 0);
  call(sys_bind, descriptor, &address, sizeof address);
  call(sys_listen, descriptor, 8);
  return descriptor;
}

void serve(long *arguments) {
  static char request[1024];
  long length;
  const char *first = arguments[0] > 3 ? (char *)arguments[2] : "";
  end_when_told();
  if (after(first, "resume")) {
    listening = *(char *)arguments[3] - '0';
    connection = *(char *)arguments[4] - '0';
    say(0);
  } else {
    lock_model();
    listening = socket_file();
  }
  for (;;) {
    connection = call(sys_accept4, listening, 0, 0, 0);
    if (connection < 0) call(sys_exit_group, 1);
    listening_digit[0] = '0' + listening;
    connection_digit[0] = '0' + connection;
    length = call(sys_recvfrom, connection, request, sizeof request - 1, 0, 0, 0);
    request[length > 0 ? length : 0] = 0;
    answer(request);
  }
}
