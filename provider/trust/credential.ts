import {
  constants,
  createCipheriv,
  createHmac,
  createPublicKey,
  publicEncrypt,
  randomBytes,
  timingSafeEqual,
  type KeyObject,
} from "node:crypto";
import { sha256, sha256Hex } from "./digest.ts";

/*
 * TPM2_MakeCredential in software (TPM 2.0 Library, Part 1, 24 "Credential Protection"; Part 3, 12.6): a secret that only the TPM with a given endorsement key
 * gives back, and only while it holds the object of a given name. With a fresh secret it is a challenge: who answers it has that TPM at hand, now.
 */

/** A public area is not that of an endorsement key of the default template. */
export class EndorsementKeyRefused extends Error {
  override readonly name = "EndorsementKeyRefused";
}

/** An endorsement key as a device presented it. */
export interface EndorsementKey {
  /** SHA-256 of the TPMT_PUBLIC in lower-case hex: the digest that a site file pins, and the TPM's name of the key without its leading `000b`. */
  readonly digest: string;
  readonly publicKey: KeyObject;
}

const TPM_ALG_SHA256 = 0x000b;
/**
 * TPMT_PUBLIC of the default RSA-2048 endorsement key up to its modulus (TCG EK Credential Profile, B.3.3, template L-1): RSA, SHA-256; fixedTPM, fixedParent,
 * sensitiveDataOrigin, adminWithPolicy, restricted, decrypt; the policy that asks for the endorsement hierarchy; AES-128 in CFB, no scheme, 2048 bits, exponent 65537.
 */
const templateHead = Buffer.from(
  "0001" + // type: TPM_ALG_RSA
    "000b" + // nameAlg: TPM_ALG_SHA256
    "000300b2" + // objectAttributes
    "0020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa" + // authPolicy
    "000600800043" + // symmetric: AES, 128, CFB
    "0010" + // scheme: TPM_ALG_NULL
    "0800" + // keyBits
    "00000000", // exponent: the default, 65537
  "hex",
);
const modulusBytes = 256;

/**
 * Reads the public area of an endorsement key.
 * @param publicArea TPMT_PUBLIC, or TPM2B_PUBLIC (the same after its length, as `tpm2_createek -u` and `tpm2_readpublic -o` write it).
 * @throws EndorsementKeyRefused when it is of another form than the default RSA-2048 template. That it *is* an endorsement key is not said by this: anybody can make
 * one of this form. It is said by the digest, compared with one that came from the node's console.
 */
export function readEndorsementKey(publicArea: Uint8Array): EndorsementKey {
  const given = Buffer.from(publicArea);
  const length = templateHead.length + 2 + modulusBytes;
  const area = given.length === length + 2 && given.readUInt16BE(0) === length ? given.subarray(2) : given;
  const head = area.subarray(0, templateHead.length);
  if (
    area.length !== length ||
    !head.equals(templateHead) ||
    area.readUInt16BE(templateHead.length) !== modulusBytes
  ) {
    throw new EndorsementKeyRefused(
      `expected the public area of an RSA-2048 endorsement key of the default template (${length} bytes), got ${given.length} bytes that differ from it`,
    );
  }
  const modulus = area.subarray(templateHead.length + 2);
  if ((modulus[0] ?? 0) < 0x80 || ((modulus.at(-1) ?? 0) & 1) === 0) {
    throw new EndorsementKeyRefused("the modulus of the endorsement key is not an odd number of 2048 bits");
  }
  const publicKey = createPublicKey({
    key: { kty: "RSA", n: modulus.toString("base64url"), e: "AQAB" },
    format: "jwk",
  });
  return { digest: sha256Hex(area), publicKey };
}

/**
 * The name of an object whose nameAlg is SHA-256: that algorithm's number, and the digest of the public area (TPM 2.0 Library, Part 1, 16).
 * @param publicArea TPMT_PUBLIC
 */
export const objectName = (publicArea: Uint8Array): Buffer =>
  Buffer.concat([uint16(TPM_ALG_SHA256), sha256(publicArea)]);

/** What TPM2_ActivateCredential takes. */
export interface Credential {
  /** TPM2B_ID_OBJECT. */
  readonly idObject: Buffer;
  /** TPM2B_ENCRYPTED_SECRET. */
  readonly encryptedSecret: Buffer;
}

/** The longest secret that fits: a digest of the endorsement key's nameAlg. */
const longestSecret = 32;

/**
 * Wraps a secret for a TPM.
 * @param name The name of the object that must be loaded where the secret is unwrapped: 34 bytes, `000b` and a SHA-256 digest.
 * @param secret 1 to 32 bytes.
 * @param seed Only for tests that need the same result twice. @default 32 random bytes
 */
export function makeCredential(
  endorsementKey: Pick<EndorsementKey, "publicKey">,
  name: Uint8Array,
  secret: Uint8Array,
  seed: Uint8Array = randomBytes(32),
): Credential {
  if (name.length !== 34 || Buffer.from(name).readUInt16BE(0) !== TPM_ALG_SHA256) {
    throw new TypeError(`expected a TPM name of 34 bytes that starts with 000b, got ${name.length} bytes`);
  }
  if (secret.length === 0 || secret.length > longestSecret) {
    throw new TypeError(`expected a secret of 1 to ${longestSecret} bytes, got ${secret.length}`);
  }
  // The label counts with its terminating zero (Part 1, B.4). OAEP's hash is the key's nameAlg, in the mask generation too.
  const wrappedSeed = publicEncrypt(
    {
      key: endorsementKey.publicKey,
      padding: constants.RSA_PKCS1_OAEP_PADDING,
      oaepHash: "sha256",
      oaepLabel: Buffer.from("IDENTITY\0"),
    },
    seed,
  );
  const storageKey = kdfa(seed, "STORAGE", name, 128);
  // CFB over whole blocks of feedback, from a zero IV: each key encrypts one thing (Part 1, 24.4).
  const cipher = createCipheriv("aes-128-cfb", storageKey, Buffer.alloc(16));
  const identity = Buffer.concat([cipher.update(sized(secret)), cipher.final()]);
  const integrityKey = kdfa(seed, "INTEGRITY", Buffer.alloc(0), 256);
  const integrity = createHmac("sha256", integrityKey).update(identity).update(name).digest();
  return {
    idObject: sized(Buffer.concat([sized(integrity), identity])),
    encryptedSecret: sized(wrappedSeed),
  };
}

/**
 * KDFa with HMAC-SHA-256 (TPM 2.0 Library, Part 1, 11.4.10.2, after SP 800-108 in counter mode): each block is HMAC(key, counter || label || 0 || context || bits).
 * @param context Both parts, PartyU and PartyV, one after the other.
 * @param bits Length of the result; a multiple of 8.
 */
export function kdfa(key: Uint8Array, label: string, context: Uint8Array, bits: number): Buffer {
  const blocks: Buffer[] = [];
  for (let counter = 1; blocks.length * 256 < bits; counter++) {
    const hmac = createHmac("sha256", key);
    hmac.update(uint32(counter)).update(label).update("\0").update(context).update(uint32(bits));
    blocks.push(hmac.digest());
  }
  return Buffer.concat(blocks).subarray(0, bits / 8);
}

/**
 * A credential as tpm2-tools read it (`tpm2_activatecredential --credential-blob`): a magic number, version 1, and the two structures.
 */
export const tpm2ToolsCredential = ({ idObject, encryptedSecret }: Credential): Buffer =>
  Buffer.concat([Buffer.from("badcc0de00000001", "hex"), idObject, encryptedSecret]);

/** A challenge to one TPM. */
export interface Challenge {
  readonly credential: Credential;
  /** Whether these bytes are the answer. Takes the same time for every wrong one. */
  isAnswer(bytes: Uint8Array): boolean;
}

/**
 * A fresh challenge: who answers has the TPM with this endorsement key at hand, now, with the object of this name loaded. It says nothing about the way there:
 * an impostor in the middle can pass it on, so the host key counts as well.
 */
export function newChallenge(endorsementKey: Pick<EndorsementKey, "publicKey">, name: Uint8Array): Challenge {
  const secret = randomBytes(longestSecret);
  return {
    credential: makeCredential(endorsementKey, name, secret),
    isAnswer: (bytes) => bytes.length === secret.length && timingSafeEqual(bytes, secret),
  };
}

/** A TPM2B: the length in two bytes, and the bytes. */
const sized = (bytes: Uint8Array): Buffer => Buffer.concat([uint16(bytes.length), bytes]);

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
