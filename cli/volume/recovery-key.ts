import { fingerprint, readPublicKey } from "../../provider/trust/public-key.ts";
import type { RecoveryRefused } from "../../provider/trust/recovery.ts";
import { KeyUnusable, type PrivateKey } from "../../provider/trust/signer.ts";
import { UserError } from "../errors.ts";
import { privateKeySpec, publicKeyPem, readKeyStore } from "../keys/key-store.ts";
import { keyForms, openPrivateKey } from "../keys/open-private-key.ts";
import type { PassphraseOptions } from "../keys/passphrase.ts";
import type { AssessedVolume } from "./assess.ts";
import type { VolumeOptions } from "./options.ts";

/** The site's recovery key. Its private half is opened when it is needed, so that nobody types a passphrase for nothing. */
export interface RecoveryKey {
  /** Of its public half; `undefined` for a key that is in no folder of keys. */
  readonly fingerprint: string | undefined;
  open(): Promise<PrivateKey>;
}

/**
 * The recovery key that the options name.
 * @throws UserError
 */
export async function recoveryKeyOf(
  options: PassphraseOptions & Pick<VolumeOptions, "keys" | "recoveryKey">,
): Promise<RecoveryKey> {
  const { keys, recoveryKey } = options;
  if ((keys === undefined) === (recoveryKey === undefined)) {
    throw new UserError(
      keys === undefined ? "which recovery key?" : "give --keys or --recovery-key, not both",
      {
        hint: `give --keys DIR (what \`edgeseal keys new\` made), or --recovery-key ${keyForms}`,
      },
    );
  }
  if (keys === undefined) {
    const spec = recoveryKey ?? "";
    return { fingerprint: undefined, open: () => openPrivateKey(spec, options) };
  }
  const store = await readKeyStore(keys);
  const { recovery } = store.index;
  const pem = await publicKeyPem(store, recovery, "recovery");
  return {
    fingerprint: fingerprint(readPublicKey(pem, "recovery")),
    open: () => openPrivateKey(privateKeySpec(store, recovery), options),
  };
}

/** What could not be decrypted may be another key's: both are named. */
export function namingKeys(
  error: unknown,
  { name, state, newRecoveryKey }: AssessedVolume,
  given: RecoveryKey,
): unknown {
  const madeFor = state.recoveryKey;
  if (!(error instanceof KeyUnusable) || given.fingerprint === undefined) return error;
  const another = given.fingerprint !== madeFor;
  if (!another && !newRecoveryKey) return error;
  return new KeyUnusable(`${error.message} (the recovery key of ${name})`, {
    cause: error,
    hint: another
      ? `it was encrypted to the recovery key ${short(madeFor)}, by the node's record, and yours is ${short(given.fingerprint)}: give the folder of that one`
      : // The ciphertext is on the disk before the record is.
        "where the last run was cut off, it is encrypted to the recovery key that the site file names already: give the folder of that one",
  });
}

/** What to do about a ciphertext whose node alone is not the expected one; `undefined` for any other. Of a node that is there under that name, the disk was moved rather than the name changed. */
export function renamedHint(
  { boundTo }: RecoveryRefused,
  node: string,
  names: readonly string[],
): string | undefined {
  if (boundTo === undefined) return undefined;
  if (boundTo === node) return `it was made under the present name: leave --bound-to out for this one`;
  if (names.includes(boundTo)) {
    return `${boundTo} is another node: see whose disk or record this is (docs/trust.md, "A node that was renamed")`;
  }
  return `if the node was called ${boundTo} when this was made: --bound-to ${boundTo} (docs/trust.md, "A node that was renamed", says how to know)`;
}

const short = (digest: string): string => `${digest.slice(0, 16)}...`;
