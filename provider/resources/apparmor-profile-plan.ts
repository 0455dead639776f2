import { debianPackage, file, remove, run, unit, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import type { AppArmorProfileInputs } from "./apparmor-profile-inputs.ts";
import {
  appArmorFile,
  appArmorPath,
  loadingUnit,
  type AppArmorProfileState,
} from "./apparmor-profile-observation.ts";
import { innerName, outerName } from "./apparmor-profile-rules.ts";
import { inferenceUnit } from "./container-process.ts";
import { restartWhereItRuns } from "./container-restart.ts";
import { desiredMarks, differingFiles } from "./managed-files.ts";

/** What has to be observed. */
export function desiredAppArmorProfile(inputs: AppArmorProfileInputs): Partial<AppArmorProfileState> {
  return {
    kernel: "on",
    modes: { [outerName(inputs.name)]: "enforce", [innerName(inputs.name)]: "enforce" },
    loadedPolicy: "as written",
    atBoot: "loaded",
    overrides: [],
    otherDefinitions: [],
    files: desiredMarks([appArmorFile(inputs)]),
  };
}

/**
 * Steps after which both profiles are loaded as they are written, now and at every boot, and the container runs under them.
 * @throws PlanRefused where the kernel has no AppArmor, or another file defines these profiles
 */
export function enforceAppArmorProfile(
  inputs: AppArmorProfileInputs,
  observed: AppArmorProfileState,
): readonly Step[] {
  const { kernel, modes, loadedPolicy, atBoot, overrides, otherDefinitions } = observed;
  if (kernel === "off")
    throw new PlanRefused(
      "AppArmor is not a part of the running kernel, so that no profile confines anything",
      "the kernel's command line has to name it: `lsm=landlock,lockdown,yama,integrity,apparmor,bpf`, which edgeseal:boot:FirmwareConfig (`firmware` in a site file) sees to",
    );
  if (otherDefinitions.length > 0)
    throw new PlanRefused(
      `${otherDefinitions.join(" and ")} ${otherDefinitions.length > 1 ? "define" : "defines"} a profile of the same name, and which of them counts would be a matter of chance`,
      "see who put it there, and remove it or rename the profile",
    );
  const profile = appArmorFile(inputs);
  const wrongFile = differingFiles([profile], observed.files).length > 0;
  const loading =
    wrongFile ||
    overrides.length > 0 ||
    loadedPolicy !== "as written" ||
    Object.values(modes).some((each) => each !== "enforce");
  return [
    ...(loadedPolicy === "no apparmor_parser"
      ? [
          debianPackage({
            title: "install apparmor, whose apparmor_parser loads profiles",
            package: "apparmor",
            installed: true,
          }),
        ]
      : []),
    ...overrides.map((each) =>
      remove({ title: `remove ${each}, which keeps a profile from holding`, path: each }),
    ),
    ...(wrongFile
      ? [
          run({
            title: "see that apparmor_parser takes the profiles",
            script: "apparmor_parser --skip-kernel-load --skip-cache",
            stdin: profile.content,
          }),
          file({ title: `write the AppArmor profiles of ${inputs.name}`, ...profile }),
        ]
      : []),
    ...(loading
      ? [
          run({
            title: `load the AppArmor profiles of ${inputs.name}`,
            script: `apparmor_parser --replace --skip-read-cache -- ${profile.path}`,
          }),
          // A process that was confined by a profile which was taken away is not confined by the next one of that name, and one with two profiles keeps what it had
          // when they are replaced.
          restartWhereItRuns(inputs.name, "under these profiles"),
        ]
      : []),
    ...(atBoot === "loaded"
      ? []
      : [
          unit({
            title: "have the profiles loaded at every boot",
            unit: loadingUnit,
            masked: false,
            enabled: true,
            daemonReload: true,
          }),
        ]),
  ];
}

/**
 * Steps that unload the profiles and take them away.
 * @throws PlanRefused while the container runs: the kernel lets go of whatever a profile confined that is unloaded
 */
export function removeAppArmorProfile(
  { name }: AppArmorProfileInputs,
  observed: AppArmorProfileState,
): readonly Step[] {
  if (observed.containerLabel !== "no container runs")
    throw new PlanRefused(
      `${inferenceUnit(name)} runs under these profiles, and would go on with none`,
      `stop it first: sudo systemctl stop ${inferenceUnit(name)}`,
    );
  const loaded = Object.values(observed.modes).some((mode) => mode !== "not loaded");
  const path = appArmorPath(name);
  return [
    ...(loaded
      ? [
          run({
            title: `unload the AppArmor profiles of ${name}`,
            // No process may have come under them meanwhile.
            precondition: `! grep -qsE '(^|//&)edgeseal-${name}(-podman)?( |//|$)' /proc/[0-9]*/attr/current`,
            script: [innerName(name), outerName(name)]
              .map(
                (profile) =>
                  `if grep -qE '^${profile} ' /sys/kernel/security/apparmor/profiles; then printf %s ${profile} >/sys/kernel/security/apparmor/.remove; fi`,
              )
              .join("\n"),
          }),
        ]
      : []),
    remove({ title: `remove the AppArmor profiles of ${name}`, path }),
  ];
}
