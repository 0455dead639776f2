import { posix } from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { blockDefaults, type ScratchArgs } from "./block-args.ts";
import type {
  AppArmorProfileArgs,
  InferenceContainerArgs,
  ModelArgs,
  SeccompProfileArgs,
} from "./inference-args.ts";
import { areNumbers, memoryNeeds, memoryProblems, modelBytesIn } from "./memory-budget.ts";

/** A model that a node serves. */
export interface ServedModelArgs extends Omit<ModelArgs, "name" | "directory" | "mountPoint"> {
  /** Bytes that one token of context takes in memory: 2 x layers x heads for keys and values x their length x 2. @default 131072, which no model of up to 9 billion parameters that fits a Pi 5 exceeds. */
  readonly contextBytesPerToken?: number;
}

/** What a node serves: one model, from one image, in one confined container. */
export interface InferenceArgs extends Omit<InferenceContainerArgs, "model" | "modelDirectory" | "storage"> {
  readonly model: ServedModelArgs;
  /** The sealed volume that the model and the image are on. @default `models`. */
  readonly volume?: string;
  /** Memory of the node, in MiB: 2048, 4096, 8192 or 16384 on a Pi 5. There is no swap, so that what is served has to fit. The node is held against it. */
  readonly nodeMemoryMiB: number;
  /** System calls that the server needs beyond those that its variant is known to. @default none; any of them fails the gate. */
  readonly additionalSyscalls?: readonly string[];
}

/** The blocks that a service is made of. */
export interface InferenceBlocks {
  readonly model: ModelArgs;
  readonly seccompProfile: SeccompProfileArgs;
  readonly appArmorProfile: AppArmorProfileArgs;
  readonly inference: InferenceContainerArgs;
}

/**
 * The blocks of a service, as an EdgeNode takes them: `new EdgeNode("pi-1", { ...inferenceService({...}, "/srv/models"), ... })`.
 * @param mountPoint Where the sealed volume of the model and the image is mounted.
 * @param scratch The node's scratch space, which is memory, too. @default none on the node.
 * @throws pulumi.RunError with the sums, when it does not fit the node's memory
 */
export function inferenceService(
  args: InferenceArgs,
  mountPoint: string,
  scratch?: ScratchArgs,
): InferenceBlocks {
  const needs = memoryNeeds(args, args.model, modelBytesIn(args.model.statement), scratch);
  const problems = areNumbers(needs) ? memoryProblems(needs) : [];
  const { name = blockDefaults.inference.name } = args;
  if (problems.length > 0)
    throw new pulumi.RunError(
      problems.map(({ path, message }) => `inference service "${name}": ${path}: ${message}`).join("\n"),
    );
  return inferenceBlocksOf(args, mountPoint);
}

/** The same, without a word on whether it fits. */
export function inferenceBlocksOf(args: InferenceArgs, mountPoint: string): InferenceBlocks {
  const { model, volume: _, additionalSyscalls = [], ...container } = args;
  const { contextBytesPerToken: _bytes, ...served } = model;
  const { name = blockDefaults.inference.name, variant = blockDefaults.inference.variant } = args;
  const modelDirectory = posix.join(mountPoint, "models");
  const storage = posix.join(mountPoint, "containers", name);
  return {
    model: { ...served, name, directory: modelDirectory, mountPoint },
    seccompProfile: { name, variant, additionalSyscalls },
    appArmorProfile: { name, variant, modelDirectory, storage, ...acceleratorOf(args) },
    inference: { ...container, name, variant, model: model.digest, modelDirectory, storage },
  };
}

/** The one device that the container gets is the one that its profile lets it use. What is of another shape, the container's kind tells of. */
function acceleratorOf({ variant, confinement }: InferenceArgs): { readonly accelerator?: string } {
  const [accelerator] = variant === "hailo" ? (confinement?.devices ?? []) : [];
  return typeof accelerator === "string" ? { accelerator } : {};
}
