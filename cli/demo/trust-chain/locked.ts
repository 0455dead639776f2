import { refresh, type Refreshed } from "../refresh.ts";
import { holds, type DemoContext } from "../step.ts";
import type { VolumeName } from "./volumes.ts";

/**
 * Holds that `pulumi refresh` reads the node, and says of volumes why they are locked.
 * @param why matches the reason of each from its code on; the first group is what tells
 * @returns all that the refresh found
 */
export async function refreshSaysWhyLocked(
  context: DemoContext,
  why: Readonly<Partial<Record<VolumeName, RegExp>>>,
): Promise<Refreshed> {
  const refreshed = await refresh(context);
  const { text } = refreshed;
  for (const [volume, pattern] of Object.entries(why)) {
    const reason = lockedReasonIn(text, volume);
    const [, telling] = pattern.exec(reason ?? "") ?? [];
    holds(
      context,
      telling !== undefined,
      `it says why ${volume} is locked: ${telling ?? pattern.source}`,
      reason ?? `nothing of ${volume} in:\n${text}`,
    );
  }
  return refreshed;
}

/** The new value of `lockedReason` in what `pulumi refresh --diff` printed of a volume; `undefined` when that has not changed. */
export function lockedReasonIn(text: string, volume: string): string | undefined {
  const [, after = ""] = text.split(`/storage:SealedVolume/${volume}]\n`);
  // The resource after it has an id of its own.
  const [own = ""] = after.split(/^ +\[id=/m);
  const quoted = /^ +[+~] lockedReason *: (?:.* => )?(".*")$/m.exec(own)?.[1];
  return quoted === undefined ? undefined : (JSON.parse(quoted) as string);
}
