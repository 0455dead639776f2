import { fileURLToPath } from "node:url";
import { readSite, type PulumiWorkspace } from "../cli/pulumi.ts";
import { LatencyProxy } from "../testbed/latency-proxy.ts";
import { NamespaceNode, network } from "../testbed/namespace/node.ts";

/** What one node saw of an operation: by its own sshd's log, and by the proxy in front of it. */
export interface WayCounts {
  readonly connections: number;
  readonly execs: number;
  readonly roundTrips: number;
}

interface DistantNode {
  readonly node: NamespaceNode;
  readonly proxy: LatencyProxy;
}

const demoSite = fileURLToPath(new URL("../stacks/demo.yaml", import.meta.url));

/** A stack with fresh nodes, each behind a delay proxy: the blocks and waivers of the demo site, so all four resources a node. */
export class BenchSite implements AsyncDisposable {
  readonly stack: string;
  readonly #nodes: readonly DistantNode[];
  readonly #resources: AsyncDisposableStack;

  private constructor(stack: string, nodes: readonly DistantNode[], resources: AsyncDisposableStack) {
    this.stack = stack;
    this.#nodes = nodes;
    this.#resources = resources;
  }

  /** @param stack A name that the workspace does not have yet. */
  static async start(
    workspace: PulumiWorkspace,
    stack: string,
    options: { readonly nodes: number; readonly rttMs: number },
  ): Promise<BenchSite> {
    await using resources = new AsyncDisposableStack();
    const nodes: DistantNode[] = [];
    for (let index = 1; index <= options.nodes; index++) {
      const node = resources.use(await NamespaceNode.start({ name: `${stack}-${index}` }));
      const { port } = node.connection;
      const target = { host: "127.0.0.1", port };
      nodes.push({ node, proxy: resources.use(await LatencyProxy.start({ target, rttMs: options.rttMs })) });
    }
    await workspace.site(stack, siteOf(await readSite(demoSite), nodes));
    return new BenchSite(stack, nodes, resources.move());
  }

  /** Runs a script as root on every node, from outside: what somebody did there behind our back. */
  async tamper(script: string): Promise<void> {
    for (const { node } of this.#nodes) await node.must(script);
  }

  /** What `action` caused on the way to each node. */
  async counted<T>(
    action: () => Promise<T>,
  ): Promise<{ readonly result: T; readonly ways: readonly WayCounts[] }> {
    const before = await this.#sshdCounts();
    for (const { proxy } of this.#nodes) proxy.resetCounts();
    const result = await action();
    const roundTrips = this.#nodes.map(({ proxy }) => proxy.counts.roundTrips);
    const after = await this.#sshdCounts();
    const ways = after.map(({ connections, execs }, index) => ({
      connections: connections - (before[index]?.connections ?? 0),
      execs: execs - (before[index]?.execs ?? 0),
      roundTrips: roundTrips[index] ?? 0,
    }));
    return { result, ways };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }

  #sshdCounts(): Promise<readonly { readonly connections: number; readonly execs: number }[]> {
    return Promise.all(this.#nodes.map(({ node }) => node.sshdCounts()));
  }
}

/** The demo site with these nodes in place of its own, each let through with the same waivers. */
function siteOf(template: Readonly<Record<string, unknown>>, nodes: readonly DistantNode[]): object {
  const { nodes: models, waivers } = template as {
    readonly nodes: readonly { readonly firewall: object }[];
    readonly waivers: readonly object[];
  };
  const [model] = models;
  const expires = new Date(Date.now() + 90 * 86_400_000).toISOString().slice(0, 10);
  return {
    site: "bench",
    nodes: nodes.map(({ node, proxy }) => ({
      ...model,
      name: node.name,
      address: "127.0.0.1",
      port: proxy.port,
      user: node.connection.user,
      hostKey: node.connection.hostKey,
      identityFile: node.connection.identityFile,
      firewall: { ...model?.firewall, management: [`${network.operator}/32`] },
    })),
    waivers: waivers.map((waiver) => ({ ...waiver, node: "*", expires })),
  };
}
