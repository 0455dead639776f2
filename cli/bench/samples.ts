import { spreadOf, type Spread } from "./statistics.ts";

/** What one prompt took. */
export interface Sample {
  readonly promptPerSecond: number;
  readonly generatedPerSecond: number;
  /** From sending the prompt to the first token. */
  readonly firstTokenSeconds: number;
  /** Processor time of all processes of the unit, for the whole prompt and its answer. */
  readonly processorSeconds: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
}

/** One start of a variant in one round. */
export interface Start {
  readonly round: number;
  readonly variant: string;
  /** From starting the unit until the server answered. */
  readonly loadSeconds: number;
  readonly samples: readonly Sample[];
}

export interface Measured {
  /** The server as it was found, before anything was stopped. */
  readonly serving: readonly Sample[];
  readonly starts: readonly Start[];
  /** Variants that were not measured to the end, with the reason. */
  readonly failures: Readonly<Record<string, string>>;
  /** Whether it came to its end. */
  readonly complete: boolean;
}

const answer = /^answer (\d+) (\S+) ([\d.]+) ([\d.]+) (\{.*\})$/;

interface Timings {
  readonly prompt_n: number;
  readonly prompt_per_second: number;
  readonly predicted_n: number;
  readonly predicted_per_second: number;
}

const isTimings = (value: unknown): value is Timings =>
  ["prompt_n", "prompt_per_second", "predicted_n", "predicted_per_second"].every((key) =>
    Number.isFinite((value as Record<string, unknown> | null)?.[key]),
  );

/**
 * What the comparing program on the node printed.
 * @param variants names, by the numbers that it was given
 */
export function parseMeasured(output: string, variants: readonly string[]): Measured {
  const serving: Sample[] = [];
  const starts: (Start & { readonly samples: Sample[] })[] = [];
  const failures: Record<string, string> = {};
  let complete = false;
  const nameOf = (number: string | undefined): string => variants[Number(number)] ?? String(number);
  for (const line of output.split("\n")) {
    const loaded = /^loaded (\d+) (\d+) ([\d.]+)$/.exec(line);
    if (loaded !== null)
      starts.push({
        round: Number(loaded[1]),
        variant: nameOf(loaded[2]),
        loadSeconds: Number(loaded[3]),
        samples: [],
      });
    const failed = /^failed (\S+) (.*)$/.exec(line);
    if (failed !== null) failures[nameOf(failed[1])] = failed[2] ?? "";
    const sample = sampleOf(line);
    if (sample?.of === "serving") serving.push(sample);
    else if (sample !== undefined) starts.at(-1)?.samples.push(sample);
    complete ||= line === "end";
  }
  const bare = starts.map((start) => ({ ...start, samples: start.samples.map(withoutOf) }));
  return { serving: serving.map(withoutOf), starts: bare, failures, complete };
}

const withoutOf = ({ of: _of, ...sample }: Sample & { readonly of?: string }): Sample => sample;

function sampleOf(line: string): (Sample & { readonly of: string }) | undefined {
  const [, , of = "", first = "", processor = "", json = ""] = answer.exec(line) ?? [];
  if (json === "") return undefined;
  let timings: unknown;
  try {
    timings = JSON.parse(json);
  } catch {
    return undefined;
  }
  if (!isTimings(timings)) return undefined;
  return {
    of,
    promptPerSecond: timings.prompt_per_second,
    generatedPerSecond: timings.predicted_per_second,
    firstTokenSeconds: Number(first),
    processorSeconds: Number(processor),
    promptTokens: timings.prompt_n,
    generatedTokens: timings.predicted_n,
  };
}

/** What is compared. Of times, less is better; shares are of speeds all the same. */
export const measures = {
  prompt: {
    title: "prompt tokens/s",
    isTime: false,
    value: (sample: Sample) => sample.promptPerSecond,
  },
  generation: {
    title: "generated tokens/s",
    isTime: false,
    value: (sample: Sample) => sample.generatedPerSecond,
  },
  firstToken: {
    title: "first token ms",
    isTime: true,
    value: (sample: Sample) => sample.firstTokenSeconds * 1000,
  },
  processor: {
    title: "CPU ms",
    isTime: true,
    value: (sample: Sample) => sample.processorSeconds * 1000,
  },
} as const;
export type Measure = keyof typeof measures;

export interface VariantResult {
  readonly variant: string;
  readonly rounds: number;
  readonly absolute: Readonly<Record<Measure | "load", Spread>>;
  /** Speed as a share of the base's in the same round: below 1 is slower, of every measure. */
  readonly ratio: Readonly<Record<Measure, Spread>>;
}

/**
 * Results by variant. A round's value is the median of its prompts; a ratio is taken within a round, so that what disturbs a whole round disturbs no ratio.
 * @param base the variant that the others are set against
 */
export function resultsOf(starts: readonly Start[], base: string): readonly VariantResult[] {
  const measured = starts.filter(({ samples }) => samples.length > 0);
  return [...new Set(measured.map(({ variant }) => variant))].map((variant) => {
    const own = measured.filter((start) => start.variant === variant);
    const of = (start: Start, measure: Measure): number =>
      spreadOf(start.samples.map(measures[measure].value)).median;
    const absolute = (measure: Measure): Spread => spreadOf(own.map((start) => of(start, measure)));
    const ratio = (measure: Measure): Spread =>
      spreadOf(
        own.flatMap((start) => {
          const other = measured.find((each) => each.variant === base && each.round === start.round);
          if (other === undefined) return [];
          const share = of(start, measure) / of(other, measure);
          return measures[measure].isTime ? 1 / share : share;
        }),
      );
    const each = <T>(spread: (measure: Measure) => T): Record<Measure, T> => ({
      prompt: spread("prompt"),
      generation: spread("generation"),
      firstToken: spread("firstToken"),
      processor: spread("processor"),
    });
    return {
      variant,
      rounds: own.length,
      absolute: { ...each(absolute), load: spreadOf(own.map(({ loadSeconds }) => loadSeconds)) },
      ratio: each(ratio),
    };
  });
}
