import { fileURLToPath } from "node:url";
import { UserError } from "../errors.ts";
import type { Architecture, ImageRecipe } from "./recipe.ts";

/*
 * images/NAME/lock-ARCH.txt: the packages whose files are in the image, to the byte. In version control, since a change of it is a change of the image.
 */

/** One Debian package. */
export interface LockedPackage {
  readonly name: string;
  readonly version: string;
  /** SHA-256 of the .deb, 64 lower-case hex digits. */
  readonly sha256: string;
  /** Where it is on a mirror, from the mirror's address on: `pool/main/...`. */
  readonly path: string;
}

export interface ImageLock {
  /** The image's time, RFC 3339 in UTC: when a change was last locked. */
  readonly created: string;
  readonly packages: readonly LockedPackage[];
}

export const lockFile = ({ name }: ImageRecipe, arch: Architecture): string =>
  fileURLToPath(new URL(`../../images/${name}/lock-${arch}.txt`, import.meta.url));

const created = /^created (\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z)$/;
const entry = /^([a-z0-9][a-z0-9+.-]+) (\S+) ([0-9a-f]{64}) (pool\/[A-Za-z0-9/+._~%-]+\.deb)$/;

/**
 * Reads a lock file.
 * @param path For messages.
 * @throws UserError with every problem.
 */
export function parseLock(path: string, text: string): ImageLock {
  const problems: string[] = [];
  const packages: LockedPackage[] = [];
  let time: string | undefined;
  for (const [index, line] of text.split("\n").entries()) {
    if (line === "" || line.startsWith("#")) continue;
    const at = created.exec(line)?.[1];
    if (at !== undefined && time === undefined && !Number.isNaN(Date.parse(at))) {
      time = at;
      continue;
    }
    const [, name = "", version = "", sha256 = "", file = ""] = entry.exec(line) ?? [];
    if (name === "" || file.includes(".."))
      problems.push(
        `line ${index + 1}: expected NAME VERSION SHA256 pool/PATH.deb, got '${line.slice(0, 80)}'`,
      );
    else if (packages.some((each) => each.name === name))
      problems.push(`line ${index + 1}: ${name} is there twice`);
    else packages.push({ name, version, sha256, path: file });
  }
  if (time === undefined) problems.push("there is no line `created YYYY-MM-DDTHH:MM:SSZ`");
  if (packages.length === 0) problems.push("there is no package in it");
  if (time === undefined || problems.length > 0) {
    throw new UserError(problems.map((problem) => `${path}: ${problem}`).join("\n"), {
      hint: "take the file from version control again, or make it anew: edgeseal image lock",
    });
  }
  return { created: time, packages };
}

/** The text of a lock file. */
export function formatLock({ created: time, packages }: ImageLock): string {
  const sorted = [...packages].sort((a, b) => (a.name < b.name ? -1 : 1));
  return [
    "# Packages whose files are in the image, by `edgeseal image lock`: name, version, SHA-256 of the .deb, path on a mirror.",
    `created ${time}`,
    ...sorted.map(({ name, version, sha256, path }) => `${name} ${version} ${sha256} ${path}`),
    "",
  ].join("\n");
}
