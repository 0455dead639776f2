import { checklist } from "../../policies/checklist.ts";
import type { Control } from "../../policies/control.ts";
import { said, type RunResult } from "../pulumi.ts";
import { holds, type Voice } from "./step.ts";

/** A control that a site violates, and on which of its nodes. */
export interface Violated {
  readonly control: Control["id"];
  readonly node: string;
}

/**
 * Holds that a run failed, and that the Site's own gate named each violated control, on its node, with the mend below it, and no other.
 * @throws NotAsItShouldBe
 */
export function refusedByGate(
  voice: Voice,
  result: RunResult,
  what: string,
  violated: readonly Violated[],
): void {
  holds(
    voice,
    result.code !== 0,
    `${what} fails (exit status ${result.code}, ${(result.milliseconds / 1000).toFixed(1)} s)`,
    said(result),
  );
  const lines = said(result)
    .split("\n")
    .map((line) => line.trim());
  for (const each of violated) {
    const named = lines.some((line, at) => names(line, each) && lines[at + 1] === `mend: ${mendOf(each)}`);
    holds(voice, named, `it names ${each.control} on ${each.node}, with the mend`, said(result));
  }
  const others = lines.flatMap(found).filter((each) => !violated.some((wanted) => same(each, wanted)));
  holds(voice, others.length === 0, "and nothing else", said(result));
}

/**
 * Holds that the policy pack, by itself, reported each violated control as mandatory, on its node, with the mend.
 * @throws NotAsItShouldBe
 */
export function refusedByPack(voice: Voice, result: RunResult, violated: readonly Violated[]): void {
  const lines = result.stdout.split("\n").map((line) => line.trim());
  for (const each of violated) {
    const mandatory = lines.some(
      (line) => line.startsWith("- [mandatory]") && line.split(/\s+/).includes(each.control),
    );
    const named = lines.some((line) => names(line, each) && line.endsWith(`; mend: ${mendOf(each)}`));
    holds(
      voice,
      mandatory && named,
      `the pack, by itself, holds ${each.control} against ${each.node}, with the mend`,
      said(result),
    );
  }
}

/** `CONTROL (checklist point N) on NODE, ...: violation: ...`, as both write it. */
function found(line: string): readonly Violated[] {
  const [control, nodes] = /^(\S+) \(checklist point \d\) on ([^:]+): violation: /.exec(line)?.slice(1) ?? [];
  return nodes?.split(", ").map((node) => ({ control: control as Control["id"], node })) ?? [];
}

const same = (a: Violated, b: Violated): boolean => a.control === b.control && a.node === b.node;

const names = (line: string, wanted: Violated): boolean => found(line).some((each) => same(each, wanted));

function mendOf({ control }: Violated): string {
  const found = checklist.find(({ id }) => id === control);
  if (found === undefined) throw new Error(`the checklist has no control ${control}`);
  return found.mend;
}
