/** How many tests passed and were skipped, and what failed. */
export interface Tally {
  readonly passed: number;
  /** A line for each failure: the test, and the first line of its error. */
  readonly failed: readonly string[];
  readonly skipped: number;
}

export const NOTHING: Tally = { passed: 0, failed: [], skipped: 0 };

export function sum(tallies: readonly Tally[]): Tally {
  return tallies.reduce(
    (all, one) => ({
      passed: all.passed + one.passed,
      failed: [...all.failed, ...one.failed],
      skipped: all.skipped + one.skipped,
    }),
    NOTHING,
  );
}

/** The closing line of `./edgeseal test`, which CI reads. */
export function closingLine({ passed, failed, skipped }: Tally): string {
  return `${passed} passed, ${String(failed.length)} failed, ${skipped} skipped`;
}

/** Nothing failed, and something was run: no tests at all is no success. */
export function succeeded({ passed, failed }: Tally): boolean {
  return failed.length === 0 && passed > 0;
}
