import { Type, type Static, type TObject } from "typebox";
import { onDeleteSchema } from "../../provider/check/input-schema.ts";
import { connectionSchema } from "../../provider/connection.ts";
import { coreDumps } from "../../provider/resources/core-dumps.ts";
import { firewall } from "../../provider/resources/firewall.ts";
import { firmwareConfig } from "../../provider/resources/firmware-config.ts";
import { imagePolicy } from "../../provider/resources/image-policy.ts";
import { measuredBoot } from "../../provider/resources/measured-boot.ts";
import { scratch } from "../../provider/resources/scratch.ts";
import { sealedVolume } from "../../provider/resources/sealed-volume.ts";
import { swap } from "../../provider/resources/swap.ts";
import { tpmOwnership } from "../../provider/resources/tpm-ownership.ts";
import { verifiedBoot } from "../../provider/resources/verified-boot.ts";
import { assurances, type BlockName } from "../../policies/node.ts";
import { hooksSchema } from "./hooks-schema.ts";
import { inferenceKinds, inferenceSchema, inferredInputs } from "./inference-schema.ts";
import { partsOf } from "./schema-parts.ts";
import { secretReference } from "./secret-reference.ts";

/** The resource kind behind each block of a node. */
export const blockKinds = {
  swap,
  coreDumps,
  firewall,
  boot: verifiedBoot,
  firmware: firmwareConfig,
  measuredBoot,
  tpm: tpmOwnership,
  volumes: sealedVolume,
  imagePolicy,
  scratch,
  ...inferenceKinds,
} as const satisfies Record<BlockName, { readonly inputs: TObject }>;

/** Blocks that are there only when somebody asks for them; with the inputs that a site file says elsewhere, once: the node's name, the site's keys, the approvals. */
export const inputsFromElsewhere = {
  firmware: ["node", "policyKey", "generation", "approval"],
  measuredBoot: ["node", "policyKey", "generation", "approval"],
  tpm: ["node", "recoveryPublicKey"],
  volumes: ["name", "node", "policyKey", "generation", "approval", "recoveryKey"],
  imagePolicy: [],
  scratch: ["node", "policyKey", "generation", "approval"],
  ...inferredInputs,
} as const;

const {
  node: nodeName,
  address,
  port,
  user,
  hostKey,
  identityCommand,
  identityFile,
  agent,
} = connectionSchema.properties;

const privateKey = secretReference(
  "The private key for ssh. Default: `identityCommand`, else `identityFile`, else the agent.",
);

/** Parts of a connection that nodes may share. */
const shared = {
  port: Type.Optional(port),
  user: Type.Optional(user),
  privateKey: Type.Optional(privateKey),
  identityCommand: Type.Optional(identityCommand),
  identityFile: Type.Optional(identityFile),
  agent: Type.Optional(agent),
  onDelete: Type.Optional(onDeleteSchema),
  hooks: Type.Optional(hooksSchema),
};

/** Every block, all parts optional: what one place leaves out, the other (`defaults` or the node) or the kind's default gives. */
const blocks = {
  swap: Type.Optional(partsOf(swap)),
  coreDumps: Type.Optional(partsOf(coreDumps)),
  firewall: Type.Optional(partsOf(firewall)),
  boot: Type.Optional(partsOf(verifiedBoot)),
  firmware: Type.Optional(partsOf(firmwareConfig, inputsFromElsewhere.firmware)),
  measuredBoot: Type.Optional(partsOf(measuredBoot, inputsFromElsewhere.measuredBoot)),
  tpm: Type.Optional(partsOf(tpmOwnership, inputsFromElsewhere.tpm)),
  volumes: Type.Optional(
    Type.Record(
      Type.String({ pattern: "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$" }),
      partsOf(sealedVolume, inputsFromElsewhere.volumes),
      { description: "Sealed volumes by name; `models` and `logs` are asked for by the checklist." },
    ),
  ),
  imagePolicy: Type.Optional(partsOf(imagePolicy)),
  scratch: Type.Optional(partsOf(scratch, inputsFromElsewhere.scratch)),
  inference: Type.Optional(inferenceSchema),
};

/** Of a block in `defaults` all but what is one node's alone: a TPM that were pinned there would be that of every node. */
const sharedBlocks = {
  ...blocks,
  tpm: Type.Optional(partsOf(tpmOwnership, [...inputsFromElsewhere.tpm, "endorsementKeySha256"])),
};

const trust = Type.Object(
  {
    generation: Type.Optional(
      Type.Integer({
        minimum: 1,
        description:
          "Generation of the policy key. A later one revokes all approvals of those before. Default 1.",
      }),
    ),
    policyKey: Type.String({
      minLength: 1,
      description:
        "File with the public half of the policy key, as `edgeseal keys new` wrote it, from the folder of this site file on.",
    }),
    recoveryKey: Type.String({
      minLength: 1,
      description: "File with the public half of the recovery key, likewise.",
    }),
    approvals: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          "Folder of the approvals, a file `<node>.json` each, from the folder of this site file on. Default `../approvals`.",
      }),
    ),
  },
  {
    additionalProperties: false,
    description:
      "The public halves of the site's keys. Needed for sealed volumes and to own the TPM (docs/trust.md).",
  },
);

const waiver = Type.Object(
  {
    control: Type.String({ description: "Control id, e.g. `3.swap-off` (docs/checklist.md)." }),
    node: Type.String({ description: "Node name, or `*` for every node of the site." }),
    reason: Type.String({ minLength: 1, description: "Why the exception is acceptable." }),
    owner: Type.String({ minLength: 1, description: "Who answers for it." }),
    expires: Type.String({
      description:
        "Last day on which it holds, `YYYY-MM-DD`, until the end of that day in UTC. Anything that is not a date counts as expired.",
    }),
  },
  {
    additionalProperties: false,
    description: "A justified, owned, expiring exception: lets one control fail on one node.",
  },
);

const statement = Type.Object(
  {
    control: Type.String({ description: "Id of a control that no resource serves yet." }),
    node: Type.String({ description: "Node name, or `*` for every node of the site." }),
    statement: Type.String({
      minLength: 1,
      description: "What is claimed to hold, and where that is written down.",
    }),
  },
  {
    additionalProperties: false,
    description:
      'A claim about a control that no resource serves yet. It turns "not covered" into "declared, not enforced", which still needs a waiver.',
  },
);

/** A site file, before `defaults` are merged into the nodes. */
export const siteSchema = Type.Object(
  {
    site: Type.String({
      pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
      description: "Name of the site: lower-case letters, digits and hyphens, 63 at most.",
    }),
    assurance: Type.Optional(
      Type.Enum([...assurances], {
        type: "string",
        description:
          "What the gate asks of the boot of every node: `baseline` is level `measured`, `strict` is level `verified`. Default `baseline`.",
      }),
    ),
    trust: Type.Optional(trust),
    defaults: Type.Optional(
      Type.Object(
        { ...shared, ...sharedBlocks },
        {
          additionalProperties: false,
          description:
            "What nodes share. Each node is a JSON merge patch (RFC 7386) on top: objects merge, lists and scalars replace, null removes.",
        },
      ),
    ),
    nodes: Type.Array(
      Type.Object(
        {
          name: nodeName,
          address,
          hostKey,
          ...shared,
          ...blocks,
        },
        { additionalProperties: false, description: "One Raspberry Pi." },
      ),
      { minItems: 1, description: "The nodes of the site." },
    ),
    waivers: Type.Optional(Type.Array(waiver, { description: "Justified, owned, expiring exceptions." })),
    statements: Type.Optional(
      Type.Array(statement, { description: "Claims about controls that no resource serves yet." }),
    ),
  },
  { additionalProperties: false, description: "A site: the nodes that one Pulumi stack manages." },
);

export type SiteFile = Static<typeof siteSchema>;
export type SiteFileNode = SiteFile["nodes"][number];
