import { Type } from "typebox";
import type { InputProblem } from "../resource.ts";
import { ApprovalRefused, parseApproval, verifyApproval } from "../trust/approval.ts";
import { PublicKeyRefused, readPublicKey, type KeyPurpose } from "../trust/public-key.ts";

/*
 * The approval of a node's boot states as an input, with what it is verified by: of every kind that ships it. One that does not verify is refused before anything is planned.
 */

/** Parts of a kind's inputs. */
export const approvalInputs = {
  node: Type.String({
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    description: "The node's name in its site: approvals are bound to it.",
  }),
  policyKey: Type.String({
    description: "Public half of the site's policy key, in PEM (RSA-2048): whose signature opens volumes.",
  }),
  generation: Type.Integer({
    minimum: 1,
    description: "Generation of that key. A later one revokes all approvals of those before.",
  }),
} as const;

/** An approval, and what it has to be. */
export interface ApprovalInputs {
  readonly node: string;
  readonly policyKey: string;
  readonly generation: number;
  readonly approval?: string;
}

/** Everything that keeps an approval from being shipped: another key, another node, a revoked generation, a change after it was signed. Nothing where the key itself is none: `keyProblems` tells that. */
export function approvalProblems({
  node,
  policyKey,
  generation,
  approval,
}: ApprovalInputs): readonly InputProblem[] {
  if (approval === undefined || keyProblems("policyKey", policyKey, "policy").length > 0) return [];
  const within = ({ path, message }: InputProblem): InputProblem => ({
    path: path === "" ? "approval" : `approval.${path}`,
    message,
  });
  try {
    const document = parseApproval(approval);
    return verifyApproval(document, { node, generation, publicKeyPem: policyKey }).map(within);
  } catch (error) {
    if (error instanceof ApprovalRefused) return error.problems.map(within);
    throw error;
  }
}

export function keyProblems(path: string, pem: string, purpose: KeyPurpose): readonly InputProblem[] {
  try {
    readPublicKey(pem, purpose);
    return [];
  } catch (error) {
    if (error instanceof PublicKeyRefused) return [{ path, message: error.message }];
    throw error;
  }
}
