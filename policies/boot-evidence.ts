import type { BootEvidence, Fact } from "../provider/trust/level.ts";
import { unknownValue, type BlockStates, type JudgedNode } from "./node.ts";

/** What was observed of a node's boot, over all its blocks. What is not there, or not known, does not count. */
export function bootEvidence(node: JudgedNode): BootEvidence {
  const measured = known(node, "measuredBoot");
  const boot = known(node, "boot");
  const volumes = Object.values<unknown>(known(node, "volumes") ?? {}).map((each) =>
    isState(each) ? each : {},
  );
  const ofAll = (holds: (volume: Partial<Volume>) => Fact): Fact => {
    const facts = new Set(volumes.map(holds));
    return volumes.length === 0 || facts.has("no") ? "no" : facts.has("unknown") ? "unknown" : "yes";
  };
  return {
    volumesSealed: ofAll(({ headerMatchesPins, openedBy }) =>
      headerMatchesPins !== true
        ? "no"
        : openedBy === "tpm"
          ? "yes"
          : openedBy === "formation"
            ? "unknown"
            : "no",
    ),
    unsealingCapped: ofAll(({ pcr15Capped, tokens = [] }) =>
      pcr15Capped === true && isBound(tokens) ? "yes" : "no",
    ),
    measuredInInitramfs: fact(measured?.measured),
    replay: measured?.replay === undefined || measured.replay === "none" ? "missing" : measured.replay,
    approved: ofAll(({ pcr11Approved }) => fact(pcr11Approved)),
    signedBootLocked:
      boot?.signedBootEnabled === "yes" && boot.otpKeyLocked === "yes"
        ? "yes"
        : boot?.signedBootEnabled === "no" || boot?.otpKeyLocked === "no"
          ? "no"
          : "unknown",
    rootIntegrity: measured?.rootIntegrity ?? "unknown",
    quote: "not-checked",
  };
}

/** Whether a volume's one way to be opened without its recovery key is bound to PCR 15 at zeros: another token would be another way. */
export const isBound = (tokens: Volume["tokens"]): boolean =>
  tokens.length === 1 && tokens.every(({ type, sealedToZeros }) => type === "systemd-tpm2" && sealedToZeros);

type Volume = BlockStates["volumes"][string];

const fact = (value: unknown): Fact => (value === true ? "yes" : value === false ? "no" : "unknown");

const isState = (value: unknown): value is Partial<Volume> => typeof value === "object" && value !== null;

function known<B extends keyof BlockStates>(node: JudgedNode, block: B): Partial<BlockStates[B]> | undefined {
  const found = node.blocks[block];
  return found === undefined || found === unknownValue ? undefined : found;
}
