import { constants, generateKeyPairSync, privateDecrypt, sign, type KeyObject } from "node:crypto";
import { readPublicKey, type KeyPurpose } from "../../../provider/trust/public-key.ts";
import type { PrivateKey } from "../../../provider/trust/signer.ts";

export interface TestKey {
  readonly privateKey: PrivateKey;
  readonly publicKey: KeyObject;
  readonly publicKeyPem: string;
  readonly privateKeyPem: string;
}

/** A key pair in memory. */
export function testKey(
  purpose: KeyPurpose = "policy",
  modulusLength = purpose === "policy" ? 2048 : 4096,
): TestKey {
  const pair = generateKeyPairSync("rsa", { modulusLength });
  const publicKeyPem = pair.publicKey.export({ type: "spki", format: "pem" }).toString();
  const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" };
  return {
    privateKey: {
      name: "a key in memory",
      sign: (message) => Promise.resolve(sign("sha256", message, pair.privateKey)),
      decrypt: (bytes) => Promise.resolve(privateDecrypt({ key: pair.privateKey, ...padding }, bytes)),
    },
    publicKey:
      modulusLength === 2048 || modulusLength === 4096
        ? readPublicKey(publicKeyPem, purpose)
        : pair.publicKey,
    publicKeyPem,
    privateKeyPem: pair.privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
}
