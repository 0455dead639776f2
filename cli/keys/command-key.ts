import { KeyUnusable, type PrivateKey } from "../../provider/trust/signer.ts";
import { runProgram } from "./run-program.ts";

/*
 * A private key behind a command: a cloud's key service, a signing server, a script around a smart card. `command:WORDS`, split at white space, or
 * `command:["program","argument with spaces"]`. There is no shell, so nothing in it is expanded.
 */

const prefix = "command:";

/** The words of `command:...`. @throws KeyUnusable */
export function commandWords(spec: string): readonly [string, ...string[]] {
  const text = spec.slice(prefix.length).trim();
  const words: unknown = text.startsWith("[") ? parseList(text) : text.split(/\s+/);
  const isWord = (word: unknown): word is string =>
    typeof word === "string" && word !== "" && !word.includes("\0");
  if (Array.isArray(words) && words.every(isWord)) {
    const [program, ...args] = words;
    if (program !== undefined) return [program, ...args];
  }
  throw new KeyUnusable(
    'expected `command:PROGRAM ARGUMENT...`, or `command:["PROGRAM", ...]` as a JSON list of words',
  );
}

function parseList(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const isCommand = (spec: string): boolean => spec.startsWith(prefix);

/**
 * To sign, the message comes on standard input and the raw signature is expected on standard output (RSASSA-PKCS1-v1_5 with SHA-256 over the message: the command
 * hashes); to decrypt, the ciphertext and the plaintext (RSAES-OAEP with SHA-256). EDGESEAL_OPERATION says which, `sign` or `decrypt`, for one script that does both.
 */
export function commandKey(spec: string): PrivateKey {
  const words = commandWords(spec);
  const name = `the command ${words[0]}`;
  const run = (operation: "sign" | "decrypt", data: Uint8Array): Promise<Buffer> =>
    runProgram(name, words, { stdin: data, env: { EDGESEAL_OPERATION: operation } });
  return {
    name,
    sign: (message) => run("sign", message),
    decrypt: (ciphertext) => run("decrypt", ciphertext),
  };
}
