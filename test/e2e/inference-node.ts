import { generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packArchive, readLayout, type Layout } from "../../cli/image/archive.ts";
import { buildImage } from "../../cli/image/build.ts";
import { parseReference } from "../../cli/image/reference.ts";
import { signatureFile, signImage } from "../../cli/image/signature.ts";
import { fetchModel } from "../../cli/model/fetch.ts";
import { llamaServer } from "../../images/llama-server/recipe.ts";
import { appArmorProfile } from "../../provider/resources/apparmor-profile.ts";
import { imagePolicy } from "../../provider/resources/image-policy.ts";
import { inferenceContainer } from "../../provider/resources/inference-container.ts";
import type { InferenceContainerInputs } from "../../provider/resources/inference-container-inputs.ts";
import type { InferenceContainerState } from "../../provider/resources/inference-container-state.ts";
import { model } from "../../provider/resources/model.ts";
import { seccompProfile } from "../../provider/resources/seccomp-profile.ts";
import { sha256Hex } from "../../provider/trust/digest.ts";
import { modelStatement, signStatement } from "../../provider/trust/model-statement.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import type { Profile } from "../../testbed/profile.ts";
import { VirtualPi, type StartOptions } from "../../testbed/virtual-pi.ts";
import { example } from "../unit/resources/inference-container-example.ts";
import { bringUp, observe, onPi, type Declared } from "./provider-on-pi.ts";

/*
 * A virtual Pi on which the real model can be served: its image and its model as the command line builds and fetches them, signed with keys of the test's own.
 */

export const mountPoint = "/srv/models";
export const port = 8080;
const repository = "registry.example/edge/llama-server";

/** A site's key, as the command line opens one. */
export function siteKey(): SigningKey & { readonly pem: string } {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return {
    publicKey,
    pem: publicKey.export({ type: "spki", format: "pem" }).toString(),
    privateKey: { name: "test", sign: (message) => Promise.resolve(sign("sha256", message, privateKey)) },
  };
}

/** What a site has to serve: the signed archive of an image, and a signed model. */
export interface Supply {
  readonly image: string;
  readonly archive: string;
  readonly model: { readonly digest: string; readonly file: string; readonly statement: string };
}

export class InferenceSupply {
  readonly key = siteKey();
  readonly #folder = mkdtempSync(join(tmpdir(), "edgeseal-inference-"));

  /** The real ones. Both are in the per-user cache after the first time. */
  async real(arch: Profile["arch"] = "amd64"): Promise<Supply> {
    const built = await buildImage(llamaServer, arch);
    const fetched = await fetchModel("gemma-3-270m", { acceptTerms: true, onProgress: () => undefined });
    const { sha256, bytes, origin, licence, file } = fetched;
    const payload = modelStatement({ name: "gemma-3-270m", sha256, bytes, origin, licence });
    return {
      ...(await this.signed(await readLayout(built.folder), built.digest, "1")),
      model: { digest: `sha256:${sha256}`, file, statement: await signStatement(this.key, payload) },
    };
  }

  /** An archive of an image, signed with the site's key, or with another. */
  async signed(
    layout: Layout,
    digest: string,
    tag: string,
    key: SigningKey = this.key,
    from = repository,
  ): Promise<Pick<Supply, "image" | "archive">> {
    const name = `${from}:${tag}`;
    const signature = signatureFile(await signImage(key, digest, parseReference(name)));
    const archive = join(this.#folder, `${tag}-${sha256Hex(signature).slice(0, 8)}.tar`);
    const bytes = await packArchive(new Map([...layout, ["signature-1", signature]]), new Date(0));
    writeFileSync(archive, bytes);
    return { image: `${name}@${digest}`, archive };
  }

  /** Another image with the same content: one label differs. */
  async relabelled(layout: Layout, tag: string, key: SigningKey): Promise<Pick<Supply, "image" | "archive">> {
    const manifest = JSON.parse(String(layout.get("manifest.json"))) as {
      annotations: Record<string, string>;
    };
    manifest.annotations["org.opencontainers.image.title"] = tag;
    const bytes = Buffer.from(JSON.stringify(manifest));
    return this.signed(
      new Map([...layout, ["manifest.json", bytes]]),
      `sha256:${sha256Hex(bytes)}`,
      tag,
      key,
    );
  }

  /** A file that no server can read, signed as a model all the same. */
  async notAModel(text = "GGUF, but not really"): Promise<Supply["model"]> {
    const content = Buffer.from(text);
    const sha256 = sha256Hex(content);
    const file = join(this.#folder, `${sha256}.gguf`);
    writeFileSync(file, content);
    const payload = modelStatement({
      name: "not-a-model",
      sha256,
      bytes: content.length,
      origin: "this test",
      licence: "Apache-2.0",
    });
    return { digest: `sha256:${sha256}`, file, statement: await signStatement(this.key, payload) };
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** What the service is declared with. */
export const serviceOf = (
  supply: Supply,
  change: Partial<InferenceContainerInputs> = {},
): Declared & { readonly inputs: InferenceContainerInputs } => ({
  kind: inferenceContainer,
  inputs: {
    name: "inference",
    image: supply.image,
    archive: supply.archive,
    model: supply.model.digest,
    modelDirectory: `${mountPoint}/models`,
    storage: `${mountPoint}/containers/inference`,
    variant: "llama-server",
    contextTokens: 512,
    // More threads than processors are 10 to 40 times slower.
    threads: 1,
    parallel: 1,
    port,
    cpuQuotaPercent: 350,
    memoryMaxMiB: 700,
    tasksMax: 64,
    tmpMiB: 16,
    startTimeoutSeconds: 300,
    ...change,
    confinement: { ...example.confinement, ...change.confinement },
  },
});

export const stateOf = (pi: VirtualPi, service: Declared): Promise<InferenceContainerState> =>
  observe<InferenceContainerState>(pi, service);

export const modelOf = (
  supply: { readonly model: Omit<Supply["model"], "file"> },
  key: SigningKey & { readonly pem: string },
  keep = 2,
): Declared => ({
  kind: model,
  inputs: {
    name: "inference",
    ...supply.model,
    mountPoint,
    directory: `${mountPoint}/models`,
    keys: { site: key.pem },
    keep,
  },
});

/** What the service relies on. */
export const confinementOf = (): { readonly seccomp: Declared; readonly appArmor: Declared } => ({
  seccomp: {
    kind: seccompProfile,
    inputs: { name: "inference", variant: "llama-server", additionalSyscalls: [] },
  },
  appArmor: {
    kind: appArmorProfile,
    inputs: {
      name: "inference",
      variant: "llama-server",
      modelDirectory: `${mountPoint}/models`,
      storage: `${mountPoint}/containers/inference`,
    },
  },
});

/** @param from where images come from; default: archives */
export const policyOf = (
  key: { readonly pem: string },
  from: object = { image: repository, folder: "/var/lib/edgeseal/images" },
): Declared => ({
  kind: imagePolicy,
  inputs: { keys: { site: key.pem }, allow: [{ ...from, signedBy: ["site"] }] },
});

/** A plain file system in the place of the sealed volume, mounted as that one is: forming and unsealing take minutes here, and are tested by themselves. */
export async function plainVolume(pi: VirtualPi): Promise<void> {
  await onPi(
    pi,
    `swapoff -a
mkfs.ext4 -q /dev/disk/by-id/virtio-model
mkdir -p ${mountPoint}
echo '/dev/disk/by-id/virtio-model ${mountPoint} ext4 nodev,nosuid,noexec,nofail 0 2' >>/etc/fstab
systemctl daemon-reload
mount ${mountPoint}`,
  );
}

/** A node with all that has to be there before the service. */
export async function startPrepared(
  supply: Pick<Supply, "model">,
  key: SigningKey & { readonly pem: string },
  { policy = policyOf(key), ...options }: StartOptions & { readonly policy?: Declared } = {},
): Promise<VirtualPi> {
  const pi = await VirtualPi.start(options);
  try {
    await plainVolume(pi);
    await prepare(pi, supply, key, policy);
    return pi;
  } catch (error) {
    await pi.stop();
    throw error;
  }
}

async function prepare(
  pi: VirtualPi,
  supply: Pick<Supply, "model">,
  key: SigningKey & { readonly pem: string },
  policy: Declared,
): Promise<void> {
  await bringUp(pi, policy);
  await bringUp(pi, modelOf(supply, key));
  const { seccomp, appArmor } = confinementOf();
  await bringUp(pi, seccomp);
  await bringUp(pi, appArmor);
}

/** A completion over the node's port, with what the node has: no curl. */
export async function completion(pi: VirtualPi, prompt: string, tokens: number): Promise<string> {
  const body = JSON.stringify({ prompt, n_predict: tokens, temperature: 0 });
  const request = `POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`;
  const { stdout } = await pi.exec(`nc 127.0.0.1 ${port}`, { stdin: request, timeoutMs: 280_000 });
  const json = /\{.*\}/s.exec(stdout)?.[0] ?? "";
  return (JSON.parse(json) as { readonly content: string }).content;
}
