/**
 * Stands in for `cli/demo/demo.ts` under the real CLI: the real runDemo, with two steps and without a node. The first step fails when FAILS says how.
 * With `--import` of this file, `edgeseal demo` loads it in place of its own.
 */
import { registerHooks } from "node:module";
import { runDemo as run, type DemoOptions } from "../../../../cli/demo/demo.ts";
import type { BootTiming } from "../../../../testbed/virtual-pi.ts";
import { holds, type DemoContext, type DemoStep } from "../../../../cli/demo/step.ts";

registerHooks({
  resolve: (specifier, context, next) =>
    next(specifier === "./demo/demo.ts" ? import.meta.url : specifier, context),
});

const bootTimings: BootTiming[] = [
  { how: "snapshot", ms: 40_000 },
  { how: "restore", ms: 3_000 },
];

const first: DemoStep = {
  title: "The first",
  proves: "that a claim is judged",
  run(context) {
    holds(context, process.env.FAILS !== "claim", "the sky is blue", "a grey sky");
    if (process.env.FAILS === "fault") throw new Error("the roof fell in");
    return Promise.resolve();
  },
};

const second: DemoStep = {
  title: "The second",
  proves: "that it is not begun after a failure",
  run(context) {
    context.say("the second step ran");
    bootTimings.push({ how: "boot", ms: 30_000 });
    return Promise.resolve();
  },
};

export const runDemo = (options: DemoOptions): Promise<void> =>
  run(options, {
    steps: [first, second],
    open: ({ say, signal }) =>
      Promise.resolve({
        pi: { name: "demo-0", bootTimings },
        say,
        signal,
        [Symbol.asyncDispose]: () => {
          say("the node is gone");
          return Promise.resolve();
        },
      } as unknown as DemoContext & AsyncDisposable),
  });
