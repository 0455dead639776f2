import { expect, test } from "vitest";
import { tableLines } from "../../../cli/table.ts";

test("columns are as wide as what they hold", () => {
  expect(tableLines(["A", "LONGER"], [["xxx", "y"]], 80)).toEqual(["A    LONGER", "---  ------", "xxx  y"]);
});

test("the widest column wraps, at spaces", () => {
  expect(tableLines(["A", "B"], [["one", "two three four five"]], 17)).toEqual([
    "A    B",
    "---  ------------",
    "one  two three",
    "     four five",
  ]);
});

test("a word longer than its column is broken, and nothing of it is lost", () => {
  expect(tableLines(["A"], [["0123456789abcdef"]], 10)).toEqual(["A", "----------", "0123456789", "abcdef"]);
});

test("columns are not made narrower than a word, even where the width asks for it", () => {
  expect(tableLines(["A", "B"], [["aaaaaaaaaaaa", "bbbbbbbbbbbb"]], 5)[1]).toBe("----------  ----------");
});

test("an empty cell is empty", () => {
  expect(tableLines(["A", "B"], [["", "x"]], 80)).toEqual(["A  B", "-  -", "   x"]);
});
