import { DeviceError } from "./errors.ts";
import type { PlanPoint } from "./plan-points.ts";
import type { Runner, Session } from "./session.ts";

/** A TPM that has to be there before a plan is sent. */
export interface RequiredTpm {
  /** SHA-256 of the public area of its endorsement key, in lower-case hex. */
  readonly endorsementKeySha256: string;
  /** Title of the first step that asks for it. */
  readonly title: string;
}

/**
 * The TPM that the steps of a plan ask for (`onlyToTpm`), if any does.
 * @throws TypeError when they ask for several; and when one that comes after a reboot asks, since it goes over a connection on which no TPM was challenged.
 */
export function requiredTpm(points: readonly PlanPoint[]): RequiredTpm | undefined {
  const required = points.flatMap(({ title, phase, step }): RequiredTpm[] => {
    if (step?.kind !== "run" || step.onlyToTpm === undefined) return [];
    if (phase === "after")
      throw new TypeError(`'${title}' comes after a reboot, so it can't be for one TPM only`);
    return [{ endorsementKeySha256: step.onlyToTpm, title }];
  });
  const [first] = required;
  const other = required.find((each) => each.endorsementKeySha256 !== first?.endorsementKeySha256);
  if (first !== undefined && other !== undefined)
    throw new TypeError(
      `'${first.title}' and '${other.title}' are for different TPMs, and a plan goes to one`,
    );
  return first;
}

/**
 * Has a TPM answer a challenge on a connection. Changes nothing on the node.
 * @throws DeviceError `refused` when the node has another TPM, or none that answers; and as `Runner.run`
 */
export type ChallengeTpm = (on: Runner, tpm: RequiredTpm, signal: AbortSignal | undefined) => Promise<void>;

/**
 * The one connection that a plan with a secret may go over: on it the TPM has answered.
 * @throws DeviceError as ChallengeTpm; TypeError when there is no way to challenge a TPM
 */
export async function challenged(
  session: Session,
  tpm: RequiredTpm,
  challenge: ChallengeTpm | undefined,
  signal: AbortSignal | undefined,
): Promise<Runner> {
  if (challenge === undefined)
    throw new TypeError(`'${tpm.title}' is for one TPM, and none can be challenged`);
  const onOne = async (): Promise<Runner> => {
    const on = await session.connect(signal);
    await challenge(on, tpm, signal);
    return on;
  };
  try {
    return await onOne();
  } catch (error) {
    // The line went dead while nobody spoke: worth one new connection, with a challenge of its own.
    if (!(error instanceof DeviceError) || error.kind !== "unreachable") throw error;
    return await onOne();
  }
}
