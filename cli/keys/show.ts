import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";
import { readPublicKey, type KeyPurpose } from "../../provider/trust/public-key.ts";
import { KeyUnusable } from "../../provider/trust/signer.ts";
import { tableLines } from "../table.ts";
import { indexName, privateKeySpec, publicKeyPem, type KeyStore, type StoredKey } from "./key-store.ts";
import { provePossession } from "./make-keys.ts";
import { openPrivateKey } from "./open-private-key.ts";
import type { PassphraseOptions } from "./passphrase.ts";

/** One key of a site, for people and programs. */
export interface ShownKey {
  readonly key: string;
  readonly state: "current" | "revoked";
  readonly fingerprint: string;
  readonly createdAt: string;
  readonly revokedAt: string | undefined;
  /** Path of the public half. */
  readonly publicKey: string;
  /** Path of the encrypted private half, or where else it is. */
  readonly privateKey: string;
  /** What is wrong with it. */
  readonly problems: readonly string[];
}

export interface ShowOptions extends PassphraseOptions {
  /** File with the recovery key's passphrase, where it has one of its own. */
  readonly recoveryPassphraseFile?: string;
  /** Use each current private half once: sign or decrypt something, and check it against the public half. */
  readonly prove: boolean;
}

/** Every key of a folder, and what is wrong with it. */
export async function shownKeys(store: KeyStore, options: ShowOptions): Promise<readonly ShownKey[]> {
  const { policy, recovery, signing = [] } = store.index;
  const shown: ShownKey[] = [];
  for (const each of policy) {
    shown.push(
      await shownKey(store, `policy, generation ${each.generation}`, each, "policy", each.revokedAt, options),
    );
  }
  const { recoveryPassphraseFile: own } = options;
  const recoveryOptions = own === undefined ? options : { passphraseFile: own, prove: options.prove };
  shown.push(await shownKey(store, "recovery", recovery, "recovery", undefined, recoveryOptions));
  for (const each of signing)
    shown.push(await shownKey(store, `signing, ${each.name}`, each, "signing", undefined, options));
  return shown;
}

async function shownKey(
  store: KeyStore,
  name: string,
  key: StoredKey,
  purpose: KeyPurpose,
  revokedAt: string | undefined,
  options: ShowOptions,
): Promise<ShownKey> {
  const spec = privateKeySpec(store, key);
  const problems = [...(await privateFileProblems(store, key))];
  try {
    const pem = await publicKeyPem(store, key, purpose);
    if (options.prove && problems.length === 0 && revokedAt === undefined) {
      await provePossession(purpose, await openPrivateKey(spec, options), readPublicKey(pem, purpose));
    }
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    problems.push(
      error instanceof KeyUnusable && error.hint !== undefined
        ? `${error.message}; ${error.hint}`
        : error.message,
    );
  }
  return {
    key: name,
    state: revokedAt === undefined ? "current" : "revoked",
    fingerprint: key.fingerprint,
    createdAt: key.createdAt,
    revokedAt,
    publicKey: join(store.folder, key.publicKey),
    privateKey: spec,
    problems,
  };
}

async function privateFileProblems(
  { folder }: KeyStore,
  { privateKey }: StoredKey,
): Promise<readonly string[]> {
  if (/^(pkcs11|command):/.test(privateKey)) return [];
  const path = join(folder, privateKey);
  const stat = await lstat(path).catch(() => undefined);
  if (stat === undefined) return [`${path} is not there; take it from a backup`];
  if (!stat.isFile()) return [`${path} is no file`];
  return (stat.mode & 0o077) === 0 ? [] : [`${path} can be read by other users; chmod 600 ${path}`];
}

/** Files of the folder that keys.json does not name. */
export async function unnamedFiles({ folder, index }: KeyStore): Promise<readonly string[]> {
  const named = new Set([
    indexName,
    ...[...index.policy, index.recovery, ...(index.signing ?? [])].flatMap(({ publicKey, privateKey }) => [
      publicKey,
      privateKey,
    ]),
  ]);
  return (await readdir(folder)).filter((each) => !named.has(each)).sort();
}

/** The same for people. */
export function keyLines(
  { folder, index }: KeyStore,
  keys: readonly ShownKey[],
  width: number,
): readonly string[] {
  const rows = keys.map((each) => [
    each.key,
    each.state === "current" ? "current" : `revoked ${each.revokedAt ?? ""}`,
    each.fingerprint,
    each.createdAt,
    each.privateKey.startsWith(folder) ? "encrypted file" : each.privateKey,
  ]);
  return [
    `site ${index.site}, keys in ${folder}`,
    "",
    ...tableLines(["KEY", "STATE", "FINGERPRINT (pkfp)", "MADE", "PRIVATE HALF"], rows, width),
  ];
}
