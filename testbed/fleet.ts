import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, open, readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Connection } from "../provider/connection.ts";
import { until } from "./until.ts";
import { spawnBound, type BoundProcess } from "./bound-process.ts";

const run = promisify(execFile);

export interface FleetOptions {
  /** Lines for every node's sshd_config, instead of the defaults with the same keyword. */
  readonly sshdConfig?: readonly string[];
  /** Files in the home folder that login shells see, by name, e.g. `.bashrc`. */
  readonly home?: Readonly<Record<string, string>>;
}

/** What a node's own sshd logged. */
export interface SshdCounts {
  readonly connections: number;
  readonly authenticationAttempts: number;
  readonly execs: number;
}

/**
 * One sshd on loopback with host keys of its own, in a mount and a PID namespace: it has its own empty /var/lib and /run, and all its processes
 * end with it. Everything else is this machine's. For tests and benchmarks of the way there; what a node *is* is tested on `NamespaceNode`.
 */
export class FleetNode {
  readonly name: string;
  readonly port: number;
  /** Public host keys by type, as in known_hosts. */
  readonly hostKeys: { readonly ed25519: string; readonly ecdsa: string };
  readonly connection: Connection;
  readonly #folder: string;
  readonly #process: BoundProcess;

  constructor(parts: {
    name: string;
    port: number;
    folder: string;
    hostKeys: { ed25519: string; ecdsa: string };
    identityFile: string;
    process: BoundProcess;
  }) {
    this.name = parts.name;
    this.port = parts.port;
    this.hostKeys = parts.hostKeys;
    this.#folder = parts.folder;
    this.#process = parts.process;
    this.connection = {
      node: parts.name,
      address: "127.0.0.1",
      port: parts.port,
      user: "root",
      hostKey: parts.hostKeys.ed25519,
      identityFile: parts.identityFile,
    };
  }

  log(): Promise<string> {
    return readFile(join(this.#folder, "sshd.log"), "utf8");
  }

  /** Counted from sshd's own log, not from what we think that we did. */
  async counts(): Promise<SshdCounts> {
    const log = await this.log();
    const count = (pattern: RegExp): number => log.match(pattern)?.length ?? 0;
    return {
      connections: count(/^Connection from /gm),
      authenticationAttempts: count(
        /^(Postponed|Accepted|Failed|userauth-request for|Connection (closed|reset) by authenticating)/gm,
      ),
      execs: count(/^Starting session: command /gm),
    };
  }

  /** Host PIDs and command lines of everything that runs in the node. */
  async processes(): Promise<readonly { readonly pid: number; readonly command: string }[]> {
    const namespace = await this.#pidNamespace();
    const found: { pid: number; command: string }[] = [];
    for (const entry of await readdir("/proc")) {
      if (!/^\d+$/.test(entry)) continue;
      try {
        if ((await readlink(`/proc/${entry}/ns/pid`)) !== namespace) continue;
        const command = (await readFile(`/proc/${entry}/cmdline`, "utf8")).replaceAll("\0", " ").trim();
        found.push({ pid: Number(entry), command });
      } catch {
        // It ended while we looked.
      }
    }
    return found;
  }

  /** Kills the sshd processes that serve connections, as a crash of the session would; the listener stays. */
  async killSessions(): Promise<void> {
    const listener = await this.#firstProcess();
    for (const { pid, command } of await this.processes()) {
      if (pid !== listener && /^sshd(-session)?: /.test(command)) process.kill(pid, "SIGKILL");
    }
  }

  /** Runs a shell script as root in the node's namespaces, not over SSH. */
  async exec(script: string): Promise<string> {
    const pid = String(await this.#firstProcess());
    const { stdout } = await run("nsenter", ["--target", pid, "--mount", "--pid", "/bin/sh", "-c", script], {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
    });
    return stdout;
  }

  async stop(): Promise<void> {
    await this.#process.kill();
  }

  /** `unshare --fork` has one child: the namespace's first process, its sshd. */
  async #firstProcess(): Promise<number> {
    const { pid } = this.#process;
    return Number((await readFile(`/proc/${pid}/task/${pid}/children`, "utf8")).trim());
  }

  async #pidNamespace(): Promise<string> {
    return readlink(`/proc/${await this.#firstProcess()}/ns/pid`);
  }
}

/** A number of `FleetNode`s with one client key. Needs root (namespaces, and sshd's own needs). */
export class Fleet implements AsyncDisposable {
  readonly nodes: readonly FleetNode[];
  readonly #folder: string;

  private constructor(nodes: readonly FleetNode[], folder: string) {
    this.nodes = nodes;
    this.#folder = folder;
  }

  static async start(count: number, options: FleetOptions = {}): Promise<Fleet> {
    const folder = await mkdtemp(join(tmpdir(), "edgeseal-fleet-"));
    const started: FleetNode[] = [];
    try {
      const identityFile = join(folder, "client-key");
      await keygen(identityFile, "ed25519");
      const names = Array.from({ length: count }, (_, index) => `fleet-${index + 1}`);
      const outcomes = await Promise.allSettled(
        names.map(async (name) => {
          started.push(await startNode(name, join(folder, name), identityFile, options));
        }),
      );
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
    } catch (error) {
      await Promise.all(started.map((node) => node.stop()));
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
    return new Fleet(
      started.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })),
      folder,
    );
  }

  /** The only node, or the first. */
  get first(): FleetNode {
    const node = this.nodes[0];
    if (node === undefined) throw new RangeError("the fleet is empty");
    return node;
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()));
    await rm(this.#folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

async function keygen(path: string, type: "ed25519" | "ecdsa"): Promise<string> {
  await run("ssh-keygen", ["-q", "-t", type, "-N", "", "-C", "", "-f", path]);
  return (await readFile(`${path}.pub`, "utf8")).trim();
}

const keywordOf = (line: string): string => line.split(" ")[0] ?? "";

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function startNode(
  name: string,
  folder: string,
  identityFile: string,
  options: FleetOptions,
): Promise<FleetNode> {
  const home = join(folder, "home");
  await mkdir(home, { recursive: true });
  for (const [file, content] of Object.entries(options.home ?? {}))
    await writeFile(join(home, file), content);
  const ed25519 = await keygen(join(folder, "host-ed25519"), "ed25519");
  const ecdsa = await keygen(join(folder, "host-ecdsa"), "ecdsa");
  const port = await freePort();
  const log = join(folder, "sshd.log");
  await (await open(log, "a")).close();
  const own = options.sshdConfig ?? [];
  const keywords = new Set(own.map(keywordOf));
  const defaults = [
    "ListenAddress 127.0.0.1",
    `Port ${port}`,
    `HostKey ${join(folder, "host-ed25519")}`,
    `HostKey ${join(folder, "host-ecdsa")}`,
    `AuthorizedKeysFile ${identityFile}.pub`,
    "PidFile none",
    "UsePAM no",
    "StrictModes no",
    "PermitRootLogin prohibit-password",
    "LogLevel DEBUG1",
    // Fleets on loopback come from one address, all at once.
    "MaxStartups 100:30:200",
    // The login shell's start-up files are the test's, not this machine's.
    `SetEnv HOME=${home}`,
  ].filter((line) => !keywords.has(keywordOf(line)));
  await writeFile(join(folder, "sshd_config"), [...own, ...defaults, ""].join("\n"));
  const ready = listening(log);
  const script = `mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && exec /usr/sbin/sshd -D -f "$1" -E "$2"`;
  const bound = await spawnBound("unshare", [
    ...["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ...["/bin/sh", "-c", script, name, join(folder, "sshd_config"), log],
  ]);
  const end = await Promise.race([ready, bound.ended]);
  if (end !== undefined)
    throw new Error(`${name}: sshd did not start: ${bound.stderr()}${await readFile(log, "utf8")}`);
  return new FleetNode({ name, port, folder, hostKeys: { ed25519, ecdsa }, identityFile, process: bound });
}

/** Resolves when sshd says in its log that it listens. */
async function listening(log: string): Promise<undefined> {
  const tooLate = AbortSignal.timeout(20_000);
  await until(log, async () => (await readFile(log, "utf8")).includes("Server listening on"), tooLate);
  tooLate.throwIfAborted();
}
