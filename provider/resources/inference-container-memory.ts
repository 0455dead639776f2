import { UnknownObservation } from "../device/probe.ts";
import { PlanRefused } from "../resource.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import type { InferenceContainerState } from "./inference-container-state.ts";

/*
 * The memory of a node, which the sums before a deployment rest on (components/memory-budget.ts), as its kernel has it.
 */

/** How a node says that it has what was declared. */
export const memoryAsDeclared = "as declared";

/** Shell that prints what `parseMemory` reads (proc_meminfo(5)). */
export const readMemory = "grep ^MemTotal: /proc/meminfo";

/**
 * What of a memory of this size never becomes MemTotal: the kernel's descriptors of its pages, a 64th of it with pages of 4 KiB, and what firmware, kernel and initramfs keep, 128 MiB at most.
 * (A Pi 5 of 8192 MiB has some 8050, with pages of 16 KiB; a virtual Pi of 1536 MiB has some 1490.)
 */
const reservedMiB = (sizeMiB: number): number => Math.ceil(sizeMiB / 64) + 128;

/**
 * Whether the node has the memory that is declared; by its size where none is.
 * @throws UnknownObservation when the kernel does not tell
 */
export function parseMemory({ nodeMemoryMiB }: InferenceContainerInputs, output: string): string {
  const kibibytes = /^MemTotal:\s+(\d+) kB$/m.exec(output)?.[1];
  if (kibibytes === undefined) throw new UnknownObservation("the node does not tell how much memory it has");
  const found = Math.floor(Number(kibibytes) / 1024);
  if (nodeMemoryMiB === undefined) return `${found} MiB`;
  return found + reservedMiB(nodeMemoryMiB) >= nodeMemoryMiB
    ? memoryAsDeclared
    : `${found} MiB, less than the ${nodeMemoryMiB} declared`;
}

/** What the node has to have. */
export const desiredMemory = ({
  nodeMemoryMiB,
}: InferenceContainerInputs): Partial<Pick<InferenceContainerState, "nodeMemory">> =>
  nodeMemoryMiB === undefined ? {} : { nodeMemory: memoryAsDeclared };

/**
 * No step gives a node more memory.
 * @throws PlanRefused
 */
export function requireMemory(
  { nodeMemoryMiB }: InferenceContainerInputs,
  { nodeMemory }: InferenceContainerState,
): void {
  if (nodeMemoryMiB === undefined || nodeMemory === memoryAsDeclared) return;
  throw new PlanRefused(
    `the node's memory: ${nodeMemory}`,
    "with swap off what it serves has to fit; declare what the node has as `nodeMemoryMiB`, and the sums are made with that",
  );
}
