import { linkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";
import { UnknownObservation, type PartOutput } from "../../../provider/device/probe.ts";
import { inferenceContainer } from "../../../provider/resources/inference-container.ts";
import type { InferenceContainerInputs } from "../../../provider/resources/inference-container-inputs.ts";
import type { InferenceContainerState } from "../../../provider/resources/inference-container-state.ts";
import { addPayload, processFiles, rootWithInit } from "./container-root.ts";
import {
  account,
  digest,
  good,
  id,
  image,
  imageId,
  kinds,
  model,
  none,
  record,
  storage,
  storageOf,
  units,
  wanted,
} from "./inference-container-parts.ts";

/*
 * What a node prints is read as what it means.
 */

function stateOf(
  changed: Readonly<Record<string, string>> = {},
  inputs: InferenceContainerInputs = wanted,
): InferenceContainerState {
  const parts = Object.fromEntries(
    Object.entries({ ...good, ...changed }).map(([name, stdout]): [string, PartOutput] => [
      name,
      { code: 0, stdout, stderr: "" },
    ]),
  );
  const observed = inferenceContainer.observe(inputs).parse(parts);
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const drift = (changed: Readonly<Record<string, string>>): Readonly<Record<string, unknown>> =>
  Object.fromEntries(
    diffState(inferenceContainer.desired(wanted), stateOf(changed)).map(({ path, observed }) => [
      path,
      observed,
    ]),
  );

test("a service that is as it should be has no drift", () => {
  expect(drift({})).toEqual({});
  expect(stateOf()).toMatchObject({
    images: [`registry.example/edge/llama@${digest}`],
    modelPresent: true,
    volumes: { "/srv/models/models": "/srv/models, encrypted", [storage]: "/srv/models, encrypted" },
    exposure: { "edgeseal-inference.service": "2.5" },
  });
});

const replaced = (part: string, from: string | RegExp, to: string): Readonly<Record<string, string>> => {
  const changed = (good[part] ?? "").replace(from, to);
  if (changed === good[part]) throw new Error(`${part} has no ${String(from)}`);
  return { [part]: changed };
};

describe("each fault of the process is told by its name", () => {
  test.each<[string, Readonly<Record<string, string>>, Readonly<Record<string, string>>]>([
    [
      "another user",
      replaced("processes", "Uid:\t989\t989", "Uid:\t989\t0"),
      { "confinement.user": "users 989 0 989 989, groups 989 989 989 989" },
    ],
    [
      "a group more",
      replaced("processes", "Groups:\t989 ", "Groups:\t44 989 "),
      { "confinement.groups": "44" },
    ],
    [
      "a capability in any set",
      replaced("processes", `CapBnd:\t${none}`, "CapBnd:\t0000000000802000"),
      { "confinement.capabilities": "CAP_NET_RAW CAP_SYS_NICE" },
    ],
    [
      "new privileges allowed",
      replaced("processes", "NoNewPrivs:\t1", "NoNewPrivs:\t0"),
      { "confinement.noNewPrivileges": "no" },
    ],
    ["no filter", replaced("processes", "Seccomp:\t2", "Seccomp:\t0"), { "confinement.seccomp": "off" }],
    [
      "the unit's filters alone",
      replaced("processes", "filters:\t21", "filters:\t20"),
      { "confinement.seccomp": "none of its own" },
    ],
    [
      "a filter of a profile that was changed since",
      { record: record("this this other this") },
      { "confinement.seccomp": "profile, as it was before a change" },
    ],
    [
      "one of which nothing tells what it was loaded from",
      { record: record("this this none this") },
      { "confinement.seccomp": "profile, of which its start left no record" },
    ],
    [
      "a policy of AppArmor's that was changed since",
      { record: record("this this this other") },
      {
        "confinement.appArmor":
          "edgeseal-inference and edgeseal-inference-podman (enforce), as it was before a change",
      },
    ],
    [
      "no profile",
      replaced("processes", /label: .*/, "label: unconfined"),
      { "confinement.appArmor": "unconfined" },
    ],
    [
      "Debian's profile of what starts it, which confines nothing",
      replaced("processes", /label: .*/, "label: crun (unconfined)"),
      { "confinement.appArmor": "unconfined" },
    ],
    [
      "a profile of somebody's that confines nothing",
      replaced("processes", /label: .*/, "label: edgeseal-inference (unconfined)"),
      { "confinement.appArmor": "edgeseal-inference (unconfined)" },
    ],
    [
      "a label without a mode",
      replaced("processes", /label: .*/, "label: :other://unconfined"),
      { "confinement.appArmor": ":other://unconfined (unknown)" },
    ],
    [
      "one of two profiles",
      replaced("processes", "edgeseal-inference//&", ""),
      { "confinement.appArmor": "edgeseal-inference-podman (enforce)" },
    ],
    [
      "profiles that only complain",
      replaced("processes", "(enforce)", "(complain)"),
      { "confinement.appArmor": "edgeseal-inference and edgeseal-inference-podman (complain)" },
    ],
    [
      "the node's network",
      replaced("processes", "own net:[2]", "own net:[1]"),
      { "confinement.namespaces": "cgroup ipc mnt pid user uts" },
    ],
    [
      "another OOM score",
      replaced("processes", "oom: 500", "oom: -1000"),
      { "confinement.oomScoreAdjust": "-1000" },
    ],
    [
      "a root that can be written to",
      replaced("container", "/ / ro,relatime", "/ / rw,relatime"),
      { "confinement.rootFilesystem": "writable" },
    ],
    [
      "a model that can be written to",
      replaced("container", "/models ro,", "/models rw,"),
      { "confinement.writable": "/models, /run/inference, /tmp of 16 MiB without exec" },
    ],
    [
      "a /tmp without a limit",
      replaced("container", "size=16384k,", ""),
      { "confinement.writable": "/run/inference, /tmp of any size without exec" },
    ],
    [
      "programs in /tmp",
      replaced("container", "/tmp rw,nosuid,nodev,noexec", "/tmp rw,nosuid,nodev"),
      { "confinement.writable": "/run/inference, /tmp of 16 MiB" },
    ],
    [
      "a device of the node, read-only",
      replaced(
        "container",
        "net Inter-|",
        "mount 300 101 0:6 /mem /dev/mem ro,nosuid - devtmpfs udev rw,size=4k\nnet Inter-|",
      ),
      { "confinement.mounts": "/dev/mem" },
    ],
    [
      "folders of the node, wherever they are mounted",
      replaced(
        "container",
        "net Inter-|",
        "mount 301 101 254:0 /etc/secrets /dev/secrets ro,relatime - ext4 /dev/sda rw\nmount 302 101 254:0 /etc/shadow /proc/scsi ro,relatime - ext4 /dev/sda rw\nnet Inter-|",
      ),
      { "confinement.mounts": "/dev/secrets, /proc/scsi" },
    ],
    [
      "another device in the place of a common one",
      replaced("container", "/null /dev/null", "/mem /dev/null"),
      { "confinement.mounts": "/dev/null" },
    ],
    [
      "a file of the node's in the place of one of podman's",
      replaced("container", "/x/userdata/passwd", "/etc/passwd"),
      { "confinement.mounts": "/etc/passwd" },
    ],
    [
      "an interface more",
      replaced("container", "net     lo:", "net   eth0:       0\nnet     lo:"),
      { "confinement.interfaces": "eth0 lo" },
    ],
    [
      "no memory limit",
      replaced("container", "memory.max 1073741824", "memory.max max"),
      { "confinement.memoryMax": "max" },
    ],
    ["swap", replaced("container", "swap.max 0", "swap.max max"), { "confinement.swapMax": "max" }],
    [
      "no limit of tasks",
      replaced("container", "pids.max 64", "pids.max max"),
      { "confinement.tasksMax": "max" },
    ],
    [
      "another share of the processor",
      replaced("container", "cpu.max 300000", "cpu.max max"),
      { "confinement.cpuMax": "none" },
    ],
    [
      "half of the model locked",
      replaced("container", "Locked: 240812", "Locked: 120000"),
      { "confinement.modelLocked": "part" },
    ],
    [
      "nothing locked",
      replaced("container", "Locked: 240812", "Locked: 0"),
      { "confinement.modelLocked": "none" },
    ],
    ["another model", replaced("container", model, "c".repeat(64)), { model: `sha256:${"c".repeat(64)}` }],
    [
      "another file, in a folder elsewhere that has the model's name",
      replaced("container", `model this\nmount`, "mount"),
      { model: `sha256:${model}, of another file` },
    ],
    [
      "a folder that was replaced since",
      replaced("container", `/models/${model} `, `/models/.inference.${model}.old//deleted `),
      { model: "deleted" },
    ],
    [
      "a file of that folder that was replaced since",
      replaced("container", "map Size", "model former\nmap Size"),
      { model: `sha256:${model}, of another file` },
    ],
  ])("%s", (_, changed, expected) => {
    expect(drift(changed)).toEqual(expected);
  });
});

test("the file that is mounted is told by its inode, and one that is mapped and has no name any more", () => {
  const inputs = { ...wanted, modelDirectory: "/var/models" };
  using root = rootWithInit();
  addPayload(root, [7]);
  processFiles(root, 7, {});
  const told = (): readonly string[] =>
    root
      .sh(inferenceContainer.observe(inputs).parts["container"] ?? "")
      .stdout.split("\n")
      .filter((line) => line.startsWith("model "));
  const file = `/var/models/${model}/model.gguf`;
  root.write(file, "GGUF");
  root.write("/proc/7/root/models/x", "");
  linkSync(join(root.root, file), join(root.root, "proc/7/root/models/model.gguf"));
  expect(told()).toEqual(["model this"]);
  root.write(
    "/proc/7/smaps",
    "7f3a1c000000-7f3a2ab28000 r--s 00000000 fe:00 131 /models/model.gguf (deleted)\n",
  );
  expect(told()).toEqual(["model this", "model former"]);
  root.remove("/proc/7/smaps");
  root.remove(file);
  root.write(file, "GGUF");
  expect(told()).toEqual([]);
});

describe("how much of the model is locked", () => {
  /** A mapping of smaps, in KiB (proc_pid_smaps(5)); half of it counts as this process's where another has it mapped, too. */
  const mapping = (path: string, size: number, marks: { rss?: number; shared?: boolean; flags: string }) => {
    const { rss = size, shared = false, flags } = marks;
    const share = shared ? rss / 2 : rss;
    const sizes = [`Size: ${size} kB`, `Rss: ${rss} kB`, `Pss: ${share} kB`];
    const locked = `Locked: ${/ lo( |$)/.test(flags) ? share : 0} kB`;
    return [
      `7f3a1c000000-7f3a2ab28000 r--s 00000000 fe:00 131 ${path}`,
      ...sizes,
      locked,
      `VmFlags: ${flags}`,
      "",
    ].join("\n");
  };
  const model = "/models/model.gguf";
  const locked = "rd mr me ms lo sd";
  const library = mapping("/usr/lib/libggml.so", 800, { flags: "rd mr mw me sd" });

  const read = (...mappings: readonly string[]): string | undefined => {
    using root = rootWithInit();
    addPayload(root, [7]);
    processFiles(root, 7, {});
    root.write("/proc/7/smaps", mappings.join(""));
    const said = root.sh(inferenceContainer.observe(wanted).parts["container"] ?? "").stdout;
    const maps = said.split("\n").filter((line) => line.startsWith("map "));
    return stateOf(replaced("container", /map Size: .*\nmap Locked: .*/, maps.join("\n"))).confinement[
      "modelLocked"
    ];
  };

  test.each<[string, string | undefined, readonly string[]]>([
    ["all of it", "all", [library, mapping(model, 240_000, { flags: locked })]],
    [
      "all of it, which another service has mapped, too",
      "all",
      [mapping(model, 240_000, { shared: true, flags: locked }), library],
    ],
    [
      "the first half, as where the limit of locked memory ends",
      "part",
      [mapping(model, 1000, { flags: locked }), mapping(model, 1000, { flags: "rd mr me ms sd" })],
    ],
    ["what is to be locked once it is there", "part", [mapping(model, 1000, { rss: 400, flags: locked })]],
    ["none of it, though all is in memory", "none", [mapping(model, 1000, { flags: "rd mr me ms sd" })]],
    ["none of it, and another file", "none", [mapping("/usr/lib/x", 1000, { flags: locked })]],
  ])("%s: %s", (_, expected, mappings) => {
    expect(read(...mappings)).toBe(expected);
  });
});

describe("the node's memory", () => {
  const memory = (declared: number | undefined, kibibytes: number): string => {
    const { nodeMemoryMiB: _, ...rest } = wanted;
    const inputs = declared === undefined ? rest : { ...rest, nodeMemoryMiB: declared };
    const parts = { ...good, memory: `MemTotal:       ${kibibytes} kB\n` };
    return stateOf(parts, inputs).nodeMemory;
  };

  test.each([
    // As a Pi 5 of each size has it, with pages of 16 KiB; and the virtual Pi.
    [2048, 2_063_328],
    [4096, 4_144_416],
    [8192, 8_245_424],
    [16_384, 16_608_912],
    [1536, 1_529_900],
  ])("of %i MiB is as declared, less what firmware and kernel keep", (declared, kibibytes) => {
    expect(memory(declared, kibibytes)).toBe("as declared");
  });

  test.each([
    [8192, 4_144_416, "4047 MiB, less than the 8192 declared"],
    [4200, 4_014_080, "3920 MiB, less than the 4200 declared"],
    [undefined, 4_144_416, "4047 MiB"],
    [2048, 8_245_424, "as declared"],
  ])("of %s, where the kernel has %i kB", (declared, kibibytes, expected) => {
    expect(memory(declared, kibibytes)).toBe(expected);
  });

  test("that is not told is not known", () => {
    expect(() => stateOf({ memory: "" })).toThrow(UnknownObservation);
  });
});

describe("what runs", () => {
  const other = `sha256:${"d".repeat(64)}`;

  test("another image, by podman's storage and not by the unit", () => {
    expect(
      drift({
        storage: storageOf([image([other])], [{ id, names: ["edgeseal-inference"], image: imageId }]),
      }),
    ).toEqual({ image: other, leftovers: [`registry.example/edge/llama@${other}`] });
  });

  test("an image with several manifests is the one that is asked for", () => {
    expect(
      drift({
        storage: storageOf([image([other, digest])], [{ id, names: ["edgeseal-inference"], image: imageId }]),
      }),
    ).toEqual({});
  });

  test("an image without a name, as a pull leaves it that was cut off, is there by its digest alone", () => {
    const found = stateOf({
      storage: storageOf([image([digest], [])], [{ id, names: ["edgeseal-inference"], image: imageId }]),
    });
    expect(found.images).toEqual([digest]);
    expect(found.leftovers).toEqual([digest]);
    expect(
      stateOf({
        storage: storageOf([image([digest], ["localhost:5000/llama:1"])], []),
      }).images,
    ).toEqual([`localhost:5000/llama@${digest}`]);
  });

  test("what is left of pulls", () => {
    expect(drift({ remnants: "/var/lib/edgeseal/images/aa\n" })).toEqual({
      leftovers: ["/var/lib/edgeseal/images/aa"],
    });
  });

  test("another container in its storage, another process of its user", () => {
    const containers = [
      { id, names: ["edgeseal-inference"], image: imageId },
      { id: "x", names: ["by-hand"], image: imageId },
    ];
    expect(
      drift({
        storage: storageOf([image([digest])], containers),
        owned: `${good["owned"] ?? ""}0::/user.slice/user-1000.slice/session-1.scope sleep\n`,
      }),
    ).toEqual({
      foreignContainers: [`by-hand of ${digest}`],
      foreignProcesses: ["sleep in /user.slice/user-1000.slice/session-1.scope"],
    });
  });

  test("a unit whose name only begins so is another's", () => {
    expect(drift({ owned: "0::/system.slice/edgeseal-inference.service.evil/x sh\n" })).toHaveProperty(
      "foreignProcesses",
    );
  });

  test("nothing, and why", () => {
    const found = drift({
      processes: kinds.map((kind) => `init ${kind}:[1]`).join("\n"),
      container: "",
      owned: "",
      health: "not running\n",
      reason: "model-differs: other bytes\n",
      units: units({ ActiveState: "inactive", Result: "exec-condition" }),
    });
    expect(found).toMatchObject({
      health: "not running",
      reason: "model-differs: other bytes",
      image: "",
      model: "",
      'units["edgeseal-inference.service"]': "enabled, inactive",
    });
  });

  test("nothing, stopped by hand or out of memory", () => {
    expect(stateOf({ units: units({ ActiveState: "inactive" }) }).reason).toBe(
      "it was not started, or was stopped",
    );
    expect(stateOf({ units: units({ ActiveState: "failed", Result: "oom-kill" }) }).reason).toBe(
      "systemd says: oom-kill",
    );
  });
});

describe("its units and its user", () => {
  test.each<[string, Readonly<Record<string, string>>, Readonly<Record<string, unknown>>]>([
    [
      "a drop-in",
      { units: `${units()}changed /etc/systemd/system/edgeseal-inference.service.d/x.conf\n` },
      { unitOverrides: ["/etc/systemd/system/edgeseal-inference.service.d/x.conf"] },
    ],
    [
      "a property that was set",
      {
        units: units({
          DropInPaths: "/run/systemd/system.control/edgeseal-inference.service.d/50-MemoryMax.conf",
        }),
      },
      { unitOverrides: ["/run/systemd/system.control/edgeseal-inference.service.d/50-MemoryMax.conf"] },
    ],
    [
      "a unit that comes first",
      { units: units({ FragmentPath: "/run/systemd/transient/edgeseal-inference.service" }) },
      { unitOverrides: ["/run/systemd/transient/edgeseal-inference.service"] },
    ],
    [
      "a file that systemd has not read",
      { units: units({ NeedDaemonReload: "yes" }) },
      { 'units["edgeseal-inference.service"]': "enabled, active, changed since systemd read it" },
    ],
    [
      "a masked unit",
      { units: units({ LoadState: "masked", ActiveState: "inactive", FragmentPath: "" }) },
      {
        reason: "it was not started, or was stopped",
        'units["edgeseal-inference.service"]': "masked, inactive",
      },
    ],
    [
      "a group",
      { account: account.replace("video:x:44:", "video:x:44:edgeseal-inference") },
      { groups: ["video"] },
    ],
    [
      "a member of its own group",
      { account: account.replace(/inference:x:989:\n$/, "inference:x:989:edge\n") },
      { groupMembers: ["edge"] },
    ],
    [
      "a user whose primary group is its own",
      { account: account.replace("edge:x:1000:1000", "edge:x:1000:989") },
      { groupMembers: ["edge (not in its list: it is the user's primary group)"] },
    ],
    [
      "a member of another group of the same number, which does not make that its own, wherever it stands",
      { account: account.replace("video:x:44:", "others:x:989:edge,edgeseal-inference") },
      {
        groups: ["others"],
        groupMembers: ["edge (not in its list: in others, a group of the same number)"],
      },
    ],
    ["a password", { account: account.replace(":!:", ":$y$j9T$x:") }, { "account.password": "not locked" }],
    ["an empty password", { account: account.replace(":!:", "::") }, { "account.password": "not locked" }],
    ["a shell", { account: account.replace("/usr/sbin/nologin", "/bin/sh") }, { "account.shell": "/bin/sh" }],
    [
      "the number of root",
      { account: account.replace("inference:x:989:989", "inference:x:0:989") },
      { "account.uid": "root's", "confinement.user": "users 989 989 989 989, groups 989 989 989 989" },
    ],
    [
      "the number of another user",
      { account: account.replace("edge:x:1000", "edge:x:989") },
      { "account.uid": "shared with edge" },
    ],
    [
      "a drop-in for all services",
      { units: units({ DropInPaths: "/etc/systemd/system/service.d/site-wide.conf" }) },
      { unitOverrides: ["/etc/systemd/system/service.d/site-wide.conf"] },
    ],
    ["nothing to go back to", { record: record("none this this this") }, { lastGood: "none" }],
    ["another unit to go back to", { record: record("other this this this") }, { lastGood: "other" }],
    [
      "a server that was started from another file",
      { record: record("this other this this") },
      { 'units["edgeseal-inference.service"]': "enabled, active, started from another" },
    ],
    [
      "a server of whose start nothing is kept",
      { record: "this\nnone\nthis\nthis\n" },
      { 'units["edgeseal-inference.service"]': "enabled, active, its start left no record" },
    ],
    [
      "a server that was started without the check, after one that was not",
      { record: record("this this this this", { InvocationID: "0".repeat(32) }) },
      { 'units["edgeseal-inference.service"]': "enabled, active, its start left no record" },
    ],
    [
      "a server of which systemd does not tell which start it was",
      { units: units({ InvocationID: "" }), record: record("this this this this", { InvocationID: "" }) },
      { 'units["edgeseal-inference.service"]': "enabled, active, its start left no record" },
    ],
    [
      "a server that was started with a drop-in, which was removed since",
      {
        record: record("this this this this", {
          DropInPaths:
            "/usr/lib/systemd/system/service.d/10-x.conf /etc/systemd/system/edgeseal-inference.service.d/x.conf",
        }),
      },
      { 'units["edgeseal-inference.service"]': "enabled, active, started from another" },
    ],
    [
      "a server that was started from a file elsewhere, which was removed since",
      {
        record: record("this this this this", {
          FragmentPath: "/run/systemd/transient/edgeseal-inference.service",
        }),
      },
      { 'units["edgeseal-inference.service"]': "enabled, active, started from another" },
    ],
    [
      "a server that was started before systemd had read its unit",
      { record: record("this this this this", { NeedDaemonReload: "yes" }) },
      { 'units["edgeseal-inference.service"]': "enabled, active, started from another" },
    ],
    ["no podman", { packages: "podman\n" }, { missingPackages: ["podman"] }],
    ["lingering", { account: `${account}lingering\n` }, { lingering: true }],
    [
      "subordinate ids",
      { subordinate: "F /etc/subuid\nL /etc/subuid:edgeseal-inference:100000:65536\n" },
      { subordinateIds: ["/etc/subuid: edgeseal-inference:100000:65536"] },
    ],
  ])("%s", (_, changed, expected) => {
    expect(drift(changed)).toEqual(expected);
  });

  test("the distribution's drop-ins for all services are no override", () => {
    const dropIns = { DropInPaths: "/usr/lib/systemd/system/service.d/10-timeout-abort.conf" };
    expect(drift({ units: units(dropIns), record: record("this this this this", dropIns) })).toEqual({});
  });
});

test.each([
  ["- models /srv/models", "/srv/models, not the sealed volume models"],
  ["CRYPT-LUKS2-00-other models /srv/models", "/srv/models, not the sealed volume models"],
  ["CRYPT-LUKS2-00-edgeseal-models models /srv", "/srv/models, not the sealed volume models"],
  ["CRYPT-LUKS2-00-edgeseal-models models /srv/models", "/srv/models, encrypted"],
  ["-", "/srv/models, not encrypted"],
])("what is mounted by '%s' is %s", (mount, place) => {
  expect(stateOf({ places: `place ${storage} /srv/models ${mount}\n` }).volumes).toEqual({
    [storage]: place,
  });
});

test.each([
  ["health", "what?"],
  ["storage", `F ${storage}/overlay-images/images.json\nL ${storage}/overlay-images/images.json:[{\n`],
  ["units", ""],
])("what can't be told from '%s' is unknown, not absent", (part, stdout) => {
  expect(() => stateOf({ [part]: stdout })).toThrow(UnknownObservation);
});
