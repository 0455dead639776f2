import { holdsUnknown, type Control } from "./control.ts";
import { clashesInStack } from "./distinct-nodes.ts";
import { evaluate, failures, judge, type Finding } from "./evaluate.ts";
import { blockOfType, type JudgedNode } from "./node.ts";
import {
  blockOf,
  declarationOf,
  edgeNodeType,
  nodeOf,
  nodesOf,
  siteType,
  type StackResource,
} from "./stack.ts";
import type { Waiver } from "./waiver.ts";

/**
 * Judges one stack during one engine operation: each resource by its checked inputs as it is registered, then the stack as a whole. It remembers
 * what it has seen, because the engine shows a single resource without its parents (which carry the waivers) and the whole stack without inputs.
 */
export class StackJudge {
  readonly #clock: () => Date;
  readonly #seen = new Map<string, StackResource>();
  /** What has been reported already, so that the pass over the whole stack adds only what is new. */
  readonly #reported = new Set<string>();

  /** @param clock What time it is, for waivers. */
  constructor(clock: () => Date = () => new Date()) {
    this.#clock = clock;
  }

  /** Takes note of a resource, before it is judged. A parent comes before its children: the engine registers it first. */
  note(resource: StackResource): void {
    this.#seen.set(resource.urn, resource);
  }

  /**
   * Failures of one control by the inputs of one resource. A Site is judged node by node, an EdgeNode of its own likewise (one in a Site has been
   * judged with it), and a device resource on the controls of its kind, under the waivers of the components it is in.
   */
  resource(control: Control, resource: StackResource): Finding[] {
    if (!concerns(control, resource.type)) return [];
    const waivers = this.#waiversAbove(resource);
    return this.#report(this.#nodesAt(resource).map((node) => judge(control, node, waivers, this.#clock())));
  }

  /**
   * Failures of one control in the whole stack: what only shows there. By inputs: a node that a component declares, or that a resource is
   * connected to, without a resource it needs. By outputs: what was read back is not as it must be.
   */
  stack(control: Control, outputs: readonly StackResource[]): Finding[] {
    const resources = outputs.map((each) => ({ ...each, inputs: this.#seen.get(each.urn)?.inputs }));
    const waivers = resources.flatMap((each) => declarationOf(each)?.waivers ?? []);
    const nodes = [
      ...nodesOf(resources, "declared"),
      ...nodesOf(resources, "observed").filter((node) => isObserved(control, node)),
    ];
    return this.#report(evaluate({ nodes, waivers }, [control], this.#clock()));
  }

  /** What a resource, as it is registered, has in common with one of another node. Each pair of nodes is told once, not for each of their resources. */
  clashes(resource: StackResource): string[] {
    const texts = clashesInStack(resource, this.#seen.values());
    return texts.filter((text) => this.#isNew(text));
  }

  #nodesAt(resource: StackResource): readonly JudgedNode[] {
    if (resource.type === siteType) return declarationOf(resource)?.nodes ?? [];
    if (resource.type === edgeNodeType) {
      return this.#parentOf(resource)?.type === siteType ? [] : (declarationOf(resource)?.nodes ?? []);
    }
    const block = blockOfType(resource.type);
    if (block === undefined) return [];
    return [{ name: nodeOf(resource), basis: "declared", partial: true, blocks: blockOf(block, resource) }];
  }

  #waiversAbove(resource: StackResource): readonly Waiver[] {
    const parent = this.#parentOf(resource);
    const own = declarationOf(resource)?.waivers ?? [];
    return parent === undefined ? own : [...own, ...this.#waiversAbove(parent)];
  }

  #parentOf(resource: StackResource): StackResource | undefined {
    return resource.parent === undefined ? undefined : this.#seen.get(resource.parent);
  }

  #report(findings: readonly Finding[]): Finding[] {
    return failures(findings).filter(({ node, control, evidence }) =>
      this.#isNew(JSON.stringify([node, control, evidence])),
    );
  }

  #isNew(key: string): boolean {
    const known = this.#reported.has(key);
    this.#reported.add(key);
    return !known;
  }
}

/** Whether a control has anything to say about a single resource of a type: all do of a component, the control of its kind does of the others. */
export function concerns(control: Control, type: string): boolean {
  return (
    type === siteType ||
    type === edgeNodeType ||
    (control.block !== undefined && control.block === blockOfType(type))
  );
}

/** Whether a resource says anything about nodes at all. */
export const isJudged = (type: string): boolean =>
  type === siteType || type === edgeNodeType || blockOfType(type) !== undefined;

/**
 * Whether what the control reads has been read back. Only a preview has outputs that are not known, of resources it would create: there the
 * inputs, which were judged and had to be known, stand for them. In a recorded state nothing is unknown, and what is missing is judged as such.
 */
function isObserved(control: Control, node: JudgedNode): boolean {
  const found = control.block === undefined ? undefined : node.blocks[control.block];
  if (found === undefined) return false;
  const read = [found, ...control.alsoReads.flatMap((block) => node.blocks[block] ?? [])];
  return !read.some(holdsUnknown);
}
