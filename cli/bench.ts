import { InvalidArgumentError, type Command } from "commander";

export interface BenchInferenceOptions {
  readonly site: string;
  readonly stack?: string;
  readonly service: string;
  readonly minutes: number;
  readonly rounds: number;
  readonly promptTokens: number;
  readonly tokens: number;
  readonly servedOnly?: true;
  readonly plot?: string;
  readonly yes?: true;
  readonly json?: true;
}

const whole = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError("expected a whole number from 1 on");
  return value;
};

export function register(program: Command): void {
  program
    .command("bench")
    .description("Measure on a node what its protection costs")
    .command("inference")
    .description(
      "Measure the served model, then the same server with one layer of confinement less each time: tokens per second, time to the first token, time to start",
    )
    .argument("<node>", "the node's name in its site")
    .requiredOption("--site <site.yaml>", "the site file, which says how the node is reached")
    .option("--stack <name>", "the stack whose configuration has the key for ssh (default: the selected one)")
    .option("--service <name>", "the inference service", "inference")
    .option("--minutes <n>", "begin no further round that would not end by then", whole, 15)
    .option("--rounds <n>", "rounds at most; under six give no interval", whole, 12)
    .option("--prompt-tokens <n>", "length of each prompt, about", whole, 128)
    .option("--tokens <n>", "tokens to generate for each", whole, 32)
    .option(
      "--served-only",
      "measure what is served and nothing else: nothing is stopped, and nothing is asked",
    )
    .option("--plot <file.svg>", "write a plot, too")
    .option("--yes", "do not ask")
    .option("--json", "as JSON, for other programs; asks nothing, so it takes --yes")
    .addHelpText(
      "after",
      `
For the comparison the service is stopped, and the same image and model are run by a unit of their own, less and less confined, as the same
user and without a port. The node itself starts the service again when it is done, when the connection is lost, on Ctrl-C, and when it takes too long.

Exit status: 0 measured; 1 failed; 2 wrong usage; 4 not done: nobody said yes; 130 interrupted.`,
    )
    .action(inference);
}

async function inference(node: string, options: BenchInferenceOptions): Promise<void> {
  const [{ benchInference }, { withUserFaults }] = await Promise.all([
    import("./bench/inference.ts"),
    import("./user-fault.ts"),
  ]);
  await withUserFaults(() => benchInference(node, options));
}
