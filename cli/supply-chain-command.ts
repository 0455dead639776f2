import { untilInterrupted } from "./interruption.ts";
import { withUserFaults } from "./user-fault.ts";

/* What the commands of `edgeseal image` and `edgeseal model` have in common. */

/** Lines for people go to standard error while something is under way, so that standard output is the result alone. */
export const say = (message: string): void => console.error(message);

/** Ctrl-C leaves nothing half done, and faults are told without a stack. */
export const carryOut = (work: (signal: AbortSignal) => Promise<void>): Promise<void> =>
  withUserFaults(() => untilInterrupted(work));

/** The result: for people, or with --json for programs. */
export function print(
  { json }: { readonly json?: true },
  result: unknown,
  lines: () => readonly string[],
): void {
  if (json) console.log(JSON.stringify(result, undefined, 2));
  else for (const line of lines()) console.log(line);
}
