import { describe, expect, test } from "vitest";
import {
  absence,
  editCommandLine,
  isMadeOf,
  presence,
  revertCommandLine,
  trialOf,
  withoutTrial,
} from "../../../provider/resources/firmware-config-command-line.ts";

const edit = (line: string, present: readonly string[], absent: readonly string[] = []): string =>
  editCommandLine(line, { present, absent });

describe("whether a parameter is there", () => {
  test.each([
    ["quiet", "root=x quiet", "present"],
    ["quiet", "root=x quiet=1", "it is 'quiet=1'"],
    ["quiet", "root=x quieter", "missing"],
    ["fsck.repair=yes", "fsck.repair=no fsck.repair=yes", "present"],
    ["fsck.repair=yes", "fsck.repair=yes fsck.repair=no", "it is 'fsck.repair=no'"],
    // The kernel takes - and _ for the same.
    ["cgroup-enable=memory", "cgroup_enable=memory", "present"],
    ["console=tty1", "console=tty1 console=ttyS0", "present"],
    ["cgroup_enable=memory", "cgroup_disable=memory cgroup_enable=memory", "present"],
    [
      "cgroup_enable=memory",
      "cgroup_enable=memory cgroup_disable=memory",
      "'cgroup_disable=memory' comes after it",
    ],
    ["lsm=apparmor", "lsm=landlock,apparmor,bpf", "present"],
    ["lsm=landlock,apparmor", "lsm=landlock,yama", "'lsm=landlock,yama' lacks apparmor"],
    ["lsm=apparmor", "lsm=apparmor lsm=yama", "'lsm=yama' lacks apparmor"],
    // What is after -- is for init; white space within quotes separates nothing.
    ["quiet", "root=x -- quiet", "missing"],
    ["quiet", 'dyndbg="file quiet +p"', "missing"],
    ['dyndbg="file x +p"', 'root=x dyndbg="file x +p" quiet', "present"],
  ])("%s on %j: %s", (declared, line, expected) => {
    expect(presence(line, declared)).toBe(expected);
  });

  test.each([
    ["quiet", "root=x", "absent"],
    ["quiet", "quiet root=x", "'quiet' is there"],
    ["init", "init=/bin/sh", "'init=/bin/sh' is there"],
    ["init=/bin/sh", "init=/sbin/init", "absent"],
    ["splash", "root=x -- splash", "absent"],
  ])("%s absent on %j: %s", (declared, line, expected) => {
    expect(absence(line, declared)).toBe(expected);
  });
});

describe("an edit changes what it has to, and nothing else", () => {
  test.each([
    ["adds at the end", "root=x  quiet", ["a=1"], [], "root=x  quiet a=1"],
    ["keeps white space at the end", "root=x ", ["a=1"], [], "root=x a=1 "],
    ["adds before --", "root=x -- single", ["a=1"], [], "root=x a=1 -- single"],
    ["makes a line", "", ["a=1"], [], "a=1"],
    ["replaces a value in its place", "a=0 root=x\ta=2 quiet", ["a=1"], [], "a=0 root=x\ta=1 quiet"],
    [
      "adds to a list",
      "lsm=landlock,yama quiet",
      ["lsm=yama,apparmor"],
      [],
      "lsm=landlock,yama,apparmor quiet",
    ],
    [
      "adds one of several",
      "console=tty1",
      ["console=ttyS0,115200"],
      [],
      "console=tty1 console=ttyS0,115200",
    ],
    ["removes in the middle", "root=x  quiet  splash", [], ["quiet"], "root=x  splash"],
    ["removes at the beginning", "quiet  root=x", [], ["quiet"], "root=x"],
    ["removes every one", "a=1 root=x a=2", [], ["a"], "root=x"],
    ["removes one value", "console=tty1 console=ttyS0", [], ["console=tty1"], "console=ttyS0"],
    [
      "comes after what undoes it",
      "cgroup_enable=memory cgroup_disable=memory x",
      ["cgroup_enable=memory"],
      [],
      "cgroup_enable=memory cgroup_disable=memory x cgroup_enable=memory",
    ],
    ["leaves a line that is as declared", "  a=1 \t b ", ["b", "a=1"], ["c"], "  a=1 \t b "],
  ])("%s", (_, line, present, absent, expected) => {
    const edited = edit(line, present, absent);
    expect(edited).toBe(expected);
    for (const each of present) expect(presence(edited, each)).toBe("present");
    for (const each of absent) expect(absence(edited, each)).toBe("absent");
    expect(edit(edited, present, absent)).toBe(edited);
  });

  test.each([
    ["what was added", "root=x quiet", ["a=1", "console=tty2"], []],
    ["what was replaced", "root=x a=2 quiet", ["a=1"], []],
    ["what was added to", "root=x lsm=yama quiet", ["lsm=apparmor"], []],
    ["what was removed", "root=x init=/bin/sh", [], ["init"]],
    ["nothing, where there was nothing to do", "a=1 b", ["a=1"], ["c"]],
  ])("is taken back: %s", (_, line, present, absent) => {
    expect(revertCommandLine(edit(line, present, absent), line, { present, absent })).toBe(line);
  });

  test("what somebody else changed since stays when it is taken back", () => {
    const declared = { present: ["a=1"], absent: ["quiet"] };
    expect(revertCommandLine("root=y a=1 b", "root=x quiet", declared)).toBe("root=y b quiet");
  });
});

describe("of which file a boot was made", () => {
  test.each([
    ["root=x quiet", true],
    ["coherent_pool=1M  root=x   quiet", true],
    ["coherent_pool=1M root=x quiet extra=1", true],
    ["root=x quiet edgeseal.trial=ab", true],
    ["root=x", false],
    ["root=x quieter", false],
    ["xroot=x quiet", false],
  ])("%j of 'root=x quiet': %s", (booted, expected) => {
    expect(isMadeOf(booted, "root=x quiet")).toBe(expected);
  });

  test("the firmware puts a device in the place of serial0", () => {
    expect(isMadeOf("a=1 console=ttyAMA10,115200 root=x", "console=serial0,115200 root=x")).toBe(true);
    expect(isMadeOf("a=1 console=ttyUSB0,115200 root=x", "console=serial0,115200 root=x")).toBe(false);
  });

  test("a trial is told by its parameter, which counts for nothing else", () => {
    expect(trialOf("root=x edgeseal.trial=ab12 quiet")).toBe("ab12");
    expect(trialOf("root=x")).toBeUndefined();
    expect(withoutTrial("root=x edgeseal.trial=ab12 quiet")).toBe("root=x quiet");
  });
});
