import { UnknownObservation } from "../device/probe.ts";
import { byteOrder, parseFiles, readFiles } from "./config-files.ts";
import { referenceOf, type InferenceContainerInputs } from "./inference-container-inputs.ts";
import { runtimeDirectoryOf } from "./inference-container-unit.ts";

/*
 * What podman's storage says of itself: images and containers, whatever units and commands say.
 */

export interface StoredContainer {
  readonly id: string;
  readonly names: readonly string[];
  readonly image: string;
}

export interface StoredImage {
  readonly id: string;
  /** Of all manifests that it came with. */
  readonly digests: readonly string[];
  /** `REPOSITORY@DIGEST`, of each repository that it has a name in; by digest alone without a name. */
  readonly references: readonly string[];
}

export interface Storage {
  readonly images: readonly StoredImage[];
  readonly containers: readonly StoredContainer[];
}

/** Shell that prints what `parseStorage` reads (containers/storage). */
export const readStorage = ({ name, storage }: InferenceContainerInputs): string =>
  readFiles([
    `${storage}/overlay-images/images.json`,
    `${storage}/overlay-containers/containers.json`,
    `${runtimeDirectoryOf(name)}/storage/overlay-containers/volatile-containers.json`,
  ]);

/** @throws UnknownObservation when a file is no list */
export function parseStorage(output: string): Storage {
  const files = parseFiles(output);
  const entries = (ending: string): readonly Readonly<Record<string, unknown>>[] =>
    [...files]
      .filter(([path]) => path.endsWith(ending))
      .flatMap(([path, lines]) => jsonList(path, lines.join("\n")));
  return {
    images: entries("/images.json").map(storedImage),
    containers: entries("containers.json").map((each) => ({
      id: text(each["id"]),
      names: texts(each["names"]),
      image: text(each["image"]),
    })),
  };
}

/** Images that are not the one that is asked for. One that came with several manifests is all of them. */
export const otherImages = ({ image }: InferenceContainerInputs, { images }: Storage): string[] =>
  images
    .filter(({ references }) => !references.includes(referenceOf(image)))
    .flatMap(({ references }) => references)
    .sort(byteOrder);

/** Manifests that differ in their annotations alone are one image: by the digest that is wanted, where it has that. */
export function digestOf({ images }: Storage, { image }: StoredContainer, wanted?: string): string {
  const digests = images.find(({ id }) => id === image)?.digests ?? [];
  return digests.find((digest) => digest === wanted) ?? digests[0] ?? "unknown";
}

function storedImage(entry: Readonly<Record<string, unknown>>): StoredImage {
  const digests = texts(entry["big-data-names"]).flatMap(
    (name) => /^manifest-(sha256:[0-9a-f]{64})$/.exec(name)?.[1] ?? [],
  );
  // HOST:PORT/REPOSITORY:TAG or HOST:PORT/REPOSITORY@DIGEST
  const repositories = [
    ...new Set(texts(entry["names"]).map((name) => name.replace(/@.*$/, "").replace(/:[^:/]*$/, ""))),
  ];
  return {
    id: text(entry["id"]),
    digests,
    references:
      repositories.length === 0
        ? digests
        : repositories.flatMap((repository) => digests.map((digest) => `${repository}@${digest}`)),
  };
}

const text = (value: unknown): string => (typeof value === "string" ? value : "");
const texts = (value: unknown): readonly string[] => (Array.isArray(value) ? value.map(text) : []);

function jsonList(path: string, content: string): readonly Readonly<Record<string, unknown>>[] {
  try {
    const value: unknown = content.trim() === "" ? [] : JSON.parse(content);
    if (Array.isArray(value)) return value as readonly Readonly<Record<string, unknown>>[];
  } catch {
    // Said below.
  }
  throw new UnknownObservation(`${path} is not a list in JSON`);
}
