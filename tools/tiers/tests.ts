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
  readonly #failed: string[] = [];
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
    const failedBefore = this.#failed.length;
    for (const module of modules) this.#count(module);
    for (const error of unhandled) this.#fail("outside of tests", error);
    // Interrupted, a coverage threshold, ...: vitest says failed, and no test says why.
    if (reason !== "passed" && modules.length > 0 && this.#failed.length === failedBefore)
      this.#fail("the run", reason);
  }

  #fail(what: string, error: unknown): void {
    this.#failed.push(`${this.#tier}: ${what}: ${firstLine(error)}`);
  }

  #count(module: TestModule): void {
    const failedBefore = this.#failed.length;
    for (const test of module.children.allTests()) {
      const result = test.result();
      if (result.state === "passed") this.#passed += 1;
      else if (result.state === "skipped")
        this.#skips.push(result.note === undefined ? test.fullName : `${test.fullName}: ${result.note}`);
      // `pending` too: it was begun, or awaited, and did not end.
      else this.#fail(`${module.relativeModuleId} > ${test.fullName}`, result.errors?.[0] ?? result.state);
    }
    // A file that can't be loaded, or whose hooks fail, has no failed test of its own.
    if (this.#failed.length === failedBefore && module.state() === "failed")
      this.#fail(module.relativeModuleId, module.errors()[0] ?? "its hooks failed");
  }

  /** Nothing is skipped silently. */
  explainSkips(): void {
    for (const skip of this.#skips) console.log(` - skipped: ${skip}`);
  }

  /** A tier without tests fails: a renamed folder must not look like a success. */
  tally(): Tally {
    if (this.#passed + this.#failed.length + this.#skips.length === 0)
      this.#fail("the tier", "no test was run");
    else if (!this.#ended) this.#fail("the tier", "the run did not end");
    return { passed: this.#passed, failed: this.#failed, skipped: this.#skips.length };
  }
}

/** What an error says, in a line for the end of a long log. */
export function firstLine(error: unknown): string {
  const message =
    typeof error === "object" && error !== null && "message" in error ? String(error.message) : String(error);
  return message.split("\n", 1)[0] ?? "";
}
