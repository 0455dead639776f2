import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { pointsOf } from "../../../provider/device/plan-points.ts";
import type { RebootStep, Step } from "../../../provider/device/step.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { diffLogs } from "../../../provider/trust/event-diff.ts";
import { eventText, logObjections, parseEventLog } from "../../../provider/trust/event-log.ts";
import {
  apply,
  ask,
  differences,
  effects,
  inputs,
  ourBlock,
  ourLine,
  planFor,
  stateOf,
  stockConfig,
  stockLine,
  stockRoot,
  type Inputs,
  type PiRoot,
} from "./firmware-root.ts";

/* An edit that is tried by tryboot.txt: on nodes whose boots are not measured, and on such whose are; and what is left of it wherever it is cut off. */

// Each boot and each prediction is a program that starts others.
vi.setConfig({ testTimeout: 120_000 });

const edit = "/var/lib/edgeseal/firmware-edit";
const given = inputs({ reboot: "ifNeeded" });
const trialBoot = (root: PiRoot): void => root.reboot(root.boot("edgeseal-trial.txt"));
const titles = (steps: readonly Step[]): readonly string[] => steps.map(({ title }) => title);
const titlesFor = (root: PiRoot, declared: Inputs): readonly string[] => titles(planFor(root, declared));

const rebootOf = (steps: readonly Step[]): RebootStep => {
  const last = steps.at(-1);
  return last?.kind === "reboot" ? last : expect.fail("no reboot");
};
const trying = (root: PiRoot, declared = given): RebootStep | undefined => {
  const last = planFor(root, declared).at(-1);
  return last?.kind === "reboot" && last.tryboot === true ? last : undefined;
};

function trialRoot(): PiRoot {
  const root = stockRoot();
  root.write("/proc/device-tree/chosen/bootloader/tryboot", Buffer.alloc(4));
  return root;
}

/** A node that was asked for the boot on trial, and did not go down yet; and that reboot. */
function askedFor(root = trialRoot()): { readonly root: PiRoot; readonly reboot: RebootStep } {
  const steps = planFor(root, given);
  apply(root, steps.slice(0, -1));
  const reboot = rebootOf(steps);
  ask(root, reboot);
  return { root, reboot };
}

const expectAsBefore = (root: PiRoot): void => {
  expect(root.boot("config.txt")).toBe(stockConfig);
  expect(root.boot("cmdline.txt")).toBe(`${stockLine}\n`);
};
const expectEdited = (root: PiRoot): void => {
  expect(root.boot("config.txt")).toBe(stockConfig + ourBlock);
  expect(root.boot("cmdline.txt")).toBe(`${ourLine}\n`);
};
const left = (root: PiRoot): string =>
  root.sh("cd /boot/firmware; find . -type f ! -name 'c*.txt'; ls -A /var/lib/edgeseal").stdout;

const failedWords = "the node booted as before, not with the edit";

describe("a trial", () => {
  test("leaves config.txt and cmdline.txt alone until the node is back, then makes the edit its own", () => {
    const root = trialRoot();
    const steps = planFor(root, given);
    expect(titles(steps)).toEqual([
      "make /usr/lib/edgeseal",
      "write /usr/lib/edgeseal/firmware-trial",
      "stage the edit for its trial",
      "write /etc/systemd/system/edgeseal-trial.service",
      "write /etc/systemd/system/edgeseal-trial-end.service",
      "enable the units that end a trial",
      "reboot on trial with the edit of config.txt and cmdline.txt",
    ]);
    expect(() => pointsOf(steps, "n")).not.toThrow();
    apply(root, steps.slice(0, -1));
    expectAsBefore(root);
    expect(root.sh("ls /boot/firmware").stdout).toBe("cmdline.txt\nconfig.txt\n");

    ask(root, rebootOf(steps));
    expectAsBefore(root);
    expect(root.boot("tryboot.txt")).toBe(
      `${stockConfig}${ourBlock}\n# edgeseal trial\n[all]\ncmdline=edgeseal-trial.txt\n`,
    );
    expect(root.boot("edgeseal-trial.txt")).toMatch(
      /^console=.* cgroup_enable=memory edgeseal\.trial=[0-9a-f]{16}\n$/,
    );
    trialBoot(root);
    apply(root, [...(rebootOf(steps).afterwards ?? [])]);
    effects(root);
    expectEdited(root);
    expect(left(root)).toBe("firmware-config\n");
    expect(root.boot("edgeseal-last-good/config.txt")).toBe(stockConfig);
    expect(root.boot("edgeseal-last-good/cmdline.txt")).toBe(`${stockLine}\n`);
    expect(root.exists("/run/edgeseal/trial-kept")).toBe(true);
    expect(stateOf(root, given)).toMatchObject({ formerCommandLine: stockLine, trialEnds: false });
    expect(differences(root, given)).toEqual([]);
    expect(planFor(root, given)).toEqual([]);
  });

  test("that nobody kept, since the provider was gone, is kept by the next plan in the same boot", () => {
    const { root } = askedFor();
    trialBoot(root);
    effects(root);
    expect(titlesFor(root, given)).toEqual([
      "make /usr/lib/edgeseal",
      "write /usr/lib/edgeseal/firmware-trial",
      "see whether this boot is the trial, and keep the edit",
    ]);
    apply(root, planFor(root, given));
    expectEdited(root);
    expect(differences(root, given)).toEqual([]);
  });

  test("that failed leaves the node as it was, and says so", () => {
    const { root, reboot } = askedFor();
    root.reboot();
    expect(root.trial("settle")).toBe(0);
    expectAsBefore(root);
    expect(left(root)).toBe("firmware-edit\n");
    expect(root.calls().join()).not.toContain("reboot");
    expect(stateOf(root, given)).toMatchObject({ stagedPhase: "failed", pendingReboot: true });
    const [keep] = reboot.afterwards ?? [];
    if (keep === undefined) throw new Error("nothing afterwards");
    expect(() => root.apply(keep)).toThrow(failedWords);
    expect(trying(root)).toBeDefined();
  });

  test("that failed without anybody there is told of by the next plan, once", () => {
    const { root } = askedFor();
    root.reboot();
    root.trial("settle");
    expect(() => apply(root, planFor(root, given))).toThrow(failedWords);
    expect(stateOf(root, given).stagedPhase).toBe("staged");
    expect(titlesFor(root, given)).not.toContain("stage the edit for its trial");
    expect(trying(root)).toBeDefined();
  });

  test("whose end the next boot could not bring about is brought to it by the next plan", () => {
    const { root } = askedFor();
    root.reboot();
    expect(() => apply(root, planFor(root, given))).toThrow(failedWords);
    expect(left(root)).toBe("firmware-edit\n");
    expect(trying(root)).toBeDefined();
  });

  test("that is not granted leaves nothing on the boot partition", () => {
    const { root, reboot } = askedFor();
    expect(root.sh(reboot.prepare?.undo ?? "exit 1").code).toBe(0);
    expectAsBefore(root);
    expect(left(root)).toBe("firmware-edit\n");
    expect(stateOf(root, given).stagedPhase).toBe("staged");
  });

  test("in a folder of os_prefix has its command line there", () => {
    const root = trialRoot();
    root.write("/boot/firmware/config.txt", `${stockConfig}os_prefix=good/\n`);
    root.write("/boot/firmware/good/cmdline.txt", `${stockLine}\n`);
    root.reboot();
    const { reboot } = askedFor(root);
    expect(root.boot("good/edgeseal-trial.txt")).toContain("edgeseal.trial=");
    root.reboot(root.boot("good/edgeseal-trial.txt"));
    apply(root, [...(reboot.afterwards ?? [])]);
    expect(root.boot("good/cmdline.txt")).toBe(`${ourLine}\n`);
    expect(root.sh("find /boot/firmware -name '*trial*'").stdout).toBe("");
  });

  test("has its own parameter before those of init", () => {
    const root = trialRoot();
    root.write("/boot/firmware/cmdline.txt", `${stockLine} -- emergency\n`);
    root.reboot();
    askedFor(root);
    expect(root.boot("edgeseal-trial.txt")).toMatch(/ edgeseal\.trial=[0-9a-f]{16} -- emergency\n$/);
  });

  test.each<[string, (root: PiRoot) => void]>([
    ["the firmware does not say that it can", (root) => root.remove("/proc/device-tree/chosen")],
    ["somebody else has a tryboot.txt", (root) => root.write("/boot/firmware/tryboot.txt", "x=1\n")],
    [
      "there are A/B partitions",
      (root) => root.write("/boot/firmware/autoboot.txt", "[all]\ntryboot_a_b=1\n"),
    ],
  ])("is not made when %s", (_, change) => {
    const root = trialRoot();
    expect(trying(root)).toBeDefined();
    change(root);
    expect(trying(root)).toBeUndefined();
    expect(planFor(root, given).at(-1)?.kind).toBe("reboot");
  });

  test.each<[string, (root: PiRoot) => void, string]>([
    [
      "somebody has put a tryboot.txt there since",
      (root) => root.write("/boot/firmware/tryboot.txt", "x=1\n"),
      "tryboot.txt of somebody else",
    ],
    [
      "an update of the node is under way",
      (root) => root.write("/var/lib/edgeseal/boot/armed", "phase=judging\n"),
      "bring that to its end first",
    ],
    [
      "a file was changed since",
      (root) => root.write("/boot/firmware/config.txt", `${stockConfig}# by hand\n`),
      "changed since the edit was staged",
    ],
    ["what is staged was changed", (root) => root.write(`${edit}/files/config.txt`, "x=1\n"), "not whole"],
  ])("is not begun when %s", (_, change, message) => {
    const root = trialRoot();
    const steps = planFor(root, given);
    apply(root, steps.slice(0, -1));
    change(root);
    const { code, stderr } = root.sh(rebootOf(steps).prepare?.script ?? "");
    expect(code).toBe(1);
    expect(stderr).toContain(message);
    expect(root.exists("/var/boot/edgeseal-trial.txt")).toBe(false);
  });

  test("is made where the firmware does not say that it can, when it is asked for; and not where none is asked for", () => {
    const root = stockRoot();
    expect(trying(root, inputs({ reboot: "ifNeeded", tryboot: "always" }))).toBeDefined();
    expect(titlesFor(trialRoot(), inputs({ tryboot: "never" }))).toEqual([
      "keep the files of this boot in /boot/firmware/edgeseal-last-good",
      "write edgeseal's lines in /boot/firmware/config.txt",
      "write /boot/firmware/cmdline.txt",
      "see whether the next boot is an approved one",
    ]);
    expect(titlesFor(trialRoot(), inputs({ tryboot: "never", reboot: "ifNeeded" })).at(-1)).toBe(
      "reboot, so that config.txt and cmdline.txt take effect",
    );
  });
});

describe("an edit that waits for its window", () => {
  const late = inputs({ reboot: "window", rebootWindow: "Mon 02:00-04:00" });
  const within = inputs({ reboot: "window", rebootWindow: "Sun 02:00-04:00" });
  const waiting = (): PiRoot => {
    const root = trialRoot();
    apply(root, planFor(root, late));
    return root;
  };

  test("is no part of what boots, and is what is asked for, with a boot missing", () => {
    const root = waiting();
    expectAsBefore(root);
    expect(differences(root, late)).toEqual([]);
    expect(stateOf(root, late)).toMatchObject({
      pendingReboot: true,
      stagedPhase: "staged",
      settings: { "dtparam=spi=on": "in force" },
      settingsWritten: { "dtparam=spi=on": "missing" },
      commandLine: { "cgroup_enable=memory": "present" },
      commandLineText: stockLine,
    });
    expect(differences(root, within)).toContain("pendingReboot");
  });

  test("is tried then, as it was staged", () => {
    const root = waiting();
    expect(titlesFor(root, within)).not.toContain("stage the edit for its trial");
    apply(root, planFor(root, within));
    effects(root);
    expectEdited(root);
    expect(differences(root, within)).toEqual([]);
  });

  test("gives way to another one: what that is to boot is made from the boot partition, not from what waited", () => {
    const root = waiting();
    const other = inputs({
      reboot: "window",
      rebootWindow: "Mon 02:00-04:00",
      settings: ["arm_boost=1"],
      commandLine: { present: ["quiet"] },
    });
    expect(differences(root, other)).toContain("staleSettings");
    apply(root, planFor(root, other));
    expect(differences(root, other)).toEqual([]);
    expect(root.read(`${edit}/files/cmdline.txt`)).toBe(`${stockLine} quiet\n`);
    expect(root.read(`${edit}/files/config.txt`)).not.toContain("spi=on");
  });

  test("is forgotten when nothing is asked for any more", () => {
    const root = waiting();
    const none = inputs({ reboot: "ifNeeded", settings: [], commandLine: { present: [] } });
    expect(titlesFor(root, none)).toEqual([
      "make /usr/lib/edgeseal",
      "write /usr/lib/edgeseal/firmware-trial",
      "forget the edit that waits for its trial",
    ]);
    apply(root, planFor(root, none));
    expect(differences(root, none)).toEqual([]);
    expect(left(root)).toBe("");
  });

  test("waits on where edgeseal may not reboot at all: whoever reboots the node, it boots as before", () => {
    const root = trialRoot();
    const never = inputs();
    const steps = planFor(root, never);
    expect(titles(steps)).toEqual(titlesFor(root, late));
    apply(root, steps);
    root.reboot();
    expectAsBefore(root);
    expect(left(root)).toBe("firmware-edit\n");
    expect(differences(root, never)).toEqual([]);
    expect(stateOf(root, never)).toMatchObject({ pendingReboot: true, stagedPhase: "staged" });
    expect(trying(root)).toBeDefined();
  });

  test("is written in place when no trial is asked for any more", () => {
    const root = waiting();
    const inPlace = inputs({ tryboot: "never" });
    expect(differences(root, inPlace)).toEqual(["staged"]);
    apply(root, planFor(root, inPlace));
    expectEdited(root);
    expect(root.exists(edit)).toBe(false);
    expect(differences(root, inPlace)).toEqual([]);
  });

  test.each<[string, (root: PiRoot) => void]>([
    ["a file was changed by hand", (root) => root.write("/boot/firmware/config.txt", `${stockConfig}# x\n`)],
    ["it is not whole", (root) => root.write(`${edit}/files/config.txt`, "x=1\n")],
    ["it was being staged when the power went", (root) => root.remove(`${edit}/name`)],
  ])("is none when %s, and is staged anew", (_, change) => {
    const root = waiting();
    change(root);
    expect(stateOf(root, late)).toMatchObject({ staged: "", settings: { "dtparam=spi=on": "missing" } });
    apply(root, planFor(root, late));
    expect(differences(root, late)).toEqual([]);
    expect(root.boot("config.txt")).not.toContain("spi=on");
  });

  test("what is there and is none of edgeseal's makes the state unknown", () => {
    const root = waiting();
    root.write(`${edit}/phase`, "whatever\n");
    expect(() => stateOf(root, late)).toThrow("none that edgeseal has staged");
  });
});

/** A node whose boots are measured, and what it would measure. */
class MeasuredPi {
  readonly root: PiRoot;
  readonly before: string;

  constructor() {
    this.root = trialRoot();
    this.root.write("/usr/lib/edgeseal/measure", "");
    this.root.write("/etc/edgeseal/measure.conf", "NODE=pi-1\n");
    this.root.write("/proc/uptime", "6.12 20.5\n");
    this.root.write("/boot/firmware/kernel_2712.img", "kernel");
    this.plainBoot();
    this.before = this.next();
  }

  /** What the next boot measures. */
  next(...more: readonly string[]): string {
    const log = this.root.measureNext(...more);
    expect(logObjections(parseEventLog(log), "pi-1")).toEqual([]);
    return log;
  }

  predicted(): string {
    return this.next("--with", join(this.root.root, edit, "files"));
  }

  /** A boot, as far as the initramfs. */
  measuredBoot(): void {
    this.root.reboot();
    this.root.write("/run/edgeseal/measured/cmdline", "serial0\ncoherent_pool=1M cgroup_disable=memory \n");
    this.root.write("/run/edgeseal/measured/log", this.root.measureNext());
  }

  /** A boot as it comes, with the one that the node itself makes after it. @returns how many that were */
  plainBoot(): number {
    for (let boots = 0; ; boots++) {
      this.root.remove("/calls");
      this.measuredBoot();
      if (this.root.trial("settle") === null) throw new Error("cut off");
      if (!this.root.calls().join().includes("reboot")) return boots;
      expect(boots, "boots that the node makes by itself").toBeLessThan(1);
    }
  }

  /** A boot on trial, whose command line and device tree are its own. */
  trialBoot(): void {
    trialBoot(this.root);
    this.root.write("/proc/device-tree/chosen/bootloader/tryboot", Buffer.from("00000001", "hex"));
    this.root.write("/run/edgeseal/measured/log", "");
  }

  /** The trial is over. */
  endTrialBoot(): void {
    this.root.write("/proc/device-tree/chosen/bootloader/tryboot", Buffer.alloc(4));
  }

  /** Up to the reboot on trial, with the trial's files in place. */
  begun(): RebootStep {
    const steps = planFor(this.root, given);
    apply(this.root, steps.slice(0, -1));
    ask(this.root, rebootOf(steps));
    return rebootOf(steps);
  }
}

describe("where boots are measured", () => {
  test("what has to be approved is the boot after the trial, and nothing is on the boot partition before it is", () => {
    const pi = new MeasuredPi();
    const steps = planFor(pi.root, given);
    expect(titles(steps)).toContain("keep a copy of the boot partition, if it is approved");
    expect(rebootOf(steps)).toMatchObject({
      title: expect.stringContaining("sealed volumes stay locked in that boot") as unknown,
      unapproved: "refuse",
      approvedWith: `${edit}/files`,
      afterwards: [{ kind: "run" }, { kind: "reboot", title: "reboot into the approved state" }],
    });
    expect(() => pointsOf(steps, "n")).not.toThrow();
    apply(pi.root, steps.slice(0, -1));
    expect(pi.next()).toBe(pi.before);
    expect(pi.plainBoot()).toBe(0);
    expect(pi.next()).toBe(pi.before);
    const [from, to] = [pi.before, pi.predicted()].map((log) => parseEventLog(log).events);
    expect(diffLogs(from ?? [], to ?? []).map((change) => `${change.change} ${eventText(change)}`)).toEqual([
      "changed file cmdline.txt",
      "changed file config.txt",
      "added tree edgeseal-last-good",
      "changed tree /",
      "changed cmdline",
    ]);
  });

  test("the node ends in the state that was predicted", () => {
    const pi = new MeasuredPi();
    const steps = planFor(pi.root, given);
    apply(pi.root, steps.slice(0, -1));
    const predicted = pi.predicted();
    const reboot = rebootOf(steps);
    ask(pi.root, reboot);
    pi.trialBoot();
    apply(pi.root, [...(reboot.afterwards ?? [])].slice(0, 1));
    // A boot to leave: its end is not held up.
    expect(pi.root.exists("/run/edgeseal/trial-kept")).toBe(false);
    pi.endTrialBoot();
    expect(pi.plainBoot()).toBe(0);
    expect(pi.next()).toBe(predicted);
    effects(pi.root);
    expectEdited(pi.root);
    expect(differences(pi.root, given)).toEqual([]);
  });

  test("an edit whose approval is missing waits, and is not staged anew", () => {
    const pi = new MeasuredPi();
    apply(pi.root, planFor(pi.root, given).slice(0, -1));
    const waits = pi.predicted();
    expect(stateOf(pi.root, given)).toMatchObject({ pendingReboot: true, stagedPhase: "staged" });
    apply(pi.root, planFor(pi.root, given).slice(0, -1));
    expect(pi.predicted()).toBe(waits);
  });

  test("a trial that failed is out of the way after one boot more, and told of", () => {
    const pi = new MeasuredPi();
    pi.begun();
    expect(pi.root.measureNext()).not.toBe(pi.before);
    expect(pi.plainBoot()).toBe(1);
    expect(pi.next()).toBe(pi.before);
    expect(() => apply(pi.root, planFor(pi.root, given))).toThrow(failedWords);
    expect(pi.plainBoot()).toBe(0);
    expect(trying(pi.root)).toBeDefined();
  });

  test("a boot partition that can't be written to has the node boot as often as any other does", () => {
    const pi = new MeasuredPi();
    pi.begun();
    pi.root.write("/bin/rm", "#!/bin/sh\nexit 1\n");
    pi.root.sh(`chmod 755 ${pi.root.root}/bin/rm`);
    expect(pi.plainBoot()).toBe(0);
    expect(pi.root.exists("/var/boot/tryboot.txt")).toBe(true);
  });

  test.each(["kernel_2712.img", "initramfs_2712"])(
    "a trial in which %s is written is not kept, and the state that then is has to be approved",
    (name) => {
      const pi = new MeasuredPi();
      const { afterwards = [] } = pi.begun();
      pi.trialBoot();
      pi.root.write(`/boot/firmware/${name}`, "of an upgrade meanwhile");
      for (const steps of [afterwards, planFor(pi.root, given)])
        expect(() => apply(pi.root, steps)).toThrow(
          new RegExp(`not kept: .* so what would boot is not what was approved: ${name}\\. `),
        );
      expect(pi.root.exists(`${edit}/phase`)).toBe(true);
      expect(pi.root.boot("config.txt")).not.toContain("spi=on");
      pi.endTrialBoot();
      expect(pi.plainBoot()).toBe(1);
      expect(() => apply(pi.root, planFor(pi.root, given))).toThrow(failedWords);
      expect(rebootOf(planFor(pi.root, given))).toMatchObject({
        unapproved: "refuse",
        approvedWith: `${edit}/files`,
      });
    },
  );

  test("in the boot on trial the next plan keeps it, and boots again; once it is kept it only boots again", () => {
    const pi = new MeasuredPi();
    const { afterwards = [] } = pi.begun();
    pi.trialBoot();
    expect(titlesFor(pi.root, given)).toEqual([
      "make /usr/lib/edgeseal",
      "write /usr/lib/edgeseal/firmware-trial",
      "see whether this boot is the trial, and keep the edit",
      "reboot into the approved state",
    ]);
    apply(pi.root, [...afterwards].slice(0, 1));
    expect(stateOf(pi.root, given)).toMatchObject({ trialEnds: true, pendingReboot: true, staged: "" });
    expect(planFor(pi.root, given)).toMatchObject([
      { title: "reboot into the approved state", unapproved: "unasked" },
    ]);
  });

  test("in the boot on trial of another edit nothing is planned", () => {
    const pi = new MeasuredPi();
    pi.begun();
    pi.trialBoot();
    const other = inputs({ reboot: "ifNeeded", settings: ["arm_boost=1"] });
    expect(() => planFor(pi.root, other)).toThrow(PlanRefused);
    expect(() => planFor(pi.root, other)).toThrow("ends by itself, 5 minutes after it began");
    expect(logObjections(parseEventLog(pi.root.measureNext()), "pi-1")).not.toEqual([]);
  });
});

/* An interruption is a kill of the whole group of processes, as a power cut ends them, before each of the programs that write is run. */
describe("the power goes anywhere", () => {
  const writers = ["mv", "cp", "rm", "sync", "mkdir"];
  const timeout = 300_000;

  function cutAnywhere(pi: MeasuredPi, act: () => number | null, check: (isWhole: boolean) => void): number {
    const { root } = pi.root;
    const saved = `${root}.saved`;
    const copy = { recursive: true, preserveTimestamps: true, verbatimSymlinks: true } as const;
    cpSync(root, saved, copy);
    try {
      for (let cut = 1; ; cut++) {
        const count = join(root, "writes");
        writeFileSync(count, "0");
        for (const name of writers) {
          pi.root.write(
            `/bin/${name}`,
            `#!/bin/sh\nread -r n <"${count}"; n=$((n + 1)); echo "$n" >"${count}"; [ "$n" -ne ${cut} ] || kill -9 0; exec /bin/${name} "$@"\n`,
          );
          pi.root.sh(`chmod 755 ${root}/bin/${name}`);
        }
        const code = act();
        for (const name of writers) pi.root.remove(`/bin/${name}`);
        check(code !== null);
        if (code !== null) return cut - 1;
        rmSync(root, { recursive: true });
        cpSync(saved, root, copy);
      }
    } finally {
      rmSync(saved, { recursive: true, force: true });
    }
  }

  const staged = (): { readonly pi: MeasuredPi; readonly predicted: string; readonly name: string } => {
    const pi = new MeasuredPi();
    apply(pi.root, planFor(pi.root, given).slice(0, -1));
    return { pi, predicted: pi.predicted(), name: stateOf(pi.root, given).staged };
  };

  test("before the trial: the node is as before, and the next plan goes on", { timeout }, () => {
    const { pi, name } = staged();
    const cuts = cutAnywhere(
      pi,
      () => pi.root.trial("begin", name),
      () => {
        expect(pi.plainBoot()).toBeLessThanOrEqual(1);
        expect(pi.next()).toBe(pi.before);
        const { stagedPhase, staged: waiting } = stateOf(pi.root, given);
        expect(waiting).toBe(name);
        expect(["staged", "failed"]).toContain(stagedPhase);
      },
    );
    expect(cuts).toBeGreaterThan(8);
  });

  test("when a failed one is cleared away: the node is as before", { timeout }, () => {
    const { pi, name } = staged();
    pi.root.trial("begin", name);
    pi.measuredBoot();
    const cuts = cutAnywhere(
      pi,
      () => pi.root.trial("settle"),
      () => {
        pi.plainBoot();
        expect(pi.next()).toBe(pi.before);
        expect(stateOf(pi.root, given).stagedPhase).toBe("failed");
      },
    );
    expect(cuts).toBeGreaterThan(4);
  });

  test("while it is kept: the node is as before, or in the state that was predicted", { timeout }, () => {
    const { pi, name, predicted } = staged();
    pi.root.trial("begin", name);
    pi.trialBoot();
    const ends = { before: 0, after: 0 };
    const cuts = cutAnywhere(
      pi,
      () => pi.root.trial("keep", name),
      (isWhole) => {
        pi.endTrialBoot();
        pi.plainBoot();
        const is = pi.next() === pi.before ? "before" : "after";
        ends[is]++;
        if (is === "after") {
          expect(pi.next()).toBe(predicted);
          expect(stateOf(pi.root, given).staged).toBe("");
          // There is no way back from it.
          expect(pi.plainBoot()).toBe(0);
        } else expect([ends.after, isWhole]).toEqual([0, false]);
      },
    );
    expect(cuts).toBeGreaterThan(20);
    expect(ends.before).toBeGreaterThan(0);
    expect(ends.after).toBeGreaterThan(15);
  });

  test("while the next boot brings that to its end: the one after it goes on", { timeout }, () => {
    const { pi, name, predicted } = staged();
    pi.root.trial("begin", name);
    pi.trialBoot();
    // Cut off at its first rename: config.txt is the edit's, cmdline.txt the former.
    pi.root.write(`${edit}/phase`, "kept\n");
    pi.root.sh(`cp ${edit}/files/config.txt /boot/firmware/config.txt`);
    pi.endTrialBoot();
    pi.measuredBoot();
    const cuts = cutAnywhere(
      pi,
      () => pi.root.trial("settle"),
      () => {
        pi.plainBoot();
        expect(pi.next()).toBe(predicted);
        expect(pi.root.sh("ls -A /boot/firmware").stdout).not.toMatch(/new|tryboot|trial/);
      },
    );
    expect(cuts).toBeGreaterThan(10);
  });
});
