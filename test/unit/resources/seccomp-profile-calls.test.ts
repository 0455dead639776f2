import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { CallRecord } from "../../../cli/seccomp/record-file.ts";
import { compare } from "../../../cli/seccomp/compare.ts";
import { actionOn, parseFilter } from "../../../provider/resources/seccomp-profile-filter.ts";
import { architectures, syscallNames } from "../../../provider/resources/seccomp-profile-names.ts";
import { profileMeaning } from "../../../provider/resources/seccomp-profile-observation.ts";
import { triedCalls } from "../../../provider/resources/seccomp-profile-tried.ts";
import { callGroups, seccompDocument } from "../../../provider/resources/seccomp-profile-variants.ts";
import { variants } from "../../../provider/resources/server-variants.ts";
import { callTable } from "./seccomp-call-table.ts";

const documentOf = (variant: (typeof variants)[number]): string =>
  seccompDocument({ name: "inference", variant, additionalSyscalls: [] });

const filterOf = (variant: (typeof variants)[number], architecture: (typeof architectures)[number]) =>
  parseFilter(documentOf(variant), architecture) ?? expect.fail("the profile can't be read");

const recordOf = (name: string): CallRecord =>
  JSON.parse(readFileSync(new URL(`seccomp-records/${name}.json`, import.meta.url), "utf8")) as CallRecord;

describe.each(variants)("the list of %s", (variant) => {
  test("names calls that the kernel has on each architecture, and each of them once", () => {
    for (const architecture of architectures) {
      const calls = callGroups[variant]
        .flatMap((group) => group.calls)
        .filter(({ only }) => only === undefined || only === architecture)
        .map(({ call }) => call);
      expect(
        calls.filter((call) => !syscallNames[architecture].has(call)),
        architecture,
      ).toEqual([]);
      expect(new Set(calls).size, architecture).toBe(calls.length);
      expect([...filterOf(variant, architecture).calls.keys()].sort()).toEqual([...calls].sort());
    }
  });

  test("gives a reason for each group, and for what was not recorded", () => {
    for (const { why, calls } of callGroups[variant]) {
      expect(why).toMatch(/^[A-Z].*\.$/s);
      expect(calls.length).toBeGreaterThan(0);
    }
  });

  test("lets nothing through that attacks on the kernel begin with", () => {
    expect(profileMeaning(documentOf(variant)).dangerousCalls).toEqual([]);
    expect(profileMeaning(documentOf(variant)).defaultAction).toBe("EPERM");
  });

  test("is what the documentation shows", () => {
    const page = readFileSync(new URL("../../../docs/resources/seccomp-profile.md", import.meta.url), "utf8");
    const rows = page.split("\n").map((line) => line.replaceAll(/ +/g, " ").trim());
    for (const row of callTable(variant)) expect(rows).toContain(row.replaceAll(/ +/g, " "));
  });
});

describe("llama-server as it was recorded", () => {
  test("on x86_64: its list is what it called, and what says why it is there", () => {
    const comparison = compare(recordOf("llama-server-x86_64"), "llama-server");
    expect(comparison).toEqual({
      refused: [],
      answered: { clone3: "ENOSYS" },
      unseen: [],
      explained: {
        clone: expect.any(String) as string,
        clock_gettime: expect.any(String) as string,
        restart_syscall: expect.any(String) as string,
      },
    });
  });

  test("on an aarch64 that is emulated: the same, less what that emulator does not show", () => {
    const comparison = compare(recordOf("llama-server-aarch64"), "llama-server");
    expect(comparison).toMatchObject({ refused: [], answered: { clone3: "ENOSYS" } });
    const elsewhere = recordOf("llama-server-x86_64").times;
    expect(comparison.unseen.filter((call) => elsewhere[call] === undefined)).toEqual([]);
  });

  test("each call that was recorded is in its list", () => {
    const { times } = recordOf("llama-server-x86_64");
    const listed = [...filterOf("llama-server", "x86_64").calls.keys()].filter((call) => call in times);
    expect(listed).toHaveLength(50);
    expect(Object.keys(times).filter((call) => !listed.includes(call))).toEqual([]);
  });
});

describe("conditions on arguments", () => {
  const filter = filterOf("llama-server", "x86_64");
  const CLONE_THREADS = 0x3d0f00;
  test.each<[string, string, readonly number[], string]>([
    ["a thread", "clone", [CLONE_THREADS], "allow"],
    ["a process", "clone", [0x1200011], "EPERM"],
    ["a thread in a new user namespace", "clone", [CLONE_THREADS + 0x10000000], "EPERM"],
    ["clone3", "clone3", [0, 88], "ENOSYS"],
    ["a socket file", "socket", [1, 0x80001, 0], "allow"],
    ["TCP", "socket", [2, 1, 6], "EPERM"],
    ["packets", "socket", [17, 3, 768], "EPERM"],
    ["reading", "openat", [-100, 0, 0x80000], "allow"],
    ["writing", "openat", [-100, 0, 0x80001], "EPERM"],
    ["reading and writing", "openat", [-100, 0, 0x80002], "EPERM"],
    ["making a file", "openat", [-100, 0, 0x80040], "EPERM"],
    ["a file without a name", "openat", [-100, 0, 0x410000], "EPERM"],
    ["code", "mmap", [0, 4096, 5, 2, 3, 0], "allow"],
    ["data", "mmap", [0, 4096, 3, 0x22, -1, 0], "allow"],
    ["data that is code", "mmap", [0, 4096, 7, 0x22, -1, 0], "EPERM"],
    ["data that becomes code", "mprotect", [0, 4096, 5], "EPERM"],
    ["reading a limit", "prlimit64", [0, 3, 0, 1], "allow"],
    ["setting one", "prlimit64", [0, 3, 1, 0], "EPERM"],
    ["of another process", "prlimit64", [1, 3, 0, 1], "EPERM"],
    ["whether it is a terminal", "ioctl", [1, 0x5401], "allow"],
    ["typing into a terminal", "ioctl", [0, 0x5412], "EPERM"],
  ])("%s", (_, call, args, action) => {
    expect(actionOn(filter, call, args)).toBe(action);
  });

  test("hailo drives its accelerator, and no terminal", () => {
    const hailo = filterOf("hailo", "aarch64");
    const g = "g".charCodeAt(0);
    expect(actionOn(hailo, "ioctl", [3, 0x40000000 + (g << 8) + 1])).toBe("allow");
    expect(actionOn(hailo, "ioctl", [3, 0x5412])).toBe("EPERM");
    expect(actionOn(filter, "ioctl", [3, 0x40000000 + (g << 8) + 1])).toBe("EPERM");
  });
});

test("tried calls have one name each, and exist on both architectures", () => {
  expect(new Set(triedCalls.map(({ name }) => name)).size).toBe(triedCalls.length);
  for (const { call } of triedCalls) expect(syscallNames.aarch64.has(call), call).toBe(true);
});

test("filters of both architectures are in one file, and no others", () => {
  const { archMap } = JSON.parse(documentOf("llama-server")) as { archMap: unknown };
  expect(archMap).toEqual([
    { architecture: "SCMP_ARCH_X86_64", subArchitectures: [] },
    { architecture: "SCMP_ARCH_AARCH64", subArchitectures: [] },
  ]);
});
