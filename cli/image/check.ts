import { Type, type Static } from "typebox";
import { jsonDocument, type ReadDocument } from "../../provider/trust/json-document.ts";
import { UserError } from "../errors.ts";
import type { Layout } from "./archive.ts";
import { digestOf, hexOf, layoutVersion, mediaType, sbomAnnotation, sbomName } from "./oci.ts";

const digest = Type.String({ pattern: "^sha256:[0-9a-f]{64}$" });
const descriptor = Type.Object({ mediaType: Type.String(), digest, size: Type.Integer({ minimum: 0 }) });
const asManifest = jsonDocument(
  "an OCI manifest",
  Type.Object({
    schemaVersion: Type.Literal(2),
    mediaType: Type.Literal(mediaType.manifest),
    config: descriptor,
    layers: Type.Array(descriptor, { minItems: 1 }),
    annotations: Type.Optional(Type.Record(Type.String(), Type.String())),
  }),
);
const asConfig = jsonDocument(
  "an image's configuration",
  Type.Object({
    created: Type.Optional(Type.String()),
    architecture: Type.String(),
    os: Type.Literal("linux"),
    rootfs: Type.Object({ type: Type.Literal("layers"), diff_ids: Type.Array(digest) }),
  }),
);

/** A blob as a manifest names it. */
export type Blob = Static<typeof descriptor>;

/** An image whose every byte was held against its manifest. */
export interface CheckedImage {
  readonly digest: string;
  readonly manifest: Buffer;
  readonly architecture: string;
  readonly created: Date;
  /** The configuration first. */
  readonly blobs: readonly Blob[];
  readonly sbom: Buffer | undefined;
  /** Files of signatures, by name; not verified. */
  readonly signatures: ReadonlyMap<string, Buffer>;
}

export const damaged =
  "it is not what was built: build it again, or take the archive again from where it was made";

const signatureName = /^signature-[1-9]\d?$/;

/**
 * Holds every byte of a layout against its manifest: what is there is what the digest names, and nothing else is there.
 * @param path For messages.
 * @throws UserError with every problem
 */
export function checkImage(path: string, layout: Layout): CheckedImage {
  const problems: string[] = [];
  const stopAtProblems = (): void => {
    if (problems.length > 0)
      throw new UserError(problems.map((problem) => `${path}: ${problem}`).join("\n"), { hint: damaged });
  };
  const read = <T>(name: string, of: ReadDocument<T>): T | undefined => {
    for (const problem of of.problems)
      problems.push([name, problem.path, problem.message].filter((part) => part !== "").join(": "));
    return of.value;
  };

  if (layout.get("version")?.toString() !== layoutVersion)
    problems.push("the file `version` is missing, or says something else than version 1.1 of this layout");
  const bytes = layout.get("manifest.json");
  if (bytes === undefined) problems.push("there is no manifest.json: this is no image");
  const manifest = bytes && read("manifest.json", asManifest(bytes.toString()));
  stopAtProblems();
  if (bytes === undefined || manifest === undefined)
    throw new Error("an image without a manifest was let through");

  const { config, layers, annotations } = manifest;
  const blobs = [config, ...layers];
  problems.push(...blobs.flatMap((blob) => blobProblems(blob, layout)));
  problems.push(...sbomProblems(annotations?.[sbomAnnotation], layout.get(sbomName)));
  const named = new Set(["version", "manifest.json", sbomName, ...blobs.map((blob) => hexOf(blob.digest))]);
  for (const name of layout.keys())
    if (!named.has(name) && !signatureName.test(name)) problems.push(`${name} is no part of the image`);
  stopAtProblems();

  const described = read("its configuration", asConfig(layout.get(hexOf(config.digest))?.toString() ?? ""));
  const unpacked = described?.rootfs.diff_ids.join() ?? "";
  // An uncompressed layer is what it unpacks to: another list would be of another image than the manifest's.
  if (layers.every((layer) => layer.mediaType === mediaType.layer)) {
    if (unpacked !== layers.map((layer) => layer.digest).join())
      problems.push("its configuration is of other layers than its manifest");
  }
  stopAtProblems();
  const time = new Date(described?.created ?? 0);
  return {
    digest: digestOf(bytes),
    manifest: bytes,
    architecture: described?.architecture ?? "",
    created: Number.isNaN(time.getTime()) ? new Date(0) : time,
    blobs,
    sbom: layout.get(sbomName),
    signatures: new Map([...layout].filter(([name]) => signatureName.test(name))),
  };
}

function blobProblems({ digest: wanted, size }: Blob, layout: Layout): readonly string[] {
  const name = hexOf(wanted);
  const bytes = layout.get(name);
  if (bytes === undefined) return [`there is no ${name}, which the manifest names`];
  if (digestOf(bytes) !== wanted) return [`${name} was changed: its digest is ${digestOf(bytes)}`];
  return bytes.length === size ? [] : [`${name} has ${bytes.length} bytes, and the manifest says ${size}`];
}

function sbomProblems(wanted: string | undefined, sbom: Buffer | undefined): readonly string[] {
  if (wanted === undefined && sbom !== undefined)
    return [`${sbomName} is there, and the manifest names no bill of materials`];
  if (wanted !== undefined && sbom === undefined)
    return [`the manifest names a bill of materials, and there is no ${sbomName}`];
  return sbom === undefined || digestOf(sbom) === wanted
    ? []
    : [`${sbomName} was changed: the manifest names ${String(wanted)}`];
}
