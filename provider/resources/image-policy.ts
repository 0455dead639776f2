import { defineResource } from "../resource.ts";
import { imagePolicyInputs, imagePolicyProblems } from "./image-policy-inputs.ts";
import { imagePolicyProbe, imagePolicyState } from "./image-policy-observation.ts";
import { desiredPolicy, enforcePolicy, takePolicyBack } from "./image-policy-plan.ts";

/**
 * Which images podman takes: none but those that are listed, and of these only what one of the site's keys has signed. It holds for whoever pulls,
 * root and the inference user alike.
 */
export const imagePolicy = defineResource({
  token: "edgeseal:container:ImagePolicy",
  description:
    "The image policy of a node (containers-policy.json(5)): every image is rejected but those that are listed, and these need a signature by a key of the site. Covers the policy, where signatures are looked for, the public keys, and the files of users that would stand in their place.",
  inputs: imagePolicyInputs,
  state: imagePolicyState,
  check: imagePolicyProblems,
  observe: imagePolicyProbe,
  desired: desiredPolicy,
  plan: (inputs, observed) => {
    if (observed.outcome === "absent") throw new Error("the image policy was not observed");
    return enforcePolicy(inputs, observed.state);
  },
  revert: (_inputs, observed) => (observed.outcome === "absent" ? [] : takePolicyBack(observed.state)),
});
