import { mkdir, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "./bound-process.ts";
import { bootPartition, extractPartition, replacePartition, rootPartition, type Partition } from "./disk.ts";
import { dataDiskMiB } from "./image/recipe.ts";

interface Disks {
  readonly folder: string;
  readonly systemDisk: string;
  readonly dataDisk: string;
}

const wholeDataDisk: Partition = { number: 0, offset: 0, size: dataDiskMiB * 1024 * 1024 };

/** S_IFREG, inode(7). */
const REGULAR_FILE = 0o100000;

/**
 * The disks of a node that is off, in someone else's hands. Each is copied out when it is first used, and written back
 * at the end when it was changed: in between, the node's own disks are untouched.
 */
export class PoweredOffDisks {
  readonly boot: BootFileSystem;
  readonly root: RootFileSystem;
  readonly model: RawDisk;
  readonly #copies: readonly WorkingCopy[];

  constructor(disks: Disks) {
    const folder = join(disks.folder, "tamper");
    const boot = new WorkingCopy(disks.systemDisk, bootPartition, join(folder, "boot.img"));
    const root = new WorkingCopy(disks.systemDisk, rootPartition, join(folder, "root.img"));
    const model = new WorkingCopy(disks.dataDisk, wholeDataDisk, join(folder, "model.img"));
    this.boot = new BootFileSystem(boot, folder);
    this.root = new RootFileSystem(root, folder);
    this.model = new RawDisk(model);
    this.#copies = [boot, root, model];
  }

  async writeBack(): Promise<void> {
    for (const copy of this.#copies) await copy.writeBack();
  }

  async discard(): Promise<void> {
    for (const copy of this.#copies) await copy.discard();
  }
}

class WorkingCopy {
  changed = false;
  #extracted: Promise<void> | undefined;
  readonly #disk: string;
  readonly #partition: Partition;
  readonly #path: string;

  constructor(disk: string, partition: Partition, path: string) {
    this.#disk = disk;
    this.#partition = partition;
    this.#path = path;
  }

  async path(prepare?: (path: string) => Promise<void>): Promise<string> {
    this.#extracted ??= (async () => {
      await mkdir(join(this.#path, ".."), { recursive: true });
      await extractPartition(this.#disk, this.#partition, this.#path);
      await prepare?.(this.#path);
    })();
    await this.#extracted;
    return this.#path;
  }

  async writeBack(): Promise<void> {
    if (this.changed) await replacePartition(this.#disk, this.#partition, this.#path);
  }

  async discard(): Promise<void> {
    await rm(this.#path, { force: true });
  }
}

/** The FAT partition that is `/boot/firmware` in the node. Paths are relative to it, such as `overlays/README`. */
export class BootFileSystem {
  readonly #copy: WorkingCopy;
  readonly #folder: string;

  constructor(copy: WorkingCopy, folder: string) {
    this.#copy = copy;
    this.#folder = folder;
  }

  async read(path: string): Promise<Buffer> {
    const image = await this.#copy.path();
    const scratch = join(this.#folder, "scratch");
    await run("mcopy", ["-n", "-o", "-i", image, `::${path}`, scratch]);
    return takeFile(scratch);
  }

  async write(path: string, content: string | Buffer): Promise<void> {
    const image = await this.#copy.path();
    const scratch = join(this.#folder, "scratch");
    await writeFile(scratch, content);
    await run("mcopy", ["-o", "-i", image, scratch, `::${path}`]);
    await rm(scratch);
    this.#copy.changed = true;
  }

  async remove(path: string): Promise<void> {
    await run("mdel", ["-i", await this.#copy.path(), `::${path}`]);
    this.#copy.changed = true;
  }
}

/** The ext4 root file system. Paths are absolute, without spaces. */
export class RootFileSystem {
  readonly #copy: WorkingCopy;
  readonly #folder: string;

  constructor(copy: WorkingCopy, folder: string) {
    this.#copy = copy;
    this.#folder = folder;
  }

  async read(path: string): Promise<Buffer> {
    const scratch = join(this.#folder, "scratch");
    await this.#debugfs(`dump ${word(path)} ${word(scratch)}`);
    return takeFile(scratch);
  }

  /** Makes or replaces a file. Its folder has to exist. @param attributes @default 0644, root's */
  async write(
    path: string,
    content: string | Buffer,
    attributes: { readonly mode?: number; readonly uid?: number; readonly gid?: number } = {},
  ): Promise<void> {
    const { mode = 0o644, uid = 0, gid = 0 } = attributes;
    if (await this.#exists(path)) await this.remove(path);
    const scratch = join(this.#folder, "scratch");
    await writeFile(scratch, content);
    await this.#debugfs(
      `write ${word(scratch)} ${word(path)}`,
      `set_inode_field ${word(path)} mode 0${(REGULAR_FILE | mode).toString(8)}`,
      `set_inode_field ${word(path)} uid ${String(uid)}`,
      `set_inode_field ${word(path)} gid ${String(gid)}`,
    );
    await rm(scratch);
    this.#copy.changed = true;
    if (!(await this.#exists(path))) throw new Error(`debugfs did not make ${path}: does its folder exist?`);
  }

  async remove(path: string): Promise<void> {
    await this.#debugfs(`rm ${word(path)}`);
    this.#copy.changed = true;
    if (await this.#exists(path)) throw new Error(`debugfs did not remove ${path}`);
  }

  async symlink(path: string, target: string): Promise<void> {
    await this.#debugfs(`symlink ${word(path)} ${word(target)}`);
    this.#copy.changed = true;
    if (!(await this.#exists(path))) throw new Error(`debugfs did not make ${path}: does its folder exist?`);
  }

  async #exists(path: string): Promise<boolean> {
    return /^Inode:/m.test(await this.#debugfs(`stat ${word(path)}`));
  }

  async #debugfs(...requests: readonly string[]): Promise<string> {
    const image = await this.#copy.path(replayJournal);
    const script = join(this.#folder, "requests");
    await writeFile(script, requests.join("\n") + "\n");
    const output = await run("debugfs", ["-w", "-f", script, image]);
    await rm(script);
    return output;
  }
}

/** The data disk as bytes. */
export class RawDisk {
  readonly #copy: WorkingCopy;

  constructor(copy: WorkingCopy) {
    this.#copy = copy;
  }

  /** @param offset and @param length in bytes */
  async read(offset: number, length: number): Promise<Buffer> {
    const file = await open(await this.#copy.path(), "r");
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    const path = await this.#copy.path();
    if (offset + bytes.length > (await stat(path)).size) throw new Error("beyond the end of the disk");
    const file = await open(path, "r+");
    try {
      await file.write(bytes, 0, bytes.length, offset);
    } finally {
      await file.close();
    }
    this.#copy.changed = true;
  }
}

/** As mounting it would: after a power cut, debugfs would otherwise edit under a journal that is replayed over it later. */
async function replayJournal(image: string): Promise<void> {
  // Exit code 1: something was mended, which a replay is (e2fsck(8)).
  await run("e2fsck", ["-p", image], { okCodes: [0, 1] });
}

function word(path: string): string {
  if (/[\s"]/.test(path)) throw new Error(`debugfs takes no such path: ${path}`);
  return path;
}

async function takeFile(path: string): Promise<Buffer> {
  const content = await readFile(path);
  await rm(path);
  return content;
}
