import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { pointsOf } from "../../../provider/device/plan-points.ts";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import type { FakeRoot } from "./fake-root.ts";
import {
  apply,
  differences,
  effects,
  firmwareConfig,
  inputs,
  ourBlock,
  ourLine,
  planFor,
  route,
  stateOf,
  stockConfig,
  stockLine,
  stockRoot,
  validator,
  type Inputs,
} from "./firmware-root.ts";

describe("on a Pi as it comes", () => {
  test("the defaults give the TPM, AppArmor and the memory cgroup; all else stays as it is", () => {
    const root = stockRoot();
    const given = inputs();
    expect(given).toMatchObject({ reboot: "never", tryboot: "auto", commandLine: { absent: [] } });
    expect(stateOf(root, given)).toMatchObject({
      settings: { "dtparam=spi=on": "missing", "dtoverlay=tpm-slb9670": "missing" },
      commandLine: {
        "lsm=landlock,lockdown,yama,integrity,apparmor,bpf": "missing",
        "cgroup_enable=memory": "missing",
      },
      pendingReboot: false,
      tpm: "none",
      appArmor: "disabled",
      memoryCgroup: "disabled",
      lastGood: {},
    });
    apply(root, planFor(root, given));
    expect(root.boot("config.txt")).toBe(stockConfig + ourBlock);
    expect(root.boot("cmdline.txt")).toBe(`${ourLine}\n`);
    expect(root.boot("edgeseal-last-good/config.txt")).toBe(stockConfig);
    expect(root.boot("edgeseal-last-good/cmdline.txt")).toBe(`${stockLine}\n`);
  });

  test("nothing differs then, and it says that a boot is missing", () => {
    const root = stockRoot();
    const given = inputs();
    apply(root, planFor(root, given));
    expect(differences(root, given)).toEqual([]);
    expect(planFor(root, given)).toEqual([]);
    expect(stateOf(root, given).pendingReboot).toBe(true);
    root.reboot();
    effects(root);
    expect(stateOf(root, given)).toMatchObject({
      pendingReboot: false,
      bootedCommandLine: { "cgroup_enable=memory": "present" },
      tpm: "2.0",
      appArmor: "enabled",
      memoryCgroup: "enabled",
      activeLsms: ["capability", "landlock", "yama", "apparmor"],
    });
  });

  test("what is declared and in force already is not written again", () => {
    const root = stockRoot(
      `${stockConfig}[pi5]\ndtoverlay=\ndtparam=spi=on\ndtoverlay=tpm-slb9670\n`,
      `${ourLine}\n`,
    );
    root.reboot();
    expect(planFor(root, inputs())).toEqual([]);
    const given = inputs({ settings: ["dtparam=spi=on", "arm_boost=1"] });
    apply(root, planFor(root, given));
    expect(root.boot("config.txt")).toMatch(/# edgeseal begin.*\n\[all\]\narm_boost=1\n# edgeseal end\n$/);
    expect(differences(root, given)).toEqual([]);
  });
});

describe("what is not ours stays byte for byte", () => {
  test("line ends, comments, bytes that are no UTF-8, a last line without an end", () => {
    const config = "# d\xe9j\xe0 vu\r\n\r\ndtparam=audio=on  \r\n[pi4]\r\nx=1";
    const root = stockRoot(config, `${stockLine}\r\n# a second line\r\n`);
    const given = inputs();
    apply(root, planFor(root, given));
    const text = Buffer.from(root.boot("config.txt"), "utf8").toString("utf8");
    expect(text.endsWith(`x=1\r\n${ourBlock.replaceAll("\n", "\r\n")}`)).toBe(true);
    expect(root.sh(`head -c ${config.length} /boot/firmware/config.txt | base64`).stdout.trim()).toBe(
      Buffer.from(config, "latin1").toString("base64"),
    );
    expect(root.boot("cmdline.txt")).toBe(`${ourLine}\r\n# a second line\r\n`);
    expect(differences(root, given)).toEqual([]);
  });

  test("also when edgeseal's lines are in the middle of the file: they go to its end, where they have the last word", () => {
    const root = stockRoot(`a=1\n${ourBlock}[gpio4=1]\nb=2\ndtparam=spi=off\n`);
    const given = inputs();
    expect(stateOf(root, given).settings["dtparam=spi=on"]).toBe(
      "overridden: config.txt line 10 under [gpio4=1] has 'spi=off'",
    );
    apply(root, planFor(root, given));
    expect(root.boot("config.txt")).toBe(`a=1\n[gpio4=1]\nb=2\ndtparam=spi=off\n${ourBlock}`);
  });

  test("a line that is not declared any more goes, with nothing else", () => {
    const root = stockRoot();
    apply(root, planFor(root, inputs()));
    const given = inputs({ settings: ["dtparam=spi=on"] });
    expect(stateOf(root, given).staleSettings).toEqual(["dtoverlay=tpm-slb9670"]);
    apply(root, planFor(root, given));
    expect(root.boot("config.txt")).toBe(stockConfig + ourBlock.replace("dtoverlay=tpm-slb9670\n", ""));
    const none = inputs({ settings: [] });
    apply(root, planFor(root, none));
    expect(root.boot("config.txt")).toBe(stockConfig);
  });

  test("marks that are no pair are not guessed at", () => {
    const root = stockRoot(`a=1\n${ourBlock.replace("# edgeseal end\n", "")}b=2\n[pi4]\n`);
    const given = inputs({ settings: ["c=1"] });
    expect(() => apply(root, planFor(root, given))).toThrow("are not one pair");
    expect(root.boot("config.txt")).toContain("b=2");
  });

  describe.each([
    ["in reversed order", (begin: string, end: string) => [end, "mine=1", begin, "user=2"]],
    ["two pairs", (begin: string, end: string) => [begin, "mine=1", end, begin, "user=2", end]],
    ["one within the other", (begin: string, end: string) => [begin, "mine=1", begin, "user=2", end]],
    ["an end alone", (_begin: string, end: string) => ["mine=1", end, "user=2"]],
  ])("marks that are no pair: %s", (_, lines) => {
    const [begin = "", end = ""] = ourBlock.split("\n").filter((line) => line.startsWith("#"));
    const text = ["a=1", ...lines(begin, end), "dtoverlay=vc4-kms-v3d", ""].join("\n");

    test.each(["\n", "\r\n"])("nothing is taken for edgeseal's, and nothing is written (%j)", (lineEnd) => {
      const config = text.replaceAll("\n", lineEnd);
      const root = stockRoot(config);
      const given = inputs({ settings: ["c=1", "user=2"], commandLine: { present: [] } });
      expect(stateOf(root, given)).toMatchObject({
        marks: "broken",
        ownSettings: [],
        staleSettings: [],
        settings: { "c=1": "missing", "user=2": "in force" },
        settingsElsewhere: ["user=2"],
      });
      expect(() => apply(root, planFor(root, given))).toThrow("are not one pair");
      expect(root.boot("config.txt")).toBe(config);
    });

    test("they are not taken back without a word", () => {
      const root = stockRoot(text);
      const given = inputs({ settings: [], commandLine: { present: [] } });
      const state = stateOf(root, given);
      expect(() => apply(root, firmwareConfig.revert(given, { outcome: "present", state }))).toThrow(
        "are not one pair",
      );
      expect(root.boot("config.txt")).toBe(text);
    });
  });

  test("a file that changed since it was looked at is not written", () => {
    const root = stockRoot();
    const steps = planFor(root, inputs());
    root.write("/boot/firmware/config.txt", `${stockConfig}# edited\n`);
    root.write("/boot/firmware/cmdline.txt", `${stockLine} quiet\n`);
    const writes = steps.filter((step) => step.precondition !== undefined);
    expect(writes).toHaveLength(2);
    for (const step of writes) expect(root.holds(step)).toBe(false);
  });

  test("nothing is left beside the files, and no file is left half written", () => {
    const root = stockRoot();
    apply(root, planFor(root, inputs()));
    expect(root.sh("find /boot/firmware -name '.*' -o -name '*.kept'").stdout).not.toContain("edgeseal-new");
  });
});

describe("the copy of the last good files", () => {
  test("is of what the node booted with, not of a second edit in the same boot", () => {
    const root = stockRoot();
    apply(root, planFor(root, inputs()));
    apply(root, planFor(root, inputs({ settings: ["dtparam=spi=on", "arm_boost=1"] })));
    expect(root.boot("edgeseal-last-good/config.txt")).toBe(stockConfig);
    root.reboot();
    apply(root, planFor(root, inputs({ settings: [] })));
    expect(root.boot("edgeseal-last-good/config.txt")).toContain("arm_boost=1");
    expect(root.boot("edgeseal-last-good/cmdline.txt")).toBe(`${ourLine}\n`);
  });

  test("is not of a command line that was edited since the boot: nobody knows whether it boots", () => {
    const root = stockRoot();
    root.write("/boot/firmware/cmdline.txt", `${stockLine} edited_by_hand\n`);
    apply(root, planFor(root, inputs()));
    expect(root.exists("/var/boot/edgeseal-last-good/cmdline.txt")).toBe(false);
    expect(root.exists("/var/boot/edgeseal-last-good/config.txt")).toBe(true);
  });

  test("is named with its digests", () => {
    const root = stockRoot();
    apply(root, planFor(root, inputs()));
    const { lastGood } = stateOf(root, inputs());
    expect(Object.keys(lastGood).sort()).toEqual(["cmdline.txt", "config.txt"]);
  });
});

describe("a pending reboot", () => {
  const given = inputs({ reboot: "ifNeeded", tryboot: "never" });

  test("is made when it may be, at the end", () => {
    const root = stockRoot();
    const steps = planFor(root, given);
    expect(steps.at(-1)).toMatchObject({ kind: "reboot", unapproved: "refuse" });
    expect(() => pointsOf(steps, "n")).not.toThrow();
    apply(root, steps);
    effects(root);
    expect(differences(root, given)).toEqual([]);
    expect(planFor(root, given)).toEqual([]);
  });

  test("is made by the next plan when this one could not", () => {
    const root = stockRoot();
    apply(root, planFor(root, inputs()));
    expect(planFor(root, given).map(({ kind }) => kind)).toEqual(["reboot"]);
    expect(differences(root, given)).toContain("pendingReboot");
  });

  test("is none when the edit is taken back before the boot", () => {
    const root = stockRoot();
    apply(root, planFor(root, inputs({ commandLine: { present: [] } })));
    expect(stateOf(root, given).pendingReboot).toBe(true);
    apply(root, planFor(root, inputs({ settings: [], commandLine: { present: [] } })));
    expect(stateOf(root, inputs({ settings: [], commandLine: { present: [] } })).pendingReboot).toBe(false);
  });

  test("does not come of what no boot would change: that is refused, with the mend", () => {
    const root = stockRoot();
    apply(root, planFor(root, given));
    effects(root);
    root.remove("/sys/class/tpm/tpm0");
    expect(stateOf(root, given)).toMatchObject({ pendingReboot: false, tpm: "none" });
    expect(() => planFor(root, given)).toThrow(PlanRefused);
    expect(() => planFor(root, given)).toThrow(
      /tpm is "none" and has to be "2.0".*see that a TPM 2.0 is plugged in/,
    );
  });

  test("nor of a parameter that the firmware adds: it would boot for ever", () => {
    const root = stockRoot();
    const absent = inputs({
      reboot: "ifNeeded",
      tryboot: "never",
      commandLine: { present: [], absent: ["cgroup_disable=memory"] },
      settings: [],
    });
    expect(stateOf(root, absent)).toMatchObject({ pendingReboot: false });
    expect(() => planFor(root, absent)).toThrow(PlanRefused);
  });

  test("outside its window is only told", () => {
    const root = stockRoot();
    const late = inputs({ reboot: "window", rebootWindow: "Mon 02:00-04:00" });
    expect(planFor(root, late).map(({ kind }) => kind)).not.toContain("reboot");
    const within = inputs({ reboot: "window", rebootWindow: "Sun 02:00-04:00" });
    expect(planFor(root, within).map(({ kind }) => kind)).toContain("reboot");
  });
});

test.each([0, 1])(
  "a measured node keeps a copy of what it boots before that is changed, and is changed without (%i)",
  (status) => {
    const root = stockRoot();
    root.write("/usr/lib/edgeseal/measure", "");
    root.write(
      "/usr/lib/edgeseal/keep-boot",
      `#!/bin/sh\necho "keep-boot $*" >>"@ROOT/calls"\ncp @ROOT/var/boot/config.txt @ROOT/kept\nexit ${status}\n`,
    );
    chmodSync(join(root.root, "usr/lib/edgeseal/keep-boot"), 0o755);
    apply(root, planFor(root, inputs()));
    expect(root.calls().filter((call) => call.startsWith("keep-boot"))).toEqual(["keep-boot keep"]);
    expect(root.read("/kept")).toBe(stockConfig);
    expect(root.boot("config.txt")).toBe(stockConfig + ourBlock);
    expect(planFor(root, inputs())).toEqual([]);
  },
);

describe("taking it back", () => {
  const revert = (root: FakeRoot, given: Inputs): readonly Step[] =>
    firmwareConfig.revert(given, { outcome: "present", state: stateOf(root, given) });

  test("leaves the files as they were before", () => {
    const root = stockRoot();
    const given = inputs({
      commandLine: { present: ["lsm=apparmor", "fsck.repair=no"], absent: ["rootwait"] },
    });
    apply(root, planFor(root, given));
    expect(root.boot("cmdline.txt")).not.toBe(`${stockLine}\n`);
    apply(root, revert(root, given));
    expect(root.boot("config.txt")).toBe(stockConfig);
    expect(root.boot("cmdline.txt").trim().split(" ").sort()).toEqual(stockLine.split(" ").sort());
    expect(revert(root, given)).toEqual([]);
  });
});

describe("what can't be told is unknown", () => {
  test("a boot partition that is not mounted", () => {
    const root = stockRoot();
    root.write("/etc/fstab", "PARTUUID=4f1c-01 @ROOT/var/boot vfat defaults 0 2\n");
    expect(() => stateOf(root, inputs())).toThrow(UnknownObservation);
    expect(() => stateOf(root, inputs())).toThrow("is in /etc/fstab and is not mounted");
  });

  test("no boot partition of a Pi is absence, and the plan says what that means", () => {
    const root = stockRoot();
    root.remove("/var/boot/config.txt");
    const observed = root.observe(firmwareConfig.observe(inputs()));
    expect(observed).toEqual({ outcome: "absent" });
    expect(() => firmwareConfig.plan(inputs(), observed, route)).toThrow("no /boot/firmware/config.txt");
  });

  test("a TPM of no known version", () => {
    const root = stockRoot();
    root.write("/sys/class/tpm/tpm0/tpm_version_major", "7\n");
    expect(() => stateOf(root, inputs())).toThrow("'7'");
  });
});

test.each([
  ["bytes that are no ASCII", `${stockLine} x=\xe9\n`, "printable ASCII"],
  ["no room", `${"x".repeat(2000)}\n`, "and the kernel takes 2047"],
])("a command line with %s is not edited", (_, line, message) => {
  const root = stockRoot(stockConfig, line);
  expect(() => planFor(root, inputs())).toThrow(message);
});

test("a command line whose file is missing is not made up", () => {
  const root = stockRoot();
  root.remove("/var/boot/cmdline.txt");
  expect(() => planFor(root, inputs())).toThrow("has no cmdline.txt");
});

test("config.txt may name another file for it", () => {
  const root = stockRoot(`${stockConfig}cmdline=other.txt\n`);
  root.write("/boot/firmware/other.txt", "root=x\n");
  root.reboot("root=x");
  const given = inputs({ settings: [], commandLine: { present: ["quiet"] } });
  apply(root, planFor(root, given));
  expect(root.boot("other.txt")).toBe("root=x quiet\n");
  expect(root.boot("cmdline.txt")).toBe(`${stockLine}\n`);
});

describe("inputs that can't be meant are faults, each with its path", () => {
  const problems = (given: object): readonly string[] => {
    const connection = { node: "pi-1", address: "192.0.2.1", hostKey: `SHA256:${"A".repeat(43)}` };
    const checked = validator.validate({ connection, ...given }, []);
    if (checked.problems.length > 0) return checked.problems.map(({ path }) => path);
    return (firmwareConfig.check?.(checked.inputs as never) ?? []).map(({ path }) => path);
  };
  test.each<[string, object, readonly string[]]>([
    ["a line feed in a setting", { settings: ["a=1\nb=2"] }, ["settings[0]"]],
    ["a NUL in a setting", { settings: ["a=1\0"] }, ["settings[0]"]],
    ["a section", { settings: ["[pi5]"] }, ["settings[0]"]],
    ["a comment in a setting", { settings: ["a=1 # x"] }, ["settings[0]"]],
    ["more than the firmware reads", { settings: [`a=${"1".repeat(97)}`] }, ["settings[0]"]],
    ["another file for the command line", { settings: ["cmdline=x.txt"] }, ["settings[0]"]],
    ["two parameters in one line", { settings: ["dtparam=spi=on,i2c=on"] }, ["settings[0]"]],
    ["two values", { settings: ["a=1", "a=2"] }, ["settings[1]"]],
    ["two values of a parameter", { settings: ["dtparam=spi=on", "dtparam=spi=off"] }, ["settings[1]"]],
    ["white space in a parameter", { commandLine: { present: ["a b"] } }, ["commandLine.present[0]"]],
    ["a line feed in a parameter", { commandLine: { absent: ["a\nb"] } }, ["commandLine.absent[0]"]],
    ["the end of the parameters", { commandLine: { present: ["--"] } }, ["commandLine.present[0]"]],
    ["a trial's own", { commandLine: { present: ["edgeseal.trial=1"] } }, ["commandLine.present[0]"]],
    ["present and absent", { commandLine: { present: ["a=1"], absent: ["a"] } }, ["commandLine.absent[0]"]],
    ["a window that is missing", { reboot: "window" }, ["rebootWindow"]],
    ["something unknown", { commandLine: { presnt: [] } }, ["commandLine.presnt"]],
  ])("%s", (_, given, paths) => {
    expect(problems(given)).toEqual(paths);
  });

  test("several overlays, and quotes with white space, are none", () => {
    expect(
      problems({
        settings: ["dtoverlay=a", "dtoverlay=b"],
        commandLine: { present: ['dyndbg="file x +p"'] },
      }),
    ).toEqual([]);
  });
});
