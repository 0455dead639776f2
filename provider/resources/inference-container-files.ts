import { innerName, outerName } from "./apparmor-profile-rules.ts";
import { inferenceUnit } from "./container-process.ts";
import { programDirectory, unitFiles, userOf } from "./inference-container-unit.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import { onDevice, type ManagedFile } from "./managed-files.ts";

const unitDirectory = "/etc/systemd/system";
export const unitPath = (unit: string): string => `${unitDirectory}/${unit}`;

const programs = ["ask-inference", "check-inference", "start-inference"].map((name): ManagedFile => ({
  path: `${programDirectory}/${name}`,
  mode: "0755",
  content: onDevice(name),
}));

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
/** The unit's file as it was when the server was started last, by the check before each start. */
export const startedUnitOf = (name: string): string => `/run/edgeseal/inference/${name}.unit`;

/** The label of what the container runs: both profiles have to allow what it does. */
export const labelOf = (name: string): string =>
  `${[innerName(name), outerName(name)].sort().join(" and ")} (enforce)`;
