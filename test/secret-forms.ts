/*
 * What a secret may look like in a text that must not have it: as it is, in base64 at each of the three places that it can have in what was encoded, in hex of either case.
 * Texts are compared without white space, written-out line feeds included, since base64 is often cut into lines.
 */

/** The forms of a secret by what they are called in a message. */
export type SecretForms = Readonly<Record<string, string>>;

const squeezed = (text: string): string => text.replaceAll(/\\+[nr]|\s/g, "");

/** Base64 of `bytes` behind `offset` bytes of something else and before whatever follows, without the characters that these have a part in. */
function base64At(bytes: Buffer, offset: number): string {
  const text = Buffer.concat([Buffer.alloc(offset), bytes]).toString("base64");
  return text.slice(Math.ceil((offset * 8) / 6), Math.floor(((offset + bytes.length) * 8) / 6));
}

/** @param name what the secret is, for messages */
export function formsOf(name: string, secret: string | Buffer): SecretForms {
  const bytes = Buffer.from(secret as string);
  const base64 = [0, 1, 2].map((offset): [string, string] => [
    `${name}, base64 at ${offset} of 3`,
    base64At(bytes, offset),
  ]);
  return Object.fromEntries([
    ...(typeof secret === "string" ? [[name, secret] as const] : []),
    ...base64,
    ...base64.map(
      ([form, text]) => [`${form}, for URLs`, text.replaceAll("+", "-").replaceAll("/", "_")] as const,
    ),
    [`${name}, hex`, bytes.toString("hex")],
    [`${name}, upper-case hex`, bytes.toString("hex").toUpperCase()],
  ]);
}

/** Names of the forms that a text has. */
export function formsIn(text: string, forms: SecretForms): readonly string[] {
  const searched = squeezed(text);
  return Object.entries(forms)
    .filter(([, form]) => searched.includes(squeezed(form)))
    .map(([name]) => name);
}

/**
 * The private part of an Ed25519 key in OpenSSH's format without a passphrase, the 32 bytes that its public half does not have (OpenSSH, PROTOCOL.key; RFC 8032, 5.1.5).
 * @throws Error for any other key
 */
export function privateSeedOf(key: string): Buffer {
  const data = Buffer.from(key.replaceAll(/-----[^-]+-----|\s/g, ""), "base64");
  let at = "openssh-key-v1\0".length;
  const next = (): Buffer => {
    const begin = at + 4;
    at = begin + data.readUInt32BE(at);
    return data.subarray(begin, at);
  };
  const [cipher] = [next(), next(), next()];
  at += 4; // how many keys there are
  next(); // the public half
  at += 4 + 8; // of the private half its length, and two numbers that tell whether it was decrypted
  const [type, publicKey, privateKey] = [next(), next(), next()];
  if (
    cipher.toString() !== "none" ||
    type.toString() !== "ssh-ed25519" ||
    !privateKey.subarray(32).equals(publicKey)
  )
    throw new Error("this is no Ed25519 key in OpenSSH's format without a passphrase");
  return Buffer.from(privateKey.subarray(0, 32));
}
