import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fingerprint, readPublicKey } from "../../provider/trust/public-key.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import { UserError } from "../errors.ts";
import {
  currentGeneration,
  indexName,
  privateKeySpec,
  publicKeyPem,
  readKeyStore,
  type KeyStore,
} from "../keys/key-store.ts";
import { keyForms, openPrivateKey } from "../keys/open-private-key.ts";
import type { PassphraseOptions } from "../keys/passphrase.ts";

/** The options that name the policy key, as commander gives them. */
export interface PolicyKeyOptions extends PassphraseOptions {
  readonly keys?: string;
  readonly policyKey?: string;
  readonly policyPublicKey?: string;
  readonly generation?: string;
}

/** The policy key that approves. Its private half is opened when it is needed, so that nobody types a passphrase for nothing. */
export interface PolicyKey {
  readonly generation: number;
  readonly publicKeyPem: string;
  /** Public halves of revoked generations, in PEM, by generation; as far as they are known. */
  readonly revoked: ReadonlyMap<number, string>;
  open(): Promise<SigningKey>;
}

/**
 * The policy key that the options name: the current one of a folder of keys (`--keys DIR`, or a `--policy-key FILE` that lies in one), or any with its public half and
 * generation, as options or as the site file names them.
 * @throws UserError
 */
export async function policyKeyOf(
  options: PolicyKeyOptions,
  ofSite?: { readonly generation: number; readonly file: string },
): Promise<PolicyKey> {
  const { keys, policyKey, policyPublicKey, generation } = options;
  if (policyPublicKey !== undefined || generation !== undefined) {
    if (
      policyKey === undefined ||
      policyPublicKey === undefined ||
      generation === undefined ||
      keys !== undefined
    ) {
      throw new UserError(
        "--policy-key, --policy-public-key and --generation belong together, without --keys",
      );
    }
    if (!/^[1-9]\d{0,5}$/.test(generation)) {
      throw new UserError(`--generation takes a whole number from 1, got '${generation}'`);
    }
    return keyOutsideOfFolder(policyKey, { generation: Number(generation), file: policyPublicKey }, options);
  }
  if (keys !== undefined) return keyOfFolder(await readKeyStore(keys), policyKey, options);
  if (policyKey === undefined) {
    throw new UserError("which policy key?", {
      hint: `give --keys DIR (what \`edgeseal keys new\` made), or --policy-key ${keyForms}`,
    });
  }
  const store = await folderOf(policyKey);
  if (store === undefined && ofSite !== undefined) return keyOutsideOfFolder(policyKey, ofSite, options);
  if (store === undefined) {
    throw new UserError(
      `${policyKey} is in no folder of keys, so its public half and generation are not known`,
      {
        hint: "give --keys DIR, or --site with a site file that names them, or --policy-public-key FILE.pem and --generation N",
      },
    );
  }
  return keyOfFolder(store, policyKey, options);
}

/**
 * Refuses a key of another site: what it signs is of no use for this one, and would be a signature of that site's key over a state that nobody there approved.
 * Only a newer generation than the site file names may differ: it was just made, and the site file follows.
 * @throws UserError
 */
export async function requireKeyOfSite(
  key: Pick<PolicyKey, "generation" | "publicKeyPem" | "revoked">,
  ofSite: { readonly generation: number; readonly file: string },
): Promise<void> {
  const known = key.generation === ofSite.generation ? key.publicKeyPem : key.revoked.get(ofSite.generation);
  if (known === undefined) return;
  const named = await readFile(ofSite.file, "utf8").catch((error: unknown) => {
    throw new UserError(`${ofSite.file} can't be read: ${(error as Error).message}`);
  });
  const [own, wanted] = [known, named].map((pem) => fingerprint(readPublicKey(pem, "policy")));
  if (own === wanted) return;
  throw new UserError(
    `generation ${ofSite.generation} of this policy key is ${own?.slice(0, 16) ?? ""}..., and that of the site file (${ofSite.file}) is ${wanted?.slice(0, 16) ?? ""}...: it is the key of another site`,
    { hint: "give the --keys of this site" },
  );
}

async function folderOf(policyKey: string): Promise<KeyStore | undefined> {
  if (/^(pkcs11|command):/.test(policyKey)) return undefined;
  const folder = dirname(policyKey);
  const isOne = await readFile(join(folder, indexName)).then(
    () => true,
    () => false,
  );
  return isOne ? readKeyStore(folder) : undefined;
}

async function keyOfFolder(
  store: KeyStore,
  policyKey: string | undefined,
  options: PassphraseOptions,
): Promise<PolicyKey> {
  const current = currentGeneration(store);
  const named = store.index.policy.find(
    ({ privateKey }) => policyKey !== undefined && basename(policyKey) === privateKey,
  );
  if (named?.revokedAt !== undefined) {
    throw new UserError(
      `${policyKey ?? ""} is generation ${named.generation} of the policy key, revoked on ${named.revokedAt}: it approves nothing any more`,
      { hint: `use generation ${current.generation}: --keys ${store.folder}` },
    );
  }
  const revoked = new Map<number, string>();
  for (const each of store.index.policy.filter(({ revokedAt }) => revokedAt !== undefined)) {
    revoked.set(each.generation, await publicKeyPem(store, each, "policy"));
  }
  const pem = await publicKeyPem(store, current, "policy");
  return policyKeyWith(
    pem,
    current.generation,
    revoked,
    policyKey ?? privateKeySpec(store, current),
    options,
  );
}

async function keyOutsideOfFolder(
  spec: string,
  { generation, file }: { readonly generation: number; readonly file: string },
  options: PassphraseOptions,
): Promise<PolicyKey> {
  const pem = await readFile(file, "utf8").catch((error: unknown) => {
    throw new UserError(`${file} can't be read: ${(error as Error).message}`);
  });
  return policyKeyWith(pem, generation, new Map(), spec, options);
}

function policyKeyWith(
  pem: string,
  generation: number,
  revoked: ReadonlyMap<number, string>,
  spec: string,
  options: PassphraseOptions,
): PolicyKey {
  const publicKey = readPublicKey(pem, "policy");
  return {
    generation,
    publicKeyPem: pem,
    revoked,
    open: async () => ({ publicKey, privateKey: await openPrivateKey(spec, options) }),
  };
}
