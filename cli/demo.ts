import type { Command } from "commander";
import { withInterruption } from "./interruption.ts";

export function register(program: Command): void {
  program
    .command("demo")
    .description(
      "do the main job against a virtual Pi, step by step; exit status 1 at the first thing that is not as it should be",
    )
    .action(async () => {
      const [{ runDemo }, { NotAsItShouldBe }, { UserError }] = await Promise.all([
        import("./demo/demo.ts"),
        import("./demo/step.ts"),
        import("./errors.ts"),
      ]);
      await withInterruption(async (signal) => {
        try {
          await runDemo({ signal, say: (line) => console.log(line) });
        } catch (error) {
          if (signal.aborted) throw new UserError("interrupted; the virtual Pi is gone");
          if (error instanceof NotAsItShouldBe) throw new UserError(`not as it should be\n${error.message}`);
          throw error;
        }
      });
    });
}
