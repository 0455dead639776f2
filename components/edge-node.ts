import * as pulumi from "@pulumi/pulumi";
import type { JudgedNode } from "../policies/node.ts";
import { edgeNodeType } from "../policies/stack.ts";
import type { Waiver } from "../policies/waiver.ts";
import { withDefaults, type BlockArgs, type Blocks } from "./block-args.ts";
import type { ConnectionArgs, OnDelete } from "./connection-args.ts";
import { requireChecklist } from "./gate.ts";
import { CoreDumps, Firewall, Swap, VerifiedBoot, type DeviceArgs } from "./resources.ts";

/** A waiver for the node it is given to. */
export type NodeWaiver = Omit<Waiver, "node">;

/** One Raspberry Pi 5, as it must be. */
export interface EdgeNodeArgs extends BlockArgs {
  /** How the node is reached. */
  readonly connection: ConnectionArgs;
  /** What removing the node does to the device. @default `keep`: removing code must not disarm a device. */
  readonly onDelete?: OnDelete;
  /** Justified, owned, expiring exceptions for this node. @default none. */
  readonly waivers?: readonly NodeWaiver[];
  /** Claims about controls that no resource serves yet, by control id; shown as "declared, not enforced", never as passed. @default none. */
  readonly statements?: Readonly<Record<string, string>>;
}

/**
 * A node with every protection that edgeseal has, secure where nothing else is said: swap off, core dumps off, signed boot required, egress by
 * allowlist only.
 *
 * @throws pulumi.RunError when the node does not meet the deployment checklist; then none of its resources is registered.
 */
export class EdgeNode extends pulumi.ComponentResource {
  /** The node's name. */
  readonly node: string;
  readonly swap: Swap;
  readonly coreDumps: CoreDumps;
  /** `undefined` when the node has no firewall, which takes a waiver. */
  readonly firewall: Firewall | undefined;
  readonly boot: VerifiedBoot;

  /** @param name The node's name in its site: lower-case letters, digits and hyphens (a DNS label, RFC 1123). */
  constructor(name: string, args: EdgeNodeArgs, options?: pulumi.ComponentResourceOptions) {
    const blocks = withDefaults(args);
    const declared = declaredNode(name, blocks, args.statements);
    const waivers = (args.waivers ?? []).map((waiver) => ({ ...waiver, node: name }));
    // Registered before it is judged, so that the policy pack sees, and judges, what is refused here.
    super(edgeNodeType, name, { node: componentInput(declared), waivers }, options);
    requireChecklist(`node "${name}"`, [declared], waivers);

    const device: DeviceArgs = {
      connection: { ...args.connection, node: name },
      ...(args.onDelete === undefined ? {} : { onDelete: args.onDelete }),
    };
    const child = { parent: this };
    this.node = name;
    this.swap = new Swap(`${name}-swap`, { ...device, ...blocks.swap }, child);
    this.coreDumps = new CoreDumps(`${name}-core-dumps`, { ...device, ...blocks.coreDumps }, child);
    this.firewall =
      blocks.firewall && new Firewall(`${name}-firewall`, { ...device, ...blocks.firewall }, child);
    this.boot = new VerifiedBoot(`${name}-boot`, { ...device, ...blocks.boot }, child);
    this.registerOutputs({ node: componentInput(declared), waivers });
  }
}

/** A node as the gate judges it. */
export function declaredNode(
  name: string,
  blocks: Blocks,
  statements: Readonly<Record<string, string>> = {},
): JudgedNode {
  return { name, basis: "declared", blocks: { ...blocks }, statements };
}

/** A declared node as an input of a component, for the pack and for reports. Holds nothing secret: no part of a connection is in it. */
export function componentInput({ name, blocks, statements }: JudgedNode): pulumi.Inputs {
  return { name, blocks, statements };
}
