import type { Control } from "../../policies/control.ts";
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

/**
 * The demo's site with more on its node, which takes the site's keys: none of the waivers for the controls that it has to pass then.
 * @param more blocks of the node
 */
export function keyedSite(
  template: Record<string, unknown>,
  pi: Pick<VirtualPi, "ssh">,
  controls: readonly Control["id"][],
  more: Readonly<Record<string, unknown>>,
): DemoSite {
  const { nodes, waivers, ...site } = demoSite(template, pi);
  return {
    ...site,
    // From the site file's folder on.
    trust: { policyKey: "../../keys/policy-1.pub.pem", recoveryKey: "../../keys/recovery.pub.pem" },
    nodes: nodes.map((node) => ({ ...node, measuredBoot: { reboot: "ifNeeded" }, ...more })),
    waivers: waivers.filter(({ control }) => !(controls as readonly string[]).includes(control)),
  };
}

const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
