import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import * as approve from "./approve.ts";
import * as bench from "./bench.ts";
import * as demo from "./demo.ts";
import * as doctor from "./doctor.ts";
import { UserError } from "./errors.ts";
import * as image from "./image.ts";
import * as keys from "./keys.ts";
import * as model from "./model.ts";
import * as node from "./node.ts";
import * as pi from "./pi.ts";
import * as report from "./report.ts";
import * as seccomp from "./seccomp.ts";
import * as site from "./site.ts";
import * as test from "./test.ts";
import * as update from "./update.ts";
import * as volume from "./volume.ts";

/** The shell's convention for a program ended by SIGINT. */
const INTERRUPTED = 130;
const USAGE = 2;

const { version, description } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as { version: string; description: string };

const program = new Command("edgeseal")
  .description(description)
  .version(version)
  .showHelpAfterError("(edgeseal COMMAND --help lists what it takes)")
  .exitOverride();

// Each file registers names and options only, and loads what does the work when it is asked to.
for (const command of [
  demo,
  site,
  node,
  keys,
  approve,
  update,
  volume,
  image,
  model,
  seccomp,
  report,
  bench,
  pi,
  test,
  doctor,
])
  command.register(program);

// A command that has something to put back listens for SIGINT itself, and ends when it has.
process.once("SIGINT", () => {
  process.exitCode = INTERRUPTED;
  if (process.listenerCount("SIGINT") === 0) process.exit();
});

// Whoever read what is printed went away (`edgeseal ... | head -1`): that ends a command as Ctrl-C does. What it prints while it puts things back nobody reads.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.emit("SIGINT");
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeFor(error);
}

function exitCodeFor(error: unknown): number {
  // Commander has printed it already; --help and --version are no errors.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
  if (error instanceof UserError) {
    console.error(`edgeseal: ${error.message}`);
    if (error.hint !== undefined) console.error(`  ${error.hint}`);
  } else {
    console.error(error);
  }
  // A command may have a status of its own for what it throws.
  return Number(process.exitCode) || 1;
}
