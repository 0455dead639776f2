import { Option, type Command } from "commander";
import { withPassphraseOptions } from "./keys/passphrase.ts";
import type { ApproveOptions } from "./approve/options.ts";

export function register(program: Command): void {
  const command = program
    .command("approve")
    .description(
      "Approve a boot state of a node: show what changed since the last approved one, sign it, and write approvals/<node>.json",
    )
    .argument("<node>", "the node's name in its site")
    .option(
      "--site <site.yaml>",
      "read the state from the node, as this site file reaches it; its `trust` names the approvals",
    )
    .option("--stack <name>", "the stack whose configuration has the key for ssh (default: the selected one)")
    .option(
      "--log <file>",
      "what `/usr/lib/edgeseal/measure --next` printed on the node, in place of asking the node; `-` is standard input",
    )
    .option(
      "--texts <dir>",
      "what it wrote with --keep DIR: with it, files and properties that changed are named",
    )
    .option("--current", "the state that the node is in, in place of that of its next boot; reads the node")
    .option(
      "--artifacts <dir>",
      "a trusted copy of its boot partition: refuse what the device reports differently",
    )
    .option("--keys <dir>", "the folder with the site's keys")
    .option("--policy-key <key>", "the policy key's private half: FILE, pkcs11:URI or command:PROGRAM")
    .option("--policy-public-key <file.pem>", "its public half, for a key that is in no folder of keys")
    .option("--generation <n>", "its generation, likewise")
    .option("--reason <text>", "why, in one line (default: what changed)")
    .option("--approvals <dir>", "the folder of approvals (default: approvals/ of this checkout)")
    .addOption(
      new Option("--forget <pcr11>", "withdraw an approved state instead; this does not revoke it").conflicts(
        ["site", "log", "texts", "current", "artifacts", "reason"],
      ),
    )
    .option("--dry-run", "only show, with the exit status that approving would begin with")
    .option("--yes", "do not ask")
    .option("--json", "as JSON, for other programs; asks nothing, so it takes --yes to approve");
  withPassphraseOptions(command)
    .addHelpText(
      "after",
      `
Exit status: 0 approved, or there was nothing to approve; 1 failed; 2 wrong usage; 4 not approved: nobody said yes;
5 the device reports something else than the trusted copy; 6 a measurement that must not be approved; 130 interrupted.`,
    )
    .action(async (node: string, options: ApproveOptions) => {
      const [{ approve }, { withUserFaults }] = await Promise.all([
        import("./approve/approve.ts"),
        import("./user-fault.ts"),
      ]);
      await withUserFaults(() => approve(node, options));
    });
}
