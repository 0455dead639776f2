/*
 * A table of left-aligned columns that wrap. Not a library: those that draw tables (cli-table3, table) wrap only in columns whose widths they
 * are told, and telling them is all there is to it.
 */

/** Two spaces keep columns apart without lines, which would not survive copying into a ticket. */
const gap = "  ";
/** A column is not made narrower than this: a word a line can be read, a letter a line can't. */
const narrowest = 10;

/**
 * Lines of a table no wider than `width` characters, as far as its columns allow. Cells wrap at spaces, and inside a word only when it is longer than the
 * column.
 */
export function tableLines(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  width: number,
): string[] {
  const all = [header, ...rows];
  const widths = fit(
    header.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0))),
    width - gap.length * (header.length - 1),
  );
  const rule = widths.map((each) => "-".repeat(each));
  return [header, rule, ...rows].flatMap((row) => rowLines(row, widths));
}

/** Narrows the widest columns until the sum fits. */
function fit(natural: readonly number[], width: number): number[] {
  const widths = [...natural];
  for (let excess = sum(widths) - width; excess > 0; excess--) {
    const widest = Math.max(...widths);
    if (widest <= narrowest) break;
    widths[widths.indexOf(widest)] = widest - 1;
  }
  return widths;
}

function rowLines(row: readonly string[], widths: readonly number[]): string[] {
  const cells = widths.map((width, column) => wrap(row[column] ?? "", width));
  const height = Math.max(...cells.map((lines) => lines.length));
  return Array.from({ length: height }, (_, line) =>
    cells
      .map((lines, column) => (lines[line] ?? "").padEnd(widths[column] ?? 0))
      .join(gap)
      .trimEnd(),
  );
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ").flatMap((each) => pieces(each, width))) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (longer.length <= width) line = longer;
    else {
      lines.push(line);
      line = word;
    }
  }
  return [...lines, line];
}

const pieces = (word: string, width: number): string[] =>
  word === ""
    ? [""]
    : Array.from({ length: Math.ceil(word.length / width) }, (_, i) =>
        word.slice(i * width, (i + 1) * width),
      );

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);
