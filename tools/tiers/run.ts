import { CHECKS, runCheck } from "./checks.ts";
import { STAGES, type Stage } from "./stages.ts";
import { closingLine, NOTHING, succeeded, sum, type Tally } from "./tally.ts";
import { firstLine, runTier, type TestOptions } from "./tests.ts";

/**
 * Runs stages in their order, all of them even after a failure, and prints the closing line last, whatever happens.
 * Sets the exit code: 0 only when something passed and nothing failed.
 */
export async function runStages(wanted: readonly Stage[], options: Pick<TestOptions, "name">): Promise<void> {
  const interruption = new AbortController();
  process.once("SIGINT", () => interruption.abort());
  const began = performance.now();
  const times: string[] = [];
  let total = NOTHING;
  for (const stage of STAGES.filter((stage) => wanted.includes(stage))) {
    if (interruption.signal.aborted) break;
    console.log(`\n== ${stage}`);
    const stageBegan = performance.now();
    const tally = await runStage(stage, { ...options, interruption: interruption.signal });
    total = sum([total, tally]);
    times.push(`${stage} ${seconds(stageBegan)}`);
    console.log(`== ${stage}: ${closingLine(tally)}, ${seconds(stageBegan)}`);
  }
  console.log(`\n${times.join(" · ")} · in all ${seconds(began)}`);
  const leftOut = STAGES.filter((stage) => !wanted.includes(stage));
  if (leftOut.length > 0)
    console.log(`not run: ${leftOut.join(", ")} (./edgeseal test ${leftOut.join(" ")})`);
  for (const failure of total.failed) console.log(` ✗ ${failure}`);
  if (interruption.signal.aborted) {
    console.error("edgeseal: interrupted");
    process.exitCode = 130;
    return;
  }
  process.exitCode = succeeded(total) ? 0 : 1;
  console.log(closingLine(total));
}

async function runStage(stage: Stage, options: TestOptions): Promise<Tally> {
  try {
    if (stage !== "checks") return await runTier(stage, options);
    const tallies: Tally[] = [];
    for (const check of CHECKS) tallies.push(await runCheck(check));
    return sum(tallies);
  } catch (error) {
    console.error(error);
    return { passed: 0, failed: [`${stage}: ${firstLine(error)}`], skipped: 0 };
  }
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}
