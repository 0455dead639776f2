import { Type, type Static } from "typebox";
import { canonicalJson } from "./canonical-json.ts";
import { jsonDocument } from "./json-document.ts";

/*
 * What goes with a model that is encrypted to one node, `FILE.sealed.json`. Nothing in it is secret, and nothing is believed: the digest of the ciphertext is what the upload is held against, and
 * what comes out is judged by the model's statement.
 */

const content = (what: string) =>
  Type.Object(
    {
      sha256: Type.String({
        pattern: "^[0-9a-f]{64}$",
        description: `SHA-256 of ${what}, in lower-case hex.`,
      }),
      bytes: Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER, description: `Size of ${what}.` }),
    },
    { additionalProperties: false },
  );

const manifestSchema = Type.Object(
  {
    version: Type.Literal(1, { description: "Version of this format." }),
    node: Type.String({
      pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
      description: "Name of the node that opens it.",
    }),
    endorsementKeySha256: Type.String({
      pattern: "^[0-9a-f]{64}$",
      description: "The TPM that opens it: SHA-256 of the public area of its endorsement key.",
    }),
    plaintext: content("the model"),
    ciphertext: content("the sealed file"),
    credential: Type.String({
      pattern: "^utzA3gAAAAE[A-Za-z0-9+/]{100,2000}={0,2}$",
      description:
        "The key of the sealed file, for that TPM alone while it has the storage root key of today: as `tpm2_activatecredential` takes it, in base64.",
    }),
  },
  { additionalProperties: false },
);

export type SealedManifest = Static<typeof manifestSchema>;

/** The text of a `*.sealed.json` file that is what it should be, or everything that it is not. */
export const readSealedManifest = jsonDocument(
  "a `*.sealed.json` file, as `edgeseal model encrypt` writes it",
  manifestSchema,
);

export const sealedManifestText = (manifest: SealedManifest): string => `${canonicalJson(manifest)}\n`;

/** A text that was read without a problem before. */
export function sealedManifest(text: string): SealedManifest {
  const { value, problems } = readSealedManifest(text);
  if (value === undefined) throw new TypeError(problems.map(({ message }) => message).join("\n"));
  return value;
}
