import { directory, file, run, type PlainStep } from "../device/step.ts";
import type { Approval } from "../trust/approval-schema.ts";
import { approvalsFile, settingsDirectory, trustDirectory } from "./sealed-volume-files.ts";

/**
 * Steps that put an approval onto a node before it boots what is approved, in the place of the one that is there, as a volume's own plan does. Not where what is there is signed by another policy key:
 * volumes are sealed to that one until `edgeseal volume recover`, and another key's signatures open none of them.
 * @param approval one that was verified
 */
export function shipApproval(approval: Approval): readonly PlainStep[] {
  const { path, mode, content } = approvalsFile(approval);
  const { node, generation, policyKey } = approval;
  return [
    run({
      title: "see that no other policy key's approval is in force",
      script: `set -eu
set -- ${settingsDirectory}/*.conf
[ -e "$1" ] && [ -e ${path} ] || exit 0
signed=$(tr -d ' \\t\\r\\n' < ${path} | grep -oE '"pkfp":"[^"]*"' | sort -u)
# Nothing was approved yet, or by this key alone.
case $signed in '' | '"pkfp":"${policyKey}"') exit 0 ;; esac
echo 'the sealed volumes open by the signatures of another policy key than generation ${generation}, which would be taken from them: run edgeseal volume recover ${node} first' >&2
exit 1`,
    }),
    ...["/etc/edgeseal", trustDirectory].map((each) =>
      directory({ title: `make ${each}`, path: each, mode: "0755" }),
    ),
    file({ title: "ship the approval", path, mode, content, owner: "root:root" }),
  ];
}
