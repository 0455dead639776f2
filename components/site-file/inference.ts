import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { inferenceBlocks } from "../../policies/node.ts";
import type { Path } from "../../provider/host/values.ts";
import { imagesDirectory } from "../../provider/resources/inference-container-files.ts";
import { loginAndArchive, parseImage } from "../../provider/resources/inference-container-inputs.ts";
import { hexOf } from "../../provider/resources/model-inputs.ts";
import { nameWithDigest } from "../../provider/trust/digest.ts";
import { readSealedManifest } from "../../provider/trust/sealed-manifest.ts";
import { inferenceBlocksOf, type InferenceArgs } from "../inference-service.ts";
import { areNumbers, memoryNeeds, memoryProblems, modelBytesIn } from "../memory-budget.ts";
import { isPlain, type Plain } from "./merge.ts";

/*
 * The `inference` block of a site file: what a node serves, said once. It stands for four blocks of the node, each with a resource of its own: the model, the two
 * profiles, and the container.
 */

/** Of a model, what names a file. */
const fileNames: readonly string[] = ["statement", "file", "sealed"];

/** A fault, by its path within the node. */
interface NodeProblem {
  readonly path: Path;
  readonly message: string;
}

export interface InferenceRead {
  /** The blocks that it stands for; empty when there is no such block, or it can't be told what they are. */
  readonly blocks: { readonly [B in (typeof inferenceBlocks)[number]]?: Plain };
  readonly problems: readonly NodeProblem[];
  /** Name of the volume that it is kept on. */
  readonly volume: string;
  /** The login to the registry, its password by reference: what is judged here are no secrets. */
  readonly registryAuth?: RegistryLogin;
}

/** A login as a site file has it. */
export interface RegistryLogin {
  readonly username: string;
  readonly password: { readonly config: string };
}

/**
 * What the `inference` block of a merged node stands for. What is of another shape than the schema has it is a fault that the schema tells of.
 * @param file the site file; what it names is taken from its folder on
 */
export function readInference(
  { inference: given, volumes, scratch, imagePolicy, tpm, name: node }: Plain,
  file: string,
): InferenceRead {
  const volume = isPlain(given) && typeof given.volume === "string" ? given.volume : "models";
  const nothing = { blocks: {}, volume };
  if (!isPlain(given)) return { ...nothing, problems: [] };
  if (given.model === undefined)
    return {
      ...nothing,
      problems: [
        {
          path: ["inference", "model"],
          message:
            "missing; say which model is served: its `digest`, the `statement` that `edgeseal model sign` wrote, and the `keys` that may sign",
        },
      ],
    };
  if (!isPlain(given.model)) return { ...nothing, problems: [] };
  const served = named(given.model);
  const problems: NodeProblem[] = [];
  const folder = dirname(file);
  const mountPoint = mountPointOf(volumes, volume);
  if (mountPoint === undefined)
    problems.push({
      path: ["inference", "volume"],
      message: `the node has no volume ${JSON.stringify(volume)} with a mount point: the model and the image are kept on a sealed volume; give the node \`volumes.${volume}\` (docs/resources/sealed-volume.md), or name another here`,
    });
  const statement = readNamed(served, "statement", "sign", folder, problems);
  const sealed = readNamed(served, "sealed", "encrypt", folder, problems);
  problems.push(...otherNodeProblems(sealed, node));
  // What is no name would make no path either.
  const name =
    typeof given.name === "string" && /^[A-Za-z0-9._+-]+$/.test(given.name) ? given.name : undefined;
  const { registryAuth, ...rest } = given;
  const args: Plain = {
    ...rest,
    name,
    ...absolute(given, "archive", folder),
    model: {
      ...served,
      ...absolute(served, "file", folder),
      statement,
      ...(served.sealed === undefined ? {} : { sealed }),
    },
  };
  problems.push(...budgetProblems(given, statement, scratch));
  problems.push(...archiveProblems(given, imagePolicy));
  if (given.archive !== undefined && registryAuth !== undefined)
    problems.push({ path: ["inference", "registryAuth"], message: loginAndArchive });
  else if (registryAuth !== undefined && !(isPlain(tpm) && tpm.endorsementKeySha256 !== undefined))
    problems.push({
      path: ["inference", "registryAuth"],
      message:
        "the node's TPM is not pinned, and the login goes to no node that proves itself by its host key alone; pin it (`tpm.endorsementKeySha256`, as `edgeseal node add` shows it), or have the image shipped as a signed `archive`",
    });
  // Its values were not judged yet: what is wrong with them the kinds tell, each of its own inputs.
  const blocks = inferenceBlocksOf(args as unknown as InferenceArgs, mountPoint ?? "/srv/models");
  return {
    blocks: Object.fromEntries(
      Object.entries(blocks).map(([name, block]) => [
        name,
        { ...defined(block as object), ...(given.name === undefined ? {} : { name: given.name }) },
      ]),
    ),
    problems,
    volume,
    // Of another shape it is a fault that the schema tells of, and nobody gets it.
    ...(registryAuth === undefined ? {} : { registryAuth: registryAuth as RegistryLogin }),
  };
}

function mountPointOf(volumes: unknown, name: string): string | undefined {
  const volume = isPlain(volumes) ? volumes[name] : undefined;
  const mountPoint = isPlain(volume) ? volume.mountPoint : undefined;
  return typeof mountPoint === "string" ? mountPoint : undefined;
}

/** The model with the names of its files as they are for its digest: so another digest is one change. */
function named(model: Plain): Plain {
  const { digest } = model;
  if (typeof digest !== "string") return model;
  return Object.fromEntries(
    Object.entries(model).map(([key, value]) => [
      key,
      fileNames.includes(key) && typeof value === "string" ? nameWithDigest(value, hexOf({ digest })) : value,
    ]),
  );
}

/** Content of a file that the block names, which a command of `edgeseal model` writes. */
function readNamed(
  model: Plain,
  name: "statement" | "sealed",
  writer: "sign" | "encrypt",
  folder: string,
  problems: NodeProblem[],
): string | undefined {
  const path = model[name];
  if (typeof path !== "string") return undefined;
  try {
    return readFileSync(resolve(folder, path), "utf8");
  } catch (error) {
    problems.push({
      path: ["inference", "model", name],
      message: `${path} can't be read: ${(error as Error).message}; \`edgeseal model ${writer}\` writes it`,
    });
    return undefined;
  }
}

/** No other node opens it: better said here than when it has been sent. */
function otherNodeProblems(sealed: string | undefined, node: unknown): readonly NodeProblem[] {
  const { value } = sealed === undefined ? {} : readSealedManifest(sealed);
  if (value === undefined || value.node === node) return [];
  return [
    {
      path: ["inference", "model", "sealed"],
      message: `it is encrypted to the TPM of ${value.node}; encrypt the model for this node, too (edgeseal model encrypt)`,
    },
  ];
}

const absolute = (block: Plain, key: string, folder: string): Plain =>
  typeof block[key] === "string" ? { [key]: resolve(folder, block[key]) } : {};

const defined = (block: object): Plain =>
  Object.fromEntries(Object.entries(block).filter(([, value]) => value !== undefined));

/** Faults of what has to fit the node's memory, as far as its numbers are numbers. */
function budgetProblems(
  given: Plain,
  statement: string | undefined,
  scratch: unknown,
): readonly NodeProblem[] {
  if (given.nodeMemoryMiB === undefined)
    return [
      {
        path: ["inference", "nodeMemoryMiB"],
        message:
          "missing; say how much memory the node has, in MiB, e.g. 8192: with swap off, what it serves has to fit (`edgeseal node add` shows it)",
      },
    ];
  const modelBytes = statement === undefined ? undefined : modelBytesIn(statement);
  const needs = memoryNeeds<unknown>(
    given,
    isPlain(given.model) ? given.model : {},
    modelBytes,
    isPlain(scratch) ? scratch : undefined,
  );
  if (!areNumbers(needs)) return [];
  return memoryProblems(needs).map(({ path, message }) => ({ path: ["inference", path], message }));
}

/**
 * An image in an archive is taken from a folder of the node, by a rule of its own in the image policy. Without one podman would refuse it, after all else was done. A policy that is
 * none, or a node without one, is for others to tell of.
 */
function archiveProblems({ archive, image }: Plain, policy: unknown): readonly NodeProblem[] {
  const repository = typeof image === "string" ? parseImage(image)?.repository : undefined;
  const allow = isPlain(policy) ? policy.allow : undefined;
  if (typeof archive !== "string" || repository === undefined || !Array.isArray(allow)) return [];
  const takes = (entry: unknown): boolean =>
    isPlain(entry) &&
    entry.image === repository &&
    typeof entry.folder === "string" &&
    `${imagesDirectory}/`.startsWith(`${entry.folder}/`);
  if (allow.some(takes)) return [];
  return [
    {
      path: ["inference", "archive"],
      message: `the image policy takes nothing that is for ${repository} from ${imagesDirectory}, where archives are unpacked; add \`- { image: ${repository}, folder: ${imagesDirectory}, signedBy: [...] }\` to \`imagePolicy.allow\``,
    },
  ];
}
