import { InvalidArgumentError, type Command } from "commander";
import type { AddOptions } from "./node-add/options.ts";

export function register(program: Command): void {
  const node = program
    .command("node")
    .description("First contact with a device that is to become a node of a site");
  const add = node
    .command("add")
    .description(
      "Have a device's host key compared with what its console shows, read what it is, and write its block for a site file",
    )
    .argument("<address>", "IP address or host name at which sshd of the device answers")
    .option(
      "--expect <line>",
      "the check line that first-contact printed on the device's console, in place of a person who compares",
    )
    .option("--host-key <key>", "its host key or `SHA256:` fingerprint, read at its console, likewise")
    .option(
      "--site <site.yaml>",
      "add the node to this site file, comments and all else kept (default: print)",
    )
    .option("--name <name>", "the node's name (default: the device's host name; needed with --site)")
    .option("--user <name>", "login user (default: the site's, else edgeseal)")
    .option("--port <port>", "TCP port of sshd (default: the site's, else 22)", portOf)
    .option("--identity-file <file>", "file with the private key (default: the site's, else the ssh agent)")
    .option("--stack <name>", "the stack whose configuration has the key for ssh, where the site says so")
    .option("--dry-run", "read the device, and show what would be written to the site file")
    .option("--json", "as JSON, for other programs; asks nothing, so it takes --expect or --host-key")
    .addHelpText(
      "after",
      `
The device is only read. Before the comparison nothing is sent to it: no login, no user name.

Exit status: 0 read, and printed or written; 1 failed; 2 wrong usage; 4 the host key was not compared; 5 the host key or the TPM is not
the expected one; 130 interrupted.`,
    );
  add.action(async (address: string, options: AddOptions) => {
    if (options.site !== undefined && options.name === undefined)
      add.error("error: --site takes --name as well");
    if (options.dryRun && options.site === undefined)
      add.error("error: --dry-run is for --site: without it nothing is written anyway");
    if (options.json && options.expect === undefined && options.hostKey === undefined)
      add.error("error: --json asks nothing, so it takes --expect or --host-key");
    const [{ addNode }, { withUserFaults }] = await Promise.all([
      import("./node-add/add.ts"),
      import("./user-fault.ts"),
    ]);
    await withUserFaults(() => addNode(address, options));
  });
  node
    .command("console-script")
    .description("Print the script that a person runs on the device's console: `sudo sh first-contact`")
    .action(async () => {
      const { consoleScript } = await import("./node-add/console-script.ts");
      process.stdout.write(consoleScript);
    });
}

function portOf(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port >= 1 && port <= 65535) return port;
  throw new InvalidArgumentError("expected a TCP port, 1 to 65535.");
}
