import { defineResource } from "../resource.ts";
import { checkSealedVolume, sealedVolumeInputs } from "./sealed-volume-inputs.ts";
import { sealedVolumeProbe } from "./sealed-volume-observation.ts";
import { desiredVolume, planVolume, releaseVolume } from "./sealed-volume-plan.ts";
import { sealedVolumeState } from "./sealed-volume-state.ts";

/**
 * An encrypted volume that the node's own TPM opens at boot, in an approved state and only then.
 *
 * Formed once, on a blank device; never formatted again. At boot its header is brought to memory and held against pins, and that copy opens it. In every boot PCR 15 is
 * extended before the network and before anything that does not run as root, so that nothing can be unsealed again.
 */
export const sealedVolume = defineResource({
  token: "edgeseal:storage:SealedVolume",
  keeps: ["recoveryCiphertext"],
  description:
    "A LUKS2 volume of a node (for models, for logs) whose key is sealed to its TPM: to the site's signature over the measured boot (PCR 11), and to PCR 15 before it is capped. Formed on a blank device or in unallocated space, opened at boot with a header that was checked against pins, mounted nodev, nosuid and noexec. Never formatted twice.",
  inputs: sealedVolumeInputs,
  instanceKey: "name",
  state: sealedVolumeState,
  check: checkSealedVolume,
  observe: sealedVolumeProbe,
  desired: desiredVolume,
  plan: (inputs, observed) => {
    if (observed.outcome === "absent") throw new Error("the state of the volume was not observed");
    return planVolume(inputs, observed.state);
  },
  revert: (inputs, observed) => (observed.outcome === "absent" ? [] : releaseVolume(inputs, observed.state)),
});
