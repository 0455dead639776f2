import { policyKeyOf, recoveryKeyOf } from "../../provider/resources/sealed-volume-files.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { parseApproval } from "../../provider/trust/approval.ts";
import type { Task } from "./options.ts";

/** A volume of the site file, as it is on its node. */
export interface ReadVolume {
  /** With the content of the node's approvals, where they can be used. */
  readonly inputs: SealedVolumeInputs;
  readonly state: SealedVolumeState;
  /** Why the node says that its header may not be sealed anew; `undefined` when it may. */
  readonly headerInTheWay: string | undefined;
}

/** What is to be done with a volume. */
export interface AssessedVolume extends ReadVolume {
  readonly name: string;
  /** Whether its slot is sealed anew; `false`: it is as it should be. */
  readonly change: boolean;
  /** Fingerprint of the policy key that the site file names. */
  readonly sitePolicyKey: string;
  /** Whether its key is going to be encrypted to another recovery key, which the site file names. */
  readonly newRecoveryKey: boolean;
  readonly objections: readonly string[];
}

/** What changing the volumes of a node would mean. */
export interface Assessment {
  readonly node: string;
  readonly task: Task;
  /** As the system on the node tells it: for the person, and to refuse early. A key is sent by what the TPM quotes. */
  readonly pcr11: string;
  readonly pcr11Approved: boolean;
  /** Of the states that are approved for the node. */
  readonly approvedPcr11: readonly string[];
  readonly volumes: readonly AssessedVolume[];
  /** What keeps anything from being done, beside what is said of a volume. */
  readonly objections: readonly string[];
  /** Volumes of the node that are left bound to another policy key than the site's, and so open by nothing that is approved from now on. */
  readonly leftBehind: readonly string[];
}

export interface AssessmentInput {
  readonly node: string;
  readonly task: Task;
  /** Every volume of the node. */
  readonly volumes: readonly ReadVolume[];
  /** Names of those that are meant. */
  readonly meant: ReadonlySet<string>;
  /** What is wrong with the node's approvals. */
  readonly approvalFaults: readonly string[];
}

/** Works out what has to be done, and what must not. Pure. */
export function assess({ node, task, volumes, meant, approvalFaults }: AssessmentInput): Assessment {
  const assessed = volumes.map((volume) => assessVolume(volume, task));
  const chosen = assessed.filter(({ name }) => meant.has(name));
  const { inputs, state } = chosen[0] ?? {};
  const pcr11 = state?.pcr11 ?? "unknown";
  const approvedPcr11 =
    inputs?.approval === undefined ? [] : parseApproval(inputs.approval).states.map((each) => each.pcr11);
  const approved = approvedPcr11.includes(pcr11);
  return {
    node,
    task,
    pcr11,
    pcr11Approved: approved,
    approvedPcr11,
    volumes: chosen,
    objections: nodeObjections(node, { state, approved, approvalFaults }),
    leftBehind: assessed
      .filter(
        ({ name, state: { formation, policyKey }, sitePolicyKey }) =>
          !meant.has(name) && formation === "complete" && policyKey !== sitePolicyKey,
      )
      .map(({ name }) => name),
  };
}

function assessVolume(volume: ReadVolume, task: Task): AssessedVolume {
  const { inputs, state } = volume;
  const sitePolicyKey = policyKeyOf(inputs);
  const newRecoveryKey = state.recoveryKey !== recoveryKeyOf(inputs);
  const asItShould =
    state.openedBy === "tpm" &&
    state.headerMatchesPins &&
    state.policyKey === sitePolicyKey &&
    !newRecoveryKey &&
    isSealed(state);
  return {
    ...volume,
    name: inputs.name,
    change: task === "rotate" || !asItShould,
    sitePolicyKey,
    newRecoveryKey: state.formation === "complete" && newRecoveryKey,
    objections: volumeObjections(volume),
  };
}

/** Whether one TPM slot is there, of the policy that edgeseal seals with. */
export const isSealed = ({ tokens }: SealedVolumeState): boolean =>
  tokens.length === 1 && tokens.every(({ type, sealedToZeros }) => type === "systemd-tpm2" && sealedToZeros);

function nodeObjections(
  node: string,
  given: {
    readonly state: SealedVolumeState | undefined;
    readonly approved: boolean;
    readonly approvalFaults: readonly string[];
  },
): readonly string[] {
  const { state, approved, approvalFaults } = given;
  if (state !== undefined && !state.tpmPresent)
    return [
      `${node} has no TPM (/dev/tpmrm0): nothing can be sealed to it; on a Pi 5: dtparam=spi=on and dtoverlay=tpm-slb9670 in config.txt`,
    ];
  if (approvalFaults.length > 0)
    return [
      `the approvals of ${node} can't be used, so no boot of it would open a volume: ${approvalFaults.join("; ")}; edgeseal approve ${node}`,
    ];
  if (!approved)
    return [
      `nobody approved the state that ${node} is in (PCR 11 ${state?.pcr11 ?? "unknown"}), and a recovery key is not sent into such a state; look at what changed and approve it: edgeseal approve ${node} --current`,
    ];
  return [];
}

function volumeObjections({ inputs, state, headerInTheWay }: ReadVolume): readonly string[] {
  const { device, formation, devicePresent, recoveryFor, recoveryCiphertext, luksUuid } = state;
  if (formation !== "complete") {
    return [
      formation === "none"
        ? "it was never formed on this node, or its records are gone; pulumi up forms it, a backup of /var/lib/edgeseal/volumes brings them back"
        : "it was begun and not finished, so nobody ever used it; pulumi up finishes it",
    ];
  }
  if (!devicePresent) return [`its device, ${device}, is not there; connect it`];
  if (recoveryCiphertext === "")
    return [
      `its recovery ciphertext is not on the node; put it back to /var/lib/edgeseal/volumes/${inputs.name}/recovery, from recoveryCiphertext in the state of the stack`,
    ];
  if (luksUuid !== recoveryFor)
    return [
      `on ${device} there is ${luksUuid === "" ? "no LUKS2 header" : `LUKS ${luksUuid}`}, and its record is that of ${recoveryFor}: something else was put in its place; put the original back`,
    ];
  if (state.usedBy.length > 0) return [`${device} is in use by something else: ${state.usedBy.join(", ")}`];
  if (headerInTheWay !== undefined)
    return [
      `${headerInTheWay}: ${state.headerDifferences.join("; ")}; somebody changed or exchanged it: put the original back`,
    ];
  return [];
}
