import { debianPackage, directory, file, remove, type Step } from "../device/step.ts";
import { diffState } from "../diff.ts";
import { PlanRefused } from "../resource.ts";
import { restartWhereItRuns } from "./container-restart.ts";
import { desiredMarks } from "./managed-files.ts";
import type { SeccompProfileInputs } from "./seccomp-profile-inputs.ts";
import {
  lettingThrough,
  plainFolder,
  profileMeaning,
  seccompFile,
  seccompFolders,
  seccompPath,
  type SeccompProfileState,
} from "./seccomp-profile-observation.ts";

/** What has to be observed: read from what would be written, by the same functions. */
export function desiredSeccompProfile(inputs: SeccompProfileInputs): Partial<SeccompProfileState> {
  const profile = seccompFile(inputs);
  return {
    ...profileMeaning(profile.content),
    trial: "done",
    letThrough: lettingThrough(profile.content),
    files: {
      ...Object.fromEntries(seccompFolders.map((each) => [each, plainFolder])),
      ...desiredMarks([profile]),
    },
  };
}

/**
 * Steps after which the profile is there, and the container runs under it.
 * @throws PlanRefused when the node lets through what the right profile refuses
 */
export function writeSeccompProfile(
  inputs: SeccompProfileInputs,
  observed: SeccompProfileState,
): readonly Step[] {
  const desired = desiredSeccompProfile(inputs);
  const path = seccompPath(inputs.name);
  const wrong = (each: string): boolean => observed.files[each] !== desired.files?.[each];
  const writing = [
    ...seccompFolders
      .filter(wrong)
      .map((each) => directory({ title: `make ${each}, root's alone to change`, path: each, mode: "0755" })),
    ...(wrong(path)
      ? [
          file({ title: `write the seccomp profile of ${inputs.name}`, ...seccompFile(inputs) }),
          restartWhereItRuns(inputs.name, "under that profile"),
        ]
      : []),
  ];
  const missing = { "no python3": "python3", "no libseccomp": "libseccomp2" } as const;
  const tool = observed.trial in missing ? missing[observed.trial as keyof typeof missing] : undefined;
  const installing =
    tool === undefined
      ? []
      : [
          debianPackage({
            title: `install ${tool}, to try the profile with`,
            package: tool,
            installed: true,
          }),
        ];
  const steps = [...installing, ...writing];
  const [different] = diffState(desired, observed);
  if (steps.length === 0 && different !== undefined)
    throw new PlanRefused(
      `the seccomp profile of ${inputs.name} is as it must be, and ${different.path} is not: the kernel or libseccomp of the node takes it for another one`,
      "see `dpkg -l libseccomp2 crun` and `uname -r` on the node, and report it",
    );
  return steps;
}

/** Steps that take the profile away. A container whose unit names it does not start any more. */
export const removeSeccompProfile = ({ name }: SeccompProfileInputs): readonly Step[] => [
  remove({ title: `remove the seccomp profile of ${name}`, path: seccompPath(name) }),
];
