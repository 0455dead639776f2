import type { ReplayVerdict } from "./event-log.ts";

/*
 * How far a node's boot can be trusted, as a word that stands for evidence. One function decides it, so that no resource, control or document claims more.
 */

/**
 * The levels, lowest first.
 * - `none`: nothing keeps who has the disk from reading it.
 * - `sealed`: the key is in this TPM, and nothing can be unsealed after boot (PCR 15). Stops a stolen or cloned disk; not edits of boot files or of the root.
 * - `measured`: boot files, command line and device tree are measured in the initramfs, the log explains the value, and the value is approved. Stops a changed kernel,
 *   command line, configuration or overlay; not a forged measuring initramfs, nor a unit or ssh key added offline to an unprotected root.
 * - `verified`: signed boot is locked in OTP, the root's integrity is protected, and a fresh quote was checked off the device. Stops a person with the card in hand; not
 *   a TPM and disk that are moved together to another board, or a TPM that is reset on its bus.
 */
export const levels = ["none", "sealed", "measured", "verified"] as const;

export type Level = (typeof levels)[number];

/** What protects the root file system against offline changes, as observed from the device-mapper target below `/`. */
export type RootIntegrity = "verity" | "encrypted" | "none";

/** `unknown` when it could not be determined; it counts as `no` everywhere. */
export type Fact = "yes" | "no" | "unknown";

/** What was observed of a node's boot. Each is read back in effect; none is taken from what was written. */
export interface BootEvidence {
  /** Whether the node has a volume, and the key of every volume is in this TPM and in no slot but those that were pinned. */
  readonly volumesSealed: Fact;
  /** Whether every volume's slot asks for PCR 15 at zeros, and PCR 15 was extended in this boot. */
  readonly unsealingCapped: Fact;
  /** Whether the measuring program ran in the initramfs of this boot: its log starts with its own event and has no `failed`. */
  readonly measuredInInitramfs: Fact;
  /** What the log says of PCR 11 as it was read back; `missing` without a log or a value. */
  readonly replay: ReplayVerdict | "missing";
  /** Whether the value of PCR 11 is one that the site's current policy key approved for this node. */
  readonly approved: Fact;
  /** Whether signed boot is locked in OTP. */
  readonly signedBootLocked: Fact;
  readonly rootIntegrity: RootIntegrity | "unknown";
  /** A fresh quote, checked off the device. Nothing checks one yet, so there is no other value. */
  readonly quote: "not-checked";
}

export interface LevelReached {
  readonly level: Level;
  /** What keeps the node from the next level, one reason each, for people. Never empty: nothing reaches the last level yet. */
  readonly lacking: readonly string[];
}

/** What a level asks for beyond the one below it. A requirement that holds says nothing; one that does not says why. */
const requirements: Readonly<
  Record<Exclude<Level, "none">, readonly ((evidence: BootEvidence) => string | undefined)[]>
> = {
  sealed: [
    ({ volumesSealed }) => lacks(volumesSealed, "a volume whose key is sealed to this node's TPM"),
    ({ unsealingCapped }) => lacks(unsealingCapped, "PCR 15 bound at zeros and extended in this boot"),
  ],
  measured: [
    ({ measuredInInitramfs }) => lacks(measuredInInitramfs, "a measurement in the initramfs of this boot"),
    ({ replay }) => replayLacks(replay),
    ({ approved }) => lacks(approved, "an approval of the value that PCR 11 has"),
  ],
  verified: [
    ({ signedBootLocked }) => lacks(signedBootLocked, "signed boot locked in OTP"),
    ({ rootIntegrity }) =>
      rootIntegrity === "verity" || rootIntegrity === "encrypted"
        ? undefined
        : `a root file system protected by dm-verity or encryption (${rootIntegrity === "none" ? "it has neither" : "not determined"})`,
    // The type has no other value; this says so instead of assuming it.
    ({ quote }) => `a fresh quote checked off the device (${quote}: edgeseal does not check quotes yet)`,
  ],
};

const lacks = (fact: Fact, what: string): string | undefined =>
  fact === "yes" ? undefined : fact === "no" ? what : `${what} (not determined)`;

/** Evidence comes from recorded states too: a word that is none of these must not count as `consistent`. */
function replayLacks(replay: BootEvidence["replay"]): string | undefined {
  switch (replay) {
    case "consistent":
      return undefined;
    case "power-cycle":
      return "a TPM that was reset before this boot (desync: power-cycle; cut the power and boot again)";
    case "tampered":
      return "an event log that explains the value of PCR 11 (the log and the TPM differ)";
    default:
      return "an event log and a value of PCR 11";
  }
}

/** The level that evidence supports. Pure, and fails closed: what is not known does not count. */
export function levelReached(evidence: BootEvidence): LevelReached {
  let level: Level = "none";
  for (const next of ["sealed", "measured", "verified"] as const) {
    const lacking = requirements[next].flatMap((requirement) => requirement(evidence) ?? []);
    if (lacking.length > 0) return { level, lacking };
    level = next;
  }
  return { level, lacking: [] };
}

/** Whether a level is at least another. What is no level is never enough, and never reached. */
export const atLeast = (level: Level, wanted: Level): boolean =>
  levels.includes(wanted) && levels.indexOf(level) >= levels.indexOf(wanted);
