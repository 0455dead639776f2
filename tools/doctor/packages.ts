import { existsSync, readFileSync } from "node:fs";
import type { Finding } from "./finding.ts";
import { findOnPath, firstLine } from "./program.ts";

/** A line of `tools/debian-packages.txt`. */
export interface DebianPackage {
  readonly group: string;
  readonly name: string;
  /** The command, or the absolute path of the file, whose presence says that the package is not needed. */
  readonly proof: string;
  readonly why: string;
}

/** Reads the list that `./edgeseal` installs from, so that both speak of the same packages. */
export function debianPackages(): readonly DebianPackage[] {
  const text = readFileSync(new URL("../debian-packages.txt", import.meta.url), "utf8");
  return text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const [group = "", name = "", proof = "", ...why] = line.split(/\s+/);
      return { group, name, proof, why: why.join(" ") };
    });
}

/** One finding for each package; a command from elsewhere is as good as the package's own. */
export async function examinePackages(
  needed: (wanted: DebianPackage) => boolean,
): Promise<readonly Finding[]> {
  return await Promise.all(
    debianPackages().map(async (wanted): Promise<Finding> => {
      const piece = `${wanted.name}: ${wanted.why}`;
      const place = wanted.proof.startsWith("/")
        ? [wanted.proof].find((path) => existsSync(path))
        : findOnPath(wanted.proof);
      if (place === undefined) {
        return needed(wanted)
          ? // Not apt-get itself: that would have openssh-server listen on this machine.
            { piece, state: "missing", mend: `${asRoot()}tools/install-debian-packages ${wanted.name}` }
          : { piece, state: "note", found: "not there, and not needed now" };
      }
      const version = await firstLine("dpkg-query", "-W", "-f=${Version}", wanted.name);
      return { piece, state: "present", found: version || place };
    }),
  );
}

const asRoot = (): string => (process.getuid?.() === 0 ? "" : "sudo ");
