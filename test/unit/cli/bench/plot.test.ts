import { expect, test } from "vitest";
import { plotSvg } from "../../../../cli/bench/plot.ts";
import { resultsOf, type Start } from "../../../../cli/bench/samples.ts";

const start = (round: number, variant: string, speed: number): Start => ({
  round,
  variant,
  loadSeconds: 2,
  samples: [
    {
      promptPerSecond: speed * 3,
      generatedPerSecond: speed,
      firstTokenSeconds: 1 / speed,
      processorSeconds: 2 / speed,
      promptTokens: 128,
      generatedTokens: 32,
    },
  ],
});
const results = resultsOf(
  [start(1, "a <b> & c", 50), start(1, "plain", 100), start(2, "a <b> & c", 60), start(2, "plain", 90)],
  "plain",
);
const options = { title: `On "pi"`, subtitle: "two rounds", base: "plain" };

test("a plot is one file that loads nothing, for light and dark, with a bar and a spread for each", () => {
  const svg = plotSvg(results, options);
  expect(svg).not.toMatch(/href|url\(|<script|@import|https?:(?!\/\/www\.w3\.org\/2000\/svg)/);
  expect(svg).toContain("prefers-color-scheme: dark");
  expect(svg.match(/<rect class="bar"/g)).toHaveLength(5);
  expect(svg.match(/<rect class="last"/g)).toHaveLength(5);
  expect(svg.match(/<path class="spread"/g)).toHaveLength(10);
  expect(svg).toContain("55.0 (50.0 to 60.0)");
  expect(svg).not.toContain("NaN");
});

test("names are text, whatever is in them", () => {
  const svg = plotSvg(results, options);
  expect(svg).toContain("a &#60;b&#62; &#38; c");
  expect(svg).not.toContain("a <b>");
});

test("bars are as long as their values: the longest spread fits", () => {
  const widths = [
    ...plotSvg(results, options).matchAll(/<rect class="(?:bar|last)"[^>]* width="([\d.]+)"/g),
  ].map(([, width]) => Number(width));
  // Prompt: 165 and 285, of at most 300.
  expect((widths[0] ?? 0) / (widths[1] ?? 1)).toBeCloseTo(165 / 285, 2);
});

test("a warning is only where one is given", () => {
  expect(plotSvg(results, options)).not.toContain('<text class="warning"');
  expect(plotSvg(results, { ...options, warning: "emulated" })).toContain('<text class="warning"');
});
