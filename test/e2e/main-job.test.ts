import { afterAll, beforeAll, describe, test } from "vitest";
import { mainJob, openDemo, runStep } from "../../cli/demo/demo.ts";

/*
 * The main job on a virtual Pi, as `./edgeseal demo` does it: the same steps, each a test. Every claim that a step makes is checked by the step
 * itself, which throws at the first thing that is not as it should be; the steps after it have nothing to stand on then, and fail too.
 */
describe("the main job", () => {
  let demo: Awaited<ReturnType<typeof openDemo>>;

  beforeAll(async () => {
    demo = await openDemo({
      signal: new AbortController().signal,
      say: (line) => process.stdout.write(`${line}\n`),
    });
  }, 600_000);

  afterAll(async () => {
    await demo[Symbol.asyncDispose]();
  }, 60_000);

  test.each(mainJob.map((step, index) => ({ step, number: index + 1, title: step.title })))(
    "step $number: $title",
    async ({ step, number }) => {
      await runStep(demo, step, number);
    },
    // Minutes on an idle machine: emulation shares two processors with whatever else runs.
    1_200_000,
  );
});
