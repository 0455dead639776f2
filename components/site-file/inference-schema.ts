import { Type, type TSchema } from "typebox";
import { appArmorProfile } from "../../provider/resources/apparmor-profile.ts";
import { inferenceContainer } from "../../provider/resources/inference-container.ts";
import { model } from "../../provider/resources/model.ts";
import { seccompProfile } from "../../provider/resources/seccomp-profile.ts";
import { contextBytesPerToken } from "../memory-budget.ts";
import { registryUsername } from "../../provider/resources/inference-container-inputs.ts";
import { partsOf, plain } from "./schema-parts.ts";
import { secretReference } from "./secret-reference.ts";

/** The kinds behind the `inference` block of a site file. */
export const inferenceKinds = {
  model,
  seccompProfile,
  appArmorProfile,
  inference: inferenceContainer,
} as const;

/** Inputs of them that follow from what the block says elsewhere. */
export const inferredInputs = {
  model: ["name", "directory", "mountPoint"],
  seccompProfile: ["name", "variant"],
  appArmorProfile: ["name", "variant", "modelDirectory", "storage", "accelerator"],
  inference: ["model", "modelDirectory", "storage"],
} as const;

/** The properties of a schema, each optional. */
const propertiesOf = (schema: TSchema): Record<string, TSchema> =>
  Object.fromEntries(
    Object.entries(plain(schema).properties ?? {}).map(([name, property]) => [
      name,
      Type.Optional(Type.Unsafe(property)),
    ]),
  );

const {
  archive: _archive,
  registryAuth: _login,
  ...container
} = propertiesOf(partsOf(inferenceContainer, inferredInputs.inference));
const {
  statement: _,
  file: _file,
  sealed: _sealed,
  ...served
} = propertiesOf(partsOf(model, inferredInputs.model));
const { additionalSyscalls } = seccompProfile.inputs.properties;

const byDigest = "`{sha256}` in it stands for the hex digits of `digest`.";

/** What a node serves: a model, from an image, in a container. */
export const inferenceSchema = Type.Object(
  {
    ...container,
    archive: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          "For a node without a registry: file with the signed archive of the image, as `edgeseal image sign` makes it, from the folder of this site file on. Default: pulled from the registry.",
      }),
    ),
    registryAuth: Type.Optional(
      Type.Object(
        {
          username: registryUsername,
          password: secretReference("Its password or token."),
        },
        {
          additionalProperties: false,
          description:
            "A login to the registry of `image`, for that repository alone: an account that may pull it and do nothing else. Where the node's TPM is pinned (`tpm.endorsementKeySha256`), it is sent to that one only. Default: pulled without one.",
        },
      ),
    ),
    model: Type.Optional(
      Type.Object(
        {
          ...served,
          statement: Type.Optional(
            Type.String({
              minLength: 1,
              description: `File with what the site says of the model, signed (\`*.dsse.json\`, as \`edgeseal model sign\` writes it), from the folder of this site file on. ${byDigest}`,
            }),
          ),
          file: Type.Optional(
            Type.String({
              minLength: 1,
              description: `The model's file, from the folder of this site file on. ${byDigest} Only read when the node does not have the model. Default none.`,
            }),
          ),
          sealed: Type.Optional(
            Type.String({
              minLength: 1,
              description: `For a \`file\` that is encrypted to this node: file with what goes with it (\`*.sealed.json\`, as \`edgeseal model encrypt\` writes it), from the folder of this site file on. ${byDigest} Default none: \`file\` is the model itself.`,
            }),
          ),
          contextBytesPerToken: Type.Optional(
            Type.Integer({
              minimum: 1,
              description: `What the keys and values of one token of context take in memory, in bytes: 2 x layers x heads for keys and values x their length x 2. Default ${contextBytesPerToken}, that of Llama 3 8B.`,
            }),
          ),
        },
        { additionalProperties: false, description: "The model that is served." },
      ),
    ),
    volume: Type.Optional(
      Type.String({
        minLength: 1,
        description: "Name of the sealed volume that the model and the image are kept on. Default `models`.",
      }),
    ),
    nodeMemoryMiB: Type.Optional(
      Type.Integer({
        minimum: 256,
        maximum: 1_048_576,
        description:
          "Memory of the node, in MiB: 2048, 4096, 8192 or 16384 on a Pi 5. With swap off, model and context have to fit in it, which is judged before anything is deployed; and the node has to have it. Required.",
      }),
    ),
    additionalSyscalls: Type.Optional(additionalSyscalls),
  },
  {
    additionalProperties: false,
    description:
      "What the node serves: a model, from an image, in a confined container. Stands for the resources inference:Model, security:SeccompProfile, security:AppArmorProfile and inference:InferenceContainer.",
  },
);
