import { refresh } from "./refresh.ts";
import { holds, onNode, type DemoContext } from "./step.ts";

/** A change on the node that nobody declared. */
export interface Tampering {
  readonly what: string;
  readonly script: string;
  /** The property that shows it, as `Kind.property`. */
  readonly shows: string;
}

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
  for (const { what, shows } of tamperings) {
    holds(
      context,
      found.some((each) => each.startsWith(shows)),
      `refresh names it: ${what} (${shows})`,
      found.join("\n"),
    );
  }
  return found;
}
