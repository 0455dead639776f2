import { posix } from "node:path";
import { packTar } from "modern-tar";
import type { DebPackage } from "./deb.ts";
import type { ImageContents } from "./contents.ts";

type Entry = Parameters<typeof packTar>[0][number];

/**
 * The one layer of an image, uncompressed: what compresses would be in the digest too. Sorted, of one time, all of it root's, so that the same contents are the same
 * bytes wherever it is made.
 * @param folders Empty folders, absolute.
 */
export async function layerOf(
  { files, packages }: ImageContents,
  folders: readonly string[],
  created: Date,
): Promise<Buffer> {
  const entries = new Map<string, Omit<Entry["header"], "name"> & { readonly body?: Buffer }>();
  for (const folder of folders) entries.set(folder, folderEntry(folder));
  for (const [path, { mode, content }] of files) {
    if ("linkTo" in content)
      entries.set(path, { type: "symlink", size: 0, mode: 0o777, linkname: content.linkTo });
    else entries.set(path, { type: "file", size: content.bytes.length, mode, body: content.bytes });
  }
  for (const [name, deb] of packages) {
    const body = Buffer.from(controlOf(deb));
    entries.set(`/var/lib/dpkg/status.d/${name}`, { type: "file", size: body.length, mode: 0o644, body });
  }
  for (const path of entries.keys())
    for (let parent = posix.dirname(path); parent !== "/"; parent = posix.dirname(parent))
      if (!entries.has(parent)) entries.set(parent, folderEntry(parent));

  const sorted = [...entries].sort(([a], [b]) => (a < b ? -1 : 1));
  const owner = { uid: 0, gid: 0, uname: "", gname: "", mtime: created };
  const tar = await packTar(
    sorted.map(([path, { body, ...header }]) => ({
      header: { ...header, ...owner, name: `${path.slice(1)}${header.type === "directory" ? "/" : ""}` },
      ...(body === undefined ? {} : { body }),
    })),
  );
  return Buffer.from(tar.buffer, tar.byteOffset, tar.byteLength);
}

const folderEntry = (path: string) =>
  ({ type: "directory", size: 0, mode: path === "/tmp" ? 0o1777 : 0o755 }) as const;

/** By this, one file a package, a scanner of images knows what is in one that has no package manager. */
const controlOf = ({ fields }: DebPackage): string =>
  [...fields].map(([name, value]) => `${name}: ${value}\n`).join("");
