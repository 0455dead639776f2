import { afterAll, beforeAll, describe, test } from "vitest";
import type { ChapterName } from "../../cli/demo/chapters.ts";
import { openDemo, runStep, stepsOf } from "../../cli/demo/demo.ts";

/**
 * A chapter on a virtual Pi, as `./edgeseal demo` does it: the same steps, each a test. Every claim that a step makes is checked by the step itself, which throws at the first thing
 * that is not as it should be; the steps after it have nothing to stand on then, and fail too.
 */
export function testChapter(chapter: ChapterName): void {
  describe(chapter, () => {
    let demo: Awaited<ReturnType<typeof openDemo>>;

    beforeAll(async () => {
      demo = await openDemo({
        signal: new AbortController().signal,
        say: (line) => process.stdout.write(`${line}\n`),
      });
    }, 600_000);

    afterAll(async () => {
      // It does not exist when its start failed.
      await (demo as typeof demo | undefined)?.[Symbol.asyncDispose]();
    }, 60_000);

    test.each(stepsOf[chapter].map((step, index) => ({ step, number: index + 1, title: step.title })))(
      "step $number: $title",
      async ({ step, number }) => {
        await runStep(demo, step, number);
      },
      // Minutes on an idle machine: emulation shares two processors with whatever else runs.
      1_800_000,
    );
  });
}
