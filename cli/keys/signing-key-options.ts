import type { Command } from "commander";
import { withPassphraseOptions, type PassphraseOptions } from "./passphrase.ts";

/** The options that name a key which signs images or models, as commander gives them. */
export interface SigningKeyOptions extends PassphraseOptions {
  readonly key: string;
  readonly publicKey?: string;
}

/** Gives a command its options for a key to sign with. */
export function withSigningKeyOptions(command: Command): Command {
  return withPassphraseOptions(
    command
      .requiredOption(
        "--key <key>",
        "the private half of the key that signs: FILE, pkcs11:URI or command:PROGRAM",
      )
      .option("--public-key <file.pem>", "its public half (default: beside NAME.key.age, NAME.pub.pem)"),
  );
}

/** An option that may be given several times. */
export const collected = (value: string, former: readonly string[] = []): readonly string[] => [
  ...former,
  value,
];
