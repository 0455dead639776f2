import { lstat, readdir, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../errors.ts";

/** What the top of a work tree has in it. `.git` is a file in a linked work tree and in a submodule. */
const marks = [".git", ".jj", ".hg", ".svn"];

/**
 * Refuses a folder for private keys that is in a work tree of version control, whatever way leads there: what lies in one is committed sooner or later, and stays in
 * the history. Both the path as given and where it really leads are looked at, since a link out of a work tree is one `cp -L` away from being in it.
 * @param folder May not exist yet.
 * @returns its real path
 * @throws UserError
 */
export async function requireOutsideVersionControl(folder: string): Promise<string> {
  const given = resolve(folder);
  const real = await realPathOf(given);
  for (const path of new Set([given, real])) {
    const top = await workTreeAbove(path);
    if (top === undefined) continue;
    const way = path === given ? "" : ` (${given} leads to ${real})`;
    throw new UserError(
      `${folder} is in the work tree ${top}${way}: private keys don't belong where they could be committed`,
      {
        hint: "give a folder outside of every work tree, such as ~/edgeseal-keys",
      },
    );
  }
  return real;
}

/** The real path of something that may not exist: that of the nearest folder above that does, and the rest. */
async function realPathOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  // A link to nothing yet would be followed by whoever creates it.
  if (await exists(path)) throw new UserError(`${path} is a symbolic link to something that does not exist`);
  return join(await realPathOf(dirname(path)), basename(path));
}

async function workTreeAbove(path: string): Promise<string | undefined> {
  for (let folder = path; ; folder = dirname(folder)) {
    for (const mark of marks) if (await exists(join(folder, mark))) return folder;
    if (await isBareRepository(folder)) return folder;
    if (dirname(folder) === folder) return undefined;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch {
    return false;
  }
}

/** A repository without a work tree of its own: what is put in there is not committed, but is copied with it. */
async function isBareRepository(folder: string): Promise<boolean> {
  const names = await readdir(folder).catch((): string[] => []);
  return ["HEAD", "objects", "refs"].every((name) => names.includes(name));
}
