import { describe, expect, test } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import {
  confinementOf,
  parseContainerProcesses,
  readContainerProcesses,
  type ContainerProcess,
} from "../../../provider/resources/container-process.ts";
import { addPayload, processFiles, rootWithInit } from "./container-root.ts";
import type { FakeRoot } from "./fake-root.ts";

function processesOn(root: FakeRoot): readonly ContainerProcess[] {
  const { code, stdout, stderr } = root.sh(readContainerProcesses("inference"));
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return parseContainerProcesses(stdout);
}

describe("the processes of a container", () => {
  test("none runs", () => {
    using root = rootWithInit();
    expect(processesOn(root)).toEqual([]);
  });

  test("one, as llama-server ran on the virtual Pi", () => {
    using root = rootWithInit();
    addPayload(root, [4242]);
    processFiles(root, 4242, {});
    expect(processesOn(root)).toEqual([
      {
        pid: 4242,
        innerPid: 1,
        executable: "/usr/bin/llama-server",
        uids: [988, 988, 988, 988],
        gids: [988, 988, 988, 988],
        groups: [988],
        capabilities: {
          inheritable: "0000000000000000",
          permitted: "0000000000000000",
          effective: "0000000000000000",
          bounding: "0000000000000000",
          ambient: "0000000000000000",
        },
        noNewPrivileges: true,
        seccompMode: 2,
        seccompFilters: 21,
        appArmorLabel: "edgeseal-inference//&edgeseal-inference-podman (enforce)",
        oomScoreAdjust: 500,
        lockedKiB: 240812,
        swappedKiB: 0,
        threads: 5,
        ownNamespaces: ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"],
      },
    ]);
  });

  test("the one that the container was started for comes first, whatever its number", () => {
    using root = rootWithInit();
    addPayload(root, [50, 300]);
    processFiles(root, 50, { innerPid: 7 });
    processFiles(root, 300, {});
    expect(processesOn(root).map(({ pid, innerPid }) => [pid, innerPid])).toEqual([
      [300, 1],
      [50, 7],
    ]);
  });

  test("conmon, podman and the containers of other services are not among them", () => {
    using root = rootWithInit();
    root.write("/sys/fs/cgroup/system.slice/edgeseal-inference.service/supervisor/cgroup.procs", "7\n");
    root.write("/sys/fs/cgroup/system.slice/edgeseal-other.service/libpod-payload-1/cgroup.procs", "8\n");
    for (const pid of [7, 8]) processFiles(root, pid, {});
    expect(processesOn(root)).toEqual([]);
  });

  test("in another slice, and in a group of its own below", () => {
    using root = rootWithInit();
    root.write(
      "/sys/fs/cgroup/edge.slice/edge-ai.slice/edgeseal-inference.service/libpod-payload-1/sub/cgroup.procs",
      "9\n",
    );
    processFiles(root, 9, {});
    expect(processesOn(root).map(({ pid }) => pid)).toEqual([9]);
  });

  test("what is not confined is told so", () => {
    using root = rootWithInit();
    addPayload(root, [4242]);
    processFiles(root, 4242, { seccomp: 0, filters: 0, noNewPrivs: 0, sharedNet: true });
    root.remove("/proc/4242/attr/current");
    expect(processesOn(root)).toMatchObject([
      {
        seccompMode: 0,
        seccompFilters: 0,
        noNewPrivileges: false,
        appArmorLabel: undefined,
        ownNamespaces: ["cgroup", "ipc", "mnt", "pid", "user", "uts"],
      },
    ]);
  });

  test("one that ended meanwhile is left out", () => {
    using root = rootWithInit();
    addPayload(root, [4242, 4243]);
    processFiles(root, 4242, {});
    expect(processesOn(root).map(({ pid }) => pid)).toEqual([4242]);
  });

  test("a kernel that does not tell is no answer", () => {
    using root = rootWithInit();
    addPayload(root, [4242]);
    processFiles(root, 4242, {});
    root.write("/proc/4242/status", root.read("/proc/4242/status").replace(/^Seccomp:.*\n/m, ""));
    expect(() => processesOn(root)).toThrow(UnknownObservation);
    expect(() => processesOn(root)).toThrow(/'Seccomp' of process 4242/);
  });

  test("no name leads out of the shell word", () => {
    expect(() => readContainerProcesses("x; reboot")).toThrow(TypeError);
  });
});

test.each([
  ["edgeseal-x//&edgeseal-x-podman (enforce)", ["edgeseal-x", "edgeseal-x-podman"], "enforce"],
  ["edgeseal-x-podman//&edgeseal-x (mixed)", ["edgeseal-x", "edgeseal-x-podman"], "mixed"],
  ["edgeseal-x-podman (complain)", ["edgeseal-x-podman"], "complain"],
  ["podman (unconfined)", ["podman"], "unconfined"],
  ["unconfined", [], "unconfined"],
  [":other://unconfined", [":other://unconfined"], "unknown"],
  [undefined, [], "unconfined"],
])("the label %s", (label, profiles, mode) => {
  expect(confinementOf(label)).toEqual({ profiles, mode });
});
