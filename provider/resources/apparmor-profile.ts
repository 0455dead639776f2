import { defineResource } from "../resource.ts";
import { appArmorProfileInputs, appArmorProfileProblems } from "./apparmor-profile-inputs.ts";
import { appArmorProfileProbe, appArmorProfileState } from "./apparmor-profile-observation.ts";
import {
  desiredAppArmorProfile,
  enforceAppArmorProfile,
  removeAppArmorProfile,
} from "./apparmor-profile-plan.ts";

/**
 * The AppArmor profiles of an inference service: one for podman, one for whatever its containers run. What is read back is what the kernel has loaded, and whether that is what
 * the file says.
 */
export const appArmorProfile = defineResource({
  token: "edgeseal:security:AppArmorProfile",
  description:
    "The AppArmor profiles of an inference service: an outer one for the unit that runs podman, and an inner one that is stacked upon everything its containers run, which may read the model and its own libraries, write its tmpfs and answer on its socket, and nothing else. Covers the file, the policy and the modes that the kernel has, loading at boot, and what would override them.",
  inputs: appArmorProfileInputs,
  instanceKey: "name",
  state: appArmorProfileState,
  check: appArmorProfileProblems,
  observe: appArmorProfileProbe,
  desired: desiredAppArmorProfile,
  plan: (inputs, observed) => {
    if (observed.outcome === "absent") throw new Error("the AppArmor profiles were not observed");
    return enforceAppArmorProfile(inputs, observed.state);
  },
  revert: (inputs, observed) =>
    observed.outcome === "absent" ? [] : removeAppArmorProfile(inputs, observed.state),
});
