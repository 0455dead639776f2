import type { Command } from "commander";

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
      const interrupted = new AbortController();
      const onInterrupt = (): void => interrupted.abort();
      process.once("SIGINT", onInterrupt);
      try {
        await runDemo({ signal: interrupted.signal, say: (line) => console.log(line) });
      } catch (error) {
        if (interrupted.signal.aborted) throw new UserError("interrupted; the virtual Pi is gone");
        if (error instanceof NotAsItShouldBe) throw new UserError(`not as it should be\n${error.message}`);
        throw error;
      } finally {
        process.off("SIGINT", onInterrupt);
      }
    });
}
