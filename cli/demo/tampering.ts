import { refresh } from "./refresh.ts";
import { holds, onNode, type DemoContext } from "./step.ts";

/** A change on the node that nobody declared. */
export interface Tampering {
  readonly what: string;
  readonly script: string;
  /** The property that shows it, as `Kind.property`. */
  readonly shows: string;
}

/** Whether what a refresh found is this property, or a part of it. */
export const isShown = (found: string, { shows }: Tampering): boolean =>
  found === shows || found.startsWith(`${shows}[`) || found.startsWith(`${shows}.`);

/**
 * Does each of them on the node, and holds that a refresh names it.
 * @returns all that the refresh found
 */
export async function tamper(
  context: DemoContext,
  tamperings: readonly Tampering[],
): Promise<readonly string[]> {
  for (const { what, script } of tamperings) {
    await onNode(context, script);
    context.say(`      behind our back: ${what}`);
  }
  const { drifted: found } = await refresh(context);
  for (const tampering of tamperings) {
    holds(
      context,
      found.some((each) => isShown(each, tampering)),
      `refresh names it: ${tampering.what} (${tampering.shows})`,
      found.join("\n"),
    );
  }
  return found;
}
