import { signApproval, verifyApproval } from "../../provider/trust/approval.ts";
import { UserError } from "../errors.ts";
import { visible } from "../visible.ts";
import type { ApprovalsFolder } from "./approvals-folder.ts";
import { exitStatus, type ApproveOptions } from "./options.ts";
import type { PolicyKey } from "./policy-key.ts";

interface Means {
  readonly approvals: ApprovalsFolder;
  readonly key: PolicyKey;
  readonly confirm: (question: string) => Promise<boolean>;
  readonly options: Pick<ApproveOptions, "json" | "dryRun">;
}

/** Said with every withdrawal, since it is so easily taken for more. */
export const notRevoked =
  "This does not revoke the state. Whoever has the old files and the old signature, which was public, still boots into it and opens the volumes. Only a new generation of the policy key ends that: edgeseal keys rotate, edgeseal approve, edgeseal volume recover.";

/**
 * Withdraws an approved state from a node's approval.
 * @param wanted PCR 11 of the state, or its first 8 or more hex digits.
 * @throws UserError, KeyUnusable
 */
export async function forget(node: string, wanted: string, means: Means): Promise<void> {
  const { approvals, key, confirm, options } = means;
  const approval = await approvals.read(node);
  if (approval === undefined) throw new UserError(`there is no approval of ${node} in ${approvals.folder}`);
  const problems = verifyApproval(approval, {
    node,
    generation: key.generation,
    publicKeyPem: key.publicKeyPem,
  });
  if (problems.length > 0) {
    const list = problems.map(({ path, message }) => `${path}: ${message}`).join("\n");
    throw new UserError(`the approval of ${node} can't be built on:\n${list}`);
  }
  if (!/^[0-9a-f]{8,64}$/.test(wanted)) {
    throw new UserError("--forget takes the state's PCR 11: 64 hex digits, or the first 8 or more");
  }
  const [state, another] = approval.states.filter(({ pcr11 }) => pcr11.startsWith(wanted));
  if (state === undefined || another !== undefined) {
    const list = approval.states.map((each) => `${each.pcr11}  ${each.approvedAt}  ${visible(each.reason)}`);
    throw new UserError(
      `${state === undefined ? "no approved state" : "more than one approved state"} of ${node} has a PCR 11 that begins with ${wanted}; approved are:\n${list.join("\n")}`,
    );
  }
  if (!options.json) {
    console.log(`${node}: withdraw the state approved ${state.approvedAt}: ${visible(state.reason)}`);
    console.log(`  PCR 11  ${state.pcr11}`);
    console.log(notRevoked);
  }
  const agreed = options.dryRun === undefined && (await confirm(`Withdraw this state of ${node}?`));
  let written: string | undefined;
  if (agreed) {
    const states = approval.states.filter((each) => each !== state);
    written = await approvals.write(
      await signApproval(await key.open(), { node, generation: key.generation, states }),
      [],
    );
  } else process.exitCode = exitStatus.notApproved;
  if (options.json) {
    console.log(
      JSON.stringify(
        { node, withdrawn: state.pcr11, written: written ?? null, note: notRevoked },
        undefined,
        2,
      ),
    );
  } else
    console.log(written === undefined ? "not withdrawn; nothing was written" : `withdrawn: wrote ${written}`);
}
