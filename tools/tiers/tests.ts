import { fileURLToPath } from "node:url";
import type { Reporter, TestModule, Vitest } from "vitest/node";
import type { Tier } from "./stages.ts";
import type { Tally } from "./tally.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface TestOptions {
  /** Only tests whose name matches this regular expression. */
  readonly name?: string;
  /** Aborted on Ctrl-C: tests that have begun are ended as vitest does it, their hooks included. */
  readonly interruption?: AbortSignal;
}

/** Runs one tier under vitest, with its usual output on this terminal. */
export async function runTier(tier: Tier, { name, interruption }: TestOptions): Promise<Tally> {
  const { startVitest } = await import("vitest/node");
  const counter = new Counter(tier, interruption);
  const vitest = await startVitest([], {
    root,
    project: [tier],
    run: true,
    watch: false,
    reporters: [process.env["CI"] ? "verbose" : "default", counter],
    ...(name === undefined ? {} : { testNamePattern: name }),
  });
  await vitest.close();
  counter.explainSkips();
  return counter.tally();
}

/** Counts what vitest reports, and counts as failures what it reports outside of tests. */
export class Counter implements Reporter {
  readonly #tier: Tier;
  readonly #interruption: AbortSignal | undefined;
  #passed = 0;
  #failed = 0;
  #ended = false;
  readonly #skips: string[] = [];

  constructor(tier: Tier, interruption?: AbortSignal) {
    this.#tier = tier;
    this.#interruption = interruption;
  }

  onInit(vitest: Vitest): void {
    this.#interruption?.addEventListener("abort", () => void vitest.cancelCurrentRun("keyboard-input"));
  }

  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[], reason: string): void {
    this.#ended = true;
    const failedBefore = this.#failed;
    for (const module of modules) this.#count(module);
    this.#failed += unhandled.length;
    // Interrupted, a coverage threshold, ...: vitest says failed, and no test says why.
    if (reason !== "passed" && this.#failed === failedBefore) this.#failed += 1;
  }

  #count(module: TestModule): void {
    let failed = 0;
    for (const test of module.children.allTests()) {
      const result = test.result();
      if (result.state === "passed") this.#passed += 1;
      else if (result.state === "skipped")
        this.#skips.push(result.note === undefined ? test.fullName : `${test.fullName}: ${result.note}`);
      else failed += 1; // `pending` too: it was begun, or awaited, and did not end
    }
    // A file that can't be loaded, or whose hooks fail, has no failed test of its own.
    if (failed === 0 && module.state() === "failed") failed = 1;
    this.#failed += failed;
  }

  /** Nothing is skipped silently. */
  explainSkips(): void {
    for (const skip of this.#skips) console.log(` - skipped: ${skip}`);
  }

  /** A tier without tests fails: a renamed folder must not look like a success. */
  tally(): Tally {
    const none = this.#passed + this.#failed + this.#skips.length === 0;
    if (none) console.error(` ✗ tier ${this.#tier}: no test was run`);
    return {
      passed: this.#passed,
      failed: this.#failed + (none || !this.#ended ? 1 : 0),
      skipped: this.#skips.length,
    };
  }
}
