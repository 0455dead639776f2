import { expect, test } from "vitest";
import { costsLess, median, spreadOf } from "../../../../cli/bench/statistics.ts";

const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

test("the middle of odd and even counts, in any order, and of none", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(median([])).toBeNaN();
});

test("the interval is that of the sign test: none under six values, the outermost from six, narrower from nine on", () => {
  // Tables of the sign test, two-sided 5 %: the critical values are 0 for n = 6 to 8, 1 for 9 to 11, 2 for 12 to 14, 5 for 20.
  expect(spreadOf(upTo(5)).interval).toBeUndefined();
  expect(spreadOf(upTo(6)).interval).toEqual([1, 6]);
  expect(spreadOf(upTo(8)).interval).toEqual([1, 8]);
  expect(spreadOf(upTo(9)).interval).toEqual([2, 8]);
  expect(spreadOf(upTo(12)).interval).toEqual([3, 10]);
  expect(spreadOf(upTo(20)).interval).toEqual([6, 15]);
  expect(spreadOf(upTo(5))).toMatchObject({ lowest: 1, highest: 5, count: 5 });
});

test("a claim holds only when all of the interval says so", () => {
  const ratio = (low: number, high: number) => ({ ...spreadOf(upTo(6)), interval: [low, high] as const });
  expect(costsLess(ratio(0.96, 1.02), 0.05)).toBe("held");
  expect(costsLess(ratio(0.94, 1.02), 0.05)).toBe("not decidable");
  expect(costsLess(ratio(0.8, 0.94), 0.05)).toBe("not held");
  expect(costsLess({ ...ratio(0, 0), interval: undefined }, 0.05)).toBe("not decidable");
});
