import type { ResourceKind } from "./resource.ts";
import { appArmorProfile } from "./resources/apparmor-profile.ts";
import { coreDumps } from "./resources/core-dumps.ts";
import { firewall } from "./resources/firewall.ts";
import { firmwareConfig } from "./resources/firmware-config.ts";
import { imagePolicy } from "./resources/image-policy.ts";
import { inferenceContainer } from "./resources/inference-container.ts";
import { measuredBoot } from "./resources/measured-boot.ts";
import { model } from "./resources/model.ts";
import { scratch } from "./resources/scratch.ts";
import { sealedVolume } from "./resources/sealed-volume.ts";
import { seccompProfile } from "./resources/seccomp-profile.ts";
import { swap } from "./resources/swap.ts";
import { tpmOwnership } from "./resources/tpm-ownership.ts";
import { verifiedBoot } from "./resources/verified-boot.ts";

/** Every kind of resource that the provider has. */
export const kinds: readonly ResourceKind[] = [
  swap,
  coreDumps,
  firewall,
  verifiedBoot,
  firmwareConfig,
  measuredBoot,
  tpmOwnership,
  sealedVolume,
  imagePolicy,
  scratch,
  model,
  seccompProfile,
  appArmorProfile,
  inferenceContainer,
];
