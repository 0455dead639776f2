import { uncovered } from "./control.ts";

/** Point 6: all images signed and verified; supply-chain checks in CI/CD. */
export const supplyChainControls = [
  uncovered({ id: "6.signed-images", point: 6, title: "Only images with a verified signature run" }),
  uncovered({
    id: "6.supply-chain-checks",
    point: 6,
    title: "The pipeline checks what the images are made of",
  }),
] as const;
