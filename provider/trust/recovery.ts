import type { KeyObject } from "node:crypto";
import { AmbiguousJson, parseUnambiguousJson, type Json } from "./canonical-json.ts";
import { encryptFor } from "./public-key.ts";
import type { PrivateKey } from "./signer.ts";

/*
 * Keys that are born on a device and leave it only encrypted to the site's recovery key. What a key is for is inside the ciphertext: whoever moves ciphertexts
 * about (the device, its disk, the state of a stack) can't make us send one volume's key to another volume, or one node's to another node.
 */

/** What a recovery secret is for. */
export interface RecoveryBinding {
  /** `luks`: the recovery passphrase of a sealed volume. `tpm-auth`: an authorization value of the TPM. */
  readonly kind: "luks" | "tpm-auth";
  /** The node's name. */
  readonly node: string;
  /** The LUKS UUID (lower case, with hyphens) for `luks`; `owner` or `lockout` for `tpm-auth`. */
  readonly subject: string;
}

/** A secret, and what it is for. */
export interface RecoverySecret extends RecoveryBinding {
  /** The secret itself, as the device made it: printable ASCII, without white space. */
  readonly key: string;
}

/** A recovery ciphertext was refused; nothing of the secret is in the message. */
export class RecoveryRefused extends Error {
  override readonly name = "RecoveryRefused";
  /** The node that it was made for, where that alone is not as expected: then the node may have been renamed since. */
  readonly boundTo: string | undefined;

  constructor(message: string, boundTo?: string) {
    super(message);
    this.boundTo = boundTo;
  }
}

/** A UUID as blkid and cryptsetup print it. */
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const nodeName = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
/** Long enough for anything a device makes, short enough for one block of RSA-4096 with OAEP (446 bytes with the rest). */
const secretKey = /^[\x21-\x7e]{16,256}$/;

const fields = ["v", "kind", "node", "subject", "key"] as const;

/**
 * The plaintext, as the device writes it: one line of JSON, fields in this order, no line feed.
 * `{"v":1,"kind":"luks","node":"pi-1","subject":"<UUID>","key":"..."}`
 */
export function recoveryPlaintext({ kind, node, subject, key }: RecoverySecret): string {
  const plaintext = JSON.stringify({ v: 1, kind, node, subject, key });
  parseRecoveryPlaintext(plaintext);
  return plaintext;
}

/**
 * Reads a plaintext. Strict: exactly these fields, each once, each of its form.
 * @throws RecoveryRefused
 */
export function parseRecoveryPlaintext(plaintext: string): RecoverySecret {
  // What a parser says quotes the text, and the text holds the key: none of it goes into a message, not even as a cause.
  const refuse = (what: string): RecoveryRefused =>
    new RecoveryRefused(
      `the recovery ciphertext was decrypted, but ${what}; it was not made by edgeseal, or by a newer one`,
    );
  let value: Json;
  try {
    value = parseUnambiguousJson(plaintext);
  } catch (error) {
    if (error instanceof AmbiguousJson) throw refuse("it holds no JSON that can be read in one way");
    throw error;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw refuse("it holds no JSON object");
  const given = value as Readonly<Record<string, Json>>;
  if (Object.keys(given).length !== fields.length || !fields.every((field) => Object.hasOwn(given, field))) {
    throw refuse(`its fields are not ${fields.join(", ")}`);
  }
  const { v, kind, node, subject, key } = given;
  if (v !== 1) throw refuse("its version is not 1");
  if (kind !== "luks" && kind !== "tpm-auth") throw refuse("its kind is neither luks nor tpm-auth");
  if (typeof node !== "string" || !nodeName.test(node)) throw refuse("its node is not a node's name");
  if (typeof subject !== "string" || !isSubject(kind, subject)) {
    throw refuse(kind === "luks" ? "its subject is not a UUID" : "its subject is neither owner nor lockout");
  }
  if (typeof key !== "string" || !secretKey.test(key)) throw refuse("its key is not of the expected form");
  return { kind, node, subject, key };
}

const isSubject = (kind: RecoveryBinding["kind"], subject: string): boolean =>
  kind === "luks" ? uuid.test(subject) : subject === "owner" || subject === "lockout";

/** `the LUKS volume 1b4e... of pi-1`, `the lockout authorization of the TPM of pi-1`. */
export const bindingText = ({ kind, node, subject }: RecoveryBinding): string =>
  kind === "luks"
    ? `the LUKS volume ${subject} of ${node}`
    : `the ${subject} authorization of the TPM of ${node}`;

/**
 * Decrypts a recovery ciphertext and makes sure that it is for what it is going to be used for.
 * @param ciphertext The bytes that `openssl pkeyutl -encrypt -pubin -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256` wrote.
 * @param expected What the secret is going to be used for.
 * @returns the secret
 * @throws RecoveryRefused naming both, when it was made for something else; KeyUnusable when it can't be decrypted.
 */
export async function openRecovery(
  ciphertext: Uint8Array,
  privateKey: Pick<PrivateKey, "decrypt">,
  expected: RecoveryBinding,
): Promise<string> {
  const plaintext = await privateKey.decrypt(ciphertext);
  const secret = parseRecoveryPlaintext(plaintext.toString("utf8"));
  plaintext.fill(0);
  const { kind, node, subject } = expected;
  if (secret.kind !== kind || secret.node !== node || secret.subject !== subject) {
    const boundTo = secret.kind === kind && secret.subject === subject ? secret.node : undefined;
    throw new RecoveryRefused(
      `this recovery ciphertext is that of ${bindingText(secret)}, and was given as that of ${bindingText(expected)}: it was swapped${boundTo === undefined ? "" : ", or the node was renamed"}; nothing was sent`,
      boundTo,
    );
  }
  return secret.key;
}

/** Whether a text can be such a ciphertext, all of it: one block of RSA-4096 in base64. Whose it is only the private key tells. */
export const isWholeCiphertext = (base64: string): boolean => /^[A-Za-z0-9+/]{683}=$/.test(base64);

/** What a device does with `openssl pkeyutl`, done here: for tests, and for a secret that the operator makes. */
export const sealRecovery = (recoveryKey: KeyObject, secret: RecoverySecret): Buffer =>
  encryptFor(recoveryKey, Buffer.from(recoveryPlaintext(secret)));
