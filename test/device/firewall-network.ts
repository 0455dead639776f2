import { execFile, spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import type { PeerCalls } from "./firewall-peer.ts";

const run = promisify(execFile);

/** Why real packets can't be sent here, if so. */
export async function whyNoNamespaces(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "needs root";
  try {
    await run("unshare", ["--net", "nft", "list", "tables"]);
    return undefined;
  } catch (error) {
    return `needs network namespaces and nft: ${String(error).split("\n", 1)[0] ?? ""}`;
  }
}

/** A machine in a network namespace of its own. It and its namespace end with this process, even when that is killed. */
export class Peer implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  #next = 1;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (message: { id: number; value?: unknown; error?: string }) => {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error === undefined) waiting?.resolve(message.value);
      else waiting?.reject(new Error(message.error));
    });
    child.on("exit", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("the peer went away"));
    });
  }

  static async start(): Promise<Peer> {
    const child = spawn(
      "setpriv",
      [
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        process.execPath,
        join(import.meta.dirname, "firewall-peer.ts"),
      ],
      { stdio: ["ignore", "inherit", "inherit", "ipc"], env: { ...process.env, NODE_OPTIONS: "" } },
    );
    const peer = new Peer(child);
    await peer.#answer(0);
    await peer.sh("ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
    return peer;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  call<K extends keyof PeerCalls>(
    call: K,
    ...args: Parameters<PeerCalls[K]>
  ): Promise<ReturnType<PeerCalls[K]>> {
    const id = this.#next++;
    this.#child.send({ id, call, args });
    return this.#answer(id) as Promise<ReturnType<PeerCalls[K]>>;
  }

  /** Runs a shell script in the namespace. Its standard input is a pipe: nft 1.0.7 to 1.0.9 reads no socket, which Node gives a child. */
  async sh(script: string, stdin = ""): Promise<string> {
    const piped = ["/bin/sh", "-c", 'cat | /bin/sh -ec "$1"', "sh", script];
    const running = run("nsenter", ["--target", String(this.pid), "--net", ...piped]);
    // A script that reads nothing may end before this is written.
    running.child.stdin?.on("error", () => undefined);
    running.child.stdin?.end(stdin);
    return (await running).stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await gone;
  }

  #answer(id: number): Promise<unknown> {
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }
}

/** The addresses of the little internet. `far` has all of the destinations. */
export const addresses = {
  node: "10.99.0.2",
  nodeV6: "fd99::2",
  operator: "10.99.0.1",
  operatorV6: "fd99::1",
  stranger: "10.99.0.66",
  strangerV6: "fd99::66",
  far: ["10.1.2.3", "203.0.113.5", "203.0.113.6", "9.9.9.9", "8.8.8.8", "192.0.2.123"],
  farV6: ["2001:db8:5::5", "2001:db8:5::6"],
} as const;

/**
 * Three machines in a row: node — router — far. The router is the operator's machine too, with a stranger's address beside its own, and its link
 * to `far` takes packets of 1300 bytes only, so that a large packet of the node gets a path-MTU error.
 */
export class LittleInternet implements AsyncDisposable {
  readonly node: Peer;
  readonly router: Peer;
  readonly far: Peer;

  private constructor(node: Peer, router: Peer, far: Peer) {
    this.node = node;
    this.router = router;
    this.far = far;
  }

  static async start(): Promise<LittleInternet> {
    const [node, router, far] = await Promise.all([Peer.start(), Peer.start(), Peer.start()]);
    const { far: farV4, farV6 } = addresses;
    await router.sh(`
ip link add near type veth peer name eth0 netns ${node.pid}
ip link add away type veth peer name eth0 netns ${far.pid}
# Each attempt is to be answered: limits on ICMP errors are the kernel's business, not what is tested.
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
ip address add ${addresses.operator}/24 dev near
ip address add ${addresses.stranger}/24 dev near
ip address add ${addresses.operatorV6}/64 dev near nodad
ip address add ${addresses.strangerV6}/64 dev near nodad
ip address add 10.200.0.1/30 dev away
ip address add fd98::1/64 dev away nodad
ip link set near up
ip link set away up mtu 1300
${farV4.map((address) => `ip route add ${address} via 10.200.0.2`).join("\n")}
${farV6.map((address) => `ip route add ${address} via fd98::2`).join("\n")}`);
    await node.sh(`
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
ip address add ${addresses.node}/24 broadcast 10.99.0.255 dev eth0
ip address add ${addresses.nodeV6}/64 dev eth0 nodad
ip link set eth0 up
ip route add default via ${addresses.operator}
ip route add default via ${addresses.operatorV6}`);
    await far.sh(`
ip address add 10.200.0.2/30 dev eth0
ip address add fd98::2/64 dev eth0 nodad
${farV4.map((address) => `ip address add ${address}/32 dev lo`).join("\n")}
${farV6.map((address) => `ip address add ${address}/128 dev lo nodad`).join("\n")}
ip link set eth0 up
ip route add default via 10.200.0.1
ip route add default via fd98::1`);
    return new LittleInternet(node, router, far);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.node, this.router, this.far].map((peer) => peer[Symbol.asyncDispose]()));
  }
}
