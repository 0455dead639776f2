import type * as pulumi from "@pulumi/pulumi";
import type { Variant } from "../provider/resources/server-variants.ts";

/*
 * What an inference service is told, resource by resource; `inferenceService` makes them of what is said once (inference-service.ts).
 */

export type ServerVariant = Variant;

/** A model on a sealed volume (docs/resources: edgeseal:inference:Model). */
export interface ModelArgs {
  /** Its name on the node, which stays when its content changes. */
  readonly name: string;
  /** `sha256:` and the SHA-256 of the file. With the former one, and its statement, the node goes back. */
  readonly digest: string;
  /** Where the sealed volume is mounted. */
  readonly mountPoint: string;
  /** Folder of its versions on that volume. */
  readonly directory: string;
  /** What the site says of it, signed: the text of a `*.dsse.json` file. */
  readonly statement: string;
  /** Public halves, in PEM, of the keys of which one has to have signed it, by name. */
  readonly keys: Readonly<Record<string, string>>;
  /** The file on the machine that runs Pulumi. @default none, for a model that the node has. */
  readonly file?: string;
  /** For a file that is encrypted to the node, the text of its `*.sealed.json` file. @default none: the file is the model itself. */
  readonly sealed?: string;
  /** How many former models stay on the volume. @default 1, to go back to. */
  readonly keep?: number;
}

/** System calls of the container (edgeseal:security:SeccompProfile). */
export interface SeccompProfileArgs {
  /** Name of the service. @default `inference`. */
  readonly name?: string;
  /** @default `llama-server`, the strictest. */
  readonly variant?: ServerVariant;
  /** System calls allowed besides. @default none; any of them fails the gate. */
  readonly additionalSyscalls?: readonly string[];
}

/** AppArmor profiles of the container (edgeseal:security:AppArmorProfile). */
export interface AppArmorProfileArgs {
  /** Name of the service. @default `inference`. */
  readonly name?: string;
  /** @default `llama-server`. */
  readonly variant?: ServerVariant;
  /** Folder of the models: of what is outside the image, the one that can be read. */
  readonly modelDirectory: string;
  /** Where podman keeps the image. */
  readonly storage: string;
  /** The device that `hailo` may use. @default `/dev/hailo0`. */
  readonly accelerator?: string;
}

/** What the container is kept from. Every default is the strict one; anything else fails the gate. */
export interface ConfinementArgs {
  /** @default `profile`. */
  readonly seccomp?: "profile" | "unconfined";
  /** @default `profile`. */
  readonly appArmor?: "profile" | "unconfined";
  /** @default true. */
  readonly readOnlyRoot?: boolean;
  /** @default true. */
  readonly noNewPrivileges?: boolean;
  /** Whether the model is locked in memory. @default true. */
  readonly memoryLock?: boolean;
  /** @default `none`: what talks to the server does so over its UNIX socket. */
  readonly network?: "none" | "host";
  /** @default none. */
  readonly capabilities?: readonly string[];
  /** @default none; `hailo` takes its accelerator. */
  readonly devices?: readonly string[];
}

/** A login to a registry: of an account that may pull the image, and do nothing else. */
export interface RegistryAuthArgs {
  readonly username: string;
  /** Password or token; a Pulumi secret from here on. It is sent to the node when the image is pulled, and does not stay there. */
  readonly password: pulumi.Input<string>;
  /**
   * The TPM that has to answer before it is sent: SHA-256 of its endorsement key's public area, in lower-case hex. A node with another gets nothing.
   * @default that of the node's `tpm` block, in an EdgeNode or a Site, where it always is that one; without one the login is refused: it is sent to no node that proves itself by its host key alone.
   */
  readonly endorsementKeySha256?: string;
}

/** The server in its container (edgeseal:inference:InferenceContainer). */
export interface InferenceContainerArgs {
  /** The service's name; `edgeseal-NAME` is its user and its unit. @default `inference`. */
  readonly name?: string;
  /** `HOST/REPOSITORY@sha256:...`. */
  readonly image: string;
  /** Signed archive of the image on the machine that runs Pulumi. @default none: it is pulled from the registry. */
  readonly archive?: string;
  /** A login to the registry, for this repository alone. @default none. */
  readonly registryAuth?: RegistryAuthArgs;
  /** Digest of the model, `sha256:...`. */
  readonly model: string;
  /** Folder of the models, on a mounted volume. */
  readonly modelDirectory: string;
  /** Where podman keeps the image, on a mounted volume. */
  readonly storage: string;
  /** @default `llama-server`. */
  readonly variant?: ServerVariant;
  /** Tokens of context, prompt and answer together. @default 4096. */
  readonly contextTokens?: number;
  /** Threads that compute. @default 3: a Pi 5 has 4 cores, and with more threads than free cores all wait for each other. */
  readonly threads?: number;
  /** Requests that are answered at once. @default 1. */
  readonly parallel?: number;
  /** TCP port on the node's loopback. @default none: only the UNIX socket. */
  readonly port?: number;
  /** Memory that it may use, in MiB: model, context, its /tmp, and 160 more. */
  readonly memoryMaxMiB: number;
  /** Memory of the node, in MiB; a node with less is refused. @default not judged. */
  readonly nodeMemoryMiB?: number;
  /** Processor time, in percent of one core. @default 350: of a Pi 5's 4 cores half of one stays for the rest of the node. */
  readonly cpuQuotaPercent?: number;
  /** Processes and threads, and with them the connections that it takes at once: 36 and `threads` fewer, at most 60 more than `parallel`. @default 64: 25 connections, 21 of them through `port`. */
  readonly tasksMax?: number;
  /** Size of its /tmp, in MiB. @default 16. */
  readonly tmpMiB?: number;
  /** Seconds from its start to its first answer. @default 600. */
  readonly startTimeoutSeconds?: number;
  readonly confinement?: ConfinementArgs;
}
