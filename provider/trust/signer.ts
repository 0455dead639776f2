import type { KeyObject } from "node:crypto";

/**
 * A private RSA key, wherever it is: in an encrypted file, in a PKCS#11 token, or behind a command. Its bytes are nobody's business but the implementation's.
 *
 * A signature or a plaintext that comes back is not believed: who asks for it checks it against the public half, so that a wrong key, a wrong mechanism or a fault
 * is found where it happens and not on a device that stays locked.
 */
export interface PrivateKey {
  /** Where the key is, for messages: a path, a PKCS#11 URI without its PIN, a command's name. */
  readonly name: string;
  /**
   * RSASSA-PKCS1-v1_5 with SHA-256 over the message (RFC 8017, 8.2; the one scheme that a TPM 2.0 and systemd take for PCR policies).
   * @throws KeyUnusable
   */
  sign(message: Uint8Array): Promise<Buffer>;
  /**
   * Decrypts RSAES-OAEP with SHA-256, also in its mask generation, and no label (RFC 8017, 7.1).
   * @throws KeyUnusable
   */
  decrypt(ciphertext: Uint8Array): Promise<Buffer>;
}

/** A private key can't be had or used. The message names the key and the mend, and holds no secret. */
export class KeyUnusable extends Error {
  override readonly name = "KeyUnusable";
  readonly hint: string | undefined;
  constructor(message: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.hint = options.hint;
  }
}

/** Signs, or decrypts, and knows the public half to check against. */
export interface SigningKey {
  readonly privateKey: Pick<PrivateKey, "name" | "sign">;
  readonly publicKey: KeyObject;
}
