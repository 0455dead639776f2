import { defineResource } from "../resource.ts";
import { modelInputs, modelProblems } from "./model-inputs.ts";
import { modelProbe, modelState } from "./model-observation.ts";
import { desiredModel, placeModel, releaseModel } from "./model-plan.ts";

/**
 * A model on a sealed volume of a node, which is the one that the site vouches for: its digest and its signature are judged by the device itself, before it gets its place and at every look.
 */
export const model = defineResource({
  token: "edgeseal:inference:Model",
  description:
    "A model on a sealed volume of a node: brought there in a way that goes on where it was cut off, its digest and the site's signature verified by the node before it gets its place, the former one kept for going back. Every look reads it through again.",
  inputs: modelInputs,
  instanceKey: "name",
  state: modelState,
  check: modelProblems,
  observe: modelProbe,
  desired: desiredModel,
  plan: (inputs, observed) => {
    if (observed.outcome === "absent") throw new Error("the model was not observed");
    return placeModel(inputs, observed.state);
  },
  revert: (inputs, observed) => (observed.outcome === "absent" ? [] : releaseModel(inputs, observed.state)),
});
