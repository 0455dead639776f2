import { newNonce, parseProbes, renderProbes, renderScript, requireComplete } from "./batch.ts";
import type { PartOutput, Probe } from "./probe.ts";
import type { Runner, RunOptions } from "./session.ts";

/** What became of each part of a probe, by its name. */
export type Parts = Readonly<Record<string, PartOutput>>;

/** A probe without what its answer means. */
export type Question = Pick<Probe<unknown>, "id" | "parts">;

/**
 * Asks a node in one exec, each part apart from the others and from whatever else is printed.
 * @returns what became of each probe, by its id
 * @throws DeviceError as `Session.run`, and when the answer does not come whole
 */
export async function ask(
  on: Runner,
  questions: readonly Question[],
  options: RunOptions,
): Promise<(question: Question) => Parts> {
  const nonce = newNonce();
  const probes = questions.map(({ id, parts }) => ({ id, parts, parse: () => undefined }));
  const result = await on.run(renderScript(renderProbes(probes, nonce), nonce), options);
  requireComplete(on.node, result, nonce);
  const answers = parseProbes(result.stdout, result.stderr, nonce);
  return ({ id }) => answers.get(id) ?? {};
}
