import type { Step } from "../../provider/device/step.ts";
import {
  bootApproved,
  confirmUpdate,
  endUpdate,
  keepApproved,
  upgradePackages,
} from "../../provider/resources/measured-boot-update.ts";
import type { Approval } from "../../provider/trust/approval-schema.ts";
import { verifyApproval } from "../../provider/trust/approval.ts";
import { policyPcrDigest } from "../../provider/trust/pcr-policy.ts";
import type { PolicyKey } from "../approve/policy-key.ts";
import { UserError } from "../errors.ts";
import type { UpdateReading } from "./read-update.ts";

/*
 * What an update may do next with a node, from what the node said: pure. Whatever must not be done unless something holds comes as the steps that do it, so that there is no way to them past
 * the judgement.
 */

export const lockedOf = (volumes: UpdateReading["volumes"]): readonly string[] =>
  Object.keys(volumes).filter((name) => volumes[name] === false);

/** Where a node is when the command begins. */
export type Beginning =
  | { readonly how: "went-back"; readonly steps: readonly Step[] }
  | { readonly how: "waiting" | "resume" | "begin" };

/** Whether an update is under way, and how far it came. */
export function beginning(before: UpdateReading, dryRun: boolean): Beginning {
  const { phase, hasBooted } = before;
  if (phase === "back" || phase === "restoring") return wentBack(before, dryRun);
  if (phase !== "none" && hasBooted === true) return { how: dryRun ? "waiting" : "resume" };
  return { how: "begin" };
}

/** A node that is still going back needs what it was told for that. */
const wentBack = ({ phase }: UpdateReading, dryRun: boolean) =>
  ({ how: "went-back", steps: phase === "back" && !dryRun ? [endUpdate()] : [] }) as const;

/** A step, and whether the command goes on without it. */
export interface Preparing {
  readonly step: Step;
  readonly mayFail: boolean;
}

/** Steps to where the next boot can be looked at. The copy of what would be gone back to comes before anything is upgraded. */
export function preparation(
  { phase }: UpdateReading,
  { wayBack, upgrade }: { readonly wayBack: boolean; readonly upgrade: boolean },
): readonly Preparing[] {
  return [
    // Armed, and never booted: it was interrupted in between.
    ...(phase === "none" ? [] : [{ step: endUpdate(), mayFail: false }]),
    ...(wayBack ? [{ step: keepApproved(), mayFail: true }] : []),
    ...(upgrade ? [{ step: upgradePackages(), mayFail: false }] : []),
  ];
}

/** Whether nothing is left to do: what will boot is what booted, the node has its approval, and its volumes are open by it. */
export const holdsAlready = (
  { pcr11, consistent, approved, volumes }: UpdateReading,
  next: string,
): boolean =>
  pcr11 === next && consistent && approved.has(policyPcrDigest(next)) && lockedOf(volumes).length === 0;

/**
 * Steps that boot what was approved.
 * @param next PCR 11 as it was predicted and approved
 * @param confirmSeconds How long after its beginning the boot is taken back unless it was confirmed; `undefined`: it is not.
 * @throws UserError
 */
export function bootSteps(
  now: UpdateReading,
  approval: Approval,
  next: string,
  confirmSeconds: number | undefined,
): readonly Step[] {
  requireOwnKey(now, approval);
  if (confirmSeconds !== undefined) requireWayBack(now, approval, next);
  return bootApproved(approval, confirmSeconds);
}

/**
 * What is to be done after the boot: the confirmation, or nothing where there is nothing that waits for one.
 * @throws UserError when something else booted than was approved, or a volume stays locked
 */
export function ending(
  after: UpdateReading,
  predicted: string,
): { readonly how: "confirmed" | "went-back"; readonly steps: readonly Step[] } {
  if (after.phase === "back" || after.phase === "restoring") return wentBack(after, false);
  requireAsPredicted(after, predicted);
  return { how: "confirmed", steps: after.phase === "none" ? [] : [confirmUpdate()] };
}

/**
 * Steps that confirm an update that was begun by an earlier run: for the same reasons as by that.
 * @throws UserError
 */
export function resumed(
  before: UpdateReading,
  approval: Approval | undefined,
  node: string,
  { generation, publicKeyPem }: Pick<PolicyKey, "generation" | "publicKeyPem">,
): readonly Step[] {
  const own =
    approval !== undefined &&
    verifyApproval(approval, { node, generation, publicKeyPem }).length === 0 &&
    approval.states.some(({ pcr11 }) => pcr11 === before.pcr11);
  if (!own) {
    throw new UserError(`the node has booted into PCR 11 ${before.pcr11}, which your approvals do not have`, {
      hint: "bring your approvals up to date; unless it is confirmed, the node goes back by itself when the time is over",
    });
  }
  requireAsPredicted(before, before.pcr11);
  return [confirmUpdate()];
}

/** Another generation's signatures open nothing of what this one sealed, and shipping them takes away those that do. */
function requireOwnKey({ signedBy }: UpdateReading, { policyKey, generation, node }: Approval): void {
  if ([...signedBy].every((each) => each === policyKey)) return;
  throw new UserError(
    `the node's volumes open by the signatures of another policy key than generation ${generation}, so after this boot they would stay locked`,
    { hint: `seal them to this generation first: edgeseal volume recover ${node}` },
  );
}

/** Before anything is shipped: what the node would go back to is there, opens by what is shipped, and is not the very state that is tried. */
function requireWayBack(
  { keptPolicy, pcr11, approved, volumes }: UpdateReading,
  approval: Approval,
  next: string,
): void {
  if (keptPolicy === undefined) {
    throw new UserError("the node has no copy of an approved boot partition that it could go back to", {
      hint: "a copy is kept before each run of apt, before `pulumi up` changes what boots, and by this command, while the node is in an approved state; put the files back as they were approved, boot, and run this again, or give --no-way-back and have a keyboard at hand",
    });
  }
  if (!approval.states.some((state) => policyPcrDigest(state.pcr11) === keptPolicy)) {
    throw new UserError("what the node would go back to is not in the approval that would be shipped", {
      hint: "your approvals lack a state that the node was approved in: bring them up to date",
    });
  }
  if (policyPcrDigest(next) === keptPolicy) {
    throw new UserError("what the node would go back to is the very state that it is to boot", {
      hint: "it was approved and opened the volumes before: give --no-way-back",
    });
  }
  const locked = lockedOf(volumes);
  if (locked.length > 0 && approved.has(policyPcrDigest(pcr11))) {
    throw new UserError(
      `${locked.join(", ")} stays locked although this boot is an approved one, so every update would be taken back`,
      { hint: "`pulumi refresh --diff` says why; mend that first, or give --no-way-back" },
    );
  }
}

/** What was measured is what was approved, or nobody confirms it. */
function requireAsPredicted({ pcr11, consistent, volumes }: UpdateReading, predicted: string): void {
  const locked = lockedOf(volumes);
  const goesBack = "it is not confirmed, and the node goes back by itself when the time is over";
  if (pcr11 !== predicted || !consistent) {
    throw new UserError(
      `PCR 11 is ${pcr11} after the boot, and ${predicted} was predicted and approved: something else booted`,
      { hint: goesBack },
    );
  }
  if (locked.length > 0) throw new UserError(`locked: ${locked.join(", ")}`, { hint: goesBack });
}
