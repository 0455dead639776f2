/** Middle of some values; of an even number, the mean of the two. NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  const upper = sorted[half] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? Number.NaN) + upper) / 2;
}

/** A median, and how sure it is. */
export interface Spread {
  readonly median: number;
  readonly lowest: number;
  readonly highest: number;
  /**
   * Bounds between which the true median lies with 95 %, whatever the values are distributed like: order statistics of the binomial distribution. `undefined` for fewer than six values, of which not
   * even lowest and highest are that sure.
   */
  readonly interval: readonly [low: number, high: number] | undefined;
  readonly count: number;
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const count = sorted.length;
  const rank = lowerRank(count);
  const [low, high] = rank === undefined ? [] : [sorted[rank], sorted[count - 1 - rank]];
  return {
    median: median(sorted),
    lowest: sorted[0] ?? Number.NaN,
    highest: sorted.at(-1) ?? Number.NaN,
    interval: low === undefined || high === undefined ? undefined : [low, high],
    count,
  };
}

/** The highest rank (from 0) below which the median lies with at most 2.5 %. */
function lowerRank(count: number): number | undefined {
  let probability = 2 ** -count;
  let cumulative = probability;
  let rank: number | undefined;
  for (let k = 0; cumulative <= 0.025; k++) {
    rank = k;
    probability *= (count - k) / (k + 1);
    cumulative += probability;
  }
  return rank;
}

export type Verdict = "held" | "not held" | "not decidable";

/** Whether a ratio of speeds says that something costs less than a share (0.05 for 5 %): only where all of the interval says so, or the contrary. */
export function costsLess(ratio: Spread, share: number): Verdict {
  if (ratio.interval === undefined) return "not decidable";
  const [low, high] = ratio.interval;
  if (low > 1 - share) return "held";
  return high < 1 - share ? "not held" : "not decidable";
}
