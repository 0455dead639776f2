import { createHash, timingSafeEqual } from "node:crypto";

/** Host key algorithms to offer for a key type, best first (RFC 8332 for RSA: never with SHA-1). */
const algorithmsOf = {
  "ssh-ed25519": ["ssh-ed25519"],
  "ecdsa-sha2-nistp256": ["ecdsa-sha2-nistp256"],
  "ecdsa-sha2-nistp384": ["ecdsa-sha2-nistp384"],
  "ecdsa-sha2-nistp521": ["ecdsa-sha2-nistp521"],
  "ssh-rsa": ["rsa-sha2-512", "rsa-sha2-256"],
} as const;

export type HostKeyType = keyof typeof algorithmsOf;
export type HostKeyAlgorithm = (typeof algorithmsOf)[HostKeyType][number];

/** A pinned host key. */
export interface HostKeyPin {
  /** As given, for messages; a public key is no secret. */
  readonly text: string;
  /** As `ssh-keygen -l` prints it. */
  readonly fingerprint: string;
  /**
   * Types the key may have. A device has a key of each type and shows the one that was asked for, so only these are asked for, one type at
   * a time. A fingerprint does not tell its type: all of them then.
   */
  readonly types: readonly HostKeyType[];
  /** Whether this is the pinned key; `blob` is the key as sent (RFC 4253, 6.6). */
  matches(blob: Buffer): boolean;
}

/** Every type, the one to prefer first. */
export const hostKeyTypes = Object.keys(algorithmsOf) as readonly HostKeyType[];

export function isHostKeyType(text: string): text is HostKeyType {
  return Object.hasOwn(algorithmsOf, text);
}

export function hostKeyAlgorithms(type: HostKeyType): HostKeyAlgorithm[] {
  return [...algorithmsOf[type]];
}

/** Fingerprint as `ssh-keygen -l` prints it. */
export function fingerprint(blob: Buffer): string {
  return `SHA256:${createHash("sha256").update(blob).digest("base64").replace(/=+$/, "")}`;
}

function sameBytes(a: Buffer, b: Buffer): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** The key type that a key blob names itself. */
export function typeInBlob(blob: Buffer): string | undefined {
  if (blob.length < 4) return undefined;
  const length = blob.readUInt32BE(0);
  return length > 64 || blob.length <= 4 + length ? undefined : blob.toString("latin1", 4, 4 + length);
}

/**
 * Reads a pin: `ssh-ed25519 AAAA...`, with or without the comment that a .pub file has after it, or `SHA256:...`. `undefined` when it is neither, or
 * its key does not fit the type before it.
 */
export function parseHostKeyPin(text: string): HostKeyPin | undefined {
  if (/^SHA256:[A-Za-z0-9+/]{43}$/.test(text)) {
    const pinned = Buffer.from(text.slice("SHA256:".length), "base64");
    return {
      text,
      fingerprint: text,
      types: hostKeyTypes,
      matches: (blob) => sameBytes(createHash("sha256").update(blob).digest(), pinned),
    };
  }
  const [type = "", base64 = ""] = text.trim().split(/ +/);
  if (!isHostKeyType(type)) return undefined;
  const pinned = Buffer.from(base64, "base64");
  if (typeInBlob(pinned) !== type) return undefined;
  const printed = fingerprint(pinned);
  return {
    text: `${type} ${printed}`,
    fingerprint: printed,
    types: [type],
    matches: (blob) => sameBytes(blob, pinned),
  };
}
