import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";
import type { PartOutput } from "../../../provider/device/probe.ts";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { coreDumpFiles } from "../../../provider/resources/core-dumps-files.ts";
import type { CoreDumpsState } from "../../../provider/resources/core-dumps-observation.ts";
import { coreDumps } from "../../../provider/resources/core-dumps.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const off = { mode: "off", storedDumps: "remove" } as const;
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const probe = coreDumps.observe(off);

/** systemd's manager, as far as it re-reads its core limit on a reload. */
const reloadLimits = `if [ -e "$ROOT/etc/systemd/system.conf.d/zz-edgeseal-core-dumps.conf" ]; then echo 0 > "$ROOT/default-limit-core"; else echo infinity > "$ROOT/default-limit-core"; fi\n`;

/** Debian trixie without systemd-coredump: the kernel's defaults. */
function plainRoot(): FakeRoot {
  const root = new FakeRoot();
  root.write("/proc/sys/kernel/core_pattern", "core\n");
  root.write("/proc/sys/fs/suid_dumpable", "0\n");
  root.write("/default-limit-core", "infinity\n");
  root.write("/on-reload", reloadLimits);
  root.write(
    "/etc/security/limits.conf",
    "#*               soft    core            0\n#root            hard    core            100000\n# End of file\n",
  );
  return root;
}

/** Debian trixie with systemd-coredump 257, files as the packages ship them. */
function coredumpRoot(): FakeRoot {
  const root = plainRoot();
  root.write(
    "/proc/sys/kernel/core_pattern",
    "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F\n",
  );
  root.write("/proc/sys/fs/suid_dumpable", "2\n");
  root.write("/usr/lib/sysctl.d/10-coredump-debian.conf", "kernel.core_pattern=core\n");
  root.write(
    "/usr/lib/sysctl.d/50-coredump.conf",
    "#  This file is part of systemd.\n\nkernel.core_pattern=|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F\nkernel.core_pipe_limit=16\nfs.suid_dumpable=2\n",
  );
  root.write(
    "/etc/security/limits.d/10-coredump-debian.conf",
    "*               soft    core            0\nroot            soft    core            0\n*               hard    core            infinity\nroot            hard    core            infinity\n",
  );
  root.write(
    "/etc/security/limits.d/20-coredump-debian.conf",
    "*               soft    core            infinity\nroot            soft    core            infinity\n",
  );
  root.write(
    "/usr/lib/systemd/system.conf.d/10-coredump-debian.conf",
    "[Manager]\nDefaultLimitCORE=0:infinity\n",
  );
  root.write(
    "/usr/lib/systemd/system.conf.d/20-coredump-debian.conf",
    "[Manager]\nDefaultLimitCORE=infinity\n",
  );
  root.write(
    "/usr/lib/systemd/user.conf.d/20-coredump-debian.conf",
    "[Manager]\nDefaultLimitCORE=infinity\n",
  );
  root.write("/etc/systemd/coredump.conf", "[Coredump]\n#Storage=external\n#ProcessSizeMax=32G\n");
  root.write(
    "/usr/lib/systemd/system/systemd-coredump.socket",
    "[Socket]\nListenSequentialPacket=/run/systemd/coredump\n",
  );
  root.link(
    "/usr/lib/systemd/system/sockets.target.wants/systemd-coredump.socket",
    "../systemd-coredump.socket",
  );
  root.write("/var/lib/systemd/coredump/core.llama-server.1000.0f.812.1700000000000000.zst", "dump");
  root.write("/var/lib/systemd/coredump/.#core.half-written", "dump");
  return root;
}

const elf = (type: number): Buffer =>
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, type, 0, 0xb7, 0]);

function stateOf(root: FakeRoot): CoreDumpsState {
  const observed = root.observe(probe);
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const planFor = (
  state: CoreDumpsState,
  inputs: Parameters<typeof coreDumps.plan>[0] = off,
): readonly Step[] => coreDumps.plan(inputs, { outcome: "present", state }, route);

const clean: CoreDumpsState = {
  corePattern: "|/bin/false",
  suidDumpable: 0,
  corePatternAtBoot: "|/bin/false",
  suidDumpableAtBoot: 0,
  serviceCoreLimit: "0",
  serviceCoreLimitAtBoot: "0",
  userServiceCoreLimitAtBoot: "0",
  loginsAllowedCores: [],
  coredumpStorage: "none",
  coredumpProcessSizeMax: "0",
  dumpCollectors: [],
  storedDumps: 0,
  overridingFiles: [],
  limitedLogins: [],
  maskedUnits: [],
};

describe("what the probe reads", () => {
  test("the kernel's defaults", () => {
    using root = plainRoot();
    expect(stateOf(root)).toEqual({
      ...clean,
      corePattern: "core",
      corePatternAtBoot: "unset",
      suidDumpableAtBoot: "unset",
      serviceCoreLimit: "infinity",
      serviceCoreLimitAtBoot: "unset",
      userServiceCoreLimitAtBoot: "unset",
      loginsAllowedCores: ["*", "root"],
      coredumpStorage: "unset",
      coredumpProcessSizeMax: "unset",
    });
  });

  test("systemd-coredump as Debian ships it", () => {
    using root = coredumpRoot();
    expect(stateOf(root)).toEqual({
      ...clean,
      corePattern: "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F",
      suidDumpable: 2,
      corePatternAtBoot: "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F",
      suidDumpableAtBoot: 2,
      serviceCoreLimit: "infinity",
      serviceCoreLimitAtBoot: "infinity",
      userServiceCoreLimitAtBoot: "infinity",
      loginsAllowedCores: ["*", "root"],
      coredumpStorage: "unset",
      coredumpProcessSizeMax: "unset",
      dumpCollectors: ["systemd-coredump.socket"],
      storedDumps: 2,
    });
  });

  test.each([
    [
      "the name that sorts last",
      {
        "/etc/sysctl.d/10-a.conf": "kernel.core_pattern=a",
        "/usr/lib/sysctl.d/50-b.conf": "kernel.core_pattern=b",
      },
      "b",
    ],
    [
      "/etc over /usr/lib for one name",
      {
        "/etc/sysctl.d/50-b.conf": "kernel.core_pattern=a",
        "/usr/lib/sysctl.d/50-b.conf": "kernel.core_pattern=b",
      },
      "a",
    ],
    [
      "an empty file that hides the vendor's",
      { "/etc/sysctl.d/50-b.conf": "", "/usr/lib/sysctl.d/50-b.conf": "kernel.core_pattern=b" },
      "unset",
    ],
    [
      "slashes, spaces and a dash",
      { "/etc/sysctl.d/a.conf": "-kernel/core_pattern =  |/bin/x %p " },
      "|/bin/x %p",
    ],
    ["a comment", { "/etc/sysctl.d/a.conf": "# kernel.core_pattern=a\n;kernel.core_pattern=b" }, "unset"],
    [
      "another parameter",
      { "/etc/sysctl.d/a.conf": "kernel.core_uses_pid=1\nkernel.core_pattern_x=1" },
      "unset",
    ],
    [
      "a later line that takes it back",
      { "/etc/sysctl.d/a.conf": "kernel.core_pattern=a", "/etc/sysctl.d/b.conf": "-kernel.core_pattern" },
      "unset",
    ],
    ["slashes that name nothing", { "/etc/sysctl.d/a.conf": "/kernel//core_pattern = a" }, "a"],
    [
      "a line without an assignment",
      { "/etc/sysctl.d/a.conf": "kernel.core_pattern=a\nkernel.core_pattern" },
      "a",
    ],
    ["a file that is no .conf", { "/etc/sysctl.d/a.conf.bak": "kernel.core_pattern=a" }, "unset"],
  ])("core_pattern at boot: %s", (_name, files, expected) => {
    using root = plainRoot();
    for (const [path, content] of Object.entries(files)) root.write(path, content);
    expect(stateOf(root).corePatternAtBoot).toBe(expected);
  });

  test.each([
    ["0:infinity", "infinity"],
    ["0", "0"],
    ["0:0", "0"],
    ["512M", "512M"],
    ["", "unset"],
  ])("DefaultLimitCORE=%s at boot has the hard value %s", (value, hard) => {
    using root = plainRoot();
    root.write("/etc/systemd/system.conf", `[Manager]\nDefaultLimitCORE=${value}\n`);
    expect(stateOf(root).serviceCoreLimitAtBoot).toBe(hard);
  });

  test.each([
    ["nobody is named", "", ["*", "root"], []],
    ["`*` does not cover root", "* hard core 0", ["root"], []],
    ["both", "* hard core 0\nroot - core 0", [], []],
    ["a soft limit is no limit", "* soft core 0\nroot hard core 0", ["*"], []],
    [
      "a user's own line beats `*`",
      "* - core 0\nroot - core 0\nalice hard core unlimited\n@dev - core 1000",
      ["@dev", "alice"],
      ["@dev", "alice"],
    ],
    [
      "the last line counts",
      "* - core 0\nroot - core 0\nalice hard core unlimited\nalice hard core 0",
      [],
      ["alice"],
    ],
    ["capitals", "* - core 0\nroot - core 0\nalice HARD CORE UNLIMITED", ["alice"], ["alice"]],
    ["other items", "* hard nofile 0\nroot hard nproc 0", ["*", "root"], []],
  ])("logins: %s", (_name, lines, allowed, named) => {
    using root = plainRoot();
    root.write("/etc/security/limits.d/10-x.conf", `${lines}\n`);
    expect(stateOf(root)).toMatchObject({ loginsAllowedCores: allowed, limitedLogins: named });
  });

  test("a masked systemd-sysctl sets nothing at boot, and is unmasked", () => {
    using root = plainRoot();
    root.write("/etc/sysctl.d/a.conf", "kernel.core_pattern=|/bin/false\nfs.suid_dumpable=0\n");
    root.link("/etc/systemd/system/systemd-sysctl.service", "/dev/null");
    const state = stateOf(root);
    expect(state).toMatchObject({
      corePatternAtBoot: "unset",
      suidDumpableAtBoot: "unset",
      dumpCollectors: [],
    });
    expect(planFor(state)).toContainEqual(
      expect.objectContaining({ kind: "unit", unit: "systemd-sysctl.service", masked: false }),
    );
    root.remove("/etc/systemd/system/systemd-sysctl.service");
    expect(stateOf(root)).toMatchObject({ corePatternAtBoot: "|/bin/false", suidDumpableAtBoot: 0 });
    expect(planFor(stateOf(root)).filter(({ kind }) => kind === "unit")).toEqual([]);
  });

  test("limits.conf is read before limits.d, whatever the names", () => {
    using root = plainRoot();
    root.write("/etc/security/limits.conf", "* hard core unlimited\nroot hard core unlimited\n");
    root.write("/etc/security/limits.d/00-x.conf", "* hard core 0\nroot hard core 0\n");
    expect(stateOf(root).loginsAllowedCores).toEqual([]);
  });

  test("core files at the root are told from other files of that name", () => {
    using root = plainRoot();
    root.write("/core", elf(4));
    root.write("/core.812", elf(4));
    root.write("/core.813", elf(2));
    root.write("/core.9", "apple");
    root.link("/core.1", "core");
    expect(stateOf(root).storedDumps).toBe(2);
  });

  test("kdump counts: it dumps the memory of the whole machine", () => {
    using root = plainRoot();
    root.write("/usr/lib/systemd/system/kdump-tools.service", "[Service]\n");
    root.link(
      "/etc/systemd/system/multi-user.target.wants/kdump-tools.service",
      "/usr/lib/systemd/system/kdump-tools.service",
    );
    expect(stateOf(root).dumpCollectors).toEqual(["kdump-tools.service"]);
  });

  test("an empty core_pattern is read as empty", () => {
    using root = plainRoot();
    root.write("/proc/sys/kernel/core_pattern", "\n");
    expect(stateOf(root).corePattern).toBe("");
  });
});

describe("what it can't read is unknown, never off", () => {
  const good = (root: FakeRoot): Record<string, PartOutput> =>
    Object.fromEntries(Object.entries(probe.parts).map(([name, script]) => [name, root.sh(script)]));

  test.each(Object.keys(probe.parts))("the part '%s' fails", (name) => {
    using root = plainRoot();
    const parts = { ...good(root), [name]: { code: 1, stdout: "", stderr: "Failed to connect to bus" } };
    expect(() => probe.parse(parts)).toThrow(UnknownObservation);
    expect(() => probe.parse(parts)).toThrow(
      `'${name}' failed on the device with exit status 1: Failed to connect to bus`,
    );
  });

  test.each([
    ["/proc/sys/kernel/core_pattern", "no /proc/sys/kernel/core_pattern"],
    ["/proc/sys/fs/suid_dumpable", "fs.suid_dumpable is not a number"],
  ])("no %s", (path, message) => {
    using root = plainRoot();
    root.remove(path);
    expect(() => stateOf(root)).toThrow(message);
  });

  test("systemd answers without the property", () => {
    using root = plainRoot();
    expect(() => probe.parse({ ...good(root), manager: { code: 0, stdout: "\n", stderr: "" } })).toThrow(
      UnknownObservation,
    );
  });

  test("a setting that is no number", () => {
    using root = plainRoot();
    root.write("/etc/sysctl.d/a.conf", "fs.suid_dumpable=maybe\n");
    expect(() => stateOf(root)).toThrow("fs.suid_dumpable in sysctl.d is not a number: 'maybe'");
  });
});

describe("the plan leads to the desired state", () => {
  const roots: readonly [string, () => FakeRoot][] = [
    ["the kernel's defaults", plainRoot],
    ["systemd-coredump", coredumpRoot],
  ];

  test.each(roots)("%s", (_name, make) => {
    using root = make();
    for (const step of planFor(stateOf(root))) root.apply(step);
    const after = stateOf(root);
    expect(diffState(coreDumps.desired(off), after)).toEqual([]);
    expect(planFor(after)).toEqual([]);
  });

  test.each(roots)(
    "%s, interrupted after every step in turn: the next plan goes on from there",
    (_name, make) => {
      using fresh = make();
      const count = planFor(stateOf(fresh)).length;
      for (let done = 0; done < count; done++) {
        using root = make();
        for (const step of planFor(stateOf(root)).slice(0, done)) root.apply(step);
        for (const step of planFor(stateOf(root))) root.apply(step);
        expect(diffState(coreDumps.desired(off), stateOf(root)), `after ${done} steps`).toEqual([]);
      }
    },
  );

  test("every step may run twice", () => {
    using root = coredumpRoot();
    for (const step of planFor(stateOf(root))) {
      root.apply(step);
      root.apply(step);
    }
    expect(planFor(stateOf(root))).toEqual([]);
  });

  test("users and groups with limits of their own get lines of their own", () => {
    using root = coredumpRoot();
    root.write("/etc/security/limits.d/50-dev.conf", "alice hard core unlimited\n@dev - core 5000\n");
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.read(coreDumpFiles.limits).split("\n").slice(1)).toEqual([
      "* - core 0",
      "root - core 0",
      "@dev - core 0",
      "alice - core 0",
      "",
    ]);
    expect(planFor(stateOf(root))).toEqual([]);
  });

  test("the settings are what the kernel and systemd are told", () => {
    using root = coredumpRoot();
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.read(coreDumpFiles.sysctl)).toMatch(
      /^kernel\.core_pattern = \|\/bin\/false\nfs\.suid_dumpable = 0$/m,
    );
    expect(root.read(coreDumpFiles.coredump)).toMatch(/^\[Coredump\]\nStorage=none\nProcessSizeMax=0$/m);
    expect(root.read(coreDumpFiles.system)).toMatch(/^\[Manager\]\nDefaultLimitCORE=0$/m);
    expect(root.calls()).toContain("systemctl mask -- systemd-coredump.socket");
  });

  const deviations: readonly [string, Partial<CoreDumpsState>, readonly string[]][] = [
    ["core_pattern", { corePattern: "core" }, ["let the kernel discard core dumps"]],
    ["suid_dumpable", { suidDumpable: 2 }, ["keep privileged programs from dumping core"]],
    [
      "core_pattern at boot",
      { corePatternAtBoot: "core" },
      ["keep the kernel from writing core dumps after a boot"],
    ],
    [
      "suid_dumpable at boot",
      { suidDumpableAtBoot: "unset" },
      ["keep the kernel from writing core dumps after a boot"],
    ],
    ["the limit in effect", { serviceCoreLimit: "infinity" }, ["let systemd take up the core limit"]],
    [
      "the limit at boot",
      { serviceCoreLimitAtBoot: "unset" },
      ["make the directory /etc/systemd/system.conf.d", "set the core limit of services to 0"],
    ],
    [
      "the limit of user services",
      { userServiceCoreLimitAtBoot: "infinity" },
      ["make the directory /etc/systemd/user.conf.d", "set the core limit of services of user sessions to 0"],
    ],
    [
      "logins",
      { loginsAllowedCores: ["root"] },
      ["make the directory /etc/security/limits.d", "set the core limit of logins to 0"],
    ],
    [
      "Storage",
      { coredumpStorage: "external" },
      ["make the directory for systemd-coredump's drop-ins", "keep systemd-coredump from storing dumps"],
    ],
    [
      "ProcessSizeMax",
      { coredumpProcessSizeMax: "unset" },
      ["make the directory for systemd-coredump's drop-ins", "keep systemd-coredump from storing dumps"],
    ],
    [
      "a unit unmasked",
      { dumpCollectors: ["systemd-coredump.socket"] },
      ["keep units from starting that collect dumps: systemd-coredump.socket"],
    ],
    ["a dump", { storedDumps: 1 }, ["remove the stored core dump"]],
    ["dumps", { storedDumps: 7 }, ["remove the 7 stored core dumps"]],
  ];
  test.each(deviations)("drift of %s is mended by just its steps", (_name, drift, titles) => {
    expect(planFor({ ...clean, ...drift }).map(({ title }) => title)).toEqual(titles);
  });

  test("stored dumps are kept when asked", () => {
    using root = coredumpRoot();
    const inputs = { ...off, storedDumps: "keep" } as const;
    for (const step of planFor(stateOf(root), inputs)) root.apply(step);
    expect(planFor(stateOf(root), inputs)).toEqual([]);
    expect(stateOf(root).storedDumps).toBe(2);
  });

  test("mode keep changes nothing, and demands nothing", () => {
    using root = coredumpRoot();
    const inputs = { ...off, mode: "keep" } as const;
    expect(coreDumps.desired(inputs)).toEqual({});
    expect(planFor(stateOf(root), inputs)).toEqual([]);
  });
});

describe("what beats edgeseal's files is refused by name", () => {
  test.each([
    ["/etc/sysctl.d/zzz.conf", "kernel.core_pattern=core\n"],
    ["/etc/sysctl.d/zzz-taken-back.conf", "-kernel.core_pattern\n"],
    ["/etc/systemd/coredump.conf.d/zzz.conf", "[Coredump]\nStorage=external\n"],
    ["/usr/lib/systemd/system.conf.d/zzz.conf", "[Manager]\nDefaultLimitCORE=infinity\n"],
    ["/etc/security/limits.d/zzz.conf", "* hard core unlimited\n"],
    ["/etc/security/limits.d/10-alice.conf", "alice -\n"],
  ])("%s", (path, content) => {
    using root = coredumpRoot();
    root.write(path, content);
    expect(stateOf(root).overridingFiles).toEqual([path]);
    expect(() => planFor(stateOf(root))).toThrow(PlanRefused);
    expect(() => planFor(stateOf(root))).toThrow(path);
  });

  test("a later file that sets the same is in order", () => {
    using root = coredumpRoot();
    root.write("/etc/sysctl.d/zzz.conf", "kernel.core_pattern=|/bin/false\nfs.suid_dumpable=0\n");
    expect(stateOf(root).overridingFiles).toEqual([]);
  });
});

describe("stored dumps are removed with care", () => {
  const removal = (root: FakeRoot): Step => {
    const step = planFor(stateOf(root)).find(({ title }) => title.startsWith("remove the"));
    if (step === undefined) throw new Error("no step that removes dumps");
    return step;
  };

  test("only dumps go", () => {
    using root = coredumpRoot();
    root.write("/var/lib/systemd/coredump/sub/file", "not ours");
    root.write("/core", elf(4));
    root.write("/core.7", "apple");
    root.apply(removal(root));
    expect(stateOf(root).storedDumps).toBe(0);
    expect(root.exists("/core")).toBe(false);
    expect(root.exists("/core.7")).toBe(true);
    expect(root.exists("/var/lib/systemd/coredump/sub/file")).toBe(true);
  });

  test("a directory that became a link is not followed", () => {
    using root = coredumpRoot();
    const step = removal(root);
    expect(root.holds(step)).toBe(true);
    root.remove("/var/lib/systemd/coredump");
    root.write("/srv/precious/file", "thesis");
    root.link("/var/lib/systemd/coredump", "../../../srv/precious");
    expect(root.holds(step)).toBe(false);
  });
});

test("the law: there is a plan exactly when something differs", () => {
  let differing = 0;
  for (let seed = 1; seed <= 2000; seed++) {
    const choose = new Choices(seed);
    const state: CoreDumpsState = {
      ...clean,
      corePattern: choose.mostly(clean.corePattern, "core", ""),
      suidDumpable: choose.mostly(0, 1, 2),
      corePatternAtBoot: choose.mostly(clean.corePattern, "unset", "core"),
      suidDumpableAtBoot: choose.mostly<number | "unset">(0, 2, "unset"),
      serviceCoreLimit: choose.mostly("0", "infinity", "1024"),
      serviceCoreLimitAtBoot: choose.mostly("0", "unset", "infinity"),
      userServiceCoreLimitAtBoot: choose.mostly("0", "unset", "infinity"),
      loginsAllowedCores: choose.mostly<string[]>([], ["root"], ["*", "alice"]),
      coredumpStorage: choose.mostly("none", "unset", "external", "journal"),
      coredumpProcessSizeMax: choose.mostly("0", "unset", "32G"),
      dumpCollectors: choose.mostly<string[]>([], ["systemd-coredump.socket"]),
      storedDumps: choose.mostly(0, 1, 12),
      limitedLogins: choose.mostly<string[]>([], ["alice"]),
    };
    const inputs = {
      mode: choose.mostly("off" as const, "keep" as const),
      storedDumps: choose.mostly("remove" as const, "keep" as const),
    };
    const differences = diffState(coreDumps.desired(inputs), state);
    const steps = planFor(state, inputs);
    expect(steps.length > 0, `seed ${seed}: ${JSON.stringify(state)}`).toBe(differences.length > 0);
    if (differences.length > 0) differing++;
    for (const step of steps) {
      for (const script of [step.precondition, step.kind === "run" ? step.script : undefined]) {
        if (script !== undefined && seed <= 20)
          expect(spawnSync("sh", ["-n", "-c", script]).status, script).toBe(0);
      }
    }
  }
  expect(differing).toBeGreaterThan(500);
  expect(differing).toBeLessThan(1950);
});

test("revert removes every file of edgeseal's and unmasks", () => {
  using root = coredumpRoot();
  const before = stateOf(root);
  for (const step of planFor(before)) root.apply(step);
  const steps = coreDumps.revert(off, { outcome: "present", state: stateOf(root) });
  for (const step of steps) if (step.kind !== "run") root.apply(step);
  const after = stateOf(root);
  expect(after).toMatchObject({
    corePatternAtBoot: before.corePatternAtBoot,
    suidDumpableAtBoot: before.suidDumpableAtBoot,
    serviceCoreLimitAtBoot: before.serviceCoreLimitAtBoot,
    loginsAllowedCores: before.loginsAllowedCores,
    coredumpStorage: before.coredumpStorage,
    dumpCollectors: before.dumpCollectors,
  });
  for (const path of Object.values(coreDumpFiles)) expect(root.exists(path), path).toBe(false);
  const last = steps.at(-1);
  expect(last?.kind === "run" && last.script).toContain("systemd-sysctl --prefix");
});
