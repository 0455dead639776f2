/** What one part of a probe printed on the device. */
export interface PartOutput {
  readonly code: number;
  readonly stdout: string;
  /** Standard error, trimmed; for messages only. */
  readonly stderr: string;
}

/**
 * A read-only question to a device, and how to read the answer. Pure data: only the device layer runs it.
 *
 * The fragments are POSIX `sh`, run as root with `LC_ALL=C` and a fixed PATH, each in a subshell with an empty standard input. They must not
 * write anything, must end by themselves, and must tell "nothing there" from "could not look" by their exit status.
 */
export interface Probe<T> {
  /** Unique within a batch; by convention the resource's token or token plus `#` and a digest of the inputs. */
  readonly id: string;
  /** What it may take beyond the time that all probes of a batch have together, in seconds: for one that reads large files through. Default 0. */
  readonly extraSeconds?: number;
  /** Named shell fragments, run in this order. */
  readonly parts: Readonly<Record<string, string>>;
  /**
   * Makes the observation of what the parts printed. Pure.
   * @throws UnknownObservation when the answer can't be interpreted; never guesses "absent".
   */
  readonly parse: (parts: Readonly<Record<string, PartOutput>>) => T;
}

/** The same of several probes. */
export const extraSecondsOf = (probes: readonly Pick<Probe<unknown>, "extraSeconds">[]): number =>
  probes.reduce((sum, { extraSeconds = 0 }) => sum + extraSeconds, 0);

/** The device answered, but the answer does not tell the state. Every gate fails closed on it. */
export class UnknownObservation extends Error {
  override readonly name = "UnknownObservation";
}

/**
 * The standard output of a part that must have succeeded.
 * @throws UnknownObservation naming the part, its exit status and its error output.
 */
export function outputOf(parts: Readonly<Record<string, PartOutput>>, name: string): string {
  const part = parts[name];
  if (part === undefined) throw new UnknownObservation(`the device did not answer '${name}'`);
  if (part.code !== 0) {
    const detail = part.stderr === "" ? "" : `: ${part.stderr.slice(0, 300)}`;
    throw new UnknownObservation(`'${name}' failed on the device with exit status ${part.code}${detail}`);
  }
  return part.stdout;
}
