import { fstatSync } from "node:fs";
import { flushCompileCache } from "node:module";
import type { RunningServer } from "./server.ts";

/**
 * Lives as the engine's child: says the port on the first line of standard output, which carries nothing else, and ends when told to or when the
 * engine is gone. The engine asks with Cancel, then SIGINT, and kills 5 s later; a terminal's Ctrl-C is a SIGINT, too.
 */
export function runAsPlugin(server: RunningServer): void {
  let ending = false;
  const end = (): void => {
    if (ending) return;
    ending = true;
    void server.stop().finally(() => process.exit(0));
  };
  process.on("uncaughtException", (error) => {
    process.stderr.write(`${server.scrub(error.stack ?? error.message)}\n`);
    process.exit(1);
  });
  process.on("SIGINT", end);
  process.on("SIGTERM", end);
  whenEngineIsGone(end);
  // Last: from this line on the engine may ask for anything, the end included.
  process.stdout.write(`${server.port}\n`);
  // The engine may kill us, so what was compiled is kept now rather than at exit.
  setTimeout(flushCompileCache, 1000).unref();
}

/** The engine holds the other end of our standard input, and never writes. Where there is no such pipe, the parent process tells. */
function whenEngineIsGone(gone: () => void): void {
  const input = fstatSync(0);
  if (input.isFIFO() || input.isSocket()) {
    process.stdin.on("end", gone).on("error", gone).resume();
    return;
  }
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) gone();
  }, 1000).unref();
}
