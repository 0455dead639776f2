/** A justified, owned, expiring exception: lets one control fail on one node. */
export interface Waiver {
  /** Control id, e.g. `3.swap-off`. */
  readonly control: string;
  /** Node name, or `*` for every node of the site. */
  readonly node: string;
  /** Why the exception is acceptable. */
  readonly reason: string;
  /** Who answers for it. */
  readonly owner: string;
  /** Last day on which it holds, `YYYY-MM-DD`, until the end of that day in UTC. Anything else counts as expired. */
  readonly expires: string;
}

/** Whether a waiver still holds, and if not, why. */
export type WaiverStanding =
  { readonly valid: true; readonly text: string } | { readonly valid: false; readonly text: string };

/** Milliseconds from the start of a UTC day to its end. */
const dayMs = 24 * 60 * 60 * 1000;

/**
 * The one expiry evaluator, for the gate, the pack and the report.
 * @param now The moment to judge at; injected, so that a test (or a report about a past state) decides what day it is.
 */
export function standing(waiver: Waiver, now: Date): WaiverStanding {
  const lastDay = parseDay(waiver.expires);
  if (lastDay === undefined) {
    return {
      valid: false,
      text: `counts as expired: ${JSON.stringify(waiver.expires)} is not a date (YYYY-MM-DD)`,
    };
  }
  return now.getTime() < lastDay.getTime() + dayMs
    ? { valid: true, text: `until ${waiver.expires}` }
    : { valid: false, text: `expired on ${waiver.expires}` };
}

/** The start (UTC) of a calendar day written `YYYY-MM-DD` (RFC 3339 full-date); `undefined` when it is no such day, such as 2026-02-30. */
export function parseDay(text: string): Date | undefined {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(text)) return undefined;
  const day = new Date(`${text}T00:00:00Z`);
  return Number.isNaN(day.getTime()) || day.toISOString().slice(0, 10) !== text ? undefined : day;
}

/**
 * The waiver to show for a control on a node: one that holds, before one that does not; `undefined` when none names them.
 */
export function waiverFor(
  waivers: readonly Waiver[],
  control: string,
  node: string,
  now: Date,
): { readonly waiver: Waiver; readonly standing: WaiverStanding } | undefined {
  const naming = waivers
    .filter((waiver) => waiver.control === control && (waiver.node === node || waiver.node === "*"))
    .map((waiver) => ({ waiver, standing: standing(waiver, now) }));
  return naming.find((each) => each.standing.valid) ?? naming[0];
}
