import type { KeyObject } from "node:crypto";
import { isProperties } from "../../provider/host/values.ts";
import { UserError } from "../errors.ts";
import { readLayout, type Layout } from "./archive.ts";
import { checkImage, type CheckedImage } from "./check.ts";
import { descriptorOf, hexOf, mediaType, type Descriptor } from "./oci.ts";
import { formatReference, parseReference, type ImageReference } from "./reference.ts";
import { RegistryRepository, type RegistryOptions } from "./registry-client.ts";
import { claimOf, signatureAnnotation, type ImageSignature } from "./signature.ts";
import { signaturesOf, verifyImage } from "./verify.ts";

const sbomType = "application/vnd.cyclonedx+json";

export interface PushOptions extends RegistryOptions {
  /** Where to, when it is not what was signed. */
  readonly destination?: string | undefined;
  /** Push although the signature is for another name: this machine reaches the registry by another address than nodes do. */
  readonly byAnotherName?: boolean | undefined;
  /** Keys of which one has to have signed. @default any signature will do; nodes verify it */
  readonly keys?: ReadonlyMap<string, KeyObject> | undefined;
  readonly onProgress?: (message: string) => void;
}

export interface PushedImage {
  readonly destination: string;
  /** What it is signed as: by this name nodes take it. */
  readonly reference: string;
  readonly digest: string;
  readonly signatures: number;
}

/**
 * Puts a signed image into a registry: blobs, manifest, signatures and the bill of materials, and the tag last, so that it never leads to an image without its signature.
 * @throws UserError
 */
export async function pushArchive(path: string, options: PushOptions = {}): Promise<PushedImage> {
  const { onProgress = () => undefined } = options;
  const layout = await readLayout(path);
  const image = checkImage(path, layout);
  const signatures = [...signaturesOf(path, image).values()];
  const { target, reference } = destinationOf(path, signatures, options);
  if (options.keys !== undefined) verifyImage(path, image, options.keys);
  const repository = new RegistryRepository(target.host, target.repository, options);
  onProgress(`pushing ${image.digest} to ${target.host}/${target.repository}`);
  await pushImage(repository, image, layout);
  await attachSignatures(repository, image.digest, signatures);
  if (image.sbom !== undefined) {
    await attach(repository, image.digest, "sbom", [{ type: sbomType, bytes: image.sbom }]);
  }
  await repository.pushManifest(target.tag, image.manifest);
  const destination = formatReference(target);
  return { destination, reference, digest: image.digest, signatures: signatures.length };
}

/** Where to push, and the signed name by which nodes take it from there. @throws UserError */
function destinationOf(
  path: string,
  signatures: readonly ImageSignature[],
  { destination, byAnotherName }: PushOptions,
): { readonly target: ImageReference; readonly reference: string } {
  const names = [...new Set(signatures.map(({ payload }) => claimOf(payload).reference))];
  const [name] = names;
  if (name === undefined) {
    throw new UserError(`${path} has no signature, so nodes would refuse it`, {
      hint: "edgeseal image sign IMAGE --as HOST/REPOSITORY:TAG --key KEY --out ARCHIVE",
    });
  }
  if (destination === undefined) {
    if (names.length === 1) return { target: parseReference(name), reference: name };
    throw new UserError(`${path} is signed for several names: ${names.join(", ")}`, {
      hint: "say which: edgeseal image push ARCHIVE HOST/REPOSITORY:TAG",
    });
  }
  const target = parseReference(destination);
  if (names.includes(destination)) return { target, reference: destination };
  if (byAnotherName === true) return { target, reference: names.join(", ") };
  throw new UserError(
    `${path} is signed for ${names.join(", ")}: from ${destination} nodes would refuse it`,
    {
      hint: `sign it for that name (--as ${destination}); or, where nodes know this registry by the signed name, give --by-another-name`,
    },
  );
}

/** Blobs and the manifest, by its digest. */
export async function pushImage(
  repository: RegistryRepository,
  { blobs, digest, manifest }: Pick<CheckedImage, "blobs" | "digest" | "manifest">,
  layout: Layout,
): Promise<void> {
  for (const { digest: each } of blobs) {
    const bytes = layout.get(hexOf(each));
    if (bytes === undefined) throw new Error(`an image without its blob ${each} was let through`);
    await repository.pushBlob(bytes);
  }
  await repository.pushManifest(digest, manifest);
}

/** Attaches signatures to an image, beside those that it has there: cosign's scheme, which podman reads where registries.d says so. */
export async function attachSignatures(
  repository: RegistryRepository,
  digest: string,
  signatures: readonly ImageSignature[],
): Promise<void> {
  const layers = signatures.map(({ payload, signature }) => ({
    type: mediaType.signature,
    bytes: payload,
    annotations: { [signatureAnnotation]: signature.toString("base64") },
  }));
  await attach(repository, digest, "sig", layers);
}

interface Attached {
  readonly type: string;
  readonly bytes: Buffer;
  readonly annotations?: Readonly<Record<string, string>>;
}

async function attach(
  repository: RegistryRepository,
  digest: string,
  suffix: "sig" | "sbom",
  fresh: readonly Attached[],
): Promise<void> {
  const tag = `${digest.replace(":", "-")}.${suffix}`;
  const layers = fresh.map(({ type, bytes, annotations }) => descriptorOf(type, bytes, annotations));
  // Signatures by other keys stay: a site that changes its key has two for a while.
  const there = suffix === "sig" ? await attachedLayers(repository, tag) : [];
  const kept = there.filter((old) => !layers.some((each) => sameLayer(each, old)));
  const all = [...kept, ...layers];
  const config = Buffer.from(
    JSON.stringify({
      architecture: "",
      os: "",
      config: {},
      rootfs: { type: "layers", diff_ids: all.map((each) => each.digest) },
    }),
  );
  for (const bytes of [config, ...fresh.map((each) => each.bytes)]) await repository.pushBlob(bytes);
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaType.manifest,
      config: descriptorOf(mediaType.config, config),
      layers: all,
    }),
  );
  await repository.pushManifest(tag, manifest);
}

const sameLayer = (a: Descriptor, b: Descriptor): boolean =>
  a.digest === b.digest && a.annotations?.[signatureAnnotation] === b.annotations?.[signatureAnnotation];

async function attachedLayers(repository: RegistryRepository, tag: string): Promise<readonly Descriptor[]> {
  const bytes = await repository.manifest(tag);
  if (bytes === undefined) return [];
  const manifest: unknown = JSON.parse(bytes.toString());
  const layers = isProperties(manifest) ? manifest["layers"] : undefined;
  return Array.isArray(layers) ? (layers as readonly Descriptor[]) : [];
}
