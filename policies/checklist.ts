import type { Control, Point } from "./control.ts";
import { bootControls } from "./point-1-boot.ts";
import { volumeControls } from "./point-2-volumes.ts";
import { memoryControls } from "./point-3-memory.ts";
import { containerControls } from "./point-4-container.ts";
import { networkControls } from "./point-5-network.ts";
import { supplyChainControls } from "./point-6-supply-chain.ts";
import { promptControls } from "./point-7-prompts.ts";
import { logControls } from "./point-8-logs.ts";
import { incidentControls } from "./point-9-incident-response.ts";

/** The nine points of the deployment checklist, in the words of docs/checklist.md. */
export const points: Readonly<Record<Point, string>> = {
  1: "Boot: verified boot or bootloader signature checks; a TPM or secure element present and used",
  2: "Model and log partitions in LUKS, keys sealed to the TPM",
  3: "Swap and core dumps off; the inference process locks its memory",
  4: "Inference in a rootless container with a strict seccomp profile and an AppArmor profile, both in effect",
  5: "Segmented network: mTLS to known endpoints only, every other egress blocked",
  6: "All images signed and verified; supply-chain checks in CI/CD",
  7: "Prompts sanitized; raw prompts never stored; differential privacy for any on-device training",
  8: "An auditable, signed log store, with an encrypted local copy",
  9: "Tested incident response, with remote revocation of device keys",
};

/** Every control, in the order of the checklist. A point always has at least one, so that none can pass in silence. */
export const checklist: readonly Control[] = [
  ...bootControls,
  ...volumeControls,
  ...memoryControls,
  ...containerControls,
  ...networkControls,
  ...supplyChainControls,
  ...promptControls,
  ...logControls,
  ...incidentControls,
];

export const controlIds: readonly string[] = checklist.map((control) => control.id);
