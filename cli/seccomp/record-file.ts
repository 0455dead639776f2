import { readFile } from "node:fs/promises";
import { UserError } from "../errors.ts";
import { architectures, type Architecture } from "../../provider/resources/seccomp-profile-names.ts";

/** System calls that were seen. */
export interface Calls {
  /** How often, by name. */
  readonly times: Readonly<Record<string, number>>;
  /** With which arguments, as far as a profile may judge them; `0` in the place of others. */
  readonly arguments: Readonly<Record<string, readonly string[]>>;
}

/** What was recorded of a server, in one run or several. */
export interface CallRecord extends Calls {
  readonly architecture: Architecture;
  /** What was run. */
  readonly commands: readonly string[];
}

/** The machine's architecture, in the kernel's words. */
export function thisArchitecture(): Architecture {
  const name = { x64: "x86_64", arm64: "aarch64" }[process.arch as string];
  const known = architectures.find((each) => each === name);
  if (known === undefined)
    throw new UserError(
      `there are profiles for ${architectures.join(" and ")}, and this machine is ${process.arch}`,
    );
  return known;
}

/** Both together. */
export function mergeRecords(first: CallRecord, second: CallRecord): CallRecord {
  const union = (a: readonly string[] = [], b: readonly string[] = []) => [...new Set([...a, ...b])].sort();
  const keys = (a: object, b: object) => union(Object.keys(a), Object.keys(b));
  return {
    architecture: first.architecture,
    commands: [...new Set([...first.commands, ...second.commands])],
    times: Object.fromEntries(
      keys(first.times, second.times).map((call) => [
        call,
        (first.times[call] ?? 0) + (second.times[call] ?? 0),
      ]),
    ),
    arguments: Object.fromEntries(
      keys(first.arguments, second.arguments).map((call) => [
        call,
        union(first.arguments[call], second.arguments[call]),
      ]),
    ),
  };
}

/**
 * What was recorded before; `undefined` where there is no such file.
 * @throws UserError for a file that is no record, or one of another architecture
 */
export async function readRecord(path: string, architecture: Architecture): Promise<CallRecord | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UserError(`${path} can't be read: ${(error as Error).message}`);
  }
  let found: Partial<CallRecord>;
  try {
    found = JSON.parse(text) as Partial<CallRecord>;
  } catch {
    found = {};
  }
  const { times, arguments: args, commands, architecture: of } = found;
  if (times === undefined || args === undefined || commands === undefined || of === undefined)
    throw new UserError(`${path} is no record of system calls`, {
      hint: "name a file that is not there yet",
    });
  if (of !== architecture)
    throw new UserError(`${path} was recorded on ${of}, and this machine is ${architecture}`, {
      hint: "keep one file for each",
    });
  return { times, arguments: args, commands, architecture };
}
