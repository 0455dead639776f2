import type { KeyObject } from "node:crypto";
import { sha256, sha256Hex } from "../trust/digest.ts";
import { fingerprint, PublicKeyRefused, readPublicKey } from "../trust/public-key.ts";
import { byteOrder } from "./config-files.ts";

/*
 * LUKS2 headers, as bytes and as the JSON within (LUKS2 On-Disk Format Specification, version 1.1.1). They come from a disk that may be in somebody else's hands, so nothing
 * of them is believed: it is shown, and held against the pins.
 *
 * They are read here and not by cryptsetup on the node, which mends a header that it finds damaged: a look must change nothing.
 */

/** The binary header: everything before the JSON area. */
const binaryBytes = 4096;
/** Of one of the two copies, JSON area included, when edgeseal makes it; one that says that it is longer is none of ours. */
const copyBytes = 16_384;
/** What the two begin with, in their order. */
const magics = ["LUKS\xba\xbe", "SKUL\xba\xbe"] as const;
/** Both copies: a power cut may leave the first one half written, and cryptsetup takes the second then. */
export const headerBytesRead = copyBytes * magics.length;

export interface LuksHeader {
  readonly uuid: string;
  /** Every path and value in it, sorted, a fact a line: what the unlock program prints with `--facts`. */
  readonly facts: readonly string[];
  readonly metadata: LuksMetadata;
}

/** What the JSON area says, as far as the state shows it; as lenient as a stranger's header needs. */
export interface LuksMetadata {
  readonly keySlots: readonly {
    readonly slot: string;
    readonly type: string;
    readonly pbkdf: string;
    readonly keyBits: number;
  }[];
  readonly tokens: readonly LuksToken[];
  readonly segments: readonly {
    readonly segment: string;
    readonly type: string;
    readonly cipher: string;
    readonly offsetBytes: string;
    readonly size: string;
    readonly sectorBytes: number;
  }[];
}

export interface LuksToken {
  readonly token: string;
  readonly type: string;
  readonly keySlots: readonly string[];
  /** PCRs bound by value, and the bank. */
  readonly pcrs: readonly number[];
  readonly bank: string;
  /** PCRs bound by the policy key's signature. */
  readonly signedPcrs: readonly number[];
  /** Fingerprint of that key, as `pkfp`; empty without one. */
  readonly policyKey: string;
  /** Whether the policy in the TPM object is that of `policyKey` and PCR 15 at zeros, and nothing less. */
  readonly sealedToZeros: boolean;
}

type Json = Readonly<Record<string, unknown>>;

const isRecord = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const record = (value: unknown): Json => (isRecord(value) ? value : {});
const text = (value: unknown): string =>
  typeof value === "string"
    ? value
    : typeof value === "number" || typeof value === "boolean"
      ? String(value)
      : "";
const texts = (value: unknown): string[] => (Array.isArray(value) ? value.map(text) : []);
const number = (value: unknown): number => (typeof value === "number" ? value : 0);
const numbers = (value: unknown): number[] => (Array.isArray(value) ? value.map(number) : []);
const entries = (value: unknown): [string, Json][] =>
  Object.entries(record(value))
    .map(([key, each]): [string, Json] => [key, record(each)])
    .sort(([a], [b]) => Number(a) - Number(b));

/**
 * Reads the beginning of a device with a LUKS2 header: the first of its two copies that is whole.
 * @returns undefined when both are none, are damaged, or are longer than edgeseal's.
 */
export function readHeader(bytes: Buffer): LuksHeader | undefined {
  const copies = magics.map((magic, at) => readCopy(bytes.subarray(at * copyBytes), magic));
  return copies.find((copy) => copy !== undefined);
}

function readCopy(bytes: Buffer, magic: string): LuksHeader | undefined {
  if (bytes.length < copyBytes || bytes.toString("latin1", 0, magic.length) !== magic) return undefined;
  if (bytes.readUInt16BE(6) !== 2 || bytes.readBigUInt64BE(8) !== BigInt(copyBytes)) return undefined;
  const field = (at: number, length: number): string => untilNul(bytes.subarray(at, at + length));
  // The checksum is over the whole header with its own field at zeros.
  const cleared = Buffer.from(bytes.subarray(0, copyBytes)).fill(0, 448, 512);
  if (field(72, 32) !== "sha256" || sha256Hex(cleared) !== bytes.subarray(448, 480).toString("hex"))
    return undefined;
  let json: unknown;
  try {
    json = JSON.parse(untilNul(bytes.subarray(binaryBytes, copyBytes)));
  } catch {
    return undefined;
  }
  const head = {
    epoch: String(bytes.readBigUInt64BE(16)),
    label: field(24, 48),
    uuid: field(168, 40),
    subsystem: field(208, 48),
  };
  const facts = [
    ...Object.entries(head).map(([key, value]) => `header.${key} ${value}`),
    ...flatten(json, ""),
  ].sort(byteOrder);
  return { uuid: head.uuid, facts, metadata: readMetadata(json) };
}

function untilNul(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.subarray(0, end === -1 ? bytes.length : end).toString("utf8");
}

/** A line for each value: its path, a space, and the value, of strings what stands between their quotes. */
export function flatten(value: unknown, path: string): string[] {
  const below = (members: readonly (readonly [string, unknown])[], empty: string): string[] =>
    members.length === 0
      ? path === ""
        ? []
        : [`${path} ${empty}`]
      : members.flatMap(([key, member]) => flatten(member, path === "" ? key : `${path}.${key}`));
  if (Array.isArray(value))
    return below(
      value.map((each, index): [string, unknown] => [String(index), each]),
      "[]",
    );
  if (isRecord(value)) return below(Object.entries(value), "{}");
  return [`${path} ${typeof value === "string" ? JSON.stringify(value).slice(1, -1) : String(value)}`];
}

/** What the JSON of `cryptsetup luksDump --dump-json-metadata` says. */
export function readMetadata(json: unknown): LuksMetadata {
  const { keyslots, tokens, segments } = record(json);
  return {
    keySlots: entries(keyslots).map(([slot, each]) => ({
      slot,
      type: text(each["type"]),
      pbkdf: text(record(each["kdf"])["type"]),
      keyBits: number(each["key_size"]) * 8,
    })),
    tokens: entries(tokens).map(([token, each]) => readToken(token, each)),
    segments: entries(segments).map(([segment, each]) => ({
      segment,
      type: text(each["type"]),
      cipher: text(each["encryption"]),
      offsetBytes: text(each["offset"]),
      size: text(each["size"]),
      sectorBytes: number(each["sector_size"]),
    })),
  };
}

function readToken(token: string, each: Json): LuksToken {
  const key = publicKeyOf(text(each["tpm2_pubkey"]));
  const signedPcrs = numbers(each["tpm2_pubkey_pcrs"]);
  const pcrs = numbers(each["tpm2-pcrs"]);
  const bank = text(each["tpm2-pcr-bank"]);
  const bound = key !== undefined && signedPcrs.join() === "11" && pcrs.join() === "15" && bank === "sha256";
  return {
    token,
    type: text(each["type"]),
    keySlots: texts(each["keyslots"]),
    pcrs,
    bank,
    signedPcrs,
    policyKey: key === undefined ? "" : fingerprint(key),
    sealedToZeros: bound && text(each["tpm2-policy-hash"]) === sealPolicy(key),
  };
}

function publicKeyOf(base64: string): KeyObject | undefined {
  try {
    return readPublicKey(Buffer.from(base64, "base64").toString("latin1"), "policy");
  } catch (error) {
    if (error instanceof PublicKeyRefused) return undefined;
    throw error;
  }
}

/**
 * The policy of a TPM object that systemd-cryptenroll (257) seals to a policy key's signature over PCRs and to PCR 15 at zeros: TPM2_PolicyAuthorize with that key, then
 * TPM2_PolicyPCR (TPM 2.0 Library, Part 3, 23.16 and 23.7). What the token says of itself could be anything; this is what its TPM object must have.
 */
function sealPolicy(key: KeyObject): string {
  const { n } = key.export({ format: "jwk" });
  const modulus = Buffer.from(n ?? "", "base64url");
  // TPMT_PUBLIC: RSA, SHA-256, userWithAuth|decrypt|sign, no policy, no symmetric cipher, no scheme, 2048 bits, exponent 65537.
  const publicArea = Buffer.concat([
    Buffer.from("0001000b00060040000000100010080000010001" + "0100", "hex"),
    modulus,
  ]);
  const name = Buffer.concat([Buffer.from("000b", "hex"), sha256(publicArea)]);
  const authorized = sha256(sha256(Buffer.alloc(32), Buffer.from("0000016a", "hex"), name));
  const pcr15 = Buffer.from("0000017f" + "00000001000b03" + "008000", "hex");
  return sha256Hex(authorized, pcr15, sha256(Buffer.alloc(32)));
}

/** The cipher of the one segment; empty when there is none, or there are several. */
export const cipherOf = ({ segments }: LuksMetadata): string =>
  segments.length === 1 ? (segments[0]?.cipher ?? "") : "";

/** The fingerprint of the policy key that every TPM token is bound to; empty when there is none, or they differ. */
export function enrolledPolicyKey({ tokens }: LuksMetadata): string {
  const keys = new Set(
    tokens.filter(({ type }) => type === "systemd-tpm2").map(({ policyKey }) => policyKey),
  );
  const [only] = keys;
  return keys.size === 1 && only !== undefined ? only : "";
}

const longestValue = 40;
const mostDifferences = 8;

const short = (value: string): string =>
  value.length > longestValue ? `${value.slice(0, longestValue - 3)}...` : value;

/** `key slot 1` of `keyslots.1.type`; `the header` of what is in none of the lists. */
function thingOf(path: string): string {
  const [list = "", index] = path.split(".");
  // A list that is empty.
  if (index === undefined) return "the header";
  if (list === "keyslots") return `key slot ${index}`;
  return ["tokens", "segments", "digests"].includes(list) ? `${list.slice(0, -1)} ${index}` : "the header";
}

/** What differs between pinned facts and found ones, for people. The same words as the unlock program's, which says it at boot. */
export function headerDifferences(
  pinnedFacts: readonly string[],
  foundFacts: readonly string[],
): readonly string[] {
  const read = (facts: readonly string[]): Map<string, string> =>
    new Map(
      facts.map((fact): [string, string] => [
        fact.slice(0, fact.indexOf(" ")),
        fact.slice(fact.indexOf(" ") + 1),
      ]),
    );
  const pinned = read(pinnedFacts);
  const found = read(foundFacts);
  const things = (facts: Map<string, string>): Set<string> => new Set([...facts.keys()].map(thingOf));
  const had = things(pinned);
  const has = things(found);
  const said = new Set<string>();
  for (const path of new Set([...pinned.keys(), ...found.keys()])) {
    const thing = thingOf(path);
    const [was, is] = [pinned.get(path), found.get(path)];
    if (thing !== "the header" && had.has(thing) !== has.has(thing)) {
      const type = `${path.split(".").slice(0, 2).join(".")}.type`;
      said.add(
        has.has(thing)
          ? `${thing} (${short(found.get(type) ?? "")}) was added`
          : `${thing} (${short(pinned.get(type) ?? "")}) is gone`,
      );
      continue;
    }
    const detail = thing === "the header" ? path : path.split(".").slice(2).join(".");
    if (is === undefined) said.add(`${thing}: ${detail} is gone, pinned ${short(was ?? "")}`);
    else if (was === undefined) said.add(`${thing}: ${detail} ${short(is)} was added`);
    else if (is !== was) said.add(`${thing}: ${detail} is ${short(is)}, pinned ${short(was)}`);
  }
  const all = [...said];
  return all.length <= mostDifferences
    ? all
    : [...all.slice(0, mostDifferences), `and ${all.length - mostDifferences} more`];
}
