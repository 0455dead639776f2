import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import type { SeccompProfileInputs } from "../../../provider/resources/seccomp-profile-inputs.ts";
import {
  lettingThrough,
  type SeccompProfileState,
} from "../../../provider/resources/seccomp-profile-observation.ts";
import { seccompDocument } from "../../../provider/resources/seccomp-profile-variants.ts";
import { triedCalls } from "../../../provider/resources/seccomp-profile-tried.ts";
import { seccompProfile } from "../../../provider/resources/seccomp-profile.ts";
import { addPayload, addPrograms, processFiles, rootWithInit } from "./container-root.ts";
import type { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const wanted: SeccompProfileInputs = { name: "inference", variant: "llama-server", additionalSyscalls: [] };
const path = "/etc/edgeseal/seccomp/inference.json";

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

/** What the trial prints where calls are let through as a profile says. */
const trialOutput = (text: string): string => {
  const let_ = lettingThrough(text);
  return triedCalls
    .map(({ name }) => `${name} 22 ${let_.includes(name) ? "22" : name === "clone3" ? "38" : "1"}\n`)
    .join("");
};

function nodeRoot(): FakeRoot {
  const root = rootWithInit();
  addPrograms(root, {
    // What it prints: /trial.
    python3: `#!/bin/sh\ncat "$ROOT/trial"\n`,
    uname: "#!/bin/sh\necho aarch64\n",
  });
  root.write("/trial", trialOutput(seccompDocument(wanted)));
  return root;
}

function stateOf(root: FakeRoot, inputs = wanted): SeccompProfileState {
  const observed = root.observe(seccompProfile.observe(inputs));
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const planFor = (state: SeccompProfileState, inputs = wanted): readonly Step[] =>
  seccompProfile.plan(inputs, { outcome: "present", state }, route);
const differences = (state: SeccompProfileState, inputs = wanted): readonly string[] =>
  diffState(seccompProfile.desired(inputs), state).map((each) => each.path);

function bring(root: FakeRoot, inputs = wanted): void {
  root.write("/trial", trialOutput(seccompDocument(inputs)));
  for (const step of planFor(stateOf(root, inputs), inputs)) root.apply(step);
  expect(differences(stateOf(root, inputs), inputs)).toEqual([]);
  expect(planFor(stateOf(root, inputs), inputs)).toEqual([]);
}

function changed(change: (root: FakeRoot) => void): FakeRoot {
  const root = nodeRoot();
  bring(root);
  change(root);
  return root;
}

/** The profile on the node, edited. */
const edit = (
  root: FakeRoot,
  change: (profile: { syscalls: object[] } & Record<string, unknown>) => void,
): void => {
  const profile = JSON.parse(root.read(path)) as { syscalls: object[] } & Record<string, unknown>;
  change(profile);
  root.write(path, JSON.stringify(profile));
};

describe("what the probe reads", () => {
  test("nothing there", () => {
    using root = nodeRoot();
    expect(stateOf(root)).toEqual({
      defaultAction: "missing",
      calls: {},
      allowedCalls: 0,
      dangerousCalls: [],
      trial: "no profile",
      letThrough: [],
      undecided: [],
      architecture: "aarch64",
      proof: "proven on aarch64",
      containerSeccomp: "no container runs",
      containerFilters: 0,
      content: "other",
      files: {},
    });
  });

  test("what edgeseal wrote, by what it means", () => {
    using root = changed(() => undefined);
    const state = stateOf(root);
    expect(state).toMatchObject({ defaultAction: "EPERM", dangerousCalls: [], trial: "done", undecided: [] });
    expect(state.letThrough).toEqual(["openat-read", "socket-unix"]);
    expect(state.calls).toMatchObject({
      read: "allowed",
      socket: "allowed where argument 0 == 1",
      clone: "allowed where argument 0 & 0x7e030000 == 0x10000",
      clone3: "ENOSYS",
      mmap: "allowed where argument 2 & 2 == 0 or allowed where argument 2 & 4 == 0",
      poll: "allowed on x86_64",
      ppoll: "allowed on aarch64",
    });
    expect(state.calls).not.toHaveProperty("ptrace");
    expect(state.allowedCalls).toBe(51);
  });

  test.each(["x86_64", "aarch64"])("on an %s the profile of llama-server is proven, and no other", (each) => {
    using root = changed((node) => node.write("/bin/uname", `#!/bin/sh\necho ${each}\n`));
    expect(stateOf(root)).toMatchObject({ architecture: each, proof: `proven on ${each}` });
    expect(stateOf(root, { ...wanted, variant: "ollama" }).proof).toBe(`unproven on ${each}`);
    expect(stateOf(root, { ...wanted, variant: "hailo" }).proof).toBe(`unproven on ${each}`);
  });

  test("the container that runs", () => {
    using root = changed((each) => {
      addPayload(each, [7]);
      processFiles(each, 7, {});
    });
    expect(stateOf(root)).toMatchObject({ containerSeccomp: "filter", containerFilters: 21 });
    root.write("/proc/7/status", root.read("/proc/7/status").replace(/^Seccomp:.*$/m, "Seccomp:\t0"));
    expect(stateOf(root)).toMatchObject({ containerSeccomp: "off" });
  });

  test.each([
    ["no JSON", "{"],
    ["no default action", '{"syscalls":[]}'],
    ["no architecture of ours", '{"defaultAction":"SCMP_ACT_ERRNO","archMap":[],"syscalls":[]}'],
    ["a list", "[]"],
  ])("a profile with %s is unreadable", (_, text) => {
    using root = changed((each) => each.write(path, text));
    expect(stateOf(root)).toMatchObject({ defaultAction: "unreadable", trial: "no profile" });
    bring(root);
  });

  test("a call that fails in the same way without the profile shows nothing", () => {
    using root = changed((each) => each.write("/trial", each.read("/trial").replace("bpf 22 1", "bpf 1 1")));
    expect(stateOf(root)).toMatchObject({ undecided: ["bpf"], letThrough: ["openat-read", "socket-unix"] });
    expect(planFor(stateOf(root))).toEqual([]);
  });

  test("a trial that does not tell of a call is no answer", () => {
    using root = changed((each) => each.write("/trial", each.read("/trial").replace(/^mount .*\n/m, "")));
    expect(() => stateOf(root)).toThrow(UnknownObservation);
  });
});

describe("drift is named by what it means, and mended", () => {
  test.each<[string, (root: FakeRoot) => void, readonly string[]]>([
    ["no profile", (root) => root.remove(path), ["defaultAction", "trial"]],
    [
      "a call more",
      (root) => edit(root, ({ syscalls }) => syscalls.push({ names: ["mount"], action: "SCMP_ACT_ALLOW" })),
      ["calls.mount", "dangerousCalls"],
    ],
    [
      "a call more, in podman's older form",
      (root) => edit(root, ({ syscalls }) => syscalls.push({ name: "bpf", action: "SCMP_ACT_ALLOW" })),
      ["calls.bpf", "dangerousCalls"],
    ],
    [
      "a condition that edgeseal does not know",
      (root) =>
        edit(root, ({ syscalls }) =>
          syscalls.push({
            names: ["ptrace"],
            action: "SCMP_ACT_ALLOW",
            args: [{ index: 0, value: 3, op: "SCMP_CMP_GE" }],
          }),
        ),
      ["calls.ptrace", "dangerousCalls"],
    ],
    [
      "everything allowed",
      (root) => edit(root, (profile) => (profile["defaultAction"] = "SCMP_ACT_ALLOW")),
      ["defaultAction", "dangerousCalls"],
    ],
    [
      "everything logged",
      (root) => edit(root, (profile) => (profile["defaultAction"] = "SCMP_ACT_LOG")),
      ["defaultAction"],
    ],
    [
      "a folder that others may write",
      (root) => chmodSync(join(root.root, "etc/edgeseal/seccomp"), 0o777),
      ['files["/etc/edgeseal/seccomp"]'],
    ],
    [
      "a profile that others may write",
      (root) => chmodSync(join(root.root, path), 0o666),
      [`files["${path}"]`],
    ],
  ])("%s", (_, change, paths) => {
    using root = changed(change);
    expect(differences(stateOf(root))).toEqual(expect.arrayContaining([...paths]));
    // The fake root sets no modes.
    chmodSync(join(root.root, "etc/edgeseal/seccomp"), 0o755);
    if (root.exists(path)) chmodSync(join(root.root, path), 0o644);
    bring(root);
  });

  test("a call that nobody tries shows in what the file says, and in that it is not the declared one", () => {
    using root = changed(() => undefined);
    expect(stateOf(root).content).toBe("as declared");
    edit(root, ({ syscalls }) => syscalls.push({ names: ["kexec_load"], action: "SCMP_ACT_ALLOW" }));
    expect(stateOf(root)).toMatchObject({ dangerousCalls: [], content: "other" });
  });

  test("the container is started anew under what was written, and only then", () => {
    using root = changed((each) => each.remove(path));
    expect(planFor(stateOf(root)).map(({ title }) => title)).toEqual([
      "write the seccomp profile of inference",
      "start edgeseal-inference.service anew, where it runs, under that profile",
    ]);
  });

  test("without python3 or libseccomp they are installed, to try the profile with", () => {
    using root = changed((each) => each.write("/trial", "no python3\n"));
    expect(planFor(stateOf(root))).toMatchObject([{ kind: "package", package: "python3" }]);
    root.write("/trial", "no libseccomp\n");
    expect(planFor(stateOf(root))).toMatchObject([{ kind: "package", package: "libseccomp2" }]);
  });

  test("a kernel that lets through what the profile refuses is refused by name", () => {
    using root = changed((each) =>
      each.write("/trial", each.read("/trial").replace("unshare 22 1", "unshare 22 22")),
    );
    expect(differences(stateOf(root))).toContain("letThrough");
    // The file is right, and says otherwise.
    expect(stateOf(root)).toMatchObject({ content: "as declared", dangerousCalls: ["unshare"] });
    expect(() => planFor(stateOf(root))).toThrow(PlanRefused);
  });

  test("the plan is empty exactly when nothing differs", () => {
    using root = changed(() => undefined);
    const good = stateOf(root);
    for (let seed = 0; seed < 500; seed++) {
      const choices = new Choices(seed);
      const pick: Choices["mostly"] = (...values) => choices.mostly(...values);
      const state: SeccompProfileState = {
        ...good,
        defaultAction: pick("EPERM", "missing", "allowed"),
        calls: pick(good.calls, {}, { ...good.calls, mount: "allowed" }),
        dangerousCalls: pick<string[]>([], ["mount"]),
        trial: pick("done", "no python3", "no profile"),
        letThrough: pick(good.letThrough, [], ["unshare"]),
        files: pick(good.files, {}, { ...good.files, [path]: "0644 root:root sha256:0" }),
        undecided: pick<string[]>([], ["bpf"]),
        architecture: pick("aarch64", "riscv64"),
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

  test("revert takes the file away", () => {
    using root = changed(() => undefined);
    for (const step of seccompProfile.revert(wanted, { outcome: "present", state: stateOf(root) }))
      root.apply(step);
    expect(root.exists(path)).toBe(false);
  });
});

describe("the inputs", () => {
  test("a call that no kernel has", () => {
    const problems = seccompProfile.check?.({
      ...wanted,
      additionalSyscalls: ["read", "opneat", "nonsense_xyz"],
    });
    expect(problems).toEqual([
      { path: "additionalSyscalls[1]", message: 'there is no system call "opneat"; did you mean "openat"?' },
      {
        path: "additionalSyscalls[2]",
        message: expect.stringMatching(/^there is no system call "nonsense_xyz"/) as string,
      },
    ]);
  });

  test("what is added is allowed whatever its arguments, and shows as dangerous", () => {
    using root = nodeRoot();
    const looser = { ...wanted, additionalSyscalls: ["socket", "ptrace", "clone3"] };
    bring(root, looser);
    expect(stateOf(root, looser)).toMatchObject({
      calls: { socket: "allowed", ptrace: "allowed", clone3: "allowed" },
      dangerousCalls: ["clone3", "ptrace", "socket-packet", "socket-netlink", "socket-alg", "socket-vsock"],
    });
    expect(differences(stateOf(root))).toContain("calls.ptrace");
  });
});
