import { Option, type Command } from "commander";
import { variants, type Variant } from "../provider/resources/server-variants.ts";

export function register(program: Command): void {
  program
    .command("seccomp")
    .description("See which system calls a server makes, and hold its seccomp profile to that")
    .command("record")
    .description(
      "Run a server under strace, and compare the system calls that it makes with what its profile allows; 1 when it made one that the profile refuses",
    )
    .argument("<command...>", "the server and its arguments, after --")
    .addOption(
      new Option("--variant <variant>", "the profile to compare with")
        .choices(variants)
        .default("llama-server" satisfies Variant),
    )
    .option(
      "--merge <file>",
      "take together with what was recorded in this file before, and keep the sum there",
    )
    .option("--write-profile <file>", "write a profile of what was recorded, in podman's format")
    .option("--json", "as JSON, for other programs")
    .action(record);
}

export interface RecordOptions {
  readonly variant: Variant;
  readonly merge?: string;
  readonly writeProfile?: string;
  readonly json?: true;
}

async function record(command: readonly string[], options: RecordOptions): Promise<void> {
  const { recordCommand } = await import("./seccomp/record.ts");
  await recordCommand(command, options);
}
