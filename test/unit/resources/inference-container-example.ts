import type { InferenceContainerInputs } from "../../../provider/resources/inference-container-inputs.ts";

/** Inputs as a site gives them, with the defaults filled in. */
export const example: InferenceContainerInputs = {
  name: "inference",
  image: `registry.example/edge/llama@sha256:${"a".repeat(64)}`,
  model: `sha256:${"b".repeat(64)}`,
  modelDirectory: "/srv/models/models",
  storage: "/srv/models/containers/inference",
  variant: "llama-server",
  contextTokens: 4096,
  threads: 3,
  parallel: 1,
  cpuQuotaPercent: 350,
  memoryMaxMiB: 1024,
  tasksMax: 64,
  tmpMiB: 16,
  startTimeoutSeconds: 600,
  confinement: {
    seccomp: "profile",
    appArmor: "profile",
    readOnlyRoot: true,
    noNewPrivileges: true,
    memoryLock: true,
    network: "none",
    capabilities: [],
    devices: [],
  },
};

export const loosened = (
  confinement: Partial<InferenceContainerInputs["confinement"]>,
): InferenceContainerInputs => ({ ...example, confinement: { ...example.confinement, ...confinement } });
