import { recoveryKeyOf } from "../../provider/resources/sealed-volume-files.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { visible } from "../visible.ts";
import { isSealed, type AssessedVolume, type Assessment } from "./assess.ts";

/** What became of a volume. */
export interface Outcome {
  readonly name: string;
  readonly state: SealedVolumeState | undefined;
  /** Why it is not done; `undefined` when it is. */
  readonly failure: string | undefined;
}

const short = (digest: string): string => (digest === "" ? "none" : `${digest.slice(0, 16)}...`);

/** What a person has to see before he says yes, line by line. Texts of the device can't do anything to a terminal. */
export function assessmentLines(assessment: Assessment): readonly string[] {
  const { node, task, pcr11, pcr11Approved, volumes, objections, leftBehind } = assessment;
  return [
    `${node}: ${task === "recover" ? "recover its sealed volumes" : "give its sealed volumes new key slots"}`,
    `  PCR 11  ${pcr11}, ${pcr11Approved ? "approved" : "not approved"}`,
    ...volumes.flatMap(volumeLines),
    ...leftBehind.map(
      (name) =>
        `  note: ${name} is bound to another policy key than the site's, and not meant here: it goes on opening by that key's approvals, and by no new one until it is recovered, too`,
    ),
    ...objections.map((objection) => `  can't be done: ${visible(objection)}`),
  ];
}

function volumeLines(volume: AssessedVolume): readonly string[] {
  const { name, inputs, state, change, sitePolicyKey, newRecoveryKey, objections, headerInTheWay } = volume;
  const { device, luksUuid, formation, policyKey } = state;
  const bound = `policy key ${short(policyKey)}`;
  const slotDiffers =
    formation === "complete" && state.headerDifferences.length > 0 && headerInTheWay === undefined;
  return [
    "",
    `  ${visible(name)}  ${visible(device === "" ? "no device yet" : device)}${luksUuid === "" ? "" : `  LUKS ${luksUuid}`}`,
    `    ${visible(howItIs(state))}`,
    `    formation ${formation}, sealed by ${bound}; the site's is generation ${inputs.generation}, ${policyKey === sitePolicyKey ? "the same" : short(sitePolicyKey)}`,
    ...(slotDiffers ? ["    its header is not the pinned one, in the TPM's slot only"] : []),
    ...(newRecoveryKey
      ? [
          `    its recovery key is encrypted to ${short(state.recoveryKey)}, and will be to the site's, ${short(recoveryKeyOf(inputs))}`,
        ]
      : []),
    ...(objections.length > 0
      ? objections.map((objection) => `    can't be done: ${visible(objection)}`)
      : [
          change
            ? `    -> sealed anew to the TPM that is there, by generation ${inputs.generation}; the slot that it has goes${state.open ? "" : "; opened and mounted"}`
            : "    -> nothing to do",
        ]),
  ];
}

function howItIs({ open, openedBy, mountedAt, lockedReason }: SealedVolumeState): string {
  if (open) {
    const by = openedBy === "tpm" ? "by the TPM, in this boot" : "in this boot, not by the TPM";
    return `open (${by})${mountedAt === "" ? ", not mounted" : `, mounted at ${mountedAt}`}`;
  }
  return `locked${lockedReason === "" ? "" : `: ${lockedReason}`}`;
}

/** What was read back of a volume. */
export function outcomeLine({ name, state, failure }: Outcome): string {
  if (failure !== undefined) return `  ${visible(name)}: not done: ${visible(failure)}`;
  const where = state?.mountedAt === "" ? "open, not mounted" : `open, mounted at ${state?.mountedAt ?? ""}`;
  return `  ${visible(name)}: ${visible(where)}; sealed to this TPM by policy key ${short(state?.policyKey ?? "")}, header pinned; the next boot will show that it opens by itself`;
}

/** Everything for programs. Texts of the device are as they are, which JSON escapes. No key is in it. */
export function resultJson(
  assessment: Assessment,
  more: {
    readonly tpm: { readonly endorsementKeySha256: string; readonly pinned: boolean } | undefined;
    readonly outcomes: readonly Outcome[];
  },
): Readonly<Record<string, unknown>> {
  const { node, task, pcr11, pcr11Approved, volumes, objections, leftBehind } = assessment;
  return {
    node,
    task,
    pcr11,
    pcr11Approved,
    objections,
    boundToAnotherPolicyKey: leftBehind,
    // Answered a challenge on this connection; null: it was not asked.
    tpm: more.tpm ?? null,
    volumes: volumes.map(
      ({ name, inputs, state, change, sitePolicyKey, newRecoveryKey, objections: own }) => {
        const outcome = more.outcomes.find((each) => each.name === name);
        return {
          name,
          device: state.device,
          luksUuid: state.luksUuid,
          formation: state.formation,
          ...summary(state),
          headerMatchesPins: state.headerMatchesPins,
          sitePolicyKey,
          siteGeneration: inputs.generation,
          newRecoveryKey,
          change,
          objections: own,
          after: outcome?.state === undefined ? null : summary(outcome.state),
          done: outcome !== undefined && outcome.failure === undefined,
          failure: outcome?.failure ?? null,
        };
      },
    ),
  };
}

const summary = (state: SealedVolumeState) => ({
  open: state.open,
  openedBy: state.openedBy,
  lockedReason: state.lockedReason,
  mountedAt: state.mountedAt,
  policyKey: state.policyKey,
  sealed: isSealed(state),
});
