import type { WayCounts } from "./bench-site.ts";
import type { EngineRun } from "./engine-run.ts";

/** One operation, once. */
export type Sample = EngineRun & {
  readonly operation: string;
  readonly command: "preview" | "up" | "refresh";
} & (
    | { readonly isFloor: true }
    | {
        readonly isFloor: false;
        readonly nodes: number;
        /** Round-trip time that the proxy adds, in milliseconds. */
        readonly rttMs: number;
        /** One for each node. */
        readonly ways: readonly WayCounts[];
      }
  );

/** An operation over all rounds. */
export interface Row {
  readonly operation: string;
  /** `undefined` for the floor, which has none. */
  readonly nodes: number | undefined;
  readonly rttMs: number | undefined;
  readonly runs: number;
  /** Medians. */
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly fastestSeconds: number;
  readonly slowestSeconds: number;
  /** `seconds` and `cpuSeconds` as multiples of those of the same command with an empty program. */
  readonly ofFloor: number;
  readonly cpuOfFloor: number;
  /** Of the node and round with the most. */
  readonly ways: WayCounts | undefined;
  /** Highest of all rounds. */
  readonly providerPeakMb: number | undefined;
}

/** One row for each operation, number of nodes and distance, in the order in which they were first measured. */
export function rowsOf(samples: readonly Sample[]): readonly Row[] {
  const groups = Map.groupBy(samples, (sample) =>
    sample.isFloor ? sample.operation : `${sample.operation} ${sample.nodes} ${sample.rttMs}`,
  );
  return [...groups.values()].map((group) => rowOf(group, samples));
}

function rowOf(group: readonly Sample[], all: readonly Sample[]): Row {
  const [first] = group;
  if (first === undefined) throw new RangeError("a row is made of samples");
  const floor = all.filter(({ isFloor, command }) => isFloor && command === first.command);
  const seconds = median(group.map((each) => each.seconds));
  const cpuSeconds = median(group.map((each) => each.cpuSeconds));
  const ways = group.flatMap((each) => (each.isFloor ? [] : each.ways));
  const peaks = group.flatMap(({ providerPeakMb }) => providerPeakMb ?? []);
  return {
    operation: first.operation,
    nodes: first.isFloor ? undefined : first.nodes,
    rttMs: first.isFloor ? undefined : first.rttMs,
    runs: group.length,
    seconds,
    cpuSeconds,
    fastestSeconds: Math.min(...group.map((each) => each.seconds)),
    slowestSeconds: Math.max(...group.map((each) => each.seconds)),
    ofFloor: seconds / median(floor.map((each) => each.seconds)),
    cpuOfFloor: cpuSeconds / median(floor.map((each) => each.cpuSeconds)),
    ways: first.isFloor
      ? undefined
      : {
          connections: Math.max(...ways.map(({ connections }) => connections)),
          execs: Math.max(...ways.map(({ execs }) => execs)),
          roundTrips: Math.max(...ways.map(({ roundTrips }) => roundTrips)),
        },
    providerPeakMb: peaks.length === 0 ? undefined : Math.max(...peaks),
  };
}

/** For a terminal: names to the left, numbers to the right. */
export function tableOf(rows: readonly Row[]): string {
  const header = [
    ...[
      "operation",
      "nodes",
      "RTT ms",
      "runs",
      "seconds",
      "fastest",
      "slowest",
      "of floor",
      "CPU s",
      "of floor",
    ],
    ...["connections", "execs", "round trips", "provider MB"],
  ];
  const cells = rows.map((row) => [
    row.operation,
    row.nodes ?? "",
    row.rttMs ?? "",
    row.runs,
    row.seconds.toFixed(1),
    row.fastestSeconds.toFixed(1),
    row.slowestSeconds.toFixed(1),
    `${row.ofFloor.toFixed(1)}x`,
    row.cpuSeconds.toFixed(1),
    `${row.cpuOfFloor.toFixed(1)}x`,
    row.ways?.connections ?? "",
    row.ways?.execs ?? "",
    row.ways?.roundTrips ?? "",
    row.providerPeakMb?.toFixed(0) ?? "",
  ]);
  const lines = [header, ...cells].map((line) => line.map(String));
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const padded = lines.map((line) =>
    line.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
    ),
  );
  const note =
    "Medians of the runs; connections, execs and round trips are those of one node, the one with most.";
  return [...padded.map((line) => line.join("  ").trimEnd()), "", note].join("\n");
}

/** Of an even number of values, the mean of the middle two. */
function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const lower = sorted[Math.ceil(middle) - 1] ?? NaN;
  const upper = sorted[Math.floor(middle)] ?? NaN;
  return (lower + upper) / 2;
}
