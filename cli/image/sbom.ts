import { Enums, Models, Serialize, Spec } from "@cyclonedx/cyclonedx-library";
import { PackageURL } from "packageurl-js";
import type { DebPackage } from "./deb.ts";
import type { LockedPackage } from "./lock-file.ts";
import type { Architecture, ImageRecipe } from "./recipe.ts";

/** What a bill of materials is about. */
export interface DescribedImage {
  readonly recipe: ImageRecipe;
  readonly arch: Architecture;
  readonly version: string;
  readonly created: Date;
  /** SHA-256 of the layer. Not of the image: that names this document, so its digest can't be in here. */
  readonly layerSha256: string;
  readonly packages: readonly { readonly locked: LockedPackage; readonly deb: DebPackage }[];
}

/**
 * The software bill of materials of an image, CycloneDX 1.6 in JSON: each package that a file of it is from, with the digest of the .deb, and which of them uses
 * which. The same image has the same document, to the byte.
 */
export function sbomOf({
  recipe,
  arch,
  version: imageVersion,
  created,
  layerSha256,
  packages,
}: DescribedImage): Buffer {
  const image = new Models.Component(Enums.ComponentType.Container, recipe.name, {
    bomRef: recipe.name,
    version: imageVersion,
    description: recipe.title,
    hashes: new Models.HashDictionary([[Enums.HashAlgorithm["SHA-256"], layerSha256]]),
  });
  const components = new Map(packages.map((each) => [each.locked.name, componentOf(each, recipe.suite)]));
  for (const component of components.values()) image.dependencies.add(component.bomRef);
  for (const { locked, deb } of packages) {
    const component = components.get(locked.name);
    for (const name of dependenciesOf(deb)) {
      const other = components.get(name);
      if (other !== undefined) component?.dependencies.add(other.bomRef);
    }
  }
  // Without its version: one that makes the same image makes the same document.
  const tool = new Models.Component(Enums.ComponentType.Application, "edgeseal", { bomRef: "edgeseal" });
  const bom = new Models.Bom({
    // A random one would make each run another document.
    serialNumber: `urn:uuid:${uuidOf(layerSha256)}`,
    metadata: new Models.Metadata({
      timestamp: created,
      component: image,
      tools: new Models.Tools({ components: new Models.ComponentRepository([tool]) }),
      properties: new Models.PropertyRepository([new Models.Property("edgeseal:image:architecture", arch)]),
    }),
    components: new Models.ComponentRepository([...components.values()]),
  });
  const serializer = new Serialize.JsonSerializer(new Serialize.JSON.Normalize.Factory(Spec.Spec1dot6));
  return Buffer.from(`${serializer.serialize(bom, { sortLists: true, space: 2 })}\n`);
}

function componentOf({ locked, deb }: DescribedImage["packages"][number], suite: string): Models.Component {
  const { fields } = deb;
  const purl = new PackageURL(
    "deb",
    "debian",
    locked.name,
    locked.version,
    { arch: fields.get("Architecture") ?? "", distro: suite },
    undefined,
  ).toString();
  const homepage = fields.get("Homepage");
  const source = fields.get("Source");
  return new Models.Component(Enums.ComponentType.Library, locked.name, {
    bomRef: purl,
    version: locked.version,
    purl,
    hashes: new Models.HashDictionary([[Enums.HashAlgorithm["SHA-256"], locked.sha256]]),
    supplier: new Models.OrganizationalEntity({ name: fields.get("Maintainer") ?? "Debian" }),
    externalReferences: new Models.ExternalReferenceRepository(
      homepage === undefined
        ? []
        : [new Models.ExternalReference(homepage, Enums.ExternalReferenceType.Website)],
    ),
    properties: new Models.PropertyRepository(
      source === undefined ? [] : [new Models.Property("edgeseal:debian:source", source)],
    ),
  });
}

/** Names in `Depends` and `Pre-Depends`, each alternative. */
const dependenciesOf = ({ fields }: DebPackage): readonly string[] =>
  [fields.get("Depends"), fields.get("Pre-Depends")]
    .flatMap((field) => (field ?? "").split(/[,|]/))
    .map((each) => each.trim().split(/[\s(:]/, 1)[0] ?? "")
    .filter((name) => name !== "");

/** A UUID (RFC 9562, version 8) of the first bits of a digest. */
const uuidOf = (digest: string): string =>
  `${digest.slice(0, 8)}-${digest.slice(8, 12)}-8${digest.slice(13, 16)}-8${digest.slice(17, 20)}-${digest.slice(20, 32)}`;
