import { styleText } from "node:util";
import type { Finding } from "./finding.ts";

const SIGNS = { present: "✓", missing: "✗", note: "-" } as const;
const COLOURS = { present: "green", missing: "red", note: "yellow" } as const;

/** One line for each finding, its mend below it, and what to do next. */
export function printFindings(findings: readonly Finding[]): void {
  for (const { piece, state, found, mend } of findings) {
    const sign = styleText(COLOURS[state], SIGNS[state], { stream: process.stdout });
    console.log(` ${sign} ${piece}${found === undefined ? "" : ` (${found})`}`);
    if (mend !== undefined) console.log(`     ${mend}`);
  }
  const missing = findings.filter(({ state }) => state === "missing").length;
  console.log(
    missing === 0
      ? "\nNothing is missing."
      : `\n${missing} missing. './edgeseal demo' and './edgeseal test' set up whatever can be set up.`,
  );
}
