import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder, recipeHash } from "../../testbed/image.ts";
import { namespaceRootFolder } from "../../testbed/namespace/root.ts";
import { amd64, arm64 } from "../../testbed/profile.ts";
import type { Finding } from "./finding.ts";
import { examineMachine } from "./machine.ts";
import { examinePackages } from "./packages.ts";
import { findOnPath, firstLine } from "./program.ts";

/** Everything that edgeseal needs, in the order in which it is needed. Changes nothing. */
export async function examine(): Promise<readonly Finding[]> {
  const cache = cacheFolder();
  const pulumi = await pulumiCli(cache);
  const packages = await examinePackages(
    // Go only builds the Pulumi CLI; npm only installs what is installed by now, and may again; arm64 is only for the tests that ask for it.
    ({ group, name }) => (group === "go" ? pulumi.state !== "present" : group !== "arm64" && name !== "npm"),
  );
  return [
    ...examineMachine(cache),
    ...packages,
    { piece: "Node", state: "present", found: `${process.version} (${process.execPath})` },
    npmPackages(),
    pulumi,
    languageHost(),
    ...(await images(cache)),
    namespaceRoot(),
  ];
}

function npmPackages(): Finding {
  const { packages } = JSON.parse(
    readFileSync(new URL("../../node_modules/.package-lock.json", import.meta.url), "utf8"),
  ) as { packages: Record<string, unknown> };
  return { piece: "npm packages", state: "present", found: `${Object.keys(packages).length} packages` };
}

async function pulumiCli(cache: string): Promise<Finding> {
  const oldest = readFileSync(new URL("../pulumi/oldest-version", import.meta.url), "utf8").trim();
  const tooOld: string[] = [];
  // On PATH, the user's own or the one that ./edgeseal has linked; else the one built for another checkout.
  for (const place of [findOnPath("pulumi"), join(cache, `pulumi-${pulumiRecipe()}`, "pulumi")]) {
    const version = place === undefined ? undefined : await firstLine(place, "version");
    if (place === undefined || version === undefined) continue;
    if (isAtLeast(oldest, version)) {
      return { piece: "Pulumi CLI", state: "present", found: `${version} (${place})` };
    }
    tooOld.push(`${version} (${place}), and ${oldest} is the oldest that will do`);
  }
  return {
    piece: "Pulumi CLI",
    state: "missing",
    ...(tooOld[0] === undefined ? {} : { found: tooOld[0] }),
    mend: `./edgeseal demo builds it (about 5 min); or install Pulumi ${oldest} or newer`,
  };
}

/** Whether `v3.229.0` is 3.229.0 or newer. What is no version is not. */
function isAtLeast(oldest: string, version: string): boolean {
  const numbers = (text: string): number[] | undefined =>
    /^v?(\d+)\.(\d+)\.(\d+)/.exec(text)?.slice(1).map(Number);
  const [wanted, given] = [numbers(oldest), numbers(version)];
  if (wanted === undefined || given === undefined) return false;
  const at = wanted.findIndex((number, index) => number !== given[index]);
  return at === -1 || (given[at] ?? 0) > (wanted[at] ?? 0);
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

/** The images of this checkout's recipes; those of others are of no use to it. */
async function images(cache: string): Promise<readonly Finding[]> {
  const folder = join(cache, "images");
  const [own, foreign] = await Promise.all([recipeHash(amd64), recipeHash(arm64)]);
  const built = existsSync(folder)
    ? readdirSync(folder).filter((name) => existsSync(join(folder, name, "disk.raw")))
    : [];
  const others = built.filter((name) => /^[0-9a-f]{16}$/.test(name) && name !== own && name !== foreign);
  const stale =
    others.length === 0
      ? ""
      : `; ${others.length} of other recipes, which ./edgeseal pi image --prune removes`;
  const finding = (piece: string, hash: string, more: string, mend: string): Finding =>
    built.includes(hash)
      ? { piece, state: "present", found: `${join(folder, hash)}${more}` }
      : { piece, state: "note", found: `none of this recipe yet${more}`, mend };
  return [
    finding(
      "virtual Pi image",
      own,
      stale,
      "./edgeseal pi image builds it (1 to 2 min); so does the first command that needs it",
    ),
    finding(
      "image of the virtual Pi for arm64",
      foreign,
      "",
      "./edgeseal test arm64 builds it (some 20 min); nothing else needs it",
    ),
  ];
}

function namespaceRoot(): Finding {
  const piece = "root of the nodes of namespaces";
  const folder = namespaceRootFolder();
  return existsSync(folder)
    ? { piece, state: "present", found: folder }
    : {
        piece,
        state: "note",
        found: "none of this recipe yet",
        mend: "./edgeseal test device builds it (about half a minute)",
      };
}
