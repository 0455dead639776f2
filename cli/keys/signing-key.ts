import type { KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { PublicKeyRefused, readSigningKey } from "../../provider/trust/public-key.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import { UserError } from "../errors.ts";
import { openPrivateKey } from "./open-private-key.ts";
import type { SigningKeyOptions } from "./signing-key-options.ts";

/**
 * Opens the key that the options name. Its public half is read first: what comes back from the private one is held against it.
 * @throws UserError, KeyUnusable
 */
export async function openSigningKey(options: SigningKeyOptions): Promise<SigningKey> {
  const publicFile = options.publicKey ?? publicHalfBeside(options.key);
  const publicKey = await readPublicKeyFile(publicFile);
  return { publicKey, privateKey: await openPrivateKey(options.key, options) };
}

function publicHalfBeside(key: string): string {
  if (key.endsWith(".key.age") && !/^(pkcs11|command):/.test(key))
    return key.replace(/\.key\.age$/, ".pub.pem");
  throw new UserError(`the public half of ${key.replace(/\?.*/, "")} is not known`, {
    hint: "give --public-key FILE.pem: the signature is checked against it before anything is written",
  });
}

/** Reads the public half of a key that signs. @throws UserError */
export async function readPublicKeyFile(path: string): Promise<KeyObject> {
  const pem = await readFile(path, "utf8").catch((error: unknown) => {
    throw new UserError(`${path} can't be read: ${(error as Error).message}`, {
      hint: "expected the public half of a key, in PEM, as `edgeseal keys new` writes it",
    });
  });
  try {
    return readSigningKey(pem);
  } catch (error) {
    if (error instanceof PublicKeyRefused) throw new UserError(`${path}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** The same of several files, by their paths. @throws UserError */
export const readPublicKeyFiles = async (paths: readonly string[]): Promise<ReadonlyMap<string, KeyObject>> =>
  new Map(await Promise.all(paths.map(async (path) => [path, await readPublicKeyFile(path)] as const)));
