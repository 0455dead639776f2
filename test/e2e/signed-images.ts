import { generateKeyPairSync, sign } from "node:crypto";
import { packTar } from "modern-tar";
import { imageOf, layoutOf, type OciImage } from "../../cli/image/oci.ts";
import { attachSignatures, pushImage } from "../../cli/image/push.ts";
import { checkImage } from "../../cli/image/check.ts";
import { parseReference } from "../../cli/image/reference.ts";
import { RegistryRepository } from "../../cli/image/registry-client.ts";
import { signatureFile, signImage, type ImageSignature } from "../../cli/image/signature.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import type { Registry } from "../../testbed/registry.ts";

/*
 * Small images, signed by what `edgeseal image sign` signs with, and put into a registry by what `edgeseal image push` pushes with: in every wrong way, too.
 */

/** A key as images are signed with, in memory. */
export interface TestSigningKey extends SigningKey {
  readonly publicPem: string;
}

export function signingKey(): TestSigningKey {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return {
    publicKey,
    publicPem: publicKey.export({ type: "spki", format: "pem" }).toString(),
    privateKey: {
      name: "a key in memory",
      sign: (message) => Promise.resolve(sign("sha256", message, privateKey)),
    },
  };
}

export interface TestImage extends OciImage {
  readonly sbom: Buffer;
}

/** An image of one file. */
export async function makeImage(text: string): Promise<TestImage> {
  const mtime = new Date(0);
  const layer = Buffer.from(
    await packTar([{ header: { name: "text", size: Buffer.byteLength(text), mtime }, body: text }]),
  );
  const sbom = Buffer.from("{}");
  const description = { arch: "amd64", program: "/text", created: mtime, labels: {} } as const;
  return { ...imageOf(layer, sbom, description), sbom };
}

/** A signature that says: the image with this digest is this repository and tag. */
export const signatureOf = (digest: string, reference: string, key: SigningKey): Promise<ImageSignature> =>
  signImage(key, digest, parseReference(reference));

/** An image as a folder (containers-transports(5), `dir:`), the one form without a registry that can hold a signature. */
export function folderOf(image: TestImage, signature?: ImageSignature): ReadonlyMap<string, Buffer> {
  const files = layoutOf(image, image.sbom);
  if (signature !== undefined) files.set("signature-1", signatureFile(signature));
  return files;
}

/** Puts an image under a tag, whatever was there before. */
export async function push(
  registry: Registry,
  repository: string,
  tag: string,
  image: TestImage,
): Promise<void> {
  const target = new RegistryRepository(registry.host, repository);
  const layout = folderOf(image);
  await pushImage(target, checkImage(tag, layout), layout);
  await target.pushManifest(tag, image.manifest);
}

/** Attaches a signature to the image with a digest. */
export const attach = (
  registry: Registry,
  repository: string,
  { digest }: TestImage,
  signature: ImageSignature,
): Promise<void> => attachSignatures(new RegistryRepository(registry.host, repository), digest, [signature]);
