import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder } from "../../testbed/image.ts";
import type { Finding } from "./finding.ts";
import { examineMachine } from "./machine.ts";
import { examinePackages } from "./packages.ts";
import { findOnPath, firstLine } from "./program.ts";

/** Everything that edgeseal needs, in the order in which it is needed. Changes nothing. */
export async function examine(): Promise<readonly Finding[]> {
  const cache = cacheFolder();
  const pulumi = await pulumiCli(cache);
  const packages = await examinePackages(
    // Go only builds the Pulumi CLI; npm only installs what is installed by now, and may again.
    ({ group, name }) => (group === "go" ? pulumi.state !== "present" : name !== "npm"),
  );
  return [
    ...examineMachine(cache),
    ...packages,
    { piece: "Node", state: "present", found: `${process.version} (${process.execPath})` },
    npmPackages(),
    pulumi,
    languageHost(),
    images(cache),
  ];
}

function npmPackages(): Finding {
  const { packages } = JSON.parse(
    readFileSync(new URL("../../node_modules/.package-lock.json", import.meta.url), "utf8"),
  ) as { packages: Record<string, unknown> };
  return { piece: "npm packages", state: "present", found: `${Object.keys(packages).length} packages` };
}

async function pulumiCli(cache: string): Promise<Finding> {
  // On PATH, the user's own or the one that ./edgeseal has linked; else the one built for another checkout.
  for (const place of [findOnPath("pulumi"), join(cache, `pulumi-${pulumiRecipe()}`, "pulumi")]) {
    const version = place === undefined ? undefined : await firstLine(place, "version");
    if (version !== undefined) {
      return { piece: "Pulumi CLI", state: "present", found: `${version} (${place ?? ""})` };
    }
  }
  return {
    piece: "Pulumi CLI",
    state: "missing",
    mend: "./edgeseal demo builds it (about 5 min); or install Pulumi 3.229 or newer",
  };
}

/** Names the folder of the built CLI, as `recipe` in ./edgeseal does. */
function pulumiRecipe(): string {
  const hash = createHash("sha256");
  for (const name of ["go.mod", "go.sum"]) {
    hash.update(readFileSync(new URL(`../pulumi/${name}`, import.meta.url)));
  }
  return hash.digest("hex").slice(0, 16);
}

function languageHost(): Finding {
  const place = findOnPath("pulumi-language-nodejs");
  return {
    piece: "Pulumi's Node language host",
    state: "present",
    found: place ?? "this checkout's own stands in (tools/language-host)",
  };
}

/** Which image belongs to this checkout, its recipe knows; here it is told whether a first boot will have to build. */
function images(cache: string): Finding {
  const folder = join(cache, "images");
  const built = existsSync(folder)
    ? readdirSync(folder).filter((name) => existsSync(join(folder, name, "disk.raw")))
    : [];
  return built.length === 0
    ? {
        piece: "virtual Pi image",
        state: "note",
        found: "none yet",
        mend: "./edgeseal pi image builds it (1 to 2 min); so does the first command that needs it",
      }
    : { piece: "virtual Pi image", state: "present", found: `${built.length} in ${folder}` };
}
