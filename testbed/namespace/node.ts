import { execFile, spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import type { Connection } from "../../provider/connection.ts";
import { requireRoot } from "../image.ts";
import { until } from "../until.ts";
import { ensureNamespaceRoot } from "./root.ts";

const run = promisify(execFile);

const prefix = "edgeseal-node-";

/** What a command on the node gave, run from outside as root (not over SSH). */
export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Connections and execs as the node's own sshd logged them. */
export interface SshdCounts {
  readonly connections: number;
  readonly execs: number;
}

/** One power-on. Its end is noted from the beginning on: a node may go off while nobody waits for it. */
interface Machine {
  readonly process: ChildProcess;
  /** By which signal it ended. */
  readonly ended: Promise<NodeJS.Signals | null>;
}

/** reboot(2): in a PID namespace, a restart is told to the parent as the end by SIGHUP. */
const byReset = "SIGHUP";

/** Addresses of the little network between the operator and the node. The operator has two, so that a firewall can tell them apart. */
export const network = {
  node: "10.77.0.2",
  nodeV6: "fd77::2",
  operator: "10.77.0.1",
  operatorV6: "fd77::1",
  otherOperator: "10.78.0.1",
} as const;

/**
 * A node in namespaces of the build machine: Debian trixie's systemd, sshd, sudo and nftables, natively, up in about two seconds. It shares the host's
 * kernel, so what no namespace separates (swap, core_pattern as the kernel sees it, the TPM, AppArmor) is proven on the virtual Pi instead.
 *
 * Needs root. Nothing is left behind after `stop`; when the parent is killed, the kernel ends the node with it.
 */
export class NamespaceNode implements AsyncDisposable {
  readonly name: string;
  /** The way in from `network.operator`. */
  readonly connection: Connection;
  /** The way in from `network.otherOperator`: the same node, another source address. */
  readonly otherConnection: Connection;
  readonly #work: string;
  readonly #lower: string;
  readonly #cgroup: string;
  readonly #operator: ChildProcess;
  #machine: Machine | undefined;
  #initPid = 0;

  private constructor(parts: {
    name: string;
    work: string;
    lower: string;
    cgroup: string;
    operator: ChildProcess;
    connection: Connection;
    otherConnection: Connection;
  }) {
    this.name = parts.name;
    this.connection = parts.connection;
    this.otherConnection = parts.otherConnection;
    this.#work = parts.work;
    this.#lower = parts.lower;
    this.#cgroup = parts.cgroup;
    this.#operator = parts.operator;
  }

  /**
   * Makes a fresh node and waits until its sshd listens.
   * @throws UserError when this user is not root
   */
  static async start(
    options: {
      readonly name?: string;
      /** Debian packages beside those that every node has: a root of its own in the cache, built once. */
      readonly packages?: readonly string[];
    } = {},
  ): Promise<NamespaceNode> {
    requireRoot("a node of namespaces", "./edgeseal test device");
    const name = options.name ?? `node-${randomBytes(3).toString("hex")}`;
    const lower = await ensureNamespaceRoot(
      (message) => process.stderr.write(`${message}\n`),
      options.packages,
    );
    const hierarchy = await unifiedCgroup();
    await removeLeftovers(hierarchy);
    const work = await mkdtemp(join(tmpdir(), `${prefix}${process.pid}-`));
    await prepare(work, name);
    const cgroup = join(hierarchy, basename(work));
    await mkdir(cgroup);
    const operator = startOperator();
    await once(operator, "message");
    const hostKey = (await readFile(join(work, "host-key.pub"), "utf8"))
      .split(" ")
      .slice(0, 2)
      .join(" ")
      .trim();
    const reach = async (from: string): Promise<Connection> => ({
      node: name,
      address: "127.0.0.1",
      port: await forward(operator, from),
      user: "edge",
      hostKey,
      identityFile: join(work, "client-key"),
    });
    const node = new NamespaceNode({
      name,
      work,
      lower,
      cgroup,
      operator,
      connection: await reach(network.operator),
      otherConnection: await reach(network.otherOperator),
    });
    await node.#boot();
    return node;
  }

  /** Runs a shell script as root on the node, from outside: the tests' own view, independent of SSH and of any firewall. */
  async exec(script: string): Promise<CommandResult> {
    const child = spawn(
      "nsenter",
      [
        "--target",
        String(this.#initPid),
        "--mount",
        "--pid",
        "--net",
        "--uts",
        "--ipc",
        "--cgroup",
        "--root",
        "--wd=/",
        // nsenter stops itself with its child, and systemd-shutdown(8) stops every process before it kills it: so a shell waits, which does not, and the script runs in a child of that one.
        "--no-fork",
        "/bin/sh",
        "-c",
        '/bin/sh -c "$1"; exit $?',
        "sh",
        script,
      ],
      {
        stdio: ["ignore", "pipe", "pipe"],
        env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", LANG: "C" },
      },
    );
    const [stdout, stderr, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, "close") as Promise<[number | null]>,
    ]);
    return { code: code ?? 128, stdout, stderr };
  }

  /** Like `exec`, but a failing script is an error. Returns its standard output. */
  async must(script: string): Promise<string> {
    const result = await this.exec(script);
    if (result.code !== 0)
      throw new Error(
        `on ${this.name}: exit status ${result.code} of: ${script}\n${result.stdout}${result.stderr}`,
      );
    return result.stdout;
  }

  /** Copies a file of this machine onto the node, which has no other way to a large one. */
  async copyIn(source: string, path: string): Promise<void> {
    await copyFile(source, `/proc/${this.#initPid}/root${path}`);
  }

  /** What sshd logged since the node was made: its own count, not ours. */
  async sshdCounts(): Promise<SshdCounts> {
    const log = await this.must("journalctl --sync; journalctl -q -o cat -t sshd -t sshd-session");
    const count = (pattern: RegExp): number => log.match(pattern)?.length ?? 0;
    return { connections: count(/^Connection from /gm), execs: count(/^Starting session: command /gm) };
  }

  /** Orderly: systemd stops every unit first. Comes back up. */
  async reboot(): Promise<void> {
    const machine = this.#machine;
    if (machine === undefined) throw new Error(`${this.name} is not running`);
    await this.exec("systemctl poweroff --no-block || systemctl poweroff -f");
    await machine.ended;
    await emptied(this.#cgroup);
    await this.#boot();
  }

  /**
   * Waits until the node resets itself, as `systemctl reboot` in it does, then powers it on again: what is a reset on a board is the end of its first process here.
   * @param before awaited while the node is off
   */
  async bootAfterReset(before: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    const machine = this.#machine;
    if (machine === undefined) throw new Error(`${this.name} is not running`);
    const signal = await machine.ended;
    this.#machine = undefined;
    if (signal !== byReset) throw new Error(`${this.name} went off without a reset: ${signal ?? "it ended"}`);
    await emptied(this.#cgroup);
    await before();
    await this.#boot();
  }

  /** The plug is pulled: every process ends at once, nothing is told. Does not come back up by itself; `boot` does. */
  async powerCut(): Promise<void> {
    const machine = this.#machine;
    if (machine === undefined) return;
    this.#machine = undefined;
    machine.process.kill("SIGKILL");
    await machine.ended;
    await emptied(this.#cgroup);
  }

  /** Powers on after `powerCut`. */
  async boot(): Promise<void> {
    if (this.#machine !== undefined) throw new Error(`${this.name} is running already`);
    await this.#boot();
  }

  async stop(): Promise<void> {
    await this.powerCut();
    const gone = once(this.#operator, "exit");
    this.#operator.disconnect();
    await gone;
    await removeCgroup(this.#cgroup);
    await rm(this.#work, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #boot(): Promise<void> {
    // A cgroup of its own first (several nodes share the host's hierarchy), then the namespaces; the kernel ends the machine with this process.
    const machine = spawn(
      "setpriv",
      [
        "--pdeathsig",
        "KILL",
        "/bin/sh",
        "-c",
        'echo $$ > "$1/cgroup.procs"; shift; exec "$@"',
        "sh",
        this.#cgroup,
      ]
        .concat([
          "unshare",
          "--cgroup",
          "--mount",
          "--net",
          "--pid",
          "--uts",
          "--ipc",
          "--fork",
          "--kill-child=SIGKILL",
        ])
        .concat([
          "--propagation",
          "private",
          "/bin/sh",
          join(import.meta.dirname, "boot.sh"),
          this.#lower,
          this.#work,
          this.name,
        ]),
      // Not of the terminal's group: Ctrl-C is for us to answer, by stopping the node.
      { stdio: ["pipe", "pipe", "pipe"], detached: true },
    );
    const ended = once(machine, "close").then(([, signal]) => signal as NodeJS.Signals | null);
    this.#machine = { process: machine, ended };
    let errors = "";
    machine.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    const died = ended.then((signal) => {
      if (signal === byReset) return "reset" as const;
      throw new Error(`${this.name} did not boot: ${errors}`);
    });
    await Promise.race([once(machine.stdout, "data"), died]);
    this.#initPid = await childOf(machine.pid ?? 0);
    await this.#plumb();
    if ((await this.#untilReady(machine, died)) === "ready") return;
    // It booted again by itself before it let anybody in.
    await emptied(this.#cgroup);
    await this.#boot();
  }

  /** Lets a plumbed node go on, and waits until it says that its sshd listens, or ends. */
  async #untilReady(machine: ChildProcess, died: Promise<"reset">): Promise<"ready" | "reset"> {
    // Opened for both, which waits for nobody (fifo(7)); so the read ends with the wait, whoever wrote.
    const pipe = await open(join(this.#work, "pipes", "ready"), "r+");
    const read = pipe.read(Buffer.alloc(16), 0, 16);
    try {
      machine.stdin?.end("go\n");
      return await Promise.race([read.then(() => "ready" as const), died]);
    } finally {
      died.catch(() => undefined);
      await pipe.write("x");
      await read;
      await pipe.close();
    }
  }

  /** One cable between the operator's namespace and the node's. */
  async #plumb(): Promise<void> {
    const operator = ["--target", String(this.#operator.pid), "--net"];
    const node = ["--target", String(this.#initPid), "--net"];
    const ip = (where: string[], ...words: string[]): Promise<unknown> =>
      run("nsenter", [...where, "ip", ...words]);
    // After a power cut the old cable's other end goes away with its namespace, in the kernel's own time.
    await ip(operator, "link", "delete", "cable").catch(() => undefined);
    await ip(
      operator,
      "link",
      "add",
      "cable",
      "type",
      "veth",
      "peer",
      "name",
      "eth0",
      "netns",
      String(this.#initPid),
    );
    await ip(operator, "address", "add", `${network.operator}/24`, "dev", "cable");
    await ip(operator, "address", "add", `${network.otherOperator}/24`, "dev", "cable");
    await ip(operator, "-6", "address", "add", `${network.operatorV6}/64`, "dev", "cable", "nodad");
    await ip(operator, "link", "set", "cable", "up");
    await ip(node, "address", "add", `${network.node}/24`, "dev", "eth0");
    await ip(node, "address", "add", "10.78.0.2/24", "dev", "eth0");
    await ip(node, "-6", "address", "add", `${network.nodeV6}/64`, "dev", "eth0", "nodad");
    await ip(node, "link", "set", "eth0", "up");
  }
}

/** Keys and a name of its own for each node, in the layer above the shared root. */
async function prepare(work: string, name: string): Promise<void> {
  await mkdir(join(work, "pipes"));
  await run("mkfifo", [join(work, "pipes", "ready")]);
  await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", join(work, "host-key")]);
  await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", join(work, "client-key")]);
  await mkdir(join(work, "upper/etc/ssh"), { recursive: true });
  await writeFile(join(work, "upper/etc/hostname"), `${name}\n`);
  await writeFile(join(work, "upper/etc/hosts"), `127.0.0.1 localhost ${name}\n::1 localhost ${name}\n`);
  await mkdir(join(work, "upper/home/edge/.ssh"), { recursive: true, mode: 0o700 });
  await writeFile(join(work, "upper/etc/ssh/ssh_host_ed25519_key"), await readFile(join(work, "host-key")), {
    mode: 0o600,
  });
  await writeFile(
    join(work, "upper/home/edge/.ssh/authorized_keys"),
    await readFile(join(work, "client-key.pub")),
    { mode: 0o600 },
  );
  await run("chown", ["-R", "1000:1000", join(work, "upper/home/edge")]);
}

/** The operator's side: a network namespace that lives as long as the forwarder in it. */
function startOperator(): ChildProcess {
  return spawn(
    "setpriv",
    [
      "--pdeathsig",
      "KILL",
      "unshare",
      "--net",
      process.execPath,
      "--disable-warning=ExperimentalWarning",
      join(import.meta.dirname, "forwarder.ts"),
    ],
    {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      detached: true,
      env: { ...process.env, NODE_OPTIONS: "" },
    },
  );
}

/** Listens on a free loopback port of the host and hands the socket to the operator. */
async function forward(operator: ChildProcess, from: string): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const forwarding = once(operator, "message");
  operator.send({ from, to: network.node }, server);
  await forwarding;
  server.close();
  return port;
}

async function childOf(pid: number): Promise<number> {
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, "utf8")).trim().split(" ");
  const first = Number(children[0]);
  if (!Number.isInteger(first) || first === 0) throw new Error(`process ${pid} has no child`);
  return first;
}

/** Mount point of the unified cgroup hierarchy. */
async function unifiedCgroup(): Promise<string> {
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  const line = mounts.split("\n").find((each) => / - cgroup2 /.test(each));
  const path = line?.split(" ")[4];
  if (path === undefined)
    throw new Error("no cgroup2 file system is mounted; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
  return path;
}

/** Resolves when no process is left in a cgroup: the kernel ends a namespace in its own time, and says so in `cgroup.events` (cgroups(7)). */
async function emptied(cgroup: string): Promise<void> {
  const events = join(cgroup, "cgroup.events");
  await until(events, async () => (await readFile(events, "utf8")).includes("populated 0"));
}

/** Cgroups are removed leaf first. */
async function removeCgroup(path: string): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeCgroup(join(path, entry.name));
  }
  await rmdir(path);
}

/** What nodes of killed processes left behind: their processes ended with them, folders and cgroups did not. */
async function removeLeftovers(hierarchy: string): Promise<void> {
  const orphaned = (name: string): boolean => {
    const pid = new RegExp(`^${prefix}(\\d+)-`).exec(name)?.[1];
    // A zombie still has its folder in /proc, but no executable.
    return pid !== undefined && !existsSync(`/proc/${pid}/exe`);
  };
  for (const name of (await readdir(hierarchy)).filter(orphaned)) await removeCgroup(join(hierarchy, name));
  for (const name of (await readdir(tmpdir())).filter(orphaned))
    await rm(join(tmpdir(), name), { recursive: true, force: true });
}
