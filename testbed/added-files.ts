import { readdir, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { run } from "./bound-process.ts";
import type { Partition } from "./disk.ts";

/** S_IFREG, inode(7). */
const REGULAR_FILE = 0o100000;

/**
 * Copies a folder's files into the ext4 file system on a partition of a raw disk, which nothing has mounted: as root's, 0755 if they may be run and else 0644.
 * @throws Error when one of them is there before, or is not afterwards
 */
export async function addFiles(
  disk: string,
  partition: Partition,
  folder: string,
  signal?: AbortSignal,
): Promise<void> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const pathOf = (entry: (typeof entries)[number]): string =>
    word(`/${relative(folder, join(entry.parentPath, entry.name))}`);
  const files = entries.filter((entry) => entry.isFile());
  const requests: string[] = [];
  // A folder that is there already is an error that debugfs prints and passes over; so is any other, hence the look afterwards.
  for (const path of entries
    .filter((entry) => entry.isDirectory())
    .map(pathOf)
    .sort())
    requests.push(`mkdir ${path}`);
  for (const file of files) {
    const source = join(file.parentPath, file.name);
    const mode = REGULAR_FILE | (((await stat(source)).mode & 0o100) === 0 ? 0o644 : 0o755);
    const path = pathOf(file);
    requests.push(
      `write ${word(source)} ${path}`,
      ...[`mode 0${mode.toString(8)}`, "uid 0", "gid 0"].map((field) => `set_inode_field ${path} ${field}`),
    );
  }
  const present = async (): Promise<number> =>
    (await debugfs(files.map((file) => `stat ${pathOf(file)}`))).match(/^Inode:/gm)?.length ?? 0;
  if ((await present()) > 0) throw new Error(`some files of ${folder} are on the disk already`);
  await debugfs(requests);
  if ((await present()) !== files.length) throw new Error(`debugfs did not make all files of ${folder}`);

  async function debugfs(lines: readonly string[]): Promise<string> {
    const script = join(dirname(disk), "requests");
    await writeFile(script, lines.map((line) => `${line}\n`).join(""));
    try {
      return await run("debugfs", ["-w", "-f", script, `${disk}?offset=${String(partition.offset)}`], {
        signal,
      });
    } finally {
      await rm(script);
    }
  }
}

function word(path: string): string {
  if (/[\s"]/.test(path)) throw new Error(`debugfs takes no such path: ${path}`);
  return path;
}
