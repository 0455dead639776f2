import * as pulumi from "@pulumi/pulumi";
import { siteType } from "../policies/stack.ts";
import type { Waiver } from "../policies/waiver.ts";
import type { Level } from "../provider/trust/level.ts";
import { withDefaults } from "./block-args.ts";
import { componentInput, declaredNode, EdgeNode, type EdgeNodeArgs } from "./edge-node.ts";
import { requireChecklist, requireDistinctNodes } from "./gate.ts";

/** A node of a site; its waivers are among the site's. */
export interface SiteNodeArgs extends Omit<EdgeNodeArgs, "waivers"> {
  /** The node's name: lower-case letters, digits and hyphens (a DNS label, RFC 1123); unique in the stack. */
  readonly name: string;
}

/** The nodes of one place, managed by one Pulumi stack. */
export interface SiteArgs {
  /** The nodes: each a device, with a name, and an address and port, of its own. */
  readonly nodes: readonly SiteNodeArgs[];
  /** Justified, owned, expiring exceptions. @default none. */
  readonly waivers?: readonly Waiver[];
}

/** What a stack tells of its site. */
export interface SiteSummary {
  readonly site: string;
  readonly nodes: Readonly<Record<string, NodeSummary>>;
  /** How many exceptions the site was let through with, and when the first of them ends. `edgeseal report` shows each. */
  readonly waived: string;
}

export interface NodeSummary {
  readonly address: pulumi.Input<string>;
  /** The level of the trust chain that there is evidence for (docs/trust.md). */
  readonly level: pulumi.Output<Level>;
}

/**
 * A site. Holds all its nodes against the deployment checklist before it registers the first, so that neither `pulumi up` nor
 * `pulumi up --skip-preview` applies a site that fails.
 *
 * @throws pulumi.RunError that names every control that fails, on which node, and the mend; or the nodes that share a name, or an address and port.
 */
export class Site extends pulumi.ComponentResource {
  /** The nodes by name. */
  readonly nodes: Readonly<Record<string, EdgeNode>>;
  /** For the outputs of the stack. */
  readonly summary: SiteSummary;

  constructor(name: string, args: SiteArgs, options?: pulumi.ComponentResourceOptions) {
    const declared = args.nodes.map((node) =>
      declaredNode(node.name, withDefaults(node, { ...node, node: node.name }), node),
    );
    const waivers = args.waivers ?? [];
    // Registered before it is judged, so that the policy pack sees, and judges, what is refused here.
    super(siteType, name, { nodes: declared.map(componentInput), waivers }, options);
    requireDistinctNodes(`site "${name}"`, args.nodes);
    requireChecklist(`site "${name}"`, declared, waivers);

    this.nodes = Object.fromEntries(
      args.nodes.map(({ name: node, ...rest }) => [
        node,
        new EdgeNode(node, { ...rest, waivers: waiversOf(node, waivers) }, { parent: this }),
      ]),
    );
    this.summary = {
      site: name,
      nodes: Object.fromEntries(
        args.nodes.flatMap(({ name: node, connection: { address } }) => {
          const level = this.nodes[node]?.level;
          return level === undefined ? [] : [[node, { address, level }]];
        }),
      ),
      waived: waivedText(waivers),
    };
    this.registerOutputs({ nodes: declared.map(componentInput), waivers });
  }
}

function waivedText(waivers: readonly Waiver[]): string {
  const [first] = waivers.map(({ expires }) => expires).sort();
  return first === undefined
    ? "nothing"
    : `${waivers.length} waiver${waivers.length === 1 ? "" : "s"}, the first ends on ${first}`;
}

const waiversOf = (node: string, waivers: readonly Waiver[]): Waiver[] =>
  waivers.filter((waiver) => waiver.node === node || waiver.node === "*");
