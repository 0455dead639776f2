import { expect, test } from "vitest";
import { resultLines, servingLine, verdictLines } from "../../../../cli/bench/report.ts";
import { parseMeasured, resultsOf } from "../../../../cli/bench/samples.ts";

const timings = (prompt: number, generated: number): string =>
  `{"cache_n":0,"prompt_n":128,"prompt_ms":1.5,"prompt_per_second":${prompt},"predicted_n":32,"predicted_per_second":${generated}}`;

const printed = `
alive
answer 0 serving 0.400000 1.500000 ${timings(320, 90)}
begin 1 0
loaded 1 0 2.500
answer 1 0 0.500000 1.500000 ${timings(200, 50)}
answer 1 0 0.300000 1.500000 ${timings(300, 80)}
answer 1 0 0.400000 1.500000 ${timings(250, 60)}
begin 1 1
loaded 1 1 1.500
alive
answer 1 1 0.320000 1.500000 ${timings(500, 75)}
failed 2 exit-code Error: no such image
answer 1 1 0.320000 1.500000 {"prompt_n":1}
end
`;
const names = ["confined", "plain", "broken"];

test("what the node printed, by variant and round; half an answer is none", () => {
  const measured = parseMeasured(printed, names);
  expect(measured.serving).toEqual([
    {
      promptPerSecond: 320,
      generatedPerSecond: 90,
      firstTokenSeconds: 0.4,
      processorSeconds: 1.5,
      promptTokens: 128,
      generatedTokens: 32,
    },
  ]);
  expect(measured.starts.map(({ variant, samples }) => [variant, samples.length])).toEqual([
    ["confined", 3],
    ["plain", 1],
  ]);
  expect(measured.failures).toEqual({ broken: "exit-code Error: no such image" });
  expect(measured.complete).toBe(true);
  expect(parseMeasured(printed.replace("\nend", ""), names).complete).toBe(false);
});

test("a round counts by the median of its prompts, as a share of the base in the same round; less time is more speed", () => {
  const [confined, plain] = resultsOf(parseMeasured(printed, names).starts, "plain");
  expect(confined?.absolute.prompt.median).toBe(250);
  expect(confined?.ratio.prompt.median).toBe(0.5);
  expect(confined?.ratio.generation.median).toBe(0.8);
  expect(confined?.ratio.firstToken.median).toBeCloseTo(0.8);
  expect(confined?.ratio.processor.median).toBe(1);
  expect(confined?.absolute.load.median).toBe(2.5);
  expect(plain?.ratio.prompt.median).toBe(1);
});

test("a round without its base has no ratio", () => {
  const other = printed.replaceAll("loaded 1 1", "loaded 2 1");
  const [confined] = resultsOf(parseMeasured(other, names).starts, "plain");
  expect(confined?.ratio.prompt).toMatchObject({ count: 0 });
});

test("the table tells medians and shares, and that one round gives no interval; nothing is decided by it", () => {
  const results = resultsOf(parseMeasured(printed, names).starts, "plain");
  const text = resultLines(results, "plain").join("\n");
  expect(text).toMatch(/^confined +1 +250 +60\.0 +400 +1500 +2\.50$/m);
  expect(text).toMatch(/^confined +0\.500 \(0\.500 to 0\.500\) +0\.800 /m);
  expect(text).not.toMatch(/^plain +0/m);
  expect(text).toContain("under six rounds give no interval");
  const [confined] = results;
  if (confined === undefined) throw new Error("no result");
  expect(verdictLines("it", confined, 0.05)[0]).toBe(
    "it cost under 5 %, by prompt tokens/s: not decidable with this spread (costs 50.0 %, share 0.500 (0.500 to 0.500))",
  );
  expect(servingLine(parseMeasured(printed, names).serving)).toContain("prompt tokens/s 320 (320 to 320)");
});
