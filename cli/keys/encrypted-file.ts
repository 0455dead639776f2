import { constants, createPrivateKey, privateDecrypt, sign, type KeyObject } from "node:crypto";
import { armor, Decrypter, Encrypter } from "age-encryption";
import { KeyUnusable, type PrivateKey } from "../../provider/trust/signer.ts";

/*
 * A private key in a file: PKCS#8 in PEM, inside an age file (https://age-encryption.org/v1) with a passphrase, armored. `age -d FILE` opens it without edgeseal.
 */

/** log2 of scrypt's N: 256 MiB and a second or two for each guess, as the age program has it. */
const defaultWorkFactor = 18;

/** @param workFactor Only for tests, which have no time. */
export async function encryptPrivateKey(
  key: KeyObject,
  passphrase: string,
  workFactor: number = defaultWorkFactor,
): Promise<string> {
  const encrypter = new Encrypter();
  encrypter.setPassphrase(passphrase);
  encrypter.setScryptWorkFactor(workFactor);
  return armor.encode(await encrypter.encrypt(key.export({ type: "pkcs8", format: "pem" }).toString()));
}

const beginning = "-----BEGIN AGE ENCRYPTED FILE-----";

/**
 * Opens a private key.
 * @param name The file's path, for messages.
 * @throws KeyUnusable
 */
export async function openEncryptedKey(name: string, text: string, passphrase: string): Promise<PrivateKey> {
  if (!isEncryptedKey(text)) throw notEncrypted(name, text);
  let pem: string;
  try {
    const decrypter = new Decrypter();
    decrypter.addPassphrase(passphrase);
    pem = await decrypter.decrypt(armor.decode(text), "text");
  } catch {
    // Which of the two it was, nobody can tell; the reason that the library gives is about its own format.
    throw new KeyUnusable(`${name} does not open: the passphrase is another one, or the file was changed`);
  }
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    throw new KeyUnusable(`${name} opens, but holds no private key in PEM`);
  }
  if (key.asymmetricKeyType !== "rsa") throw new KeyUnusable(`${name} opens, but holds no RSA key`);
  return keyInMemory(name, key);
}

export const isEncryptedKey = (text: string): boolean => text.trimStart().startsWith(beginning);

function notEncrypted(name: string, text: string): KeyUnusable {
  return text.includes("PRIVATE KEY-----")
    ? new KeyUnusable(`${name} is a private key in plain text or of another format`, {
        hint: "edgeseal uses private keys in age files only: `age -p -a -o KEY.age KEY` makes one; then destroy the other",
      })
    : new KeyUnusable(`${name} is no armored age file`, {
        hint: "expected a file that `edgeseal keys new` wrote (*.key.age)",
      });
}

/** A key that is in this process's memory, until it ends. */
export function keyInMemory(name: string, key: KeyObject): PrivateKey {
  const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" };
  return {
    name,
    sign: (message) => Promise.resolve(sign("sha256", message, key)),
    decrypt: async (ciphertext) => {
      try {
        return await Promise.resolve(privateDecrypt({ key, ...oaep }, ciphertext));
      } catch {
        throw new KeyUnusable(`${name} does not decrypt it: it was encrypted to another key, or was changed`);
      }
    },
  };
}
