import type { VirtualPi } from "../../testbed/virtual-pi.ts";

export const nodeName = "pi-demo";

/** The disk of the virtual Pi that is there for volumes. */
export const dataDisk = "/dev/disk/by-id/virtio-model";

/** The parts of the demo site that steps change. Everything else passes through as it is in `stacks/demo.yaml`. */
export interface DemoSite {
  readonly nodes: readonly DemoNode[];
  readonly waivers: readonly { readonly control: string }[];
  readonly [other: string]: unknown;
}

interface DemoNode {
  readonly firewall?: Readonly<Record<string, unknown>>;
  readonly [other: string]: unknown;
}

/**
 * `stacks/demo.yaml` with the connection of the running virtual Pi in place of its placeholders, and waivers that have not expired.
 * @param port Another way in than the node's own, when given.
 */
export function demoSite(
  template: Record<string, unknown>,
  pi: Pick<VirtualPi, "ssh">,
  port = pi.ssh.port,
): DemoSite {
  const [node] = (template as unknown as DemoSite).nodes;
  const { host, user, identityFile, hostKey } = pi.ssh;
  const waivers = (template as unknown as DemoSite).waivers.map((waiver) => ({
    ...waiver,
    expires: inDays(90),
  }));
  return { ...template, waivers, nodes: [{ ...node, address: host, port, user, identityFile, hostKey }] };
}

const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
