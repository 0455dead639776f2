import type { KeyObject } from "node:crypto";
import { Type } from "typebox";
import { jsonDocument, type ReadDocument } from "../../provider/trust/json-document.ts";
import { signChecked } from "../../provider/trust/pcr-policy.ts";
import { verifies } from "../../provider/trust/public-key.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import { mediaType } from "./oci.ts";
import { formatReference, type ImageReference } from "./reference.ts";

/*
 * Signatures of images in the form that podman verifies (`sigstoreSigned` in containers-policy.json(5)) and cosign makes: "simple signing", a JSON payload that ties
 * a manifest's digest to a name, and a signature over its bytes.
 */

/** Annotation that holds a signature, in base64. */
export const signatureAnnotation = "dev.cosignproject.cosign/signature";

/** One signature of an image. */
export interface ImageSignature {
  /** The bytes that are signed. */
  readonly payload: Buffer;
  /** RSASSA-PKCS1-v1_5, or ECDSA in DER, with SHA-256. */
  readonly signature: Buffer;
}

/** What a signature says. */
export interface SignedClaim {
  /** `sha256:...`, of the manifest. */
  readonly digest: string;
  /** `HOST/REPOSITORY:TAG`. */
  readonly reference: string;
}

const payloadType = "cosign container image signature";

/**
 * Signs: the image with this digest is the one that is called so.
 * @throws KeyUnusable
 */
export async function signImage(
  key: SigningKey,
  digest: string,
  reference: ImageReference,
): Promise<ImageSignature> {
  const payload = Buffer.from(
    JSON.stringify({
      critical: {
        identity: { "docker-reference": formatReference(reference) },
        image: { "docker-manifest-digest": digest },
        type: payloadType,
      },
      optional: null,
    }),
  );
  return { payload, signature: await signChecked(key, payload) };
}

const closed = { additionalProperties: false } as const;
const payloadSchema = Type.Object(
  {
    critical: Type.Object(
      {
        identity: Type.Object({ "docker-reference": Type.String() }, closed),
        image: Type.Object(
          { "docker-manifest-digest": Type.String({ pattern: "^sha256:[0-9a-f]{64}$" }) },
          closed,
        ),
        type: Type.Literal(payloadType),
      },
      closed,
    ),
    // What is in here nobody relies on: others write times and tools.
    optional: Type.Optional(Type.Unknown()),
  },
  closed,
);
const fileSchema = Type.Object(
  {
    mimeType: Type.Literal(mediaType.signature),
    payload: Type.String(),
    annotations: Type.Object({ [signatureAnnotation]: Type.String() }),
  },
  closed,
);
const asPayload = jsonDocument("what simple signing signs", payloadSchema);
const asFile = jsonDocument("a signature", fileSchema);

/** A file that holds no signature, or one that says something else than it should. The message has every reason. */
export class SignatureRefused extends Error {
  override readonly name = "SignatureRefused";
}

/** What a payload claims. Whether somebody signed it is another question. @throws SignatureRefused */
export function claimOf(payload: Buffer): SignedClaim {
  const { critical } = required("its payload", asPayload(payload.toString()));
  return {
    digest: critical.image["docker-manifest-digest"],
    reference: critical.identity["docker-reference"],
  };
}

const filePrefix = "\0sigstore-json\n";

/** A signature as it stands in a `dir:` layout (containers/image, internal/signature: "sigstore-json"). */
export const signatureFile = ({ payload, signature }: ImageSignature): Buffer =>
  Buffer.from(
    filePrefix +
      JSON.stringify({
        mimeType: mediaType.signature,
        payload: payload.toString("base64"),
        annotations: { [signatureAnnotation]: signature.toString("base64") },
      }),
  );

/** @throws SignatureRefused */
export function parseSignatureFile(bytes: Buffer): ImageSignature {
  const text = bytes.toString();
  if (!text.startsWith(filePrefix))
    throw new SignatureRefused("it is no signature of the kind `sigstore-json`");
  const { payload, annotations } = required("", asFile(text.slice(filePrefix.length)));
  return {
    payload: Buffer.from(payload, "base64"),
    signature: Buffer.from(annotations[signatureAnnotation], "base64"),
  };
}

function required<T>(what: string, { value, problems }: ReadDocument<T>): T {
  if (value !== undefined) return value;
  const reasons = problems.map(({ path, message }) => [what, path, message].filter((each) => each !== ""));
  throw new SignatureRefused(reasons.map((parts) => parts.join(": ")).join("; "));
}

/** What a signature has to say, and by whom it may be. */
export interface Expected {
  readonly digest: string;
  /** `HOST/REPOSITORY:TAG`; anything when it is not given. */
  readonly reference?: string | undefined;
  readonly keys: ReadonlyMap<string, KeyObject>;
}

/**
 * Judges a signature as podman does: whose it is, which image and which name it is for.
 * @returns who signed, and for which name
 * @throws SignatureRefused with every reason
 */
export function verifySignature(
  { payload, signature }: ImageSignature,
  { digest, reference, keys }: Expected,
): { readonly signedBy: string; readonly reference: string } {
  const claim = claimOf(payload);
  const [signedBy] = [...keys].find(([, key]) => verifies(key, payload, signature)) ?? [];
  const reasons = [
    ...(signedBy === undefined ? [`it is by none of the given keys (${[...keys.keys()].join(", ")})`] : []),
    ...(claim.digest === digest ? [] : [`it is of another image: ${claim.digest}`]),
    ...(reference === undefined || claim.reference === reference
      ? []
      : [`it is for another name: ${claim.reference}, not ${reference}`]),
  ];
  if (signedBy === undefined || reasons.length > 0) throw new SignatureRefused(reasons.join("; "));
  return { signedBy, reference: claim.reference };
}
