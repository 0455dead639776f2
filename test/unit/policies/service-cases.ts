import { example } from "../resources/inference-container-example.ts";
import type { BlockInputs, BlockStates, inferenceBlocks } from "../../../policies/node.ts";

type ServiceBlock = (typeof inferenceBlocks)[number] | "scratch";

export const image = `sha256:${"1a".repeat(32)}`;
export const modelDigest = `sha256:${"2b".repeat(32)}`;
const modelFolder = `/srv/models/models/${"2b".repeat(32)}`;
const service = { name: "inference", variant: "llama-server" } as const;
const places = {
  modelDirectory: "/srv/models/models",
  storage: "/srv/models/containers/inference",
} as const;

/** Inputs of what serves a model, and of what keeps its prompts in memory, with which the controls pass. */
export const goodServiceInputs: Pick<BlockInputs, ServiceBlock> = {
  scratch: {
    tmpMiB: 256,
    varTmpMiB: 512,
    journal: { directory: "/srv/logs/journal" },
    syslog: "off",
    historyFiles: "remove",
    leftovers: "remove",
    reboot: "never",
    rebootUnapproved: "refuse",
  },
  model: {
    name: "inference",
    digest: modelDigest,
    mountPoint: "/srv/models",
    directory: places.modelDirectory,
    statement: "(envelope)",
    keys: { site: "(PEM)" },
    keep: 1,
  },
  seccompProfile: { ...service, additionalSyscalls: [] },
  appArmorProfile: { ...service, ...places },
  inference: { ...example, image: `registry.example/edge/llama@${image}`, model: modelDigest },
};

/** What is read back when all of it is as it must be. */
export const goodServiceStates: Pick<BlockStates, ServiceBlock> = {
  scratch: {
    mountUnits: ["tmp.mount", "var-tmp.mount"],
    mounts: {
      "/tmp": "tmpfs 256 MiB nodev noexec nosuid",
      "/var/tmp": "tmpfs 512 MiB nodev noexec nosuid",
    },
    mountDifferences: [],
    diskUsers: [],
    pendingReboot: false,
    journalSetting: "auto",
    journalIn: ["/srv/logs/journal"],
    journalLink: "/srv/logs/journal",
    syslogUnits: [],
    syslogProcesses: [],
    syslogFiles: [],
    crashReporters: [],
    historyVariables: { LESSHISTFILE: "-" },
    bashHistory: "off",
    historyFiles: {},
    leftovers: [],
    files: {},
    overridingFiles: [],
    maskedUnits: [],
  },
  model: {
    volume: "mounted",
    digest: modelDigest,
    model: "verified",
    former: {},
    inUse: [modelDigest],
    surplus: [],
    leftovers: [],
    otherModels: [],
    keys: { site: `sha256:${"5a".repeat(32)}` },
    files: {
      "/etc/edgeseal/model-keys/site.pem": "0644 root:root",
      [modelFolder]: "0555 root:root directory",
      [`${modelFolder}/model.gguf`]: "0444 root:root",
    },
  },
  seccompProfile: {
    defaultAction: "EPERM",
    calls: { read: "allowed" },
    allowedCalls: 66,
    dangerousCalls: [],
    trial: "done",
    letThrough: ["read"],
    undecided: [],
    architecture: "aarch64",
    proof: "proven on aarch64",
    containerSeccomp: "filter",
    containerFilters: 21,
    files: { "/etc/edgeseal/seccomp/inference.json": "0644 root:root" },
  },
  appArmorProfile: {
    kernel: "on",
    modes: { "edgeseal-inference-podman": "enforce", "edgeseal-inference": "enforce" },
    loadedPolicy: "as written",
    atBoot: "loaded",
    overrides: [],
    otherDefinitions: [],
    containerLabel: "edgeseal-inference-podman//&edgeseal-inference (enforce)",
    files: { "/etc/apparmor.d/edgeseal-inference": "0644 root:root" },
  },
  inference: {
    health: "healthy",
    reason: "",
    image,
    model: modelDigest,
    confinement: {
      user: "edgeseal-inference",
      groups: "none",
      capabilities: "none",
      noNewPrivileges: "yes",
      seccomp: "profile",
      appArmor: "edgeseal-inference and edgeseal-inference-podman (enforce)",
      namespaces: "cgroup ipc mnt net pid user uts",
      rootFilesystem: "read-only",
      writable: "/run/inference, /tmp of 16 MiB without exec",
      interfaces: "lo",
      oomScoreAdjust: "500",
      memoryMax: "1024 MiB",
      swapMax: "0 MiB",
      tasksMax: "64",
      cpuMax: "none",
      modelLocked: "all",
    },
    account: {
      group: "edgeseal-inference",
      home: "/usr/lib/edgeseal/no-home",
      shell: "/usr/sbin/nologin",
      password: "locked",
    },
    groups: [],
    groupMembers: [],
    subordinateIds: [],
    lingering: false,
    directories: { [places.storage]: "0700 edgeseal-inference:edgeseal-inference" },
    files: {},
    unitOverrides: [],
    units: { "edgeseal-inference.service": "enabled, active" },
    foreignContainers: [],
    foreignProcesses: [],
    images: [image],
    modelPresent: true,
    volumes: { [places.storage]: "/srv/models, encrypted" },
    exposure: { "edgeseal-inference.service": "2.1" },
    restarts: 0,
  },
};
