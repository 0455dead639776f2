import { posix } from "node:path";
import { Type, type Static } from "typebox";
import type { InputProblem } from "../resource.ts";
import {
  parseEnvelope,
  StatementRefused,
  verifyEnvelope,
  type VerifiedStatement,
} from "../trust/model-statement.ts";
import { PublicKeyRefused, readSigningKey } from "../trust/public-key.ts";
import { readSealedManifest } from "../trust/sealed-manifest.ts";

const name = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const absolutePath = "^(/[A-Za-z0-9._@+-]+)+$";

/** Inputs of `edgeseal:inference:Model`. */
export const modelInputs = Type.Object({
  name: Type.String({
    pattern: name,
    description:
      "The model's name on its node, which stays when its content changes: lower-case letters, digits and hyphens.",
  }),
  digest: Type.String({
    pattern: "^sha256:[0-9a-f]{64}$",
    description:
      "Which content: `sha256:` and the SHA-256 of the file. Another one is another model; the former stays, so that going back takes no more than its digest and its statement (a site file can name that by the digest).",
  }),
  mountPoint: Type.String({
    pattern: absolutePath,
    description:
      "Where the sealed volume is mounted that the model has to be on, e.g. `/srv/models`. While nothing is mounted there, no byte of the model is written.",
  }),
  directory: Type.String({
    pattern: absolutePath,
    description:
      "The folder of this model's versions, on that volume, e.g. `/srv/models/models`; made if it is missing. The model is at `DIRECTORY/HEX/model.gguf`. For one model each.",
  }),
  statement: Type.String({
    description:
      "What the site says of the model, signed: the text of its `*.dsse.json` file, as `edgeseal model sign` writes it (an in-toto statement in a DSSE envelope).",
  }),
  keys: Type.Record(Type.String({ pattern: name }), Type.String(), {
    additionalProperties: false,
    minProperties: 1,
    description:
      "Public halves of the keys of which one has to have signed the model, by name: PEM, RSA of 2048 to 4096 bits, or ECDSA on P-256 or P-384. They are the node's: every model of it has the same.",
  }),
  file: Type.Optional(
    Type.String({
      minLength: 1,
      description:
        "The model's file on this machine; a relative path counts from the Pulumi project. Only read when the node does not have the content. Default: none, for models that the node has.",
    }),
  ),
  sealed: Type.Optional(
    Type.String({
      description:
        "For a `file` that is encrypted to this node, the text of its `*.sealed.json` file, as `edgeseal model encrypt` writes both: the node's TPM gives the key. Default: none, `file` is the model itself.",
    }),
  ),
  keep: Type.Integer({
    minimum: 0,
    maximum: 20,
    default: 1,
    description:
      "How many former models stay on the volume, the latest first, for going back. Those that a unit of edgeseal's names stay in any case. Default 1.",
  }),
});

export type ModelInputs = Static<typeof modelInputs>;

/** The hex digits of the digest, which name the model's folder. */
export const hexOf = ({ digest }: Pick<ModelInputs, "digest">): string => digest.replace(/^sha256:/, "");

/** @throws StatementRefused unless one of the keys has signed the statement. */
export const signedStatement = ({ statement, keys }: ModelInputs): VerifiedStatement =>
  verifyEnvelope(parseEnvelope(statement), keys);

/** Faults that the schema can't express; all of them. */
export function modelProblems(inputs: ModelInputs): InputProblem[] {
  const { mountPoint, directory, keys } = inputs;
  const keyFaults = Object.entries(keys).flatMap(([key, pem]) =>
    keyProblems(`keys[${JSON.stringify(key)}]`, pem),
  );
  return [
    ...[["mountPoint", mountPoint] as const, ["directory", directory] as const].flatMap(([path, value]) =>
      posix.normalize(value) === value
        ? []
        : [
            {
              path,
              message: `${JSON.stringify(value)} is not the plain path; write ${posix.normalize(value)}`,
            },
          ],
    ),
    ...(directory === mountPoint || directory.startsWith(`${mountPoint}/`)
      ? []
      : [
          {
            path: "directory",
            message: `${directory} is not below \`mountPoint\` (${mountPoint}), so the model would not be on the sealed volume; choose e.g. ${mountPoint}/models`,
          },
        ]),
    ...keyFaults,
    // With a key that can't be read, who has signed can't be told.
    ...(keyFaults.length === 0 ? statementProblems(inputs) : []),
    ...sealedProblems(inputs),
  ];
}

function sealedProblems({ sealed, digest }: ModelInputs): InputProblem[] {
  if (sealed === undefined) return [];
  const { value, problems } = readSealedManifest(sealed);
  if (value === undefined)
    return problems.map(({ path, message }) => ({
      path: path === "" ? "sealed" : `sealed.${path}`,
      message,
    }));
  if (value.plaintext.sha256 === hexOf({ digest })) return [];
  const message = `it is for the model sha256:${value.plaintext.sha256}, and \`digest\` is ${digest}; encrypt that one (edgeseal model encrypt)`;
  return [{ path: "sealed", message }];
}

function keyProblems(path: string, pem: string): InputProblem[] {
  try {
    readSigningKey(pem);
    return [];
  } catch (error) {
    if (!(error instanceof PublicKeyRefused)) throw error;
    return [{ path, message: error.message }];
  }
}

function statementProblems(inputs: ModelInputs): InputProblem[] {
  try {
    const { statement } = signedStatement(inputs);
    if (statement.sha256 === hexOf(inputs)) return [];
    const message = `it is for ${statement.name} with sha256:${statement.sha256}, and \`digest\` is ${inputs.digest}; give the statement of that one, or this digest`;
    return [{ path: "statement", message }];
  } catch (error) {
    if (!(error instanceof StatementRefused)) throw error;
    return error.problems.map(({ path, message }) => ({
      path: path === "" ? "statement" : `statement.${path}`,
      message,
    }));
  }
}
