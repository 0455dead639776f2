import { managedFiles } from "../../../provider/resources/inference-container-files.ts";
import type { InferenceContainerInputs } from "../../../provider/resources/inference-container-inputs.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { example } from "./inference-container-example.ts";

/*
 * What a node prints on which a service is as it should be: that of the virtual Pi, shortened.
 */

export const wanted: InferenceContainerInputs = {
  ...example,
  nodeMemoryMiB: 8192,
  cpuQuotaPercent: 300,
};
export const id = "1399ed7d0ee0a650f1ea3bcc70c92dff7f572bc07c3d660a77086d1126bda5f6";
export const imageId = "1206275158bb54369d287a886ce74f6b76b9abe4c62c168a6a7c8f397abfb4fa";
export const model = "b".repeat(64);
export const digest = `sha256:${"a".repeat(64)}`;

export const none = "0000000000000000";
export const kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
const process = [
  "process 4242",
  "NSpid:\t4242\t1",
  "Uid:\t989\t989\t989\t989",
  "Gid:\t989\t989\t989\t989",
  "Groups:\t989 ",
  ...["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map((set) => `${set}:\t${none}`),
  ...[
    "NoNewPrivs:\t1",
    "Seccomp:\t2",
    "Seccomp_filters:\t21",
    "VmLck:\t  240812 kB",
    "VmSwap:\t       0 kB",
    "Threads:\t9",
  ],
  "oom: 500",
  "label: edgeseal-inference//&edgeseal-inference-podman (enforce)",
  "own /usr/bin/llama-server",
  ...kinds.map((kind) => `own ${kind}:[${kind === "time" ? 1 : 2}]`),
  ...kinds.map((kind) => `init ${kind}:[1]`),
].join("\n");

const container = [
  `id ${id}`,
  "model this",
  "mount 97 68 0:41 / / ro,relatime - overlay overlay rw,lowerdir=/x,upperdir=/y,workdir=/z,userxattr",
  `mount 90 97 254:0 /models/${model} /models ro,nosuid,nodev,noexec,relatime - ext4 /dev/mapper/edgeseal-models rw`,
  "mount 92 97 0:26 /edgeseal-inference/http /run/inference rw,nosuid,nodev,relatime - tmpfs tmpfs rw,size=305980k,mode=755",
  "mount 91 97 0:26 /x/userdata/.containerenv /run/.containerenv ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw",
  "mount 99 97 0:45 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=16384k,uid=989,gid=989",
  "mount 100 97 0:46 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw",
  "mount 101 97 0:47 / /dev ro,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
  "mount 102 101 0:43 / /dev/mqueue rw,nosuid,nodev,noexec,relatime - mqueue mqueue rw",
  ...[
    "253 97 0:59 /x/userdata/hostname /etc/hostname ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755",
    "256 97 0:69 /x/userdata/passwd /etc/passwd ro,nosuid,nodev,noexec,relatime - ext4 /dev/mapper/edgeseal-models rw",
    "261 97 0:76 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs rw",
    "266 101 0:80 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,mode=620,ptmxmode=666",
    "267 261 0:38 /system.slice/x /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw",
    "268 101 0:71 /null /dev/null ro,nosuid,noexec - tmpfs tmpfs rw,size=4096k,mode=755",
    "274 100 0:81 / /proc/acpi ro,relatime - tmpfs tmpfs rw,size=0k,uid=989,gid=989",
    "275 100 0:71 /null /proc/keys ro,nosuid,noexec - tmpfs tmpfs rw,size=4096k,mode=755",
    "277 261 0:82 / /sys/firmware ro,relatime - tmpfs tmpfs rw,size=0k,uid=989,gid=989",
    "281 100 0:46 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw",
  ].map((mount) => `mount ${mount}`),
  "net Inter-|   Receive                                                |  Transmit",
  "net  face |bytes    packets errs drop fifo frame compressed multicast|bytes",
  "net     lo:       0       0    0    0    0     0          0         0        0",
  "map Size: 240812",
  "map Locked: 240812",
  "limit memory.max 1073741824",
  "limit memory.swap.max 0",
  "limit pids.max 64",
  "limit cpu.max 300000 100000",
  "main Seccomp_filters:\t20",
  "",
].join("\n");

export const image = (
  digests: readonly string[],
  names: readonly string[] | undefined = ["registry.example/edge/llama:x"],
) => ({
  id: imageId,
  digest: digests[0],
  names,
  "big-data-names": [`sha256:${imageId}`, ...digests.map((each) => `manifest-${each}`), "manifest"],
});
export const storage = "/srv/models/containers/inference";
export const storageOf = (images: object, containers: object): string => {
  const files = [
    [`${storage}/overlay-images/images.json`, images],
    [`${storage}/overlay-containers/containers.json`, containers],
  ] as const;
  return files.map(([path, value]) => `F ${path}\nL ${path}:${JSON.stringify(value)}\n`).join("");
};

const invocation = "5e1f4c0c6a8f4b0f8f6d7a5b9c3e2d10";
/** How files compare with those that a start left copies of, and what that start kept of its unit. */
export const record = (compared: string, start: Readonly<Record<string, string>> = {}): string => {
  const shown = {
    InvocationID: invocation,
    FragmentPath: "/etc/systemd/system/edgeseal-inference.service",
    DropInPaths: "",
    NeedDaemonReload: "no",
    ...start,
  };
  const kept = Object.entries(shown).map(([key, value]) => `${key}=${value}`);
  return `${[...compared.split(" "), ...kept].join("\n")}\n`;
};

const unit = (name: string, values: Readonly<Record<string, string>>): string =>
  Object.entries({
    Id: name,
    LoadState: "loaded",
    UnitFileState: "enabled",
    ActiveState: "active",
    SubState: "running",
    Result: "success",
    NRestarts: "0",
    NeedDaemonReload: "no",
    FragmentPath: `/etc/systemd/system/${name}`,
    DropInPaths: "",
    MainPID: "4200",
    InvocationID: invocation,
    ...values,
  })
    .map(([key, value]) => `${key}=${value}`)
    .join("\n");
export const units = (service: Readonly<Record<string, string>> = {}): string =>
  `${[
    unit("edgeseal-inference.service", service),
    unit("edgeseal-inference-health.service", { UnitFileState: "static", ActiveState: "inactive" }),
    unit("edgeseal-inference-health.timer", {}),
    unit("edgeseal-inference-port.service", { LoadState: "not-found", FragmentPath: "" }),
    unit("edgeseal-inference-port.socket", { LoadState: "not-found", FragmentPath: "" }),
  ].join("\n\n")}\n`;

export const account = [
  "root:x:0:0:root:/root:/bin/bash",
  "edge:x:1000:1000::/home/edge:/bin/bash",
  "edgeseal-inference:x:989:989::/usr/lib/edgeseal/no-home:/usr/sbin/nologin",
  "edgeseal-inference:!:20787::::::",
  "root:x:0:",
  "video:x:44:",
  "edgeseal-inference:x:989:",
  "",
].join("\n");

/** What each part of the probe prints. */
export const good: Readonly<Record<string, string>> = {
  packages: "",
  account,
  subordinate: "",
  directories: `755 root:root /usr/lib/edgeseal/no-home\n700 edgeseal-inference:edgeseal-inference ${storage}\n`,
  files: managedFiles(wanted)
    .map(({ path, mode, content }) => `${path} ${mode.slice(1)} root:root sha256:${sha256Hex(content)}\n`)
    .join(""),
  units: units(),
  record: record("this this this this"),
  processes: process,
  container,
  storage: storageOf([image([digest])], [{ id, names: ["edgeseal-inference"], image: imageId }]),
  remnants: "",
  owned: `0::/system.slice/edgeseal-inference.service/libpod-payload-${id} llama-server\n0::/system.slice/edgeseal-inference.service/runtime conmon\n`,
  health: "healthy\n",
  reason: "",
  places: `model\nplace /srv/models/models /srv/models CRYPT-LUKS2-00-edgeseal-models\nplace ${storage} /srv/models CRYPT-LUKS2-00-edgeseal-models\n`,
  memory: "MemTotal:        8245424 kB\n",
  exposure: "-> Overall exposure level for edgeseal-inference.service: 2.5 OK :-)\n",
};
