import { generateKeyPair, randomBytes, type KeyObject } from "node:crypto";
import { lstat, mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { signChecked } from "../../provider/trust/pcr-policy.ts";
import {
  encryptFor,
  fingerprint,
  keyBits,
  readPublicKey,
  type KeyPurpose,
} from "../../provider/trust/public-key.ts";
import { KeyUnusable, type PrivateKey } from "../../provider/trust/signer.ts";
import { syncFolder, writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";
import { encryptPrivateKey } from "./encrypted-file.ts";
import {
  currentGeneration,
  readKeyStore,
  timestamp,
  writeIndex,
  type KeyIndex,
  type KeyStore,
  type PolicyGeneration,
  type StoredKey,
} from "./key-store.ts";
import { requireOutsideVersionControl } from "./outside-version-control.ts";

/** Where the private half of a new key goes: into an encrypted file, or it is in a token or behind a command already. */
export type PrivateHalf =
  | { readonly in: "file"; readonly passphrase: string; readonly workFactor?: number }
  | {
      readonly in: "elsewhere";
      readonly spec: string;
      readonly key: PrivateKey;
      readonly publicKeyPem: string;
    };

export interface NewKeys {
  /** The site's name, for people. */
  readonly site: string;
  readonly policy: PrivateHalf;
  readonly recovery: PrivateHalf;
  readonly now: Date;
}

/**
 * Makes a site's keys in a new or empty folder. All or nothing: the folder gets its name when everything is on the disk.
 * @throws UserError
 */
export async function makeKeys(folder: string, { site, policy, recovery, now }: NewKeys): Promise<KeyStore> {
  const real = await requireOutsideVersionControl(folder);
  await requireNewOrEmpty(folder, real);
  await mkdir(dirname(real), { recursive: true, mode: 0o700 });
  const fresh = await mkdtemp(`${real}.new-`);
  try {
    const index: KeyIndex = {
      version: 1,
      site,
      policy: [{ generation: 1, ...(await makeKey(fresh, "policy-1", "policy", policy, now)) }],
      recovery: await makeKey(fresh, "recovery", "recovery", recovery, now),
    };
    await writeIndex(fresh, index);
    // Between the first look and now, somebody may have made a repository of a folder above.
    await requireOutsideVersionControl(fresh);
    await rename(fresh, real);
    await syncFolder(dirname(real));
    return { folder: real, index };
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    throw error;
  }
}

async function requireNewOrEmpty(given: string, real: string): Promise<void> {
  const stat = await lstat(real).catch(() => undefined);
  if (stat === undefined) return;
  if (!stat.isDirectory()) throw new UserError(`${given} is there, and is no folder`);
  if ((await readdir(real)).length > 0) {
    throw new UserError(`${given} is not empty: keys are never written over`, {
      hint: `give a new folder, or make the next generation of its policy key: edgeseal keys rotate ${given}`,
    });
  }
}

/**
 * Makes the next generation of the policy key, which revokes the current one. The old keys stay: what they approved is opened until the nodes have the new one.
 * @throws UserError
 */
export async function rotatePolicyKey(
  given: string,
  { policy, now }: Pick<NewKeys, "policy" | "now">,
): Promise<{
  readonly store: KeyStore;
  readonly revoked: PolicyGeneration;
  readonly setAside: readonly string[];
}> {
  const store = await readKeyStore(await requireOutsideVersionControl(given));
  const { folder } = store;
  const revoked = currentGeneration(store);
  const generation = revoked.generation + 1;
  const name = `policy-${generation}`;
  const setAside = await setLeftoversAside(folder, name);
  const made = await makeKey(folder, name, "policy", policy, now);
  if (store.index.policy.some((each) => each.fingerprint === made.fingerprint)) {
    throw new UserError(
      "this is the key of a generation that there is already; a new generation needs a new key",
    );
  }
  const index: KeyIndex = {
    ...store.index,
    policy: [
      ...store.index.policy.slice(0, -1),
      { ...revoked, revokedAt: timestamp(now) },
      { generation, ...made },
    ],
  };
  await writeIndex(folder, index);
  return { store: { folder, index }, revoked, setAside };
}

/**
 * Makes a key that signs images and models, beside the others.
 * @throws UserError
 */
export async function addSigningKey(
  given: string,
  { name, half, now }: { readonly name: string; readonly half: PrivateHalf; readonly now: Date },
): Promise<{ readonly store: KeyStore; readonly key: StoredKey }> {
  const store = await readKeyStore(await requireOutsideVersionControl(given));
  const { folder } = store;
  requireSigningKeyName(store, name);
  // What a run that did not come to its end has left; keys.json names none of it.
  await setLeftoversAside(folder, name);
  const key = await makeKey(folder, name, "signing", half, now);
  const index: KeyIndex = { ...store.index, signing: [...(store.index.signing ?? []), { name, ...key }] };
  await writeIndex(folder, index);
  return { store: { folder, index }, key };
}

/** @throws UserError when no signing key can be called so. */
export function requireSigningKeyName({ index, folder }: KeyStore, name: string): void {
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name) || /^(policy|recovery)(-|$)/.test(name)) {
    throw new UserError(`a signing key can't be called '${name}'`, {
      hint: "take lower-case letters, digits and hyphens, such as images-2027, and not policy or recovery",
    });
  }
  if (index.signing?.some((each) => each.name === name) === true) {
    throw new UserError(`${folder} has a key ${name} already: keys are never written over`, {
      hint: "give the new one a name of its own, and list both in the site file while images are signed anew",
    });
  }
}

/** Files of a rotation that did not come to its end, or of a newer state of a folder that was put back from a backup. No key is ever destroyed here. */
async function setLeftoversAside(folder: string, name: string): Promise<readonly string[]> {
  const left = (await readdir(folder)).filter(
    (each) => each === `${name}.pub.pem` || each === `${name}.key.age`,
  );
  const mark = randomBytes(4).toString("hex");
  for (const each of left) await rename(join(folder, each), join(folder, `${each}.unused-${mark}`));
  return left.map((each) => `${each}.unused-${mark}`);
}

async function makeKey(
  folder: string,
  name: string,
  purpose: KeyPurpose,
  half: PrivateHalf,
  now: Date,
): Promise<StoredKey> {
  const publicKey = `${name}.pub.pem`;
  let pem: string;
  let privateKey: string;
  if (half.in === "file") {
    const pair = await promisify(generateKeyPair)("rsa", { modulusLength: keyBits[purpose] });
    pem = spki(pair.publicKey);
    privateKey = `${name}.key.age`;
    await writeDurably(
      join(folder, privateKey),
      await encryptPrivateKey(pair.privateKey, half.passphrase, half.workFactor),
      0o600,
    );
  } else {
    const key = readPublicKey(half.publicKeyPem, purpose);
    await provePossession(purpose, half.key, key);
    pem = spki(key);
    privateKey = half.spec;
  }
  await writeDurably(join(folder, publicKey), pem, 0o644);
  return {
    fingerprint: fingerprint(readPublicKey(pem, purpose)),
    publicKey,
    privateKey,
    createdAt: timestamp(now),
  };
}

const spki = (key: KeyObject): string => key.export({ type: "spki", format: "pem" }).toString();

/**
 * Makes sure that a private key does what it is for, and is the other half of the public one.
 * @throws KeyUnusable
 */
export async function provePossession(
  purpose: KeyPurpose,
  privateKey: PrivateKey,
  publicKey: KeyObject,
): Promise<void> {
  const nonce = randomBytes(32).toString("hex");
  if (purpose !== "recovery") {
    // Begins with a name of its own, so that this is never the signature of anything else.
    await signChecked({ privateKey, publicKey }, Buffer.from(`edgeseal key check v1\n${nonce}`));
    return;
  }
  const plaintext = await privateKey.decrypt(encryptFor(publicKey, Buffer.from(nonce)));
  if (plaintext.toString() !== nonce) {
    throw new KeyUnusable(
      `what ${privateKey.name} decrypted is not what was encrypted to ${fingerprint(publicKey).slice(0, 16)}...`,
    );
  }
}

/**
 * A site's name from the name of its folder.
 * @throws UserError where that can be none.
 */
export function siteNameOf(folder: string): string {
  const name = basename(resolve(folder));
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) return name;
  throw new UserError(`the folder's name, '${name}', can't be a site's`, { hint: "give --site NAME" });
}
