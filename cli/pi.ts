import type { Command } from "commander";
import { UserError } from "./errors.ts";

const DEFAULT_NAME = "pi";

export function register(program: Command): void {
  const pi = program
    .command("pi")
    .description("Run a virtual Pi: a node in software, with a real kernel and a TPM 2.0");
  const nameOption = ["-n, --name <name>", "which node", DEFAULT_NAME] as const;

  pi.command("up")
    .description("Start a fresh node in the background, and say how to reach it")
    .option(...nameOption)
    .option("--nat", "let it reach the network of this machine (it reaches nobody otherwise)")
    .option("--cold", "boot it instead of going on from the booted snapshot")
    .action(async (options: { readonly name: string; readonly nat?: true; readonly cold?: true }) => {
      const { up } = await import("../testbed/pi-commands.ts");
      await up(options.name, {
        network: options.nat ? "nat" : "isolated",
        from: options.cold ? "cold" : "snapshot",
      });
    });

  pi.command("ssh")
    .description("Log in to a running node, or run a command on it: edgeseal pi ssh -- sudo nft list ruleset")
    .argument("[command...]")
    .option(...nameOption)
    .action(async (command: readonly string[], options: { readonly name: string }) => {
      const { ssh } = await import("../testbed/pi-commands.ts");
      process.exitCode = await ssh(options.name, command);
    });

  pi.command("console")
    .description("Show a node's serial console, and follow it until Ctrl-C or the node's end")
    .option(...nameOption)
    .action(async (options: { readonly name: string }) => {
      const { followConsole } = await import("../testbed/pi-commands.ts");
      await followConsole(options.name);
    });

  pi.command("down")
    .description("End a node and remove everything of it")
    .option(...nameOption)
    .action(async (options: { readonly name: string }) => {
      const { down } = await import("../testbed/pi-commands.ts");
      await down(options.name);
    });

  pi.command("list")
    .description("Show the running nodes, those of tests and demos too")
    .action(async () => {
      const { list } = await import("../testbed/pi-commands.ts");
      await list();
    });

  pi.command("image")
    .description("Build the image and its booted snapshot, if this recipe's are not there yet")
    .option("--prune", "then remove those of other recipes, unless a running node uses them")
    .action(async (options: { readonly prune?: true }) => {
      const { image } = await import("../testbed/pi-commands.ts");
      await image(options.prune ?? false);
    });

  // A word that is none of these is a mistake, not an argument.
  pi.action((_options: unknown, command: Command) => {
    throw new UserError(`pi: unknown command ${command.args.join(" ")}`, {
      hint: "edgeseal pi --help lists them",
    });
  });
}
