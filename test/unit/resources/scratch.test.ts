import { describe, expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";
import { UnknownObservation, type PartOutput } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { desiredMarks } from "../../../provider/resources/managed-files.ts";
import { inMemory, optionsFile, scratchFiles, unitFile } from "../../../provider/resources/scratch-files.ts";
import {
  bashFile,
  bashHistoriesOff,
  environmentFile,
  environmentHistoriesOff,
  historiesBack,
  historyVariables,
} from "../../../provider/resources/scratch-histories.ts";
import type { ScratchInputs } from "../../../provider/resources/scratch-inputs.ts";
import type { ScratchState } from "../../../provider/resources/scratch-observation.ts";
import { scratch } from "../../../provider/resources/scratch.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const inputs: ScratchInputs = {
  tmpMiB: 256,
  varTmpMiB: 512,
  journal: "volatile",
  syslog: "off",
  historyFiles: "remove",
  leftovers: "remove",
  reboot: "never",
  rebootUnapproved: "refuse",
};
const onVolume: ScratchInputs = { ...inputs, journal: { directory: "/srv/logs/journal" } };
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

const cleanFor = (of: ScratchInputs): ScratchState => ({
  mountUnits: ["tmp.mount", "var-tmp.mount"],
  mounts: { "/tmp": inMemory(of.tmpMiB), "/var/tmp": inMemory(of.varTmpMiB) },
  mountDifferences: [],
  diskUsers: [],
  pendingReboot: false,
  journalSetting: of.journal === "volatile" ? "volatile" : "auto",
  journalIn: [of.journal === "volatile" ? "/run/log/journal" : of.journal.directory],
  journalLink: of.journal === "volatile" ? "" : of.journal.directory,
  syslogUnits: [],
  syslogProcesses: [],
  syslogFiles: [],
  crashReporters: [],
  historyVariables: { ...historyVariables },
  bashHistory: "off",
  historyFiles: {},
  leftovers: [],
  files: desiredMarks(scratchFiles(of)),
  overridingFiles: [],
  maskedUnits: [],
});

const planFor = (state: ScratchState, of = inputs): readonly Step[] =>
  scratch.plan(of, { outcome: "present", state }, route);
const titles = (state: ScratchState, of = inputs): readonly string[] =>
  planFor(state, of).map(({ title }) => title);

/** What a node prints whose root, with /var/tmp, is on the disk, and where journald is on it, too. */
const mountinfo = (tmp: string, varTmp = ""): string =>
  [
    "22 1 254:2 / / rw,noatime shared:1 - ext4 /dev/vda2 rw",
    "25 22 0:24 / /run rw,nosuid,nodev,noexec shared:5 - tmpfs tmpfs rw,size=300000k,mode=755",
    tmp,
    varTmp,
  ]
    .filter((line) => line !== "")
    .join("\n");
const tmpInMemory =
  "30 22 0:30 / /tmp rw,nosuid,nodev,noexec,strictatime shared:9 - tmpfs tmpfs rw,size=262144k";
const varTmpInMemory = "31 22 0:31 / /var/tmp rw,nosuid,nodev,noexec shared:10 - tmpfs tmpfs rw,size=524288k";
const optionsOf = (mib: number): string => `Options=mode=1777,strictatime,nosuid,nodev,noexec,size=${mib}m`;
const ourOptions = ["tmp.mount", "var-tmp.mount"]
  .map(
    (unit, index) =>
      `F ${optionsFile(unit)}\nL ${optionsFile(unit)}:[Mount]\nL ${optionsFile(unit)}:${optionsOf(index === 0 ? 256 : 512)}`,
  )
  .join("\n");

const parse = (own: Readonly<Record<string, string>>): ScratchState => {
  const names = Object.keys(scratch.observe(inputs).parts);
  const parts = Object.fromEntries(
    names.map((name): [string, PartOutput] => [name, { code: 0, stdout: own[name] ?? "", stderr: "" }]),
  );
  const observed = scratch.observe(inputs).parse({
    ...parts,
    mounts:
      parts.mounts?.stdout === ""
        ? { code: 0, stdout: `${mountinfo(tmpInMemory, varTmpInMemory)}\n\n`, stderr: "" }
        : (parts.mounts as PartOutput),
  });
  if (observed.outcome === "absent") throw new Error("absent");
  return observed.state;
};

describe("what the probe reads", () => {
  test("memory with its size and options, and what is otherwise than its unit says", () => {
    expect(parse({ settings: ourOptions })).toMatchObject({
      mounts: {
        "/tmp": "tmpfs 256 MiB nodev noexec nosuid",
        "/var/tmp": "tmpfs 512 MiB nodev noexec nosuid",
      },
      mountDifferences: [],
      pendingReboot: false,
    });
    const open = tmpInMemory.replace("noexec,", "").replace("262144", "20480");
    expect(parse({ settings: ourOptions, mounts: `${mountinfo(open, varTmpInMemory)}\n\n` })).toMatchObject({
      mounts: { "/tmp": "tmpfs 20 MiB nodev nosuid" },
      mountDifferences: [
        "/tmp: tmpfs 20 MiB nodev nosuid, and its unit says tmpfs 256 MiB nodev noexec nosuid",
      ],
    });
  });

  test("half of the memory, as Debian has it, is a size that nobody declared", () => {
    const half = "30 22 0:30 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw,nr_inodes=1048576";
    expect(parse({ mounts: `${mountinfo(half, varTmpInMemory)}\n\n` }).mounts["/tmp"]).toBe(
      "tmpfs of the kernel's default size nodev nosuid",
    );
  });

  test("of several mounts at one place the last one", () => {
    const over = `${tmpInMemory}\n40 30 254:3 / /tmp rw - ext4 /dev/vda3 rw`;
    expect(parse({ mounts: `${mountinfo(over, varTmpInMemory)}\n\n` }).mounts["/tmp"]).toBe(
      "ext4 on /dev/vda3",
    );
  });

  const privateTmp = (root: string, device = "254:2"): string =>
    `${device} ${root}/systemd-private-${"0".repeat(32)}-systemd-logind.service-aBc123/tmp`;

  test("services with a private /var/tmp on the disk, also when memory was mounted over it since", () => {
    for (const varTmp of ["", varTmpInMemory]) {
      const mounts = `${mountinfo(tmpInMemory, varTmp)}\n\n${privateTmp("/var/tmp")}\n${privateTmp("/tmp", "0:30")}`;
      expect(parse({ settings: ourOptions, mounts })).toMatchObject({
        diskUsers: ["/var/tmp: systemd-logind.service"],
        pendingReboot: true,
        mountDifferences: [],
      });
    }
  });

  test("where /var is a file system of its own, or a part of one, paths are within that", () => {
    const separate = "26 22 254:5 / /var rw - ext4 /dev/vda5 rw";
    const subvolume = "26 22 254:5 /@var /var rw - btrfs /dev/vda5 rw";
    for (const [mount, root] of [
      [separate, "/tmp"],
      [subvolume, "/@var/tmp"],
    ] as const) {
      const mounts = `${mountinfo(tmpInMemory, mount)}\n\n${privateTmp(root, "254:5")}`;
      expect(parse({ mounts }).diskUsers).toEqual(["/var/tmp: systemd-logind.service"]);
    }
  });

  test("open files and sockets on the disk", () => {
    const users = "/var/tmp 812 python3\n/var/tmp socket /var/tmp/agent.sock";
    expect(parse({ settings: ourOptions, mounts: `${mountinfo(tmpInMemory)}\n\n`, users })).toMatchObject({
      diskUsers: ["/var/tmp: python3 (process 812)", "/var/tmp: socket /var/tmp/agent.sock"],
      pendingReboot: true,
    });
  });

  test("a disk that nothing uses is a difference that needs no boot", () => {
    expect(parse({ settings: ourOptions, mounts: `${mountinfo(tmpInMemory)}\n\n` })).toMatchObject({
      pendingReboot: false,
      mountDifferences: ["/var/tmp: ext4 on /dev/vda2, and its unit says tmpfs 512 MiB nodev noexec nosuid"],
    });
  });

  test.each([
    ["/run/log/journal", "", "/run/log/journal"],
    ["/var/log/journal", "", "/var/log/journal (on /dev/vda2)"],
    [
      "/srv/logs/journal",
      "33 22 252:0 / /srv/logs rw - ext4 /dev/mapper/edgeseal-logs rw",
      "/srv/logs/journal",
    ],
    ["/srv/logs/journal", "", "/srv/logs/journal (on /dev/vda2)"],
    [
      "/srv/logs/journal",
      "33 22 252:1 / /srv/logs rw - ext4 /dev/sda1 rw",
      "/srv/logs/journal (on /dev/sda1)",
    ],
  ])("where journald really writes: %s", (directory, mount, expected) => {
    const mounts = `${mountinfo(tmpInMemory, varTmpInMemory)}\n${mount}\n\n`.replace("\n\n\n", "\n\n");
    const journal = ["system", "user-1000"]
      .map((name) => `open ${directory}/${"a".repeat(32)}/${name}.journal`)
      .join("\n");
    expect(parse({ mounts, journal }).journalIn).toEqual([expected]);
  });

  test("a journal in memory or on a sealed volume is nothing that was left", () => {
    expect(parse({ leftovers: "/var/log/journal\n/var/log/syslog.1" })).toMatchObject({
      leftovers: ["/var/log/journal"],
      syslogFiles: ["/var/log/syslog.1"],
    });
    const sealed = "33 22 252:0 / /var/log rw - ext4 /dev/mapper/edgeseal-logs rw";
    const mounts = `${mountinfo(tmpInMemory, varTmpInMemory)}\n${sealed}\n\n`;
    expect(parse({ mounts, leftovers: "/var/log/journal" }).leftovers).toEqual([]);
  });

  test("files that have the last word; not those that ours override", () => {
    const overriding = [
      "/etc/systemd/system/tmp.mount.d/override.conf",
      optionsFile("tmp.mount"),
      "/usr/lib/systemd/system/var-tmp.mount.d/zzz.conf",
      "/run/systemd/transient/tmp.mount",
    ].join("\n");
    expect(parse({ overriding }).overridingFiles).toEqual([
      "/run/systemd/transient/tmp.mount",
      "/usr/lib/systemd/system/var-tmp.mount.d/zzz.conf",
    ]);
    const later = "/etc/systemd/journald.conf.d/zzz.conf";
    const settings = `F ${later}\nL ${later}:[Journal]\nL ${later}:Storage=persistent`;
    expect(parse({ settings })).toMatchObject({ journalSetting: "persistent", overridingFiles: [later] });
  });

  test("mountinfo that can't be read is unknown", () => {
    expect(() => parse({ mounts: "nonsense\n\n" })).toThrow(UnknownObservation);
    expect(() => parse({ mounts: "25 22 0:24 / /run rw - tmpfs tmpfs rw\n\n" })).toThrow(UnknownObservation);
  });
});

test.each(Object.keys(scratch.observe(inputs).parts))(
  "the part '%s' that fails is unknown, never in order",
  (name) => {
    const parts = Object.fromEntries(
      Object.keys(scratch.observe(inputs).parts).map((each): [string, PartOutput] => [
        each,
        each === name
          ? { code: 1, stdout: "", stderr: "no" }
          : { code: 0, stdout: each === "mounts" ? `${mountinfo(tmpInMemory)}\n\n` : "", stderr: "" },
      ]),
    );
    expect(() => scratch.observe(inputs).parse(parts)).toThrow(UnknownObservation);
  },
);

describe("the plan", () => {
  const clean = cleanFor(inputs);

  test.each<[string, Partial<ScratchState>, readonly string[]]>([
    [
      "the disk that is in use: nothing but its files, until a boot",
      {
        files: {},
        mountUnits: [],
        mounts: { ...clean.mounts, "/var/tmp": "ext4 on /dev/vda2" },
        diskUsers: ["/var/tmp: x"],
      },
      [
        "make the directory /etc/systemd/system/tmp.mount.d",
        "make the directory /etc/systemd/system/var-tmp.mount.d",
        "make the directory /etc/systemd/journald.conf.d",
        "make the directory /etc/sudoers.d",
        ...Object.keys(clean.files).map((path) => `write ${path}`),
        "have the next boot start tmp.mount and var-tmp.mount",
      ],
    ],
    ["only a boot is due, and none is allowed", { diskUsers: ["/tmp: x"], pendingReboot: true }, []],
    [
      "the drop-in of a volume that the journal is not on any more",
      {
        files: {
          ...clean.files,
          "/etc/systemd/system/systemd-journal-flush.service.d/zz-edgeseal.conf": "0644 root:root sha256:0",
        },
      },
      [
        "remove /etc/systemd/system/systemd-journal-flush.service.d/zz-edgeseal.conf",
        "let systemd take up the units",
      ],
    ],
    [
      "crash reports",
      { crashReporters: ["kerneloops.service"], leftovers: ["/var/crash"] },
      [
        "keep units from starting that collect crash reports: kerneloops.service",
        "remove the crash reports in /var/crash",
      ],
    ],
    [
      "histories",
      { historyFiles: { "/root/.bash_history": "root", "/home/a/.lesshst": "a" } },
      ["remove 2 history files"],
    ],
  ])("%s", (_name, drift, expected) => {
    expect(titles({ ...clean, ...drift })).toEqual(expected);
  });

  test("what is kept when asked is not demanded", () => {
    const kept = { ...inputs, syslog: "keep", historyFiles: "keep", leftovers: "keep" } as const;
    const state = {
      ...cleanFor(kept),
      syslogUnits: ["rsyslog.service"],
      syslogProcesses: ["rsyslogd"],
      syslogFiles: ["/var/log/syslog"],
      historyFiles: { "/root/.bash_history": "root" },
      leftovers: ["/var/tmp"],
    };
    expect(planFor(state, kept)).toEqual([]);
  });

  test("a journal on a volume comes there after everything that it needs, and the old one goes after that", () => {
    const state = {
      ...cleanFor(onVolume),
      journalIn: ["/var/log/journal (on /dev/vda2)"],
      journalLink: "",
      leftovers: ["/var/log/journal"],
    };
    expect(titles(state, onVolume)).toEqual([
      "let journald take up its settings",
      "keep the journal in /srv/logs/journal",
      "remove the journal that was kept in /var/log/journal.before-edgeseal",
      "remove the journal that was kept in /var/log/journal",
    ]);
    const kept = { ...onVolume, leftovers: "keep" } as const;
    expect(titles(state, kept).filter((title) => title.startsWith("remove"))).toEqual([]);
  });

  test("files with the last word are refused by name", () => {
    expect(() => planFor({ ...clean, overridingFiles: ["/run/systemd/transient/tmp.mount"] })).toThrow(
      PlanRefused,
    );
    expect(() => planFor({ ...clean, overridingFiles: ["/run/systemd/transient/tmp.mount"] })).toThrow(
      "/run/systemd/transient/tmp.mount has the last word",
    );
  });

  test("the units are what systemd is told", () => {
    const text = (path: string): string =>
      scratchFiles(onVolume).find((each) => each.path === path)?.content ?? "";
    expect(text(optionsFile("var-tmp.mount"))).toContain(`\n${optionsOf(512)}\n`);
    expect(text(unitFile("var-tmp.mount"))).toContain("\nWhere=/var/tmp\n");
    expect(text(optionsFile("systemd-journal-flush.service"))).toContain(
      "After=edgeseal-volumes.service\nRequiresMountsFor=/srv/logs/journal\n",
    );
    expect(text("/etc/systemd/journald.conf.d/zz-edgeseal.conf")).toContain("\nStorage=auto\n");
  });
});

test("the law: there is a plan exactly when something differs", () => {
  let differing = 0;
  for (let seed = 1; seed <= 3000; seed++) {
    const choose = new Choices(seed);
    const of: ScratchInputs = {
      ...choose.mostly(inputs, onVolume),
      syslog: choose.mostly("off", "keep"),
      historyFiles: choose.mostly("remove", "keep"),
      leftovers: choose.mostly("remove", "keep"),
      reboot: choose.mostly("never", "ifNeeded"),
    };
    const clean = cleanFor(of);
    const files = choose.mostly(clean.files, {});
    const diskUsers = choose.mostly([], ["/var/tmp: systemd-logind.service"]);
    const varTmp = choose.mostly(inMemory(of.varTmpMiB), "ext4 on /dev/vda2", "tmpfs 20 MiB nodev");
    const isOurs = files === clean.files;
    const mends =
      varTmp !== inMemory(of.varTmpMiB) && (varTmp.startsWith("tmpfs ") || diskUsers.length === 0);
    const state: ScratchState = {
      ...clean,
      files,
      diskUsers,
      mounts: { ...clean.mounts, "/var/tmp": varTmp },
      mountDifferences: isOurs && mends ? [`/var/tmp: ${varTmp}`] : [],
      pendingReboot: isOurs && diskUsers.length > 0,
      mountUnits: choose.mostly(clean.mountUnits, ["tmp.mount"]),
      journalSetting: choose.mostly(clean.journalSetting, "persistent"),
      journalIn: choose.mostly(clean.journalIn, ["/var/log/journal (on /dev/vda2)"], []),
      journalLink: choose.mostly(clean.journalLink, "", "/elsewhere"),
      syslogUnits: choose.mostly([], ["rsyslog.service"]),
      syslogProcesses: choose.mostly([], ["rsyslogd"]),
      syslogFiles: choose.mostly([], ["/var/log/syslog"]),
      crashReporters: choose.mostly([], ["kerneloops.service"]),
      historyVariables: choose.mostly({ ...historyVariables }, {}, { ...historyVariables, HISTFILE: "x" }),
      bashHistory: choose.mostly("off", "on"),
      historyFiles: choose.mostly({}, { "/root/.bash_history": "root" }),
      leftovers: choose.mostly([], ["/var/tmp"], ["/var/log/journal"]),
    };
    const differences = diffState(scratch.desired(of), state);
    differing += differences.length > 0 ? 1 : 0;
    expect(planFor(state, of).length > 0, `seed ${seed}: ${JSON.stringify(differences)}`).toBe(
      differences.length > 0,
    );
  }
  expect(differing).toBeGreaterThan(1000);
  expect(differing).toBeLessThan(3000);
});

describe("inputs that can't be", () => {
  const problems = (own: Partial<ScratchInputs>): readonly string[] =>
    (scratch.check?.({ ...inputs, ...own }) ?? []).map(({ path, message }) => `${path}: ${message}`);

  test("are told with their mend", () => {
    expect(problems({})).toEqual([]);
    expect(problems({ journal: { directory: "/srv/logs/journal" } })).toEqual([]);
    expect(problems({ journal: { directory: "/var/log/journal" } })[0]).toContain(
      "no sealed volume is mounted at /var/log/journal",
    );
    expect(problems({ journal: { directory: "/srv/../etc/journal" } })[0]).toContain("without '.' and '..'");
    expect(problems({ reboot: "window" })[0]).toContain("rebootWindow");
  });
});

describe("lines in files of the system's", () => {
  const original = '# System-wide .bashrc\n[ -z "${PS1-}" ] && return\n';

  test("go in once, before or after all else, and out again without a trace", () => {
    using root = new FakeRoot();
    root.write(bashFile, original);
    root.write(environmentFile, "PATH=/usr/bin\nHISTFILE=/root/mine\n");
    for (let times = 0; times < 2; times++) {
      root.apply(bashHistoriesOff);
      root.apply(environmentHistoriesOff);
    }
    expect(root.read(bashFile).endsWith(`# edgeseal: end\n${original}`)).toBe(true);
    expect(root.read(bashFile).match(/PROMPT_COMMAND/g)).toHaveLength(1);
    expect(root.read(environmentFile)).toMatch(/^PATH=\/usr\/bin\nHISTFILE=\/root\/mine\n# edgeseal: /);
    for (const step of historiesBack) root.apply(step);
    expect(root.read(bashFile)).toBe(original);
    expect(root.read(environmentFile)).toBe("PATH=/usr/bin\nHISTFILE=/root/mine\n");
  });

  test("are made where there is no such file", () => {
    using root = new FakeRoot();
    root.apply(environmentHistoriesOff);
    expect(root.read(environmentFile)).toContain("\nPYTHON_HISTORY=/dev/null\n");
  });

  test("are seen as they count: the last of several, and bash's only when whole", () => {
    using root = new FakeRoot();
    root.write(bashFile, original);
    root.write(environmentFile, "PASSWORD=secret\n");
    root.apply(bashHistoriesOff);
    root.apply(environmentHistoriesOff);
    const settings = (): string => root.sh(scratch.observe(inputs).parts.settings ?? "").stdout;
    expect(parse({ settings: settings() })).toMatchObject({ bashHistory: "off", historyVariables });
    expect(settings()).not.toContain("secret");
    root.write(environmentFile, `${root.read(environmentFile)}export HISTFILE="/root/x"\n`);
    root.write(bashFile, root.read(bashFile).replace("export LESSHISTFILE=-\n", ""));
    expect(parse({ settings: settings() })).toMatchObject({
      bashHistory: "on",
      historyVariables: { ...historyVariables, HISTFILE: "/root/x" },
    });
  });
});
