import { defineResource } from "../resource.ts";
import { seccompProfileInputs, seccompProfileProblems } from "./seccomp-profile-inputs.ts";
import { seccompProfileProbe, seccompProfileState } from "./seccomp-profile-observation.ts";
import { desiredSeccompProfile, removeSeccompProfile, writeSeccompProfile } from "./seccomp-profile-plan.ts";

/**
 * The system calls that an inference container may make, and no others. What is read back is what the profile on the node means, and what the kernel does under it: calls are
 * tried, without it and with it.
 */
export const seccompProfile = defineResource({
  token: "edgeseal:security:SeccompProfile",
  description:
    "The seccomp profile of an inference container: every system call is refused but those that its server was recorded to make, some of them under conditions on their arguments. Covers the file, what it means, a trial of calls under it on the node, and the mode of the container that runs.",
  inputs: seccompProfileInputs,
  instanceKey: "name",
  state: seccompProfileState,
  check: seccompProfileProblems,
  observe: seccompProfileProbe,
  desired: desiredSeccompProfile,
  plan: (inputs, observed) => {
    if (observed.outcome === "absent") throw new Error("the seccomp profile was not observed");
    return writeSeccompProfile(inputs, observed.state);
  },
  revert: removeSeccompProfile,
});
