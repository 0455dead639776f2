import { uncovered } from "./control.ts";

/** Point 2: model and log partitions in LUKS, keys sealed to the TPM. */
export const volumeControls = [
  uncovered({
    id: "2.sealed-volumes",
    point: 2,
    title: "Model and log partitions are LUKS2, their keys sealed to the TPM",
  }),
] as const;
