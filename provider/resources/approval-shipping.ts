import { lockedVolumes, nextPolicy } from "../device/locked-volumes.ts";
import { quote } from "../device/shell-quote.ts";
import { directory, file, run, type PlainStep } from "../device/step.ts";
import type { Approval } from "../trust/approval-schema.ts";
import { onDevice } from "./managed-files.ts";
import { approvalsFile, approvalsPath, trustDirectory } from "./sealed-volume-files.ts";

/** As long as reading the boot partition of a slow card takes: what the next boot measures is looked at. */
const lookingSeconds = 120;

/** Shell that puts an approval, one that was verified, into the place of those that the node's volumes open by, or looks whether that may be. */
const puttingInPlace = (approval: Approval, call: "may_replace_approvals" | "write_approvals"): string =>
  [
    `node=${quote(approval.node)}`,
    `policy_key=${quote(approval.policyKey)}`,
    `approvals=${quote(approvalsFile(approval).content.trimEnd())}`,
    `${lockedVolumes}${nextPolicy}${onDevice("put-approvals")}`,
    call,
  ].join("\n");

/** Fails where the next boot would open a volume by the approvals that are there, and would not by this one in their place. */
export const nothingLost = (approval: Approval): PlainStep =>
  run({
    title: "see that no volume loses the approval that it opens by",
    script: puttingInPlace(approval, "may_replace_approvals"),
    timeoutSeconds: lookingSeconds,
  });

/** Puts an approval beside those of other policy keys, for as long as a volume is sealed by one of them. */
export const putBeside = (approval: Approval): PlainStep =>
  run({
    title: `write ${approvalsPath}, with what volumes of an earlier generation open by`,
    script: puttingInPlace(approval, "write_approvals"),
  });

/**
 * Steps that put an approval onto a node before it boots what is approved, in the place of the one that is there, as a volume's own plan does.
 * @param approval one that was verified
 */
export function shipApproval(approval: Approval): readonly PlainStep[] {
  const { path, mode, content } = approvalsFile(approval);
  return [
    nothingLost(approval),
    ...["/etc/edgeseal", trustDirectory].map((each) =>
      directory({ title: `make ${each}`, path: each, mode: "0755" }),
    ),
    file({ title: "ship the approval", path, mode, content, owner: "root:root" }),
  ];
}
