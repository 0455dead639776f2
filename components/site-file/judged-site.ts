import type { JudgedNode } from "../../policies/node.ts";
import { siteType, type StackResource } from "../../policies/stack.ts";
import type { SiteSpec } from "./read.ts";

/** The nodes of a site file as the gate judges them. */
export function judgedNodes(spec: SiteSpec): JudgedNode[] {
  const { assurance } = spec;
  return spec.nodes.map(({ name, blocks, statements }) => ({
    name,
    basis: "declared",
    blocks,
    statements,
    assurance,
  }));
}

/** A site file as the Site component would stand in a stack. */
export function recordedSite(spec: SiteSpec): StackResource {
  return {
    urn: spec.site,
    type: siteType,
    parent: undefined,
    inputs: { nodes: judgedNodes(spec), waivers: spec.waivers },
    outputs: undefined,
  };
}
