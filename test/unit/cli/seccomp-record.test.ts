import { expect, test } from "vitest";
import { compare, comparisonLines } from "../../../cli/seccomp/compare.ts";
import { mergeRecords, type CallRecord } from "../../../cli/seccomp/record-file.ts";
import { callsIn } from "../../../cli/seccomp/trace.ts";

/** As `strace -f -e raw=all` writes it: calls that others interrupt, ends of calls, ends of processes, and one that the kernel restarts. */
const trace = `100 execve(0x7ffd, 0x7ffe, 0x7fff) = 0
100 openat(0xffffff9c, 0x7f01, 0x80000) = 0x3
100 openat(0xffffff9c, 0x7f02, 0x80000, 0 <unfinished ...>
101 futex(0x7f03, 0x189, 0, 0, 0, 0xffffffff <unfinished ...>
100 <... openat resumed>) = 0x4
101 <... futex resumed>) = 0
101 restart_syscall(<... resuming interrupted clock_nanosleep ...>) = 0
101 clone3(0x7f04, 0x58 => {parent_tid=[102]}, 88) = 102
101 socket(0x2, 0x80001, 0) = 0x5
101 mkdir(0x7f05, 0x1ff) = 0
101 exit(0) = ?
101 +++ exited with 0 +++
`;

test("calls are counted once, with the arguments that profiles judge", async () => {
  expect(await callsIn(trace.split("\n"))).toEqual({
    times: {
      clone3: 1,
      execve: 1,
      exit: 1,
      futex: 1,
      mkdir: 1,
      openat: 2,
      restart_syscall: 1,
      socket: 1,
    },
    arguments: { openat: ["0 0 0x80000"], socket: ["0x2"] },
  });
});

const recordOf = async (lines: string): Promise<CallRecord> => ({
  architecture: "x86_64",
  commands: ["server"],
  ...(await callsIn(lines.split("\n"))),
});

test("what a profile refuses is told with its arguments, and what it answers otherwise with the error", async () => {
  const record = await recordOf(trace);
  const comparison = compare(record, "llama-server");
  expect(comparison).toMatchObject({ refused: ["mkdir", "socket(0x2)"], answered: { clone3: "ENOSYS" } });
  expect(comparison.unseen).toContain("listen");
  expect(comparison.explained).not.toHaveProperty("restart_syscall");
  expect(comparison.explained).toHaveProperty("clock_gettime");
  expect(comparisonLines(record, "llama-server", comparison)).toContain(
    "  additionalSyscalls: [mkdir, socket]",
  );
  // ollama answers on TCP.
  expect(compare(record, "ollama").refused).toEqual(["mkdir"]);
});

test("two records are their sum", async () => {
  const first = await recordOf("1 openat(0xffffff9c, 0x7f01, 0x80000) = 3\n1 read(3, 0, 0) = 0\n");
  const second = { ...(await recordOf("1 openat(0xffffff9c, 0x7f01, 0x241) = 3\n")), commands: ["other"] };
  expect(mergeRecords(first, second)).toEqual({
    architecture: "x86_64",
    commands: ["server", "other"],
    times: { openat: 2, read: 1 },
    arguments: { openat: ["0 0 0x241", "0 0 0x80000"] },
  });
});
