import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import type { AppArmorProfileInputs } from "../../../provider/resources/apparmor-profile-inputs.ts";
import type { AppArmorProfileState } from "../../../provider/resources/apparmor-profile-observation.ts";
import {
  appArmorDocument,
  innerRules,
  outerRules,
} from "../../../provider/resources/apparmor-profile-rules.ts";
import { appArmorProfile } from "../../../provider/resources/apparmor-profile.ts";
import { addPayload, addPrograms, processFiles, rootWithInit } from "./container-root.ts";
import type { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const wanted: AppArmorProfileInputs = {
  name: "inference",
  modelDirectory: "/srv/models/models",
  storage: "/srv/models/containers/inference",
  variant: "llama-server",
};
const path = "/etc/apparmor.d/edgeseal-inference";
const policy = "/sys/kernel/security/apparmor/policy/profiles";

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

/**
 * An apparmor_parser whose compiled form of a file is the file, all of it in the inner profile. Like the real one it passes over profiles in `disable`, and does not have
 * those in `force-complain` enforced.
 */
const parser = `#!/bin/sh
echo "apparmor_parser $*" >>"$ROOT/calls"
verb=check
for word; do
  case $word in --stdout) verb=print ;; --replace) verb=load ;; /*) file=$word ;; esac
done
if [ $verb = check ]; then ! grep -q 'syntax error'; exit; fi
grep -q 'syntax error' "$file" && exit 1
if [ -e "$ROOT/etc/apparmor.d/disable/edgeseal-inference" ]; then exit 0; fi
if [ $verb = print ]; then cat "$file"; exit; fi
mode=enforce
if [ -e "$ROOT/etc/apparmor.d/force-complain/edgeseal-inference" ]; then mode=complain; fi
mkdir -p "$ROOT${policy}/edgeseal-inference.3" "$ROOT${policy}/edgeseal-inference-podman.4"
cp "$file" "$ROOT${policy}/edgeseal-inference.3/raw_data"
: >"$ROOT${policy}/edgeseal-inference-podman.4/raw_data"
printf 'crun (unconfined)\\nedgeseal-inference-podman (%s)\\nedgeseal-inference (%s)\\n' $mode $mode >"$ROOT/sys/kernel/security/apparmor/profiles"
`;

function nodeRoot(): FakeRoot {
  const root = rootWithInit();
  addPrograms(root, { apparmor_parser: parser });
  root.write("/sys/module/apparmor/parameters/enabled", "Y\n");
  root.write("/sys/kernel/security/apparmor/profiles", "crun (unconfined)\n");
  root.write("/etc/apparmor.d/crun", "profile crun /usr/bin/crun flags=(unconfined) {\n}\n");
  root.write("/usr/lib/systemd/system/apparmor.service", "[Service]\n");
  root.link(
    "/etc/systemd/system/sysinit.target.wants/apparmor.service",
    "/usr/lib/systemd/system/apparmor.service",
  );
  return root;
}

function stateOf(root: FakeRoot): AppArmorProfileState {
  const observed = root.observe(appArmorProfile.observe(wanted));
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const planFor = (state: AppArmorProfileState): readonly Step[] =>
  appArmorProfile.plan(wanted, { outcome: "present", state }, route);
const differences = (state: AppArmorProfileState): readonly string[] =>
  diffState(appArmorProfile.desired(wanted), state).map((each) => each.path);

function bring(root: FakeRoot): void {
  for (const step of planFor(stateOf(root))) root.apply(step);
  expect(differences(stateOf(root))).toEqual([]);
  expect(planFor(stateOf(root))).toEqual([]);
}

function changed(change: (root: FakeRoot) => void): FakeRoot {
  const root = nodeRoot();
  bring(root);
  change(root);
  return root;
}

const load = (root: FakeRoot, file: string): void => {
  expect(root.sh(`apparmor_parser --replace -- ${file}`).code).toBe(0);
};

describe("what the probe reads", () => {
  test("nothing there", () => {
    using root = nodeRoot();
    expect(stateOf(root)).toEqual({
      kernel: "on",
      modes: { "edgeseal-inference": "not loaded", "edgeseal-inference-podman": "not loaded" },
      loadedPolicy: "not loaded",
      atBoot: "loaded",
      overrides: [],
      otherDefinitions: [],
      containerLabel: "no container runs",
      content: "other",
      files: {},
    });
  });

  test("what edgeseal loaded", () => {
    using root = changed(() => undefined);
    expect(stateOf(root)).toMatchObject({
      modes: { "edgeseal-inference": "enforce", "edgeseal-inference-podman": "enforce" },
      loadedPolicy: "as written",
    });
  });

  test("the container that runs", () => {
    using root = changed((each) => {
      addPayload(each, [7]);
      processFiles(each, 7, {});
    });
    expect(stateOf(root).containerLabel).toBe("edgeseal-inference//&edgeseal-inference-podman (enforce)");
    root.write("/proc/7/attr/current", "unconfined\n");
    expect(stateOf(root).containerLabel).toBe("unconfined");
  });

  test("a kernel that does not tell what it has loaded is no answer", () => {
    using root = changed((each) => each.remove(policy));
    expect(() => stateOf(root)).toThrow(UnknownObservation);
  });

  test("a node without AppArmor, and one without its parser", () => {
    using root = nodeRoot();
    root.write("/sys/module/apparmor/parameters/enabled", "N\n");
    expect(stateOf(root).kernel).toBe("off");
    root.remove("/sys/module/apparmor");
    root.remove("/sys/kernel/security/apparmor");
    expect(stateOf(root)).toMatchObject({ kernel: "off", loadedPolicy: "not loaded" });
    expect(() => planFor(stateOf(root))).toThrow(/lsm=.*apparmor.*FirmwareConfig/);
  });
});

test("loaded from the cache of compiled profiles, both in one piece, they are as written as well", () => {
  using root = nodeRoot();
  bring(root);
  for (const each of ["edgeseal-inference.3", "edgeseal-inference-podman.4"])
    root.write(`${policy}/${each}/raw_data`, root.read(path));
  expect(stateOf(root).loadedPolicy).toBe("as written");
  // One of them by another file is not.
  root.write(`${policy}/edgeseal-inference-podman.4/raw_data`, "looser\n");
  expect(stateOf(root).loadedPolicy).toBe("other");
});

describe("drift is named, and mended", () => {
  test.each<[string, (root: FakeRoot) => void, readonly string[]]>([
    [
      "an unloaded profile",
      (root) => root.write("/sys/kernel/security/apparmor/profiles", "edgeseal-inference-podman (enforce)\n"),
      ["loadedPolicy", 'modes["edgeseal-inference"]'],
    ],
    [
      "complain mode",
      (root) =>
        root.write(
          "/sys/kernel/security/apparmor/profiles",
          "edgeseal-inference-podman (enforce)\nedgeseal-inference (complain)\n",
        ),
      ['modes["edgeseal-inference"]'],
    ],
    [
      "an edited file",
      (root) => root.write(path, `${root.read(path)}# more\n`),
      [`files["${path}"]`, "loadedPolicy"],
    ],
    [
      "an edited file, loaded",
      (root) => {
        root.write(path, `${root.read(path)}# more\n`);
        load(root, path);
      },
      [`files["${path}"]`],
    ],
    [
      "another policy of the same name, loaded from elsewhere",
      (root) => {
        root.write("/home/x", "looser\n");
        load(root, "/home/x");
      },
      ["loadedPolicy"],
    ],
    ["no file", (root) => root.remove(path), [`files["${path}"]`, "loadedPolicy"]],
    [
      "a file that apparmor_parser can't read",
      (root) => root.write(path, "syntax error\n"),
      [`files["${path}"]`, "loadedPolicy"],
    ],
    ["a file that others may write", (root) => chmodSync(join(root.root, path), 0o666), [`files["${path}"]`]],
    [
      "a link that keeps the next boot from loading them",
      (root) => root.link("/etc/apparmor.d/disable/edgeseal-inference", "../edgeseal-inference"),
      ["overrides"],
    ],
    [
      "a link that keeps the next boot from enforcing them",
      (root) => root.link("/etc/apparmor.d/force-complain/edgeseal-inference", "../edgeseal-inference"),
      ["overrides"],
    ],
    [
      "local additions, which have no effect",
      (root) => root.write("/etc/apparmor.d/local/edgeseal-inference", "/** rwx,\n"),
      ["overrides"],
    ],
  ])("%s", (_, change, paths) => {
    using root = changed(change);
    expect(differences(stateOf(root))).toEqual(expect.arrayContaining([...paths]));
    // The fake root sets no modes.
    if (root.exists(path)) chmodSync(join(root.root, path), 0o644);
    bring(root);
    expect(stateOf(root).modes["edgeseal-inference"]).toBe("enforce");
  });

  test("what the kernel has may be what was written, and not what was declared", () => {
    using root = changed(() => undefined);
    expect(stateOf(root).content).toBe("as declared");
    root.write(path, `${root.read(path)}# more\n`);
    load(root, path);
    expect(stateOf(root)).toMatchObject({ loadedPolicy: "as written", content: "other" });
    // On import only the name is known.
    const imported = root.observe(appArmorProfile.observe({ name: "inference" } as AppArmorProfileInputs));
    expect(imported).toMatchObject({ outcome: "present", state: { content: "other" } });
  });

  test("apparmor.service that is not started at boot is enabled", () => {
    using root = changed((each) => each.remove("/etc/systemd/system/sysinit.target.wants"));
    expect(differences(stateOf(root))).toEqual(["atBoot"]);
    expect(planFor(stateOf(root))).toMatchObject([
      { kind: "unit", unit: "apparmor.service", enabled: true, masked: false },
    ]);
    root.link("/etc/systemd/system/sysinit.target.wants/apparmor.service", "/x");
    root.link("/etc/systemd/system/apparmor.service", "/dev/null");
    expect(differences(stateOf(root))).toEqual(["atBoot"]);
  });

  test("another file that defines one of the profiles is refused by name", () => {
    using root = changed((each) =>
      each.write("/etc/apparmor.d/zz", "# nothing\n  profile edgeseal-inference {\n  file,\n}\n"),
    );
    expect(differences(stateOf(root))).toEqual(["otherDefinitions"]);
    expect(() => planFor(stateOf(root))).toThrow(
      /^\/etc\/apparmor\.d\/zz defines a profile of the same name/,
    );
  });

  test("one that only names it like ours is not", () => {
    using root = changed((each) =>
      each.write(
        "/etc/apparmor.d/zz",
        "profile edgeseal-inference2 {\n}\nprofile x-edgeseal-inference {\n}\n",
      ),
    );
    expect(differences(stateOf(root))).toEqual([]);
  });

  test("without the parser it is installed first", () => {
    using root = nodeRoot();
    root.remove("/bin/apparmor_parser");
    const state = { ...stateOf(root), loadedPolicy: "no apparmor_parser" as const };
    expect(planFor(state).map(({ title }) => title)).toEqual([
      "install apparmor, whose apparmor_parser loads profiles",
      "see that apparmor_parser takes the profiles",
      "write the AppArmor profiles of inference",
      "load the AppArmor profiles of inference",
      "start edgeseal-inference.service anew, where it runs, under these profiles",
    ]);
  });

  test("the plan is empty exactly when nothing differs", () => {
    using root = changed(() => undefined);
    const good = stateOf(root);
    for (let seed = 0; seed < 500; seed++) {
      const choices = new Choices(seed);
      const pick: Choices["mostly"] = (...values) => choices.mostly(...values);
      const state: AppArmorProfileState = {
        kernel: pick("on", "off"),
        modes: pick(good.modes, { ...good.modes, "edgeseal-inference": "complain" }),
        loadedPolicy: pick("as written", "other", "not loaded", "no apparmor_parser"),
        atBoot: pick("loaded", "not loaded"),
        overrides: pick<string[]>([], ["/etc/apparmor.d/disable/edgeseal-inference"]),
        otherDefinitions: pick<string[]>([], ["/etc/apparmor.d/zz"]),
        containerLabel: pick("no container runs", "unconfined"),
        content: pick("as declared", "other"),
        files: pick(good.files, {}),
      };
      let empty: boolean;
      try {
        empty = planFor(state).length === 0;
      } catch (error) {
        expect(error).toBeInstanceOf(PlanRefused);
        empty = false;
      }
      expect(empty, `seed ${seed}`).toBe(differences(state).length === 0);
    }
  });
});

describe("the way back", () => {
  test("unloads both and removes the file", () => {
    using root = changed(() => undefined);
    const steps = appArmorProfile.revert(wanted, { outcome: "present", state: stateOf(root) });
    expect(steps.map(({ kind }) => kind)).toEqual(["run", "remove"]);
    root.write("/proc/9/attr/current", "edgeseal-inference//&edgeseal-inference-podman (enforce)\n");
    const [unload] = steps;
    if (unload === undefined) throw new Error("no step");
    expect(root.holds(unload)).toBe(false);
    root.write("/proc/9/attr/current", "edgeseal-inference2 (enforce)\n");
    for (const step of steps) root.apply(step);
    expect(root.exists(path)).toBe(false);
  });

  test("is refused while the container runs", () => {
    using root = changed(() => undefined);
    const state = {
      ...stateOf(root),
      containerLabel: "edgeseal-inference//&edgeseal-inference-podman (enforce)",
    };
    expect(() => appArmorProfile.revert(wanted, { outcome: "present", state })).toThrow(PlanRefused);
  });
});

describe("the profiles", () => {
  const variants = ["llama-server", "ollama", "hailo"] as const;

  test.each(variants)(
    "of %s: every rule has its reason above it, and none lets everything through",
    (variant) => {
      const inputs = { ...wanted, variant };
      const text = appArmorDocument(inputs);
      for (const { why, rules } of [...outerRules(inputs), ...innerRules(inputs)]) {
        expect(why).toMatch(/^[A-Z].*\.$/);
        expect(text).toContain(`  # ${why}\n${rules.map((rule) => `  ${rule}\n`).join("")}`);
      }
      const inner = innerRules(inputs).flatMap(({ rules }) => rules);
      expect(inner.every((rule) => rule.endsWith(","))).toBe(true);
      // No wildcard at the root, nothing executable but the server, nothing of the kernel's doors.
      expect(
        inner.filter((rule) =>
          /^\/\*|^file,|^(capability|ptrace|mount|userns|change_profile|network raw|network,|dbus)/.test(
            rule,
          ),
        ),
      ).toEqual([]);
      expect(inner.filter((rule) => /x[^ ]*,$/.test(rule))).toHaveLength(1);
      expect(text).not.toMatch(/unconfined\)/);
      expect(text).not.toMatch(/include/);
    },
  );

  test("of llama-server: what it may write", () => {
    const writable = innerRules(wanted)
      .flatMap(({ rules }) => rules)
      .filter((rule) => / [a-z]*w[a-z]*,$/.test(rule));
    expect(writable).toEqual(["/run/inference/* rw,", "/dev/null rw,", "/apparmor/.null rw,", "/tmp/** rw,"]);
  });

  test("of hailo: the accelerator's device, which the others have not", () => {
    const has = (variant: (typeof variants)[number]): boolean =>
      appArmorDocument({ ...wanted, variant }).includes("/dev/hailo0 rw,");
    expect(variants.filter(has)).toEqual(["hailo"]);
  });
});

test("paths that would mean another folder are refused", () => {
  expect(appArmorProfile.check?.({ ...wanted, storage: "/srv/../etc" })).toEqual([
    { path: "storage", message: "expected a path without `.` and `..`, got '/srv/../etc'" },
  ]);
  expect(appArmorProfile.check?.(wanted)).toEqual([]);
});
