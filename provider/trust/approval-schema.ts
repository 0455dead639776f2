import { Type, type Static } from "typebox";
import { eventTypes } from "./event-log.ts";

const sha256 = (description: string) => Type.String({ pattern: "^[0-9a-f]{64}$", description });

/** 256 bytes in base64. */
const rsa2048Signature = (description: string) =>
  Type.String({ pattern: "^[A-Za-z0-9+/]{342}==$", description });

/** One line, without control characters, nor such as turn the direction of what follows: it is shown in terminals and reviews. */
const reasonPattern = "^[^\\p{Cc}\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]{1,500}$";

/** Whether a text can be the reason of an approval. */
export const isReason = (text: string): boolean => new RegExp(reasonPattern, "u").test(text);

const event = Type.Object(
  {
    type: Type.Enum([...eventTypes], { type: "string", description: "What was measured." }),
    name: Type.String({
      description: "Its name, such as that of a file; empty where there is only one of the type.",
    }),
    digest: sha256("What PCR 11 was extended with: 64 lower-case hex digits."),
  },
  { additionalProperties: false },
);

const state = Type.Object(
  {
    pcr11: sha256("The approved value of PCR 11: 64 lower-case hex digits."),
    pol: sha256("Digest of TPM2_PolicyPCR for that value: 64 lower-case hex digits."),
    sig: rsa2048Signature(
      "The policy key's signature over `pol`, in base64: what systemd and the TPM check.",
    ),
    approvedAt: Type.String({
      pattern: "^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}Z$",
      description: "When it was approved: RFC 3339 in UTC, to the second.",
    }),
    reason: Type.String({
      pattern: reasonPattern,
      description: "Why, in one line of 1 to 500 characters.",
    }),
    events: Type.Array(event, {
      minItems: 1,
      description: "The events that lead to this value, in their order.",
    }),
  },
  { additionalProperties: false },
);

/** The JSON Schema of `approvals/<node>.json`. */
export const approvalSchema = Type.Object(
  {
    version: Type.Literal(1, { description: "Version of this format." }),
    node: Type.String({
      pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
      description: "The node's name in its site.",
    }),
    generation: Type.Integer({
      minimum: 1,
      description:
        "Generation of the policy key; `edgeseal keys rotate` makes the next one and revokes this.",
    }),
    policyKey: sha256(
      "Fingerprint of the policy key, systemd's `pkfp`: SHA-256 of the public key in PKCS#1 DER, 64 lower-case hex digits.",
    ),
    states: Type.Array(state, { description: "Approved states, the newest last." }),
    signature: rsa2048Signature(
      "The policy key's signature over all the rest, in base64: over `edgeseal approval v1`, a line feed, and the canonical JSON (RFC 8785) of the document without this field.",
    ),
  },
  { additionalProperties: false, title: "edgeseal approval" },
);

/** The approved boot states of one node. */
export type Approval = Static<typeof approvalSchema>;
export type ApprovedState = Approval["states"][number];
