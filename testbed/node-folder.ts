import { mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { createServer } from "node:net";
import { basename, join } from "node:path";
import { UserError } from "../cli/errors.ts";
import type { GuestAddress } from "./guest-shell.ts";
import { cacheFolder } from "./image.ts";

/** A process, told apart from a later one with the same number by its start time in clock ticks since boot. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTicks: string;
}

/** Where the folders of all this user's virtual Pis are. */
export function nodesFolder(): string {
  return join(cacheFolder(), "pi");
}

/**
 * Takes a name: makes the node's folder, owned by this process for as long as it lives. Folders whose owner is dead
 * are removed on the way: their emulators died with it.
 * @param name letters, digits and dashes; @default a new one
 * @throws UserError when a living process has the name, or the cache's path is too long for a socket in it
 */
export async function claimNodeFolder(
  name: string | undefined,
): Promise<{ readonly name: string; readonly folder: string }> {
  const parent = nodesFolder();
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await removeAbandoned(parent);
  const chosen = name ?? `node-${randomBytes(4).toString("hex")}`;
  if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(chosen)) {
    throw new UserError(`"${chosen}" is not a name for a virtual Pi`, {
      hint: "use at most 32 lower-case letters, digits and dashes",
    });
  }
  const folder = join(parent, chosen);
  // sun_path, unix(7): 108 bytes with the final zero.
  if (Buffer.byteLength(join(folder, "console.sock")) > 107) {
    throw new UserError(`${parent} is too long a path for sockets`, {
      hint: "set EDGESEAL_CACHE to a shorter one",
    });
  }
  // Complete before it has its name, so that nobody finds a folder without an owner.
  const making = await mkdtemp(join(parent, ".new-"));
  await writeFile(join(making, "owner.json"), JSON.stringify(await identityOf(process.pid)));
  try {
    await rename(making, folder);
  } catch (error) {
    await rm(making, { recursive: true, force: true });
    if (!isCode(error, "ENOTEMPTY") && !isCode(error, "EEXIST")) throw error;
    throw new UserError(`a virtual Pi named "${chosen}" is already running`, {
      hint: `end it with \`./edgeseal pi down --name ${chosen}\`, or take another name`,
    });
  }
  return { name: chosen, folder };
}

/** What other processes may know of a running node. */
export interface NodeDescription {
  readonly name: string;
  readonly ssh: GuestAddress;
  /** The image that its disks are layers over. */
  readonly imageHash: string;
}

/** Tells other processes that the node is up and how to reach it. Complete or not there. */
export async function describeNode(folder: string, description: NodeDescription): Promise<void> {
  const { host, port, hostKey } = description.ssh;
  await writeFile(join(folder, "known_hosts"), `[${host}]:${String(port)} ${hostKey}\n`);
  await writeFile(join(folder, "node.json.new"), JSON.stringify(description));
  await rename(join(folder, "node.json.new"), join(folder, "node.json"));
}

/** All running nodes of this user, by name. */
export async function runningNodes(): Promise<readonly RunningNode[]> {
  const parent = nodesFolder();
  const names = (await readdir(parent).catch(() => [])).filter((name) => !name.startsWith("."));
  const found = await Promise.all(names.sort().map((name) => runningNode(name)));
  return found.filter((node) => node !== undefined);
}

export interface RunningNode extends NodeDescription {
  readonly folder: string;
  readonly owner: ProcessIdentity;
}

/** A node by name; undefined when it does not run or is not up yet. */
export async function runningNode(name: string): Promise<RunningNode | undefined> {
  const folder = join(nodesFolder(), name);
  const owner = await ownerOf(folder);
  const text = await readFile(join(folder, "node.json"), "utf8").catch(() => undefined);
  if (!owner || text === undefined) return undefined;
  return { ...(JSON.parse(text) as NodeDescription), folder, owner };
}

/** The living owner of a node's folder; undefined when there is none. */
export async function ownerOf(folder: string): Promise<ProcessIdentity | undefined> {
  try {
    const owner = JSON.parse(await readFile(join(folder, "owner.json"), "utf8")) as ProcessIdentity;
    const now = await identityOf(owner.pid);
    return now.startTicks === owner.startTicks ? owner : undefined;
  } catch {
    return undefined;
  }
}

/** @throws Error when there is no such process. Source: proc_pid_stat(5), field 22. */
async function identityOf(pid: number): Promise<ProcessIdentity> {
  const stat = await readFile(`/proc/${String(pid)}/stat`, "utf8");
  // The second field is the command in parentheses, and may hold anything: count from behind it.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { pid, startTicks: fields[19] ?? "" };
}

async function removeAbandoned(parent: string): Promise<void> {
  for (const entry of await readdir(parent, { withFileTypes: true })) {
    const folder = join(parent, entry.name);
    if (!entry.isDirectory() || entry.name.startsWith(".new-")) continue;
    if ((await ownerOf(folder)) !== undefined) continue;
    // Two cleaners at once: one of them gets it.
    const doomed = join(parent, `.new-dead-${basename(folder)}-${randomBytes(4).toString("hex")}`);
    await rename(folder, doomed).then(
      () => rm(doomed, { recursive: true, force: true }),
      () => undefined,
    );
  }
}

/**
 * Ports that are free now, by the kernel's word, and below those that it gives to outgoing connections
 * (ip_local_port_range(7)): so that none of these takes a node's port while the node reboots.
 */
export async function freePorts(count: number): Promise<readonly number[]> {
  const range = await readFile("/proc/sys/net/ipv4/ip_local_port_range", "utf8").catch(() => "32768 60999");
  const ceiling = Math.max(Number(range.trim().split(/\s+/)[0]), 21_000);
  const found = new Set<number>();
  while (found.size < count) {
    const port = 20_000 + (randomBytes(4).readUInt32LE() % (ceiling - 20_000));
    if (await isFree(port)) found.add(port);
  }
  return [...found];
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => {
      resolve(false);
    });
    server.listen(port, "127.0.0.1", () => {
      server.close(() => {
        resolve(true);
      });
    });
  });
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
