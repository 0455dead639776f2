import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Control } from "../../../policies/control.ts";
import type { VirtualPi } from "../../../testbed/virtual-pi.ts";
import { readSite } from "../../pulumi.ts";
import { dataDisk, keyedSite, type DemoSite } from "../site.ts";
import type { DemoContext } from "../step.ts";

/** What this chapter adds to what the demo's node has to pass. */
export const inferenceControls: readonly Control["id"][] = [
  "3.memory-locked",
  "3.scratch-in-memory",
  "4.rootless-container",
  "4.limits",
  "4.seccomp",
  "4.apparmor",
  "6.signed-images",
  "6.pinned-image",
  "6.signed-model",
];

/** Nothing is fetched from there: the image comes as a signed archive. */
export const repository = "registry.example/edge/llama-server";

/** Port on the node's loopback. */
export const port = 8080;

/** What the operator made and signed. Paths of what the site file names count from its folder on. */
export interface Signed {
  /** Public half of the key that signs images and models, in PEM. */
  readonly publicKey: string;
  readonly imageDigest: string;
  readonly archive: string;
  readonly modelDigest: string;
  readonly model: string;
  readonly statement: string;
}

/** The `inference` block of the demo's node. */
export const inferenceBlock = (signed: Signed): Readonly<Record<string, unknown>> => ({
  image: `${repository}@${signed.imageDigest}`,
  archive: signed.archive,
  model: {
    digest: signed.modelDigest,
    file: signed.model,
    statement: signed.statement,
    keys: { images: signed.publicKey },
    // Gemma 3 270M: 18 layers with one head of 256 for keys and values.
    contextBytesPerToken: 18_432,
  },
  port,
  contextTokens: 512,
  // More than the one free processor would make them wait for each other.
  threads: 1,
  memoryMaxMiB: 768,
  nodeMemoryMiB: 1536,
});

/** The demo's site with what is served: a sealed volume for it, signed images only, scratch space in memory, and none of the waivers for those. */
export function inferenceSite(
  template: Record<string, unknown>,
  pi: Pick<VirtualPi, "ssh">,
  signed: Signed,
  inference = inferenceBlock(signed),
): DemoSite {
  return keyedSite(template, pi, inferenceControls, {
    scratch: { tmpMiB: 64, varTmpMiB: 256, reboot: "ifNeeded" },
    volumes: { models: { device: dataDisk, mountPoint: "/srv/models" } },
    imagePolicy: {
      keys: { images: signed.publicKey },
      allow: [{ image: repository, folder: "/var/lib/edgeseal/images", signedBy: ["images"] }],
    },
    inference,
  });
}

/** Writes the site file, and keeps what was signed for the steps that follow. */
export async function declareSite(
  context: DemoContext,
  { stack = "demo", inference }: { readonly stack?: string; readonly inference?: object } = {},
): Promise<void> {
  const signed = await readSigned(context);
  const template = await readSite(join(context.checkout, "stacks/demo.yaml"));
  const block = { ...inferenceBlock(signed), ...inference };
  await context.pulumi.site(stack, inferenceSite(template, context.pi, signed, block));
}

/** Where what was signed is written down, for the steps after the first. */
export const signedFile = ({ pulumi }: DemoContext): string => join(pulumi.folder, "signed.json");

export const readSigned = async (context: DemoContext): Promise<Signed> =>
  JSON.parse(await readFile(signedFile(context), "utf8")) as Signed;
