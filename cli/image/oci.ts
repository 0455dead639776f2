import { sha256Hex } from "../../provider/trust/digest.ts";
import type { Architecture } from "./recipe.ts";

/*
 * Images as OCI has them (image-spec 1.1), in podman's `dir:` layout (containers-transports(5)): `version`, `manifest.json`, blobs by the hex of their digests,
 * and signatures as `signature-N`, which an OCI layout has no place for.
 */

export const mediaType = {
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar",
  /** The payload of a signature, as containers' libraries and cosign have it. */
  signature: "application/vnd.dev.cosign.simplesigning.v1+json",
} as const;

/** Annotation of an image's manifest: the digest of its bill of materials, so that a signature of the image is one of that too. */
export const sbomAnnotation = "io.edgeseal.sbom.digest";

/** A descriptor (image-spec, descriptor.md). */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

export const digestOf = (bytes: Uint8Array): string => `sha256:${sha256Hex(bytes)}`;

/** The hex of a digest: by what its blob is called in a `dir:` layout. */
export const hexOf = (digest: string): string => digest.slice("sha256:".length);

export const descriptorOf = (
  type: string,
  bytes: Uint8Array,
  annotations?: Descriptor["annotations"],
): Descriptor => ({
  mediaType: type,
  digest: digestOf(bytes),
  size: bytes.byteLength,
  ...(annotations === undefined ? {} : { annotations }),
});

export const layoutVersion = "Directory Transport Version: 1.1\n";
export const sbomName = "sbom.cdx.json";

/** A manifest and the blobs that it names. */
export interface OciImage {
  /** `sha256:` and 64 lower-case hex digits. */
  readonly digest: string;
  readonly manifest: Buffer;
  /** By digest. */
  readonly blobs: ReadonlyMap<string, Buffer>;
}

/** What an image says of itself. */
export interface ImageDescription {
  readonly arch: Architecture;
  readonly program: string;
  readonly created: Date;
  readonly labels: Readonly<Record<string, string>>;
}

const jsonOf = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

/** An image of one layer. */
export function imageOf(
  layer: Buffer,
  sbom: Buffer,
  { arch, program, created, labels }: ImageDescription,
): OciImage {
  const time = created.toISOString().replace(".000Z", "Z");
  const config = jsonOf({
    created: time,
    architecture: arch,
    os: "linux",
    ...(arch === "arm64" ? { variant: "v8" } : {}),
    config: {
      // Nobody's: whoever runs it without a thought gets no root. The unit of edgeseal names a user of its own.
      User: "65532:65532",
      Entrypoint: [program],
      WorkingDir: "/",
      Env: ["PATH=/usr/bin"],
      Labels: labels,
    },
    rootfs: { type: "layers", diff_ids: [digestOf(layer)] },
    history: [{ created: time, created_by: "edgeseal image build" }],
  });
  const manifest = jsonOf({
    schemaVersion: 2,
    mediaType: mediaType.manifest,
    config: descriptorOf(mediaType.config, config),
    layers: [descriptorOf(mediaType.layer, layer)],
    annotations: { ...labels, [sbomAnnotation]: digestOf(sbom) },
  });
  return {
    digest: digestOf(manifest),
    manifest,
    blobs: new Map([config, layer].map((bytes) => [digestOf(bytes), bytes])),
  };
}

/** The files of an image's `dir:` layout, its bill of materials among them; without signatures. */
export function layoutOf({ manifest, blobs }: OciImage, sbom: Buffer): Map<string, Buffer> {
  return new Map<string, Buffer>([
    ["version", Buffer.from(layoutVersion)],
    ["manifest.json", manifest],
    [sbomName, sbom],
    ...[...blobs].map(([digest, bytes]) => [hexOf(digest), bytes] as const),
  ]);
}
