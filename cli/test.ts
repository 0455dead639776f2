import { Argument, type Command } from "commander";
import { DEFAULT_STAGES, STAGES } from "../tools/tiers/stages.ts";

export function register(program: Command): void {
  program
    .command("test")
    .description(
      "Run the checks (format, lint, types, shell) and the tests, tier by tier; without a tier all but `trust` (the chain of trust under attack, and the inference service, which take more than an hour of emulation) and `arm64` (a virtual Pi with a Pi's own architecture and a device tree, whose image takes long to build)",
    )
    .addArgument(new Argument("[tier...]", "which to run").choices(STAGES))
    .option("-t, --name <pattern>", "only tests whose name matches")
    .action(async (tiers: readonly (typeof STAGES)[number][], options: { readonly name?: string }) => {
      const { runStages } = await import("../tools/tiers/run.ts");
      await runStages(tiers.length === 0 ? DEFAULT_STAGES : tiers, options);
    });
}
