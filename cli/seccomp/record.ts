import { filterDocument } from "../../provider/resources/seccomp-profile-filter.ts";
import { writeDurably } from "../durable-file.ts";
import type { RecordOptions } from "../seccomp.ts";
import { compare, comparisonLines } from "./compare.ts";
import { mergeRecords, readRecord, thisArchitecture, type CallRecord } from "./record-file.ts";
import { trace } from "./trace.ts";

/** Records a command's system calls, and says how they go with a profile. */
export async function recordCommand(
  command: readonly string[],
  { variant, merge, writeProfile, json }: RecordOptions,
): Promise<void> {
  const architecture = thisArchitecture();
  const before = merge === undefined ? undefined : await readRecord(merge, architecture);
  const { calls, end } = await trace(command);
  console.error(`${command[0] ?? ""}: ${end}`);
  const now: CallRecord = { architecture, commands: [command.join(" ")], ...calls };
  const record = before === undefined ? now : mergeRecords(before, now);
  if (merge !== undefined) await writeDurably(merge, `${JSON.stringify(record, undefined, 2)}\n`, 0o644);
  if (writeProfile !== undefined) await writeDurably(writeProfile, profileOf(record), 0o644);
  const comparison = compare(record, variant);
  if (json) console.log(JSON.stringify({ variant, ...record, comparison }, undefined, 2));
  else for (const line of comparisonLines(record, variant, comparison)) console.log(line);
  if (comparison.refused.length > 0) process.exitCode = 1;
}

/** A profile of what was seen and no more, for a server that edgeseal has none for. */
const profileOf = ({ times }: CallRecord): string =>
  filterDocument([
    { names: Object.keys(times), comment: "recorded", action: "allow", when: [], only: undefined },
  ]);
