import { Option, type Command } from "commander";
import { withPassphraseOptions } from "./keys/passphrase.ts";
import type { UpdateOptions } from "./update/update.ts";

export function register(program: Command): void {
  const command = program
    .command("update")
    .description(
      "Boot a node into what was installed on it: show what its next boot will measure, approve it, ship the approval, reboot, and confirm; the node goes back when a volume stays locked",
    )
    .argument("<node>", "the node's name in its site")
    .requiredOption("--site <site.yaml>", "the site file that says how the node is reached")
    .option("--stack <name>", "the stack whose configuration has the key for ssh (default: the selected one)")
    .option("--upgrade", "upgrade the node's packages first (apt-get upgrade)")
    .option(
      "--confirm-within <seconds>",
      "how long after its beginning a boot that was not confirmed is taken back",
      "900",
    )
    .option(
      "--no-way-back",
      "reboot although the node has no copy of an approved boot partition to go back to",
    )
    .option(
      "--artifacts <dir>",
      "a trusted copy of its boot partition as it has to be: refuse what the device reports differently",
    )
    .option("--keys <dir>", "the folder with the site's keys")
    .option("--policy-key <key>", "the policy key's private half: FILE, pkcs11:URI or command:PROGRAM")
    .option("--policy-public-key <file.pem>", "its public half, for a key that is in no folder of keys")
    .option("--generation <n>", "its generation, likewise")
    .option("--reason <text>", "why, in one line (default: what changed)")
    .option("--approvals <dir>", "the folder of approvals (default: that of the site file)")
    .addOption(
      new Option("--dry-run", "only show what would be approved; nothing is changed on the node").conflicts(
        "upgrade",
      ),
    )
    .option("--yes", "do not ask")
    .option("--json", "as JSON, for other programs; asks nothing, so it takes --yes to approve");
  withPassphraseOptions(command)
    .addHelpText(
      "after",
      `
The node keeps a copy of its boot partition while it runs what it was approved in, with its volumes open: before each run
of apt, and when this command begins. After the reboot it goes back to the copy by itself when a sealed volume stays
locked, or when nobody confirms in time (this command does, once it has seen that what was measured is what was approved).
A boot that does not come as far as judging itself (a kernel that stops, emergency mode) is not taken back: have the
console of a far node within reach.

Exit status: 0 confirmed, or there was nothing to do; 1 failed; 2 wrong usage; 4 not approved: nobody said yes; 5 the
device reports something else than the trusted copy; 6 a measurement that must not be approved; 7 the node went back;
130 interrupted.`,
    )
    .action(async (node: string, options: UpdateOptions) => {
      const [{ update }, { withUserFaults }] = await Promise.all([
        import("./update/update.ts"),
        import("./user-fault.ts"),
      ]);
      await withUserFaults(() => update(node, options));
    });
}
