import { Argument, type Command } from "commander";
import { chapterNames, chapters, type ChapterName } from "./demo/chapters.ts";
import { withInterruption } from "./interruption.ts";

const defaultChapter: ChapterName = "main-job";

export function register(program: Command): void {
  program
    .command("demo")
    .description(
      "do the main job against a virtual Pi, step by step; exit status 1 at the first thing that is not as it should be",
    )
    .addArgument(new Argument("[chapter]", "what to show").choices(chapterNames).default(defaultChapter))
    .addHelpText("after", `\nChapters, each on a fresh node:\n${chapterLines().join("\n")}`)
    .action(async (chapter: ChapterName) => {
      const [{ runDemo }, { NotAsItShouldBe }, { UserError }] = await Promise.all([
        import("./demo/demo.ts"),
        import("./demo/step.ts"),
        import("./errors.ts"),
      ]);
      await withInterruption(async (signal) => {
        try {
          await runDemo({ chapter, signal, say: (line) => console.log(line) });
        } catch (error) {
          if (signal.aborted) throw new UserError("interrupted; the virtual Pi is gone");
          if (error instanceof NotAsItShouldBe) throw new UserError(`not as it should be\n${error.message}`);
          throw error;
        }
      });
    });
}

function chapterLines(): readonly string[] {
  return chapterNames.flatMap((name) => {
    const { shows, usualMinutes } = chapters[name];
    return [`  ${name.padEnd(13)}some ${usualMinutes} minutes`, `    ${shows}`];
  });
}
