import { defineResource } from "../resource.ts";
import { scratchInputs, scratchProblems } from "./scratch-inputs.ts";
import { scratchProbe, scratchState } from "./scratch-observation.ts";
import { desiredScratch, keepInMemory, takeScratchBack } from "./scratch-plan.ts";

/**
 * Nothing of a prompt reaches the plain disk by the way of temporary files, logs and histories.
 *
 * @param now The clock that reboot windows are judged by.
 */
export function scratchAt(now: () => Date) {
  return defineResource({
    token: "edgeseal:memory:Scratch",
    description:
      "Where a node puts what is said and typed on it: /tmp and /var/tmp in memory of limited size, the journal in memory or on a sealed volume, no second log on the disk, no histories of shells and other programs, no crash reports; and nothing left of what was written before.",
    inputs: scratchInputs,
    state: scratchState,
    check: scratchProblems,
    observe: () => scratchProbe,
    desired: (inputs) => desiredScratch(inputs, now()),
    plan: (inputs, observed) => {
      if (observed.outcome === "absent") throw new Error("temporary files and logs were not observed");
      return keepInMemory(inputs, observed.state, now());
    },
    revert: (_inputs, observed) => (observed.outcome === "absent" ? [] : takeScratchBack(observed.state)),
  });
}

export const scratch = scratchAt(() => new Date());
