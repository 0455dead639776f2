import { execFile } from "node:child_process";
import { posix } from "node:path";
import { promisify } from "node:util";
import { unpackTar } from "modern-tar";

/*
 * Debian packages as they are: no script of theirs is run, and nothing is installed. dpkg-deb is on every Debian.
 */

const execute = promisify(execFile);

/** A file or link of a package. Folders come of themselves. */
export interface PackagedFile {
  /** Name of the package. */
  readonly from: string;
  readonly mode: number;
  readonly content: { readonly bytes: Buffer } | { readonly linkTo: string };
}

/** What a package says of itself, and brings. */
export interface DebPackage {
  /** Fields of its control file by their names; those of several lines as they stand there. */
  readonly fields: ReadonlyMap<string, string>;
  /** By absolute path. */
  readonly files: ReadonlyMap<string, PackagedFile>;
}

/** Reads a .deb. @throws Error when dpkg-deb can't. */
export async function readDeb(path: string, signal?: AbortSignal): Promise<DebPackage> {
  const options = { encoding: "buffer", maxBuffer: 1024 * 1024 * 1024, signal } as const;
  const [control, files] = await Promise.all([
    execute("dpkg-deb", ["--field", path], options),
    execute("dpkg-deb", ["--fsys-tarfile", path], options),
  ]);
  const fields = controlFields(control.stdout.toString());
  return { fields, files: await filesOf(fields.get("Package") ?? "", files.stdout) };
}

/** The fields of a control file (deb-control(5)). */
export function controlFields(text: string): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (const field of text.trimEnd().split(/\n(?![ \t])/)) {
    const colon = field.indexOf(":");
    if (colon > 0) fields.set(field.slice(0, colon), field.slice(colon + 1).trim());
  }
  return fields;
}

async function filesOf(from: string, tar: Buffer): Promise<ReadonlyMap<string, PackagedFile>> {
  const files = new Map<string, PackagedFile>();
  for (const { header, data } of await unpackTar(tar, { strict: true })) {
    const path = posix.join("/", header.name).replace(/(?<=.)\/$/, "");
    // Whatever set them, nothing in an image is to run as somebody else.
    const mode = (header.mode ?? 0o644) & 0o777;
    if (header.type === "symlink" && header.linkname !== undefined)
      files.set(path, { from, mode, content: { linkTo: header.linkname } });
    else if (header.type === "link" && header.linkname !== undefined) {
      const target = files.get(posix.join("/", header.linkname));
      if (target !== undefined) files.set(path, target);
    } else if (header.type === undefined || header.type === "file")
      files.set(path, { from, mode, content: { bytes: Buffer.from(data ?? new Uint8Array()) } });
  }
  return files;
}
