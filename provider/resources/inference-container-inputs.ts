import { posix } from "node:path";
import { Type, type Static } from "typebox";
import type { InputProblem } from "../resource.ts";
import { serviceName } from "./container-process.ts";
import { leastTasks } from "./inference-container-connections.ts";
import { acceleratorPath, variants } from "./server-variants.ts";

const confinement = Type.Object(
  {
    seccomp: Type.Enum(["profile", "unconfined"], {
      type: "string",
      default: "profile",
      description:
        "`profile`: the system calls in /etc/edgeseal/seccomp/NAME.json (security:SeccompProfile) and no others. Default `profile`.",
    }),
    appArmor: Type.Enum(["profile", "unconfined"], {
      type: "string",
      default: "profile",
      description:
        "`profile`: `edgeseal-NAME` (security:AppArmorProfile), stacked on whatever the container runs. Default `profile`.",
    }),
    readOnlyRoot: Type.Boolean({
      default: true,
      description: "Whether the image's file system is mounted read-only. Default `true`.",
    }),
    noNewPrivileges: Type.Boolean({
      default: true,
      description:
        "Whether no process of the unit can gain privileges by what it runs (PR_SET_NO_NEW_PRIVS). Default `true`.",
    }),
    memoryLock: Type.Boolean({
      default: true,
      description:
        "Whether the server locks the model in memory (mlock). What it computes with, prompts among it, is not locked: swap has to be off (memory:Swap). Default `true`.",
    }),
    network: Type.Enum(["none", "host"], {
      type: "string",
      default: "none",
      description:
        "`none`: no interface but a loopback of its own; what talks to the server does so over its UNIX socket. `host`: all of the node's. Default `none`.",
    }),
    capabilities: Type.Array(Type.String({ pattern: "^CAP_[A-Z_]+$" }), {
      default: [],
      description:
        "Capabilities that the container has in its user namespace, e.g. `CAP_SYS_NICE`. Default none.",
    }),
    devices: Type.Array(Type.String({ pattern: "^/dev(/[A-Za-z0-9._-]+)+$" }), {
      default: [],
      description:
        "Device nodes that the container gets, e.g. `/dev/hailo0`; the variant `hailo` takes one, the others none. Default none.",
    }),
  },
  {
    additionalProperties: false,
    default: {},
    title: "Confinement",
    description:
      "What the container is kept from. Every default is the strict one; anything else is for tests, and fails the gate.",
  },
);

/** Who pulls: the part of a login that is no secret. */
export const registryUsername = Type.String({
  // A colon ends it (RFC 7617).
  pattern: "^[^:\\u0000-\\u001f\\u007f]{1,256}$",
  description: "Name of the account, without a colon.",
});

const registryAuth = Type.Object(
  {
    username: registryUsername,
    password: Type.String({
      secret: true,
      minLength: 1,
      description:
        "Its password or token, a Pulumi secret. It goes to the node on standard input when the image is pulled, and is in a file in memory there until podman has ended.",
    }),
    endorsementKeySha256: Type.String({
      pattern: "^[0-9a-f]{64}$",
      description:
        "The TPM that the node has to have before the login is sent: SHA-256 of its endorsement key's public area, in lower-case hex (`endorsementKeySha256` of tpm:Ownership). It answers a challenge on the same connection first, or nothing of the update is done. Required: a host key, which lies on the node's disk, is not enough to get it.",
    }),
  },
  {
    additionalProperties: false,
    title: "RegistryAuth",
    description:
      "A login to the registry of `image`, for that repository alone: an account that may pull it and do nothing else. Default: pulled without one.",
  },
);

/** Inputs of `edgeseal:inference:InferenceContainer`. */
export const inferenceContainerInputs = Type.Object({
  name: Type.String({
    pattern: serviceName,
    default: "inference",
    description:
      "The service's name, unique on its node: a lower-case letter, then letters, digits and hyphens, 22 at most. `edgeseal-NAME` is its user and its unit. Default `inference`.",
  }),
  image: Type.String({
    description:
      "The image, by digest: `HOST/REPOSITORY@sha256:...`, e.g. `registry.example/edge/llama@sha256:...`; a tag before the digest says nothing more and is left out.",
  }),
  archive: Type.Optional(
    Type.String({
      description:
        "For a node without a registry: the signed archive of that image, a file on the machine that runs Pulumi, as `edgeseal image sign` makes it. It is copied to the node when the image is not there. Default: pulled from the registry.",
    }),
  ),
  registryAuth: Type.Optional(registryAuth),
  model: Type.String({
    pattern: "^sha256:[0-9a-f]{64}$",
    description:
      "Digest of the model (inference:Model), `sha256:...`. Another one is an exchange: the former model serves again when this one does not.",
  }),
  modelDirectory: Type.String({
    description:
      "Where the node's models are, a directory on a mounted volume (storage:SealedVolume), e.g. `/srv/models/models`: the model is `HEX/model.gguf` in it.",
  }),
  storage: Type.String({
    description:
      "Where podman keeps the image, a directory on a mounted volume that is this service's alone, e.g. `/srv/models/containers/inference`.",
  }),
  variant: Type.Enum([...variants], {
    type: "string",
    default: "llama-server",
    description:
      "What the image serves with: llama.cpp's `llama-server`, `ollama`, or `hailo` (hailo-ollama on the accelerator of an AI HAT). Default `llama-server`.",
  }),
  contextTokens: Type.Integer({
    minimum: 128,
    maximum: 1_048_576,
    default: 4096,
    description:
      "Tokens of context, prompt and answer together, shared by all that are answered at once. Each takes memory. Default 4096.",
  }),
  threads: Type.Integer({
    minimum: 1,
    maximum: 64,
    default: 3,
    description:
      "Threads that compute. With more of them than free cores all wait for each other, 10 to 40 times slower. Default 3: a Pi 5 has 4 cores, and the node has other work.",
  }),
  parallel: Type.Integer({
    minimum: 1,
    maximum: 64,
    default: 1,
    description: "Requests that are answered at once; the others wait. Default 1.",
  }),
  port: Type.Optional(
    Type.Integer({
      minimum: 1024,
      maximum: 65_535,
      description:
        "TCP port on the node's loopback that leads to the server, for all users of the node. Default none: only the UNIX socket, for those that its group lets in.",
    }),
  ),
  memoryMaxMiB: Type.Integer({
    minimum: 128,
    maximum: 1_048_576,
    description:
      "Memory that the service may use, in MiB: the model, its context, its /tmp, and 160 MiB more. What needs more is killed (OOM), it alone.",
  }),
  nodeMemoryMiB: Type.Optional(
    Type.Integer({
      minimum: 256,
      maximum: 1_048_576,
      description:
        "Memory of the node, in MiB: 2048, 4096, 8192 or 16384 on a Pi 5. A node that has less, beyond what firmware and kernel keep of it (a 64th and 128 MiB), is refused. Default: not judged.",
    }),
  ),
  cpuQuotaPercent: Type.Integer({
    minimum: 100,
    maximum: 6450,
    default: 350,
    description:
      "Processor time that it may use, in percent of one core; at least 100 for each of `threads`, which would stand still together for part of the time otherwise. Default 350: of a Pi 5's 4 cores half of one stays for ssh and the rest of the node, whatever the container does.",
  }),
  tasksMax: Type.Integer({
    minimum: 16,
    maximum: 4096,
    default: 64,
    description:
      "Processes and threads of the service: 24 are kept for podman, 12 for the server itself, and one for each of `threads`. What is left are the connections that it takes at once, up to 60 more than `parallel`: 25 by default with 3 threads, 21 of them through `port`. Others wait for one, or are closed at the port. Default 64.",
  }),
  tmpMiB: Type.Integer({
    minimum: 1,
    maximum: 65_536,
    default: 16,
    description:
      "Size of its /tmp, the only place that it can write to, in MiB of memory that counts as its own. Default 16.",
  }),
  startTimeoutSeconds: Type.Integer({
    minimum: 10,
    maximum: 3600,
    default: 600,
    description:
      "How long it may take from its start until it answers, in seconds: reading and checking the model is most of it. Default 600.",
  }),
  confinement,
});

export type InferenceContainerInputs = Static<typeof inferenceContainerInputs>;

/** Names of edgeseal's other units (`edgeseal-NAME.service`). */
const takenNames = ["cap-pcr15", "firewall", "revert", "trial", "trial-end", "update", "volumes"];
/** Endings of what a service has beside its own unit and profile: units that stay or come and go, of an update's and of `edgeseal bench`, and podman's profile. */
const takenEndings = [
  ...["-health", "-port", "-podman"],
  ...["-prune", "-pull", "-remove", "-tag"],
  ...["-back", "-bench", "-compare"],
];

/** Every fault of the inputs that the schema can't express. */
export function inferenceContainerProblems(inputs: InferenceContainerInputs): readonly InputProblem[] {
  const { name, image, archive, registryAuth, modelDirectory, storage } = inputs;
  const { threads, tasksMax, memoryMaxMiB, tmpMiB, cpuQuotaPercent } = inputs;
  return [
    ...problemsAt("name", nameFault(name)),
    ...problemsAt("image", imageFault(image)),
    ...problemsAt(
      "archive",
      archive === undefined || posix.isAbsolute(archive)
        ? undefined
        : `expected an absolute path, got '${archive}'`,
    ),
    ...problemsAt(
      "registryAuth",
      archive === undefined || registryAuth === undefined ? undefined : loginAndArchive,
    ),
    ...problemsAt("modelDirectory", directoryFault(modelDirectory)),
    ...problemsAt("storage", directoryFault(storage) ?? nestingFault(storage, modelDirectory)),
    ...problemsAt(
      "tasksMax",
      tasksMax >= leastTasks(inputs)
        ? undefined
        : `${threads} threads, those that take requests and what podman needs are at least ${leastTasks(inputs)}, got ${tasksMax}`,
    ),
    ...problemsAt(
      "cpuQuotaPercent",
      cpuQuotaPercent >= threads * 100
        ? undefined
        : `${threads} threads compute in ${threads * 100} % of a core, got ${cpuQuotaPercent}: raise it, or lower \`threads\``,
    ),
    ...problemsAt(
      "tmpMiB",
      tmpMiB <= memoryMaxMiB / 2
        ? undefined
        : `/tmp is memory of the service: ${tmpMiB} MiB of the ${memoryMaxMiB} that it may use leave too little; half of it at most`,
    ),
    ...confinementProblems(inputs),
  ];
}

/** What is wrong with a login beside an archive. */
export const loginAndArchive =
  "with an `archive` nothing is pulled, and nothing logs in; leave one of the two out";

const problemsAt = (path: string, message: string | undefined): readonly InputProblem[] =>
  message === undefined ? [] : [{ path, message }];

function nameFault(name: string): string | undefined {
  if (takenNames.includes(name))
    return `edgeseal-${name} is a unit of edgeseal's own already; name the service otherwise, e.g. inference`;
  const ending = takenEndings.find((each) => name.endsWith(each));
  return ending === undefined
    ? undefined
    : `names that end with ${ending} are those of what each service has beside its own unit and profile; name it otherwise`;
}

const reference =
  /^(?<host>localhost(?::\d{1,5})?|[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d{1,5})?|[a-z0-9-]+:\d{1,5})(?<path>(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+)(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?@sha256:(?<hex>[0-9a-f]{64})$/;

/** An image by its repository and digest, without the tag, which says nothing beside a digest; `undefined` when it is none. */
export function parseImage(
  image: string,
): { readonly repository: string; readonly digest: string; readonly reference: string } | undefined {
  const groups = reference.exec(image)?.groups;
  if (groups === undefined) return undefined;
  const repository = `${groups["host"] ?? ""}${groups["path"] ?? ""}`;
  const digest = `sha256:${groups["hex"] ?? ""}`;
  return { repository, digest, reference: `${repository}@${digest}` };
}

/** What finds an image in a service's storage: its repository and digest. */
export const referenceOf = (image: string): string => parseImage(image)?.reference ?? image;

function imageFault(image: string): string | undefined {
  if (parseImage(image) !== undefined) return undefined;
  const wanted = "expected HOST/REPOSITORY@sha256:DIGEST, e.g. registry.example/edge/llama@sha256:...";
  if (!image.includes("@"))
    return `${wanted}, got '${image}' without a digest: a tag is whatever image it leads to that day; \`edgeseal image verify\` shows the digest of an archive, \`skopeo inspect --format '{{.Digest}}'\` that of an image in a registry`;
  if (image.includes("://")) return `${wanted}, got '${image}' with a transport before it; leave that out`;
  if (!/@sha256:[0-9a-f]{64}$/.test(image))
    return `${wanted}, with 64 hexadecimal digits in lower case, got '${image}'`;
  return `${wanted}, got '${image}', whose host or repository can't be one`;
}

/** What the system itself lives in, what is gone with a boot, and homes, which the service does not see. */
const notForData = [
  "bin",
  "boot",
  "dev",
  "etc",
  "home",
  "lib",
  "proc",
  "root",
  "run",
  "sbin",
  "sys",
  "tmp",
  "usr",
];

function directoryFault(path: string): string | undefined {
  if (!/^(\/[A-Za-z0-9._+-]+)+$/.test(path) || posix.normalize(path) !== path)
    return `expected an absolute path without '.', '..' and a slash at its end, of letters, digits and . _ + -, got '${path}'`;
  const first = path.split("/")[1] ?? "";
  if (notForData.includes(first) || path === "/var/tmp" || path.startsWith("/var/tmp/"))
    return `/${first === "var" ? "var/tmp" : first} is no place for it, got '${path}'; name a directory on a sealed volume, e.g. below /srv/models`;
  return undefined;
}

function nestingFault(storage: string, modelDirectory: string): string | undefined {
  const within = (inner: string, outer: string): boolean => `${inner}/`.startsWith(`${outer}/`);
  if (!within(storage, modelDirectory) && !within(modelDirectory, storage)) return undefined;
  return `${storage} and the models' ${modelDirectory} lie in one another, and the service may write to the one and not to the other; set them side by side`;
}

const hailoDevice = new RegExp(acceleratorPath);
const isAccelerator = (devices: readonly string[]): boolean =>
  devices.length === 1 && hailoDevice.test(devices[0] ?? "");

function confinementProblems({
  variant,
  confinement: { devices },
}: InferenceContainerInputs): readonly InputProblem[] {
  if (variant === "hailo")
    return isAccelerator(devices)
      ? []
      : problemsAt(
          "confinement.devices",
          `hailo serves from one accelerator, expected ["/dev/hailo0"] or ["/dev/h1x-0"], got ${JSON.stringify(devices)}`,
        );
  return [];
}
