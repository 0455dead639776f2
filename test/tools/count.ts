// usage: count.ts FILTER: runs the suites whose file names contain FILTER, and prints the tally as the last line.
import { startVitest } from "vitest/node";
import { Counter } from "../../tools/tiers/tests.ts";

const counter = new Counter("unit");
const vitest = await startVitest([process.argv[2] ?? ""], {
  root: new URL("suites", import.meta.url).pathname,
  config: false,
  include: ["*.case.ts"],
  run: true,
  watch: false,
  reporters: [counter],
});
await vitest.close();
counter.explainSkips();
console.log(JSON.stringify(counter.tally()));
process.exit(0);
