import { reboot, run, type PlainStep, type Step } from "../device/step.ts";
import type { Approval } from "../trust/approval-schema.ts";
import { shipApproval } from "./approval-shipping.ts";
import { measuredBootPaths } from "./measured-boot-files.ts";
import { rebootSeconds } from "./reboot-inputs.ts";

/*
 * An update of what a node boots, in steps: the approved boot partition is kept, the new state's approval is shipped, the node is told to go back unless the boot ends well, and
 * reboots; once that was seen to be what was approved, it is confirmed. No plan of `pulumi up` has these steps: `edgeseal update` takes them.
 */

const keepBoot = measuredBootPaths.keepBoot;

/** The boot partition read twice and written once, on a slow card. */
const copySeconds = 600;
/** A kernel with its initramfs, on a slow card and line. */
const upgradeSeconds = 3600;

/** What the node has of an update: `none` is under way; `armed`, and not booted yet; `judging`, booted and waiting for the confirmation; on its way `back`, or there. */
export const updatePhases = ["none", "armed", "judging", "restoring", "back"] as const;
export type UpdatePhase = (typeof updatePhases)[number];

/** Shell that prints `phase=...`, `reason=...` and `kept=...` (the policy of the state that can be gone back to). */
export const updateStatus = `${keepBoot} status`;

/** Keeps the boot partition while it is approved. What was kept before stays where it is not. */
export const keepApproved = (): Step =>
  run({
    title: "keep a copy of the approved boot partition",
    script: `${keepBoot} keep`,
    timeoutSeconds: copySeconds,
  });

/**
 * The same before a plan changes what the node boots, so that `edgeseal update` has something to go back to. Of a node that is in no approved state, or has no room, there is no copy, and the
 * change is made all the same.
 */
export const keepBeforeChange = (): PlainStep =>
  run({
    title: "keep a copy of the boot partition, if it is approved",
    script: `[ ! -x ${keepBoot} ] || ${keepBoot} keep || true`,
    timeoutSeconds: copySeconds,
  });

/** Brings the packages of the node up to date; files that were edited by hand stay as they are. */
export const upgradePackages = (): Step =>
  run({
    title: "upgrade the packages",
    script: `set -eu
export DEBIAN_FRONTEND=noninteractive
# One that was cut off is brought to its end first.
dpkg --force-confdef --force-confold --configure -a
apt-get -q -o DPkg::Lock::Timeout=300 update
apt-get -q -y -o DPkg::Lock::Timeout=300 --with-new-pkgs -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold upgrade`,
    timeoutSeconds: upgradeSeconds,
  });

/**
 * Boots the state that was approved.
 * @param confirmSeconds How long after its beginning the boot goes back unless it was confirmed; `undefined`: it does not go back.
 */
export function bootApproved(approval: Approval, confirmSeconds: number | undefined): readonly Step[] {
  return [
    ...shipApproval(approval),
    ...(confirmSeconds === undefined
      ? []
      : [
          run({
            title: `have the node go back unless its volumes open, and the boot is confirmed within ${confirmSeconds} s`,
            script: `${keepBoot} arm ${confirmSeconds}`,
            timeoutSeconds: copySeconds,
          }),
        ]),
    reboot({ title: "reboot into the approved state", waitSeconds: rebootSeconds, unapproved: "refuse" }),
  ];
}

/** Ends an update that went well. */
export const confirmUpdate = (): Step => run({ title: "confirm the update", script: `${keepBoot} confirm` });

/** Ends an update that did not: the node is judged no more. */
export const endUpdate = (): Step =>
  run({ title: "end the update that was under way", script: `${keepBoot} disarm` });
