/**
 * What controls judge: a node as its blocks, either *declared* (inputs of the resources, defaults filled in) or *observed* (their state, as read
 * back from the device). Types only: a control never loads a resource kind.
 */
import type { Static } from "typebox";
import type { appArmorProfile } from "../provider/resources/apparmor-profile.ts";
import type { coreDumps } from "../provider/resources/core-dumps.ts";
import type { firewall } from "../provider/resources/firewall.ts";
import type { firmwareConfig } from "../provider/resources/firmware-config.ts";
import type { imagePolicy } from "../provider/resources/image-policy.ts";
import type { InferenceContainerInputs } from "../provider/resources/inference-container-inputs.ts";
import type { InferenceContainerState } from "../provider/resources/inference-container-state.ts";
import type { measuredBoot } from "../provider/resources/measured-boot.ts";
import type { model } from "../provider/resources/model.ts";
import type { scratch } from "../provider/resources/scratch.ts";
import type { SealedVolumeInputs } from "../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../provider/resources/sealed-volume-state.ts";
import type { seccompProfile } from "../provider/resources/seccomp-profile.ts";
import type { swap } from "../provider/resources/swap.ts";
import type { tpmOwnership } from "../provider/resources/tpm-ownership.ts";
import type { verifiedBoot } from "../provider/resources/verified-boot.ts";

/** The blocks of a node, by their name in a site file, with the inputs of the resource behind each. */
export interface BlockInputs {
  readonly swap: Static<typeof swap.inputs>;
  readonly coreDumps: Static<typeof coreDumps.inputs>;
  readonly firewall: Static<typeof firewall.inputs>;
  readonly boot: Static<typeof verifiedBoot.inputs>;
  readonly firmware: Static<typeof firmwareConfig.inputs>;
  readonly measuredBoot: Static<typeof measuredBoot.inputs>;
  readonly tpm: Static<typeof tpmOwnership.inputs>;
  /** By name. */
  readonly volumes: Readonly<Record<string, SealedVolumeInputs>>;
  readonly imagePolicy: Static<typeof imagePolicy.inputs>;
  readonly scratch: Static<typeof scratch.inputs>;
  readonly model: Static<typeof model.inputs>;
  readonly seccompProfile: Static<typeof seccompProfile.inputs>;
  readonly appArmorProfile: Static<typeof appArmorProfile.inputs>;
  readonly inference: InferenceContainerInputs;
}

/** The blocks of a node with the state of the resource behind each. */
export interface BlockStates {
  readonly swap: Static<typeof swap.state>;
  readonly coreDumps: Static<typeof coreDumps.state>;
  readonly firewall: Static<typeof firewall.state>;
  readonly boot: Static<typeof verifiedBoot.state>;
  readonly firmware: Static<typeof firmwareConfig.state>;
  readonly measuredBoot: Static<typeof measuredBoot.state>;
  readonly tpm: Static<typeof tpmOwnership.state>;
  readonly volumes: Readonly<Record<string, SealedVolumeState>>;
  readonly imagePolicy: Static<typeof imagePolicy.state>;
  readonly scratch: Static<typeof scratch.state>;
  readonly model: Static<typeof model.state>;
  readonly seccompProfile: Static<typeof seccompProfile.state>;
  readonly appArmorProfile: Static<typeof appArmorProfile.state>;
  readonly inference: InferenceContainerState;
}

export type BlockName = keyof BlockInputs;

/** Blocks of which a node may have several resources, each under a name of its own; with the input that has the name. */
export const instanceKeys = { volumes: "name" } as const satisfies { readonly [B in BlockName]?: string };

export type SeveralBlock = keyof typeof instanceKeys;

/** Inputs of one resource of a block. */
export type InputsOf<B extends BlockName> = B extends SeveralBlock ? BlockInputs[B][string] : BlockInputs[B];
/** State of one resource of a block. */
export type StateOf<B extends BlockName> = B extends SeveralBlock ? BlockStates[B][string] : BlockStates[B];

export const isSeveral = (block: BlockName): block is SeveralBlock => block in instanceKeys;

/** The Pulumi type behind each block. */
export const blockTypes = {
  swap: "edgeseal:memory:Swap",
  coreDumps: "edgeseal:memory:CoreDumps",
  firewall: "edgeseal:network:Firewall",
  boot: "edgeseal:boot:VerifiedBoot",
  firmware: "edgeseal:boot:FirmwareConfig",
  measuredBoot: "edgeseal:boot:MeasuredBoot",
  tpm: "edgeseal:tpm:Ownership",
  volumes: "edgeseal:storage:SealedVolume",
  imagePolicy: "edgeseal:container:ImagePolicy",
  scratch: "edgeseal:memory:Scratch",
  model: "edgeseal:inference:Model",
  seccompProfile: "edgeseal:security:SeccompProfile",
  appArmorProfile: "edgeseal:security:AppArmorProfile",
  inference: "edgeseal:inference:InferenceContainer",
} as const satisfies Record<BlockName, `edgeseal:${string}`>;

/** The blocks that a site file says as one, `inference`. */
export const inferenceBlocks = ["model", "seccompProfile", "appArmorProfile", "inference"] as const;

/** What a site file calls a block. */
export const siteFileBlock = (name: BlockName): BlockName =>
  (inferenceBlocks as readonly BlockName[]).includes(name) ? "inference" : name;

export const blockNames = Object.keys(blockTypes) as readonly BlockName[];

/** The block a Pulumi type stands for; `undefined` for a type that no control judges. */
export function blockOfType(type: string): BlockName | undefined {
  return blockNames.find((name) => blockTypes[name] === type);
}

/** Stands for a value that can't be known (an unresolved output in a preview, a secret in an export). Every control fails closed on it. */
export const unknownValue: unique symbol = Symbol("unknown");

/** Properties as they came; which of them are there, known and well-formed is for the evaluator to find out. */
export type RawBlock = Readonly<Record<string, unknown>>;

/** What a site asks of the boot of its nodes: `baseline` is level `measured`, `strict` is level `verified` (docs/trust.md). */
export const assurances = ["baseline", "strict"] as const;
export type Assurance = (typeof assurances)[number];

/** A node to be judged. */
export interface JudgedNode {
  /** The node's name in its site. */
  readonly name: string;
  /** `declared`: blocks hold inputs. `observed`: blocks hold state that was read back. */
  readonly basis: "declared" | "observed";
  readonly blocks: { readonly [B in BlockName]?: object | typeof unknownValue };
  /** What was asked for of a node that is `observed`, as far as it was seen: which TPM a node has can be read back, which it must have can not. */
  readonly asked?: JudgedNode["blocks"];
  /** Whether one resource of it is looked at by itself: what else the node must have is judged elsewhere. @default false */
  readonly partial?: boolean;
  /** What is asked of the chain of trust of its boot. @default baseline */
  readonly assurance?: Assurance;
  /** What a person states about controls that no resource serves yet, by control id. Never a pass. */
  readonly statements?: Readonly<Record<string, string>>;
}
