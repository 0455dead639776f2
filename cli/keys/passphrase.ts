import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import type { Command } from "commander";
import { UserError } from "../errors.ts";
import { askHidden } from "../ask.ts";

/*
 * Where a passphrase comes from: the terminal, a file, or an inherited file descriptor. Never an argument or the environment, which other processes, shell histories
 * and crash reports show.
 */

/** The options, as commander gives them. */
export interface PassphraseOptions {
  readonly passphraseFile?: string;
  readonly passphraseFd?: string;
}

/** Gives a command its options for the passphrase. */
export function withPassphraseOptions(command: Command): Command {
  return command
    .option(
      "--passphrase-file <file>",
      "read the passphrase of the key from this file, to its first line feed",
    )
    .option("--passphrase-fd <n>", "read it from this inherited file descriptor");
}

/** An attacker who has the file guesses as fast as scrypt lets him: some words of a sentence, not a word. */
const shortest = 12;

/**
 * The passphrase of a key that exists.
 * @param what Which key, for the prompt.
 * @throws UserError
 */
export async function existingPassphrase(what: string, options: PassphraseOptions): Promise<string> {
  return (await given(options)) ?? (await askHidden(`Passphrase of ${what}: `, mend));
}

/**
 * A passphrase for a new key: from the terminal, twice.
 * @param what Which key, for the prompt.
 * @param emptyMeans What it means to type nothing. @default typing nothing is refused
 * @returns `undefined` for what `emptyMeans`
 * @throws UserError when it is too short, or the second is another one.
 */
export async function newPassphrase(what: string, options: PassphraseOptions): Promise<string>;
export async function newPassphrase(
  what: string,
  options: PassphraseOptions,
  emptyMeans: string,
): Promise<string | undefined>;
export async function newPassphrase(
  what: string,
  options: PassphraseOptions,
  emptyMeans?: string,
): Promise<string | undefined> {
  const fromOptions = await given(options);
  if (fromOptions !== undefined) return requireLength(fromOptions);
  const note = emptyMeans === undefined ? "" : ` (${emptyMeans})`;
  const passphrase = await askHidden(`New passphrase for ${what}${note}: `, mend);
  if (passphrase === "" && emptyMeans !== undefined) return undefined;
  requireLength(passphrase);
  if ((await askHidden("The same again: ", mend)) !== passphrase) {
    throw new UserError("the two passphrases differ", { hint: "nothing was written; run it again" });
  }
  return passphrase;
}

const mend = "give --passphrase-file FILE or --passphrase-fd N";

function requireLength(passphrase: string): string {
  if (passphrase.length >= shortest) return passphrase;
  throw new UserError(`the passphrase has fewer than ${shortest} characters`, {
    hint: "who has the encrypted file can try as many as he likes: take five or six random words",
  });
}

/** An inherited descriptor can be read once, and a command may open two keys. */
const alreadyRead = new WeakMap<PassphraseOptions, Promise<string | undefined>>();

function given(options: PassphraseOptions): Promise<string | undefined> {
  const reading = alreadyRead.get(options) ?? readGiven(options);
  alreadyRead.set(options, reading);
  return reading;
}

async function readGiven({ passphraseFile, passphraseFd }: PassphraseOptions): Promise<string | undefined> {
  if (passphraseFile !== undefined && passphraseFd !== undefined) {
    throw new UserError("give --passphrase-file or --passphrase-fd, not both");
  }
  if (passphraseFile !== undefined) return firstLine(await readSecretFile(passphraseFile), passphraseFile);
  if (passphraseFd === undefined) return undefined;
  if (!/^\d{1,4}$/.test(passphraseFd))
    throw new UserError("--passphrase-fd takes the number of a file descriptor");
  try {
    return firstLine(readFileSync(Number(passphraseFd), "utf8"), `file descriptor ${passphraseFd}`);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`file descriptor ${passphraseFd} can't be read: ${(error as Error).message}`);
  }
}

/** A file with a secret; one that others may read is refused. A pipe, as `<(pass show edgeseal)` gives, has no such bits to look at. */
export async function readSecretFile(path: string): Promise<string> {
  let file;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw new UserError(`${path} can't be read: ${(error as NodeJS.ErrnoException).code ?? "unknown error"}`);
  }
  try {
    const stat = await file.stat();
    if (stat.isFile() && (stat.mode & 0o077) !== 0) {
      throw new UserError(`${path} can be read by other users`, { hint: `chmod 600 ${path}` });
    }
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}

function firstLine(text: string, from: string): string {
  const [line = ""] = text.split(/\r?\n/, 1);
  if (line === "") throw new UserError(`the first line of ${from} is empty: it is read as the passphrase`);
  return line;
}
