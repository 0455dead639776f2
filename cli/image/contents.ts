import { posix } from "node:path";
import { UserError } from "../errors.ts";
import type { DebPackage, PackagedFile } from "./deb.ts";
import { elfNeeds } from "./elf.ts";
import type { ImageRecipe } from "./recipe.ts";

/** What is in an image. */
export interface ImageContents {
  /** By absolute path. */
  readonly files: ReadonlyMap<string, PackagedFile>;
  /** Packages that some of it is from, by name. */
  readonly packages: ReadonlyMap<string, DebPackage>;
}

/**
 * Chooses what of the packages goes into an image: the program, what it and its plug-ins link, and each package's copyright. What nobody named is not there: no
 * shell, no package manager, no other program.
 * @throws UserError when something is asked for that no package brings.
 */
export function imageContents(
  recipe: Pick<ImageRecipe, "program" | "plugins" | "files" | "name">,
  packages: readonly DebPackage[],
): ImageContents {
  const available = new Map(packages.flatMap(({ files }) => [...files]));
  const chosen = new Map<string, PackagedFile>();
  const choose = (path: string, why: string): void => takeAlong(path, why, available, chosen);
  const libraries = new Map([...available.keys()].map((path) => [posix.basename(path), path]));

  choose(recipe.program, `recipe of ${recipe.name}`);
  const plugins = [...available.keys()].filter((path) => recipe.plugins.test(path));
  if (plugins.length === 0) throw missing(String(recipe.plugins), `recipe of ${recipe.name}`);
  for (const path of [...plugins, ...recipe.files]) choose(path, `recipe of ${recipe.name}`);

  // The list grows while it is gone through: a library needs others.
  for (const [path, { content }] of chosen) {
    const needs = "bytes" in content ? elfNeeds(content.bytes) : undefined;
    if (needs?.interpreter !== undefined) choose(needs.interpreter, path);
    for (const name of needs?.needed ?? []) choose(libraries.get(name) ?? name, path);
  }
  addCopyrights(available, chosen, choose);

  const names = new Set([...chosen.values()].map(({ from }) => from));
  const used = packages.map((each) => [each.fields.get("Package") ?? "", each] as const);
  return { files: chosen, packages: new Map(used.filter(([name]) => names.has(name))) };
}

/** Whoever passes an image on has to pass these on with it; a copyright in turn refers to the common licences. */
function addCopyrights(
  available: ReadonlyMap<string, PackagedFile>,
  chosen: ReadonlyMap<string, PackagedFile>,
  choose: (path: string, why: string) => void,
): void {
  const from = new Set([...chosen.values()].map((file) => file.from));
  for (const name of from) choose(`/usr/share/doc/${name}/copyright`, `package ${name}`);
  for (const [path, { content }] of chosen) {
    if (posix.basename(path) !== "copyright" || !("bytes" in content)) continue;
    for (const [licence] of content.bytes
      .toString()
      .matchAll(/\/usr\/share\/common-licenses\/[A-Za-z0-9.-]*[A-Za-z0-9]/g))
      if (available.has(licence)) choose(licence, path);
  }
}

/** Takes what is at a path, with all links on the way there. */
function takeAlong(
  path: string,
  why: string,
  available: ReadonlyMap<string, PackagedFile>,
  chosen: Map<string, PackagedFile>,
): void {
  let rest = path.split("/").filter((part) => part !== "");
  let at = "/";
  for (let links = 0; rest.length > 0;) {
    const [part = "", ...after] = rest;
    at = posix.join(at, part);
    rest = after;
    const file = available.get(at);
    if (file === undefined) continue;
    chosen.set(at, file);
    if (!("linkTo" in file.content)) break;
    if ((links += 1) > 40) throw new UserError(`${path} is a circle of symbolic links`);
    const target = posix.resolve(posix.dirname(at), file.content.linkTo);
    rest = [...target.split("/").filter((each) => each !== ""), ...rest];
    at = "/";
  }
  const last = chosen.get(at);
  if (rest.length > 0 || last === undefined || "linkTo" in last.content) throw missing(path, why);
}

const missing = (path: string, why: string): UserError =>
  new UserError(`no package brings ${path}, which is needed by: ${why}`, {
    hint: "the packages changed: `edgeseal image lock` finds those that bring it, or the recipe has to follow",
  });
