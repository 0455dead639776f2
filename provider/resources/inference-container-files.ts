import { innerName, outerName } from "./apparmor-profile-rules.ts";
import { inferenceUnit } from "./container-process.ts";
import { programDirectory, unitFiles, userOf } from "./inference-container-unit.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import { onDevice, type ManagedFile } from "./managed-files.ts";

const unitDirectory = "/etc/systemd/system";
export const unitPath = (unit: string): string => `${unitDirectory}/${unit}`;

/** Shell function `last_words UNIT`: why a server does not run. */
export const lastWords = onDevice("last-words");
export const startInference = `#!/bin/sh\n${lastWords}${onDevice("start-inference")}`;

const programs = Object.entries({
  "ask-inference": onDevice("ask-inference"),
  "check-inference": onDevice("check-inference"),
  "start-inference": startInference,
}).map(([name, content]): ManagedFile => ({ path: `${programDirectory}/${name}`, mode: "0755", content }));

/** Every file of a service on its node, the programs, which all services share, first. */
export const managedFiles = (inputs: InferenceContainerInputs): readonly ManagedFile[] => [
  ...programs,
  ...Object.entries(unitFiles(inputs)).map(([unit, content]): ManagedFile => ({
    path: unitPath(unit),
    mode: "0644",
    content,
  })),
];

/** Units that a service can have, whether the inputs ask for them or not. */
export const allUnits = (name: string): readonly string[] => [
  inferenceUnit(name),
  ...["health.service", "health.timer", "port.service", "port.socket"].map(
    (each) => `${userOf(name)}-${each}`,
  ),
];

/** Images that came as an archive, unpacked; the policy (container:ImagePolicy) names this folder. */
export const imagesDirectory = "/var/lib/edgeseal/images";
/** The unit that answered last: what is gone back to. */
export const recordOf = (name: string): string => `/var/lib/edgeseal/inference/${inferenceUnit(name)}`;
/** Copies of what the server was started from last, as it was then: made by the check before each start. */
export const startedFrom = (
  name: string,
): {
  readonly unit: string;
  readonly seccomp: string;
  /** What the kernel had loaded of both profiles. */
  readonly appArmor: string;
  /** Which start it was, and what else systemd had read its unit from. */
  readonly start: string;
} => {
  const status = `/run/edgeseal/inference/${name}`;
  return {
    unit: `${status}.unit`,
    seccomp: `${status}.seccomp`,
    appArmor: `${status}.apparmor`,
    start: `${status}.start`,
  };
};

/** The label of what the container runs: both profiles have to allow what it does. */
export const labelOf = (name: string): string =>
  `${[innerName(name), outerName(name)].sort().join(" and ")} (enforce)`;
