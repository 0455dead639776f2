import { tableLines } from "../table.ts";
import { measures, type Measure, type Sample, type VariantResult } from "./samples.ts";
import { costsLess, spreadOf, type Spread } from "./statistics.ts";

const keys = Object.keys(measures) as readonly Measure[];

const digits = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/** A speed as a share of the base's: median, and the interval that it lies in with 95 %; without one, the lowest and highest. */
export function ratioText({ median, interval, lowest, highest }: Spread): string {
  const [low, high] = interval ?? [lowest, highest];
  return `${median.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`;
}

const width = 150;

/** Two tables of results: medians, and each speed as a share of the base's. */
export function resultLines(results: readonly VariantResult[], base: string): readonly string[] {
  const titles = keys.map((key) => measures[key].title);
  const medians = results.map(({ variant, rounds, absolute }) => [
    variant,
    String(rounds),
    ...keys.map((key) => digits(absolute[key].median)),
    digits(absolute.load.median),
  ]);
  const shares = results
    .filter(({ variant }) => variant !== base)
    .map(({ variant, ratio }) => [variant, ...keys.map((key) => ratioText(ratio[key]))]);
  const sure = results.some(({ ratio }) => ratio.prompt.interval !== undefined);
  return [
    ...tableLines(["median", "rounds", ...titles, "start s"], medians, width),
    "",
    ...tableLines(["speed as a share", ...titles.map((title) => title.replace(/ ms$/, ""))], shares, width),
    "",
    `CPU ms is the processor time of a prompt and its answer. Shares are of the speed of '${base}', taken within a round; below 1 is slower; in brackets ${sure ? "the interval that the median lies in with 95 %" : "the lowest and the highest (under six rounds give no interval)"}.`,
  ];
}

/** Whether something costs less than a share, by each measure. */
export function verdictLines(what: string, { ratio }: VariantResult, share: number): readonly string[] {
  return keys.map((key) => {
    const { median } = ratio[key];
    const cost = (1 - median) * 100;
    const verdict = costsLess(ratio[key], share);
    const with_ = verdict === "not decidable" ? "not decidable with this spread" : verdict;
    return `${what} cost under ${share * 100} %, by ${measures[key].title.replace(/ ms$/, "")}: ${with_} (${cost >= 0 ? "costs" : "gains"} ${Math.abs(cost).toFixed(1)} %, share ${ratioText(ratio[key])})`;
  });
}

/** What was served, before anything was stopped. */
export function servingLine(samples: readonly Sample[]): string {
  if (samples.length === 0) return "the service did not answer while it was served";
  const values = keys.map((key) => {
    const { median, lowest, highest } = spreadOf(samples.map(measures[key].value));
    return `${measures[key].title} ${digits(median)} (${digits(lowest)} to ${digits(highest)})`;
  });
  return `as it serves, ${samples.length} prompts of ${samples[0]?.promptTokens ?? 0} tokens: ${values.join(", ")}`;
}
