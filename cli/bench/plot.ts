import { measures, type Measure, type VariantResult } from "./samples.ts";
import type { Spread } from "./statistics.ts";

/*
 * A plot as a file that needs nothing else: no fonts, no scripts, no style sheet of another. Written by hand, since it is bars and lines: a library would bring a document model to draw some twenty
 * rectangles.
 */

const width = 960;
const labelWidth = 320;
const valueWidth = 150;
const barHeight = 16;
const rowHeight = 26;
const panelGap = 54;
const top = 106;

const escaped = (text: string): string =>
  text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const style = `
  svg { font: 13px system-ui, sans-serif; --ink: #1f2328; --dim: #59636e; --bar: #4269d0; --last: #8a94a3; --spread: #1f2328; --paper: #ffffff }
  @media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --dim: #9198a1; --bar: #4f78d8; --last: #6e7681; --spread: #ffffff; --paper: #0d1117 } }
  .paper { fill: var(--paper) } text { fill: var(--ink) } .dim { fill: var(--dim) } .title { font-size: 17px; font-weight: 600 } .panel { font-weight: 600 }
  .bar { fill: var(--bar) } .last { fill: var(--last) } .spread { stroke: var(--spread); stroke-width: 1.5 } .warning { fill: #c93c37; font-weight: 600 }`;

const number = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

export interface PlotOptions {
  readonly title: string;
  readonly subtitle: string;
  /** Said in red, e.g. that the figures are of an emulated machine. */
  readonly warning?: string | undefined;
  /** The variant that is without confinement, in another colour. */
  readonly base: string;
}

/** Bars of medians for each measure and variant, with lowest and highest as a line. */
export function plotSvg(results: readonly VariantResult[], options: PlotOptions): string {
  const panels = [
    ...(Object.keys(measures) as Measure[]).map((key) => ({
      title: `${measures[key].title}, ${measures[key].isTime ? "less" : "more"} is better`,
      spread: (result: VariantResult) => result.absolute[key],
    })),
    {
      title: "seconds from start to answering, less is better",
      spread: (result: VariantResult) => result.absolute.load,
    },
  ];
  const panelHeight = results.length * rowHeight + panelGap;
  const height = top + panels.length * panelHeight;
  const content = panels.map(({ title, spread }, index) =>
    panel(title, results, spread, options.base, top + index * panelHeight),
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(options.title)}">
<style>${style}
</style>
<rect class="paper" width="${width}" height="${height}"/>
<text class="title" x="20" y="32">${escaped(options.title)}</text>
<text class="dim" x="20" y="52">${escaped(options.subtitle)}</text>
${options.warning === undefined ? "" : `<text class="warning" x="20" y="72">${escaped(options.warning)}</text>\n`}${content.join("\n")}
</svg>
`;
}

function panel(
  title: string,
  results: readonly VariantResult[],
  spreadOf: (result: VariantResult) => Spread,
  base: string,
  y: number,
): string {
  const most = Math.max(...results.map((result) => spreadOf(result).highest), Number.MIN_VALUE);
  const scale = (value: number): number => (value / most) * (width - labelWidth - valueWidth - 40);
  const rows = results.map((result, index) => {
    const { median, lowest, highest } = spreadOf(result);
    const rowY = y + 22 + index * rowHeight;
    const middle = rowY + barHeight / 2;
    const x = (value: number): string => (labelWidth + scale(value)).toFixed(1);
    return `<text x="${labelWidth - 10}" y="${middle + 5}" text-anchor="end">${escaped(result.variant)}</text>
<rect class="${result.variant === base ? "last" : "bar"}" x="${labelWidth}" y="${rowY}" width="${scale(median).toFixed(1)}" height="${barHeight}"/>
<path class="spread" d="M${x(lowest)} ${middle}H${x(highest)}M${x(lowest)} ${middle - 4}v8M${x(highest)} ${middle - 4}v8" fill="none"/>
<text class="dim" x="${(labelWidth + scale(highest) + 8).toFixed(1)}" y="${middle + 5}">${number(median)} (${number(lowest)} to ${number(highest)})</text>`;
  });
  return `<text class="panel" x="20" y="${y + 8}">${escaped(title)}</text>\n${rows.join("\n")}`;
}
