import { nameWithDigest } from "../../provider/trust/digest.ts";
import { modelStatement, signStatement, StatementRefused } from "../../provider/trust/model-statement.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import { writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";
import { catalogue } from "./catalogue.ts";
import { digestOfFiles, type FileDigest } from "./file-digest.ts";

export interface SignModelOptions {
  readonly name?: string | undefined;
  readonly origin?: string | undefined;
  readonly licence?: string | undefined;
  /** `{sha256}` in it stands for the model's digest. */
  readonly out: string;
  readonly signal?: AbortSignal | undefined;
}

export interface SignedModel extends FileDigest {
  readonly statement: string;
  readonly name: string;
  readonly origin: string;
  readonly licence: string;
}

/**
 * Signs what a model's file is, what it is called, where it came from and under which licence. Of a model of the catalogue that is known.
 * @param openKey Called when everything else is in order: nobody types a passphrase for nothing.
 * @throws UserError, KeyUnusable
 */
export async function signModel(
  file: string,
  options: SignModelOptions,
  openKey: () => Promise<SigningKey>,
): Promise<SignedModel> {
  const digest = await digestOfFiles([file], { signal: options.signal });
  const known = catalogue.find(({ sha256 }) => sha256 === digest.sha256);
  const { name = known?.name, origin = known?.origin, licence = known?.licence } = options;
  if (name === undefined || origin === undefined || licence === undefined) {
    const missing = Object.entries({ name, origin, licence }).filter(([, value]) => value === undefined);
    throw new UserError(
      `${file} is none of the models that edgeseal knows: give ${missing.map(([option]) => `--${option}`).join(", ")}`,
      { hint: "they are signed: somebody has to say where the model came from" },
    );
  }
  const { sha256, bytes } = digest;
  let payload;
  try {
    payload = modelStatement({ name, sha256, bytes, origin, licence });
  } catch (error) {
    if (!(error instanceof StatementRefused)) throw error;
    throw new UserError(error.problems.map(({ path, message }) => `--${path}: ${message}`).join("\n"), {
      cause: error,
    });
  }
  const statement = nameWithDigest(options.out, sha256);
  await writeDurably(statement, await signStatement(await openKey(), payload), 0o644);
  return { statement, name, sha256, bytes, origin, licence };
}
