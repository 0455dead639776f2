import { lstat, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";
import { Type, type Static } from "typebox";
import { inputValidator } from "../../provider/check/input-validator.ts";
import { isProperties } from "../../provider/host/values.ts";
import { AmbiguousJson, parseUnambiguousJson } from "../../provider/trust/canonical-json.ts";
import { fingerprint, readPublicKey, type KeyPurpose } from "../../provider/trust/public-key.ts";
import { writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";

/*
 * A site's keys, in a folder of the operator's:
 *
 *   keys.json            which keys there are; what it does not name does not count
 *   policy-N.pub.pem     generation N of the policy key: the public half ...
 *   policy-N.key.age     ... and the private half, unless that is in a token or behind a command
 *   recovery.pub.pem, recovery.key.age
 *   NAME.pub.pem, NAME.key.age   keys that sign images and models
 */

const storedKey = {
  fingerprint: Type.String({
    pattern: "^[0-9a-f]{64}$",
    description: "SHA-256 of the public key in PKCS#1 DER, 64 lower-case hex digits.",
  }),
  publicKey: Type.String({
    pattern: "^[a-z0-9.-]+\\.pub\\.pem$",
    description: "File of the public half, in this folder.",
  }),
  privateKey: Type.String({
    pattern: "^([a-z0-9.-]+\\.key\\.age|pkcs11:.+|command:.+)$",
    description: "Where the private half is: a file in this folder, a PKCS#11 URI, or a command.",
  }),
  createdAt: Type.String({ pattern: "^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}Z$" }),
};

const schema = Type.Object(
  {
    version: Type.Literal(1),
    site: Type.String({ minLength: 1 }),
    policy: Type.Array(
      Type.Object(
        {
          generation: Type.Integer({ minimum: 1 }),
          ...storedKey,
          revokedAt: Type.Optional(Type.String({ description: "When a newer generation took its place." })),
        },
        { additionalProperties: false },
      ),
      { minItems: 1, description: "Generations of the policy key, the current one last." },
    ),
    recovery: Type.Object(storedKey, { additionalProperties: false }),
    signing: Type.Optional(
      Type.Array(Type.Object({ name: Type.String(), ...storedKey }, { additionalProperties: false }), {
        description:
          "Keys that sign images and models. Which of them count, the site file says, so none is revoked here.",
      }),
    ),
  },
  { additionalProperties: false },
);

/** keys.json. */
export type KeyIndex = Static<typeof schema>;
export type PolicyGeneration = KeyIndex["policy"][number];
export type StoredKey = KeyIndex["recovery"];

export interface KeyStore {
  readonly folder: string;
  readonly index: KeyIndex;
}

export const indexName = "keys.json";

const validator = inputValidator(schema);

/** RFC 3339 in UTC, to the second. */
export const timestamp = (now: Date): string => now.toISOString().replace(/\.\d+Z$/, "Z");

/** The generation that approves. */
export function currentGeneration({ index }: KeyStore): PolicyGeneration {
  const last = index.policy.at(-1);
  if (last === undefined) throw new Error("a key index without a generation was let through");
  return last;
}

/** The public half of a stored key, in PEM; it is the one that keys.json names. @throws UserError */
export async function publicKeyPem(
  { folder }: KeyStore,
  key: StoredKey,
  purpose: KeyPurpose,
): Promise<string> {
  const path = join(folder, key.publicKey);
  let pem: string;
  try {
    pem = await readFile(path, "utf8");
    if (fingerprint(readPublicKey(pem, purpose)) === key.fingerprint) return pem;
  } catch (error) {
    throw new UserError(`${path} can't be used: ${(error as Error).message}`, { cause: error });
  }
  throw new UserError(
    `${path} is not the key that ${indexName} names (fingerprint ${key.fingerprint.slice(0, 16)}...)`,
    {
      hint: "somebody exchanged one of the two; take the folder from a backup",
    },
  );
}

/** Where the private half of a stored key is, as `openPrivateKey` takes it. */
export const privateKeySpec = ({ folder }: KeyStore, { privateKey }: StoredKey): string =>
  privateKey.endsWith(".key.age") && !/^(pkcs11|command):/.test(privateKey)
    ? join(folder, privateKey)
    : privateKey;

/**
 * Reads a folder of keys. Only what is public is read.
 * @throws UserError
 */
export async function readKeyStore(given: string): Promise<KeyStore> {
  const folder = await realpath(given).catch(() => {
    throw new UserError(`there is no folder ${given}`);
  });
  await requirePrivateFolder(folder);
  const path = join(folder, indexName);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      throw new UserError(`${path} can't be read: ${(error as Error).message}`, { cause: error });
    }
    throw new UserError(`${folder} has no ${indexName}`, {
      hint: `\`edgeseal keys new ${folder}\` makes a site's keys`,
    });
  }
  return { folder, index: parseIndex(path, text) };
}

function parseIndex(path: string, text: string): KeyIndex {
  const refuse = (messages: readonly string[]): UserError =>
    new UserError(messages.map((message) => `${path}: ${message}`).join("\n"));
  let value;
  try {
    value = parseUnambiguousJson(text);
  } catch (error) {
    if (error instanceof AmbiguousJson) throw refuse([error.message]);
    throw error;
  }
  if (!isProperties(value)) throw refuse(["expected a JSON object, as `edgeseal keys new` writes it"]);
  const { problems } = validator.validate(value, []);
  if (problems.length > 0) throw refuse(problems.map((problem) => `${problem.path}: ${problem.message}`));
  const index = value as unknown as KeyIndex;
  const faults = index.policy.flatMap(({ generation, revokedAt }, position) => [
    ...(generation === position + 1
      ? []
      : [`policy[${position}].generation: expected ${position + 1}, got ${generation}`]),
    ...((revokedAt === undefined) === (position === index.policy.length - 1)
      ? []
      : [`policy[${position}].revokedAt: every generation but the last one is revoked, and that one is not`]),
  ]);
  if (faults.length > 0) throw refuse(faults);
  return index;
}

/** Writes keys.json. This is the moment at which a change counts. */
export const writeIndex = (folder: string, index: KeyIndex): Promise<void> =>
  writeDurably(join(folder, indexName), `${JSON.stringify(index, undefined, 2)}\n`, 0o600);

async function requirePrivateFolder(folder: string): Promise<void> {
  const stat = await lstat(folder);
  if (!stat.isDirectory()) throw new UserError(`${folder} is no folder`);
  if ((stat.mode & 0o077) !== 0) {
    throw new UserError(`${folder} is open to other users (mode ${(stat.mode & 0o777).toString(8)})`, {
      hint: `chmod 700 ${folder}`,
    });
  }
}
