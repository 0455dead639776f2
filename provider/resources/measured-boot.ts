import { Type, type Static } from "typebox";
import { diffState } from "../diff.ts";
import { defineResource } from "../resource.ts";
import { desiredMarks } from "./managed-files.ts";
import { managedFiles } from "./measured-boot-files.ts";
import { measuredBootProbe, measuredBootState, type MeasuredBootState } from "./measured-boot-observation.ts";
import { installMeasuring, removeMeasuring, whyNot } from "./measured-boot-plan.ts";
import { mayReboot, rebootInputs, rebootProblems, rebootSteps, tellOfNextBoot } from "./reboot-inputs.ts";

const inputs = Type.Object({
  ...rebootInputs,
  node: Type.String({
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    description:
      "The node's name. It is measured too, so that an approval holds for this node only, even between nodes with equal files. The name that approvals have: lower-case letters, digits and hyphens, 63 at most.",
  }),
});

type Inputs = Static<typeof inputs>;

/**
 * The boot measured into the TPM, in the initramfs, by edgeseal's own program: the firmware of a Pi measures nothing.
 *
 * @param now The clock that reboot windows are judged by.
 */
export function measuredBootAt(now: () => Date) {
  const desired = (wanted: Inputs): Partial<MeasuredBootState> => ({
    files: desiredMarks(managedFiles(wanted.node)),
    initramfs: "current",
    desync: "none",
    failures: [],
    ...(mayReboot(wanted, now()) ? { measured: true, pendingReboot: false } : {}),
  });
  return defineResource({
    token: "edgeseal:boot:MeasuredBoot",
    description:
      "Boot measured into PCR 11 of the TPM, from the initramfs: boot partition, kernel command line, device tree. Installs the measuring program and builds it into the initramfs, reads back the event log and the PCRs, holds one against the other, and predicts what the next boot will measure.",
    inputs,
    state: measuredBootState,
    check: rebootProblems,
    observe: () => measuredBootProbe,
    desired,
    plan: (wanted, observed) => {
      if (observed.outcome === "absent") throw new Error("the state of the measured boot was not observed");
      const { state } = observed;
      const differences = diffState(desired(wanted), state);
      if (differences.length === 0) return [];
      // Before anything is changed: a reboot would wipe the traces.
      if (state.desync === "tampered") throw whyNot(differences, state);
      const steps = [...installMeasuring(wanted.node, state)];
      const changesBoot = steps.some(({ kind }) => kind === "run");
      if (changesBoot && !mayReboot(wanted, now())) steps.push(tellOfNextBoot());
      if (changesBoot || state.pendingReboot)
        steps.push(...rebootSteps(wanted, "reboot, to be measured", now()));
      if (steps.length === 0) throw whyNot(differences, state);
      return steps;
    },
    revert: (_wanted, observed) => (observed.outcome === "absent" ? [] : removeMeasuring(observed.state)),
  });
}

export const measuredBoot = measuredBootAt(() => new Date());
