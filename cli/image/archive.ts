import { readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { packTar, unpackTar } from "modern-tar";
import { UserError } from "../errors.ts";

/** Files of a `dir:` layout, by name. */
export type Layout = ReadonlyMap<string, Buffer>;

/**
 * The signed archive: a tar of the layout, without a folder in it. Of one time and sorted, so that the same image with the same signature is the same file.
 * @param time Of all files in it.
 */
export async function packArchive(layout: Layout, time: Date): Promise<Buffer> {
  const sorted = [...layout].sort(([a], [b]) => (a < b ? -1 : 1));
  const common = { type: "file", mode: 0o644, uid: 0, gid: 0, uname: "", gname: "", mtime: time } as const;
  const tar = await packTar(
    sorted.map(([name, body]) => ({ header: { ...common, name, size: body.length }, body })),
  );
  return Buffer.from(tar.buffer, tar.byteOffset, tar.byteLength);
}

/**
 * The layout in an archive. Nothing is written to the disk, so that no name in it can lead anywhere.
 * @throws UserError
 */
export async function unpackArchive(path: string, bytes: Buffer): Promise<Layout> {
  const refuse = (what: string): UserError =>
    new UserError(`${path} ${what}`, { hint: "expected an archive that `edgeseal image sign` wrote" });
  let entries;
  try {
    entries = await unpackTar(bytes, { strict: true });
  } catch (error) {
    throw refuse(`is no tar archive, or is damaged: ${(error as Error).message}`);
  }
  const layout = new Map<string, Buffer>();
  for (const { header, data } of entries) {
    const { name, type = "file" } = header;
    if (type !== "file" || data === undefined)
      throw refuse(`has '${name}' in it, which is no file but a ${type}`);
    if (!/^[a-z0-9][a-z0-9.-]*$/.test(name))
      throw refuse(`has a file '${name}' in it, which is none of an image`);
    if (layout.has(name)) throw refuse(`has ${name} in it twice`);
    layout.set(name, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
  return layout;
}

/** The layout at a path: a folder, as `edgeseal image build` makes it, or an archive. @throws UserError */
export async function readLayout(path: string): Promise<Layout> {
  const there = await stat(path).catch((error: unknown) => {
    throw new UserError(`${path} can't be read: ${(error as Error).message}`);
  });
  if (!there.isDirectory()) return unpackArchive(path, await readFile(path));
  const entries = await readdir(path, { withFileTypes: true });
  const other = entries.find((entry) => !entry.isFile());
  if (other !== undefined) throw new UserError(`${path} has '${other.name}' in it, which is no file`);
  return new Map(
    await Promise.all(entries.map(async ({ name }) => [name, await readFile(join(path, name))] as const)),
  );
}
