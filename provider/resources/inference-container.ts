import { defineResource } from "../resource.ts";
import { inferenceContainerInputs, inferenceContainerProblems } from "./inference-container-inputs.ts";
import { inferenceContainerProbe } from "./inference-container-observation.ts";
import { desiredContainer, planContainer, removeContainer } from "./inference-container-plan.ts";
import { inferenceContainerState } from "./inference-container-state.ts";

/**
 * A server of a language model in a container that can do little else: a rootless one in a unit of the system, of an image and a model that were verified on the node, with a
 * user of its own, AppArmor, seccomp, no network, no capabilities. What holds of it is read from its process.
 */
export const inferenceContainer = defineResource({
  token: "edgeseal:inference:InferenceContainer",
  description:
    "A server of a language model in a rootless container: image by digest, under the node's image policy; model by digest, its signature checked before each start; its own user, seccomp, AppArmor, a read-only root, no capabilities, no network, limits, the model locked in memory. Covers its units, its user, and what the kernel says of its process.",
  inputs: inferenceContainerInputs,
  instanceKey: "name",
  state: inferenceContainerState,
  check: inferenceContainerProblems,
  observe: inferenceContainerProbe,
  desired: desiredContainer,
  plan: (inputs, observed) => {
    if (observed.outcome === "absent") throw new Error("the state of the service was not observed");
    return planContainer(inputs, observed.state);
  },
  revert: (inputs, observed) =>
    observed.outcome === "absent" ? [] : removeContainer(inputs, observed.state),
});
