import type { Command } from "commander";
import { withPassphraseOptions } from "./keys/passphrase.ts";
import type { Task, VolumeOptions } from "./volume/options.ts";

const statuses = `
Exit status: 0 done, or nothing to do; 1 failed; 2 wrong usage; 4 not done: nobody said yes; 5 the TPM is not pinned, another one, or
did not answer; 6 refused: the node's state is not approved, or a volume is not what its records say; 130 interrupted.`;

export function register(program: Command): void {
  const volume = program
    .command("volume")
    .description("What a node's sealed volumes need the site's recovery key for");
  subcommand(
    volume,
    "recover",
    "Seal volumes to the TPM and the policy key that are there now, and open them: after another TPM, or a new generation of the policy key",
    `
The slots of before go, and with them whatever old approvals opened. What is on the volumes stays. Nothing is done to a volume that its
TPM opened in this boot and that is sealed as the site file says. May be run again wherever it was cut off.

The node's TPM answers a challenge before any key is sent, on the same connection.`,
  );
  subcommand(
    volume,
    "rotate",
    "Give volumes a new key slot for the TPM that is there, whether they need one or not",
    `
As \`recover\`, for volumes that are as they should be, too. The volume's own key and its recovery key stay.`,
  );
}

function subcommand(volume: Command, task: Task, description: string, more: string): void {
  const command = volume
    .command(task)
    .description(description)
    .argument("<node>", "the node's name in its site")
    .argument("[volume...]", "the volumes (default: all that the site file has for the node)")
    .requiredOption(
      "--site <site.yaml>",
      "the site file, which says how the node is reached and what is declared",
    )
    .option("--stack <name>", "the stack whose configuration has the key for ssh (default: the selected one)")
    .option("--keys <dir>", "the folder with the site's keys")
    .option("--recovery-key <key>", "the recovery key's private half: FILE, pkcs11:URI or command:PROGRAM")
    .option(
      "--bound-to <node>",
      "the name that the node had when the volumes were formed; their recovery ciphertexts are made anew for the present one (default: the node)",
    )
    .option(
      "--tpm <sha256>",
      "digest of the endorsement key that the TPM must have (default: tpm.endorsementKeySha256 of the site file)",
    )
    .option(
      "--unpinned-tpm",
      "send the keys though no digest is known: then only the host key says that this is the node, and nothing that it has a TPM",
    )
    .option("--dry-run", "only show, and challenge the TPM")
    .option("--yes", "do not ask")
    .option("--json", "as JSON, for other programs; asks nothing, so it takes --yes");
  withPassphraseOptions(command)
    .addHelpText("after", `${more}\n${statuses}`)
    .action(async (node: string, names: readonly string[], options: VolumeOptions) => {
      const [{ changeVolumes }, { withUserFaults }] = await Promise.all([
        import("./volume/change.ts"),
        import("./user-fault.ts"),
      ]);
      await withUserFaults(() => changeVolumes(task, node, names, options));
    });
}
