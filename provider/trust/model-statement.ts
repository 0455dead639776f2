import type { KeyObject } from "node:crypto";
import { Type, type Static } from "typebox";
import { inputValidator } from "../check/input-validator.ts";
import type { InputProblem } from "../resource.ts";
import { canonicalJson } from "./canonical-json.ts";
import { jsonDocument, type ReadDocument } from "./json-document.ts";
import { signChecked } from "./pcr-policy.ts";
import { keyId, PublicKeyRefused, readSigningKey, verifies } from "./public-key.ts";
import type { SigningKey } from "./signer.ts";

/*
 * What a site says of a model, signed: which bytes they are, what they are called, where they came from and under which licence. An in-toto statement
 * (https://github.com/in-toto/attestation, spec/v1) in a DSSE envelope (https://github.com/secure-systems-lab/dsse), so that other tools read it too, in the
 * file `*.dsse.json`. A node checks the signature with OpenSSL alone: over the pre-authentication encoding, which is shipped beside it.
 */

/** The type of payload of an in-toto statement, and the only one that is taken. */
export const statementPayloadType = "application/vnd.in-toto+json";
const statementType = "https://in-toto.io/Statement/v1";
/** Names the predicate below. A name, not an address: nothing is there to be fetched. */
const predicateType = "urn:edgeseal:model:v1";

/** One line, without control characters, nor such as turn the direction of what follows: it is shown in terminals and reviews. */
const line = (description: string) =>
  Type.String({ pattern: "^[^\\p{Cc}\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]{1,500}$", description });

const modelSchema = Type.Object(
  {
    name: Type.String({
      pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
      description: "What the model is called, such as `gemma-3-270m-q4_k_m`.",
    }),
    sha256: Type.String({
      pattern: "^[0-9a-f]{64}$",
      description: "SHA-256 of the model's file, 64 lower-case hex digits.",
    }),
    bytes: Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER, description: "Size of the file." }),
    origin: line("Where it was had from, such as an address with a revision or a package with its version."),
    licence: line("Under what it may be used: an SPDX expression, or the name of the terms."),
  },
  { additionalProperties: false },
);

/** What a statement says of a model. */
export type ModelStatement = Static<typeof modelSchema>;

const { name, sha256, bytes, origin, licence } = modelSchema.properties;
const closed = { additionalProperties: false } as const;

const payloadSchema = Type.Object(
  {
    _type: Type.Literal(statementType),
    subject: Type.Array(Type.Object({ name, digest: Type.Object({ sha256 }, closed) }, closed), {
      minItems: 1,
      maxItems: 1,
    }),
    predicateType: Type.Literal(predicateType),
    predicate: Type.Object({ bytes, origin, licence }, closed),
  },
  closed,
);

const base64 = Type.String({ minLength: 4, pattern: "^[A-Za-z0-9+/_-]+={0,2}$" });

const envelopeSchema = Type.Object(
  {
    payloadType: Type.Literal(statementPayloadType),
    payload: base64,
    signatures: Type.Array(Type.Object({ keyid: Type.Optional(Type.String()), sig: base64 }, closed), {
      minItems: 1,
      maxItems: 16,
    }),
  },
  closed,
);

const modelValidator = inputValidator(modelSchema);
const asPayload = jsonDocument("an in-toto statement", payloadSchema);
const asEnvelope = jsonDocument("a DSSE envelope, as `edgeseal model sign` writes it", envelopeSchema);

/** A statement can't be made or used. `message` has every problem, one a line. */
export class StatementRefused extends Error {
  override readonly name = "StatementRefused";
  readonly problems: readonly InputProblem[];
  constructor(problems: readonly InputProblem[]) {
    super(problems.map(({ path, message }) => (path === "" ? message : `${path}: ${message}`)).join("\n"));
    this.problems = problems;
  }
}

/** A signature of an envelope. */
export interface EnvelopeSignature {
  /** What the signer says of its key: a hint for messages, never believed. */
  readonly keyid?: string;
  /** RSASSA-PKCS1-v1_5, or ECDSA in DER, with SHA-256 over the pre-authentication encoding. */
  readonly sig: Buffer;
}

/** An envelope whose form was judged, and not yet its signatures. */
export interface ModelEnvelope {
  /** The bytes that are signed: the statement in canonical JSON (RFC 8785). */
  readonly payload: Buffer;
  readonly signatures: readonly EnvelopeSignature[];
}

/** What one key of the site vouches for. */
export interface VerifiedStatement {
  readonly statement: ModelStatement;
  /** Name of the key that has signed: the first, in the order of the envelope, that is one of the site's. */
  readonly signedBy: string;
  /** The signature of that key, as `openssl dgst -sha256 -verify` takes it. */
  readonly signature: Buffer;
  /** What it is over. */
  readonly preAuthenticationEncoding: Buffer;
}

/**
 * The payload of a statement: canonical JSON (RFC 8785), so that two statements of the same are the same bytes.
 * @throws StatementRefused with every problem.
 */
export function modelStatement(model: ModelStatement): Buffer {
  const { problems } = modelValidator.validate({ ...model }, []);
  if (problems.length > 0) throw new StatementRefused(problems);
  return Buffer.from(
    canonicalJson({
      _type: statementType,
      subject: [{ name: model.name, digest: { sha256: model.sha256 } }],
      predicateType,
      predicate: { bytes: model.bytes, origin: model.origin, licence: model.licence },
    }),
  );
}

/** DSSE's PAE: what is signed in place of the payload, so that a signature of one type of payload is none of another. */
export function preAuthenticationEncoding(type: string, payload: Uint8Array): Buffer {
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${Buffer.byteLength(type)} ${type} ${payload.byteLength} `),
    payload,
  ]);
}

const statementPae = (payload: Uint8Array): Buffer =>
  preAuthenticationEncoding(statementPayloadType, payload);

/**
 * Signs a payload of `modelStatement`, and checks the signature against the public half.
 * @returns The text of a `*.dsse.json` file.
 * @throws KeyUnusable
 */
export async function signStatement(key: SigningKey, payload: Uint8Array): Promise<string> {
  const sig = await signChecked(key, statementPae(payload));
  const envelope = {
    payloadType: statementPayloadType,
    payload: Buffer.from(payload).toString("base64"),
    signatures: [{ keyid: keyId(key.publicKey), sig: sig.toString("base64") }],
  };
  return `${JSON.stringify(envelope, undefined, 2)}\n`;
}

/**
 * Reads the text of a `*.dsse.json` file. Only its form is judged here, the statement's too; `verifyEnvelope` judges who has signed it.
 * @throws StatementRefused with every problem.
 */
export function parseEnvelope(text: string): ModelEnvelope {
  const envelope = required("", asEnvelope(text));
  const payload = Buffer.from(envelope.payload, "base64");
  const problems: InputProblem[] = [
    ["payload", envelope.payload] as const,
    ...envelope.signatures.map(({ sig }, index) => [`signatures[${index}].sig`, sig] as const),
  ].flatMap(([path, value]) =>
    isBase64(value) ? [] : [{ path, message: "not base64 in its one spelling, with its padding" }],
  );
  try {
    readPayload(payload);
  } catch (error) {
    if (!(error instanceof StatementRefused)) throw error;
    problems.push(...error.problems);
  }
  if (problems.length > 0) throw new StatementRefused(problems);
  const signatures = envelope.signatures.map((each) => ({ ...each, sig: Buffer.from(each.sig, "base64") }));
  return { payload, signatures };
}

/** Both alphabets are allowed (DSSE, "Protocol"). Unused bits at the end, or missing padding, would give one signature several spellings. */
function isBase64(text: string): boolean {
  const plain = text.replaceAll("-", "+").replaceAll("_", "/");
  return Buffer.from(plain, "base64").toString("base64") === plain;
}

/** What an envelope says, whoever has signed it: for what needs no trust, as the size to plan memory with. */
export const unverifiedStatement = ({ payload }: ModelEnvelope): ModelStatement => readPayload(payload);

function readPayload(payload: Buffer): ModelStatement {
  const value = required("payload", asPayload(payload.toString()));
  // A node takes the digest out of these bytes with the tools of a shell: there has to be one way to write them.
  if (!payload.equals(Buffer.from(canonicalJson(value)))) {
    throw new StatementRefused([
      {
        path: "payload",
        message: "not canonical JSON (RFC 8785); sign it anew with `edgeseal model sign`",
      },
    ]);
  }
  const [subject] = value.subject;
  if (subject === undefined) throw new Error("a statement without a subject was let through");
  return { name: subject.name, sha256: subject.digest.sha256, ...value.predicate };
}

function required<T>(path: string, { value, problems }: ReadDocument<T>): T {
  if (value !== undefined) return value;
  throw new StatementRefused(
    problems.map(({ path: within, message }) => ({
      path: [path, within].filter((part) => part !== "").join("."),
      message,
    })),
  );
}

/**
 * What an envelope says, if one of the site's keys has signed it. A signature by a key that is not listed is no fault beside one that is: an envelope may be for
 * several sites, or for a key and the one that follows it.
 * @param keys Public halves in PEM, by name: those of which one has to have signed.
 * @throws StatementRefused with every problem: of the keys, or of each signature.
 */
export function verifyEnvelope(
  { payload, signatures }: ModelEnvelope,
  keys: Readonly<Record<string, string>>,
): VerifiedStatement {
  const known = readKeys(keys);
  const statement = readPayload(payload);
  const message = statementPae(payload);
  for (const { sig } of signatures) {
    const signer = known.find(({ key }) => verifies(key, message, sig));
    if (signer === undefined) continue;
    return { statement, signedBy: signer.name, signature: sig, preAuthenticationEncoding: message };
  }
  const names = known.map((each) => each.name).join(", ");
  throw new StatementRefused(
    signatures.map(({ keyid }, index) => {
      const claimed = known.find(({ key }) => keyId(key) === keyid);
      const what =
        claimed === undefined
          ? `by none of the keys that may sign (${names})${keyid === undefined ? "" : `: it names the key ${keyid.slice(0, 16)}...`}; sign the model with one of them, or list its key`
          : `said to be of the key ${claimed.name}, and is not one of it over this statement: something was changed after it was signed; take the file again from where it was made`;
      return { path: `signatures[${index}]`, message: what };
    }),
  );
}

function readKeys(keys: Readonly<Record<string, string>>): readonly { name: string; key: KeyObject }[] {
  const problems: InputProblem[] = [];
  const known = Object.entries(keys).flatMap(([name, pem]) => {
    try {
      return [{ name, key: readSigningKey(pem) }];
    } catch (error) {
      if (!(error instanceof PublicKeyRefused)) throw error;
      problems.push({ path: `keys[${JSON.stringify(name)}]`, message: error.message });
      return [];
    }
  });
  if (Object.keys(keys).length === 0)
    problems.push({ path: "keys", message: "there is no key that may sign; give one" });
  if (problems.length > 0) throw new StatementRefused(problems);
  return known;
}
