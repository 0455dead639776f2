import type { InputProblem } from "../provider/resource.ts";
import { blockDefaults } from "./block-args.ts";
import { parseEnvelope, StatementRefused, unverifiedStatement } from "../provider/trust/model-statement.ts";

/*
 * Whether what a node is to serve fits its memory. With swap off there is nothing behind it: what does not fit is killed in the middle of an answer, so that
 * it is better refused before it is deployed.
 */

/** What a service needs, as far as it can be told before it runs. */
export interface MemoryNeeds {
  /** Size of the model's file. */
  readonly modelBytes: number;
  readonly contextTokens: number;
  /** What the keys and values of one token take. */
  readonly contextBytesPerToken: number;
  /** Size of the service's /tmp. */
  readonly tmpMiB: number;
  /** What the service may use. */
  readonly memoryMaxMiB: number;
  /** What the node's own /tmp and /var/tmp may hold, in memory. */
  readonly scratchMiB: number;
  /** What the node has. */
  readonly nodeMemoryMiB: number;
}

/** 2 x 32 layers x 8 heads for keys and values x 128 values x 2 bytes: Llama 3 8B. Models that fit a Pi 5 take that or less. */
export const contextBytesPerToken = 131_072;

/** What llama-server takes beside the model and its context: buffers of the computation, its libraries, podman. 88 MiB were measured for a model of 270 million parameters. */
const serverMiB = 160;
/** What the node's system keeps: kernel, systemd, sshd; a node that serves nothing uses some 220 MiB. */
export const systemMiB = 384;

const mebibytes = (bytes: number): number => Math.ceil(bytes / 1024 ** 2);

/** What says how much memory a service needs, as it is written before defaults are filled in; of what shape its values are is for the caller to hold. */
interface Written<T> {
  readonly contextTokens?: T;
  readonly tmpMiB?: T;
  readonly memoryMaxMiB?: T;
  readonly nodeMemoryMiB?: T;
}

/** Scratch space of the node as it is written. */
interface WrittenScratch<T> {
  readonly tmpMiB?: T;
  readonly varTmpMiB?: T;
}

/** A node without the block has what it had: on the disk, as far as is known. */
function scratchMiB(scratch: WrittenScratch<unknown> | undefined): number | undefined {
  if (scratch === undefined) return 0;
  const { tmpMiB = blockDefaults.scratch.tmpMiB, varTmpMiB = blockDefaults.scratch.varTmpMiB } = scratch;
  return typeof tmpMiB === "number" && typeof varTmpMiB === "number" ? tmpMiB + varTmpMiB : undefined;
}

/** The needs of a service, defaults filled in. */
export const memoryNeeds = <T>(
  { contextTokens, tmpMiB, memoryMaxMiB, nodeMemoryMiB }: Written<T>,
  model: { readonly contextBytesPerToken?: T },
  modelBytes: number | undefined,
  scratch: WrittenScratch<unknown> | undefined,
): Readonly<Record<keyof MemoryNeeds, T | number | undefined>> => ({
  modelBytes,
  contextTokens: contextTokens ?? blockDefaults.inference.contextTokens,
  contextBytesPerToken: model.contextBytesPerToken ?? contextBytesPerToken,
  tmpMiB: tmpMiB ?? blockDefaults.inference.tmpMiB,
  memoryMaxMiB,
  scratchMiB: scratchMiB(scratch),
  nodeMemoryMiB,
});

/** Whether all is there and a number; what is not cannot be judged. */
export const areNumbers = (
  needs: Readonly<Record<keyof MemoryNeeds, unknown>>,
): needs is Readonly<Record<keyof MemoryNeeds, number>> =>
  Object.values(needs).every((value) => typeof value === "number");

/** Every reason why it does not fit, with the sums. */
export function memoryProblems(needs: MemoryNeeds): readonly InputProblem[] {
  const { modelBytes, contextTokens, contextBytesPerToken, tmpMiB, memoryMaxMiB, scratchMiB, nodeMemoryMiB } =
    needs;
  const modelMiB = mebibytes(modelBytes);
  const contextMiB = mebibytes(contextTokens * contextBytesPerToken);
  const needed = modelMiB + contextMiB + serverMiB + tmpMiB;
  const sum = `model ${modelMiB} + context ${contextMiB} (${contextTokens} tokens) + server ${serverMiB} + /tmp ${tmpMiB} = ${needed} MiB`;
  const kept = systemMiB + scratchMiB;
  const keeps = `the system keeps ${systemMiB}${scratchMiB === 0 ? "" : `, its scratch space in memory (\`scratch\`) up to ${scratchMiB}`}`;
  return [
    ...(needed <= memoryMaxMiB
      ? []
      : [
          {
            path: "memoryMaxMiB",
            message: `the service may use ${memoryMaxMiB} MiB and needs ${sum}; allow it that, or take a smaller model or context`,
          },
        ]),
    ...(memoryMaxMiB + kept <= nodeMemoryMiB
      ? []
      : [
          {
            path: "nodeMemoryMiB",
            message: `the node has ${nodeMemoryMiB} MiB and no swap: the service may use ${memoryMaxMiB}, ${keeps}; lower \`memoryMaxMiB\` to ${Math.max(0, nodeMemoryMiB - kept)} (needed are ${needed}), or serve this model on a node with more memory`,
          },
        ]),
  ];
}

/** Size of the model that a statement is on; `undefined` for a text that is none, of which the model's kind tells what is wrong. */
export function modelBytesIn(statement: string): number | undefined {
  try {
    return unverifiedStatement(parseEnvelope(statement)).bytes;
  } catch (error) {
    if (error instanceof StatementRefused) return undefined;
    throw error;
  }
}
