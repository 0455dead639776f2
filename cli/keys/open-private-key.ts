import { readFile, stat } from "node:fs/promises";
import { KeyUnusable, type PrivateKey } from "../../provider/trust/signer.ts";
import { commandKey, isCommand } from "./command-key.ts";
import { isEncryptedKey, openEncryptedKey } from "./encrypted-file.ts";
import { existingPassphrase, type PassphraseOptions } from "./passphrase.ts";
import { isPkcs11, pkcs11Key } from "./pkcs11-key.ts";

/** How a private key is named wherever a command takes one. */
export const keyForms = "FILE, pkcs11:URI or command:PROGRAM";

/**
 * The private key that a text names: an encrypted file, a PKCS#11 URI, or a command. The passphrase is asked for when it is needed.
 * @throws KeyUnusable, UserError
 */
export async function openPrivateKey(spec: string, options: PassphraseOptions = {}): Promise<PrivateKey> {
  if (isPkcs11(spec)) return pkcs11Key(spec);
  if (isCommand(spec)) return commandKey(spec);
  let text: string;
  try {
    const { mode } = await stat(spec);
    if ((mode & 0o077) !== 0) {
      throw new KeyUnusable(`${spec} can be read by other users`, { hint: `chmod 600 ${spec}` });
    }
    text = await readFile(spec, "utf8");
  } catch (error) {
    if (error instanceof KeyUnusable) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? "unknown error";
    throw new KeyUnusable(`${spec} can't be read: ${code}`, {
      hint: `a private key is named as ${keyForms}`,
    });
  }
  // What is no key is told before anybody types a passphrase.
  const passphrase = isEncryptedKey(text) ? await existingPassphrase(spec, options) : "";
  return openEncryptedKey(spec, text, passphrase);
}
