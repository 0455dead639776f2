import { Type, type Static } from "typebox";
import { defineResource, PlanRefused } from "../resource.ts";
import { PublicKeyRefused, readPublicKey } from "../trust/public-key.ts";
import { tpmOwnershipProbe, tpmOwnershipState } from "./tpm-ownership-observation.ts";
import { takeOwnership } from "./tpm-ownership-plan.ts";

const inputs = Type.Object({
  node: Type.String({
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    description:
      "The node's name: the recovery ciphertexts are bound to it, so that none is taken for another node's.",
  }),
  recoveryPublicKey: Type.String({
    description:
      "The public half of the site's recovery key (`recovery.pub.pem` of `edgeseal keys new`): RSA-4096, PEM. The authorizations leave the node encrypted to it, and in no other way.",
  }),
  endorsementKeySha256: Type.Optional(
    Type.String({
      pattern: "^[0-9a-f]{64}$",
      description:
        "The TPM that this node has: SHA-256 of the public area of its endorsement key, in lower-case hex, as compared on the node's console (`edgeseal node add`). Another TPM is refused. Default: any TPM, which is no proof that it is yours.",
    }),
  ),
  maxTries: Type.Integer({
    minimum: 1,
    maximum: 1000,
    default: 32,
    description:
      "Wrong authorizations after which the TPM locks the objects that it protects against guessing. A loss of power may count as one. Default 32, as the TCG's PC profile has it: few enough for any guessing, more than a node with a bad plug uses up.",
  }),
  recoveryTime: Type.Integer({
    minimum: 1,
    maximum: 31_536_000,
    default: 600,
    description: "Seconds, with power, after which one wrong authorization is forgotten. Default 600.",
  }),
  lockoutRecovery: Type.Integer({
    minimum: 0,
    maximum: 31_536_000,
    default: 86_400,
    description:
      "Seconds for which one wrong lockout authorization locks the lockout authorization itself; 0: until the next boot. Default 86400: one guess a day.",
  }),
});

/**
 * Ownership of a node's TPM 2.0: its endorsement key pinned, its storage root key where systemd finds it, owner and lockout authorization set to values that nobody knows who does not
 * hold the site's recovery key, and limits to guessing.
 */
export const tpmOwnership = defineResource({
  token: "edgeseal:tpm:Ownership",
  keeps: ["recovery"],
  description:
    "Ownership of a node's TPM 2.0: endorsement key persistent and pinned, storage root key persistent, owner and lockout authorizations born on the node and kept as ciphertexts for the site's recovery key, and parameters against guessing.",
  inputs,
  state: tpmOwnershipState,
  check: ({ recoveryPublicKey }) => {
    try {
      readPublicKey(recoveryPublicKey, "recovery");
      return [];
    } catch (error) {
      if (!(error instanceof PublicKeyRefused)) throw error;
      return [{ path: "recoveryPublicKey", message: error.message }];
    }
  },
  observe: () => tpmOwnershipProbe,
  desired,
  plan: (wanted, observed) => {
    if (observed.outcome === "absent") throw new Error("the state of the TPM was not observed");
    return takeOwnership(wanted, observed.state);
  },
  // To give it back silently in part, or not at all, would be worse than to say that it can't be done from here.
  revert: () => {
    throw new PlanRefused(
      "the authorizations of the TPM can only be taken back with the site's recovery key, which this program does not have",
      "leave onDelete at keep; or clear the TPM on the node (tpm2_clear), which makes everything that is sealed to it unreadable",
    );
  },
});

function desired(wanted: Static<typeof inputs>) {
  const { maxTries, recoveryTime, lockoutRecovery, endorsementKeySha256 } = wanted;
  return {
    tpm: "2.0" as const,
    tools: "installed" as const,
    endorsementKey: "persistent" as const,
    ...(endorsementKeySha256 === undefined ? {} : { endorsementKeySha256 }),
    storageKey: "persistent" as const,
    ownerAuth: "ours" as const,
    lockoutAuth: "ours" as const,
    maxTries,
    recoveryTime,
    lockoutRecovery,
  };
}
