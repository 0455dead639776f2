import type { Control } from "./control.ts";
import { evaluate, type Finding } from "./evaluate.ts";
import {
  assurances,
  blockNames,
  blockOfType,
  instanceKeys,
  isSeveral,
  unknownValue,
  type Assurance,
  type BlockName,
  type JudgedNode,
  type RawBlock,
  type SeveralBlock,
} from "./node.ts";
import type { Waiver } from "./waiver.ts";

/** Pulumi type of the component that stands for a whole site; its inputs name every node, its declared blocks, and the waivers. */
export const siteType = "edgeseal:index:Site";
/** Pulumi type of the component that stands for one node. */
export const edgeNodeType = "edgeseal:index:EdgeNode";

/** One resource of a stack, as the engine or an exported state has it. Values that are not known are `unknownValue`. */
export interface StackResource {
  readonly urn: string;
  readonly type: string;
  readonly parent: string | undefined;
  /** Checked inputs; `undefined` when they were not seen. */
  readonly inputs: RawBlock | undefined;
  /** What was read back; `undefined` when it was not seen. */
  readonly outputs: RawBlock | undefined;
}

/** What the components of a stack declare: the nodes that must be there, and the exceptions. */
export interface Declaration {
  readonly nodes: readonly JudgedNode[];
  readonly waivers: readonly Waiver[];
}

/** What one component (Site or EdgeNode) declares through its inputs; `undefined` for any other resource. */
export function declarationOf(resource: StackResource): Declaration | undefined {
  if (resource.type !== siteType && resource.type !== edgeNodeType) return undefined;
  const inputs = resource.inputs ?? {};
  const list = resource.type === siteType ? inputs.nodes : [inputs.node];
  // A node list that is not known can't be judged node by node: one nameless node, on which everything is unknown, keeps the gate shut.
  const nodes = Array.isArray(list) ? list.map(declaredNode) : [unreadableNode];
  const waivers = Array.isArray(inputs.waivers) ? inputs.waivers.flatMap(waiver) : [];
  return { nodes, waivers: nodes.flatMap(({ name }) => waiversFor(name, waivers)) };
}

/** A component's waivers reach its own nodes only: `*` of one site says nothing about another site in the same stack. */
function waiversFor(node: string, waivers: readonly Waiver[]): Waiver[] {
  return waivers.filter((each) => each.node === node || each.node === "*").map((each) => ({ ...each, node }));
}

const unreadableNode: JudgedNode = {
  name: "(unknown)",
  basis: "declared",
  blocks: Object.fromEntries(blockNames.map((name) => [name, unknownValue])),
};

function declaredNode(node: unknown): JudgedNode {
  if (!isRecord(node) || typeof node.name !== "string") return unreadableNode;
  const blocks = isRecord(node.blocks) ? node.blocks : {};
  return {
    name: node.name,
    basis: "declared",
    blocks: Object.fromEntries(blockNames.flatMap((name) => block(name, blocks[name]))),
    ...(isRecord(node.statements) ? { statements: onlyStrings(node.statements) } : {}),
    ...assuranceOf(node.assurance),
  };
}

/** What is not a word that is known is the stricter one. */
function assuranceOf(value: unknown): { readonly assurance?: Assurance } {
  if (value === undefined) return {};
  return { assurance: assurances.find((each) => each === value) ?? "strict" };
}

function block(name: BlockName, value: unknown): [BlockName, RawBlock | typeof unknownValue][] {
  if (value === undefined || value === null) return [];
  return [[name, isRecord(value) ? value : unknownValue]];
}

/** A waiver with anything unknown or missing waives nothing. */
function waiver(value: unknown): Waiver[] {
  if (!isRecord(value)) return [];
  const { control, node, reason, owner, expires } = value;
  const complete = [control, node, reason, owner, expires].every((each) => typeof each === "string");
  return complete ? [value as unknown as Waiver] : [];
}

function onlyStrings(record: RawBlock): Record<string, string> {
  return Object.fromEntries(
    Object.entries(record).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

/**
 * The nodes of a stack: those that components declare, and those that resources are connected to. Each with the blocks its resources have: by
 * their inputs (`declared`) or by what was read back (`observed`, with what was `asked`). A node with two resources of one kind comes twice, so that both are judged.
 */
export function nodesOf(resources: readonly StackResource[], basis: JudgedNode["basis"]): JudgedNode[] {
  const declared = resources.flatMap((resource) => declarationOf(resource)?.nodes ?? []);
  const found = resources.flatMap((resource) => {
    const name = blockOfType(resource.type);
    return name === undefined ? [] : [{ block: name, node: nodeOf(resource), resource }];
  });
  const names = new Set([...declared.map((node) => node.name), ...found.map(({ node }) => node)]);
  return [...names].flatMap((name) => {
    const ofNode = Map.groupBy(
      found.filter(({ node }) => node === name),
      (each) => each.block,
    );
    const own = declared.find((node) => node.name === name);
    const copies = Math.max(1, ...[...ofNode].map(([kind, each]) => (isSeveral(kind) ? 1 : each.length)));
    const blocksOf = (by: JudgedNode["basis"], copy: number): JudgedNode["blocks"] => {
      const containers = ofNode.get("inference") ?? [];
      const container = (containers[copy] ?? containers[0])?.resource;
      return Object.fromEntries(
        [...ofNode].flatMap(([kind, each]): [BlockName, object | typeof unknownValue][] => {
          const resources = each.map(({ resource }) => resource);
          if (isSeveral(kind)) return [[kind, byName(kind, resources, by)]];
          if (container === undefined || !isProfile(kind))
            return [[kind, partOf(resources[copy] ?? resources[0], by)]];
          const [own, ...more] = resources.filter((profile) => isFor(profile, container));
          if (own === undefined) return [];
          // Of two for one service it can't be told which is in force.
          return [[kind, more.length === 0 ? partOf(own, by) : unknownValue]];
        }),
      );
    };
    return Array.from({ length: copies }, (_, copy): JudgedNode => ({
      name,
      basis,
      blocks: blocksOf(basis, copy),
      ...(basis === "observed" ? { asked: askedOf(blocksOf("declared", copy), own?.blocks) } : {}),
      ...(own?.statements === undefined ? {} : { statements: own.statements }),
      ...(own?.assurance === undefined ? {} : { assurance: own.assurance }),
    }));
  });
}

/** What the component says comes first: a report may hold a state against the site as it is to be. But of a container it only says what it says of that one. */
function askedOf(found: JudgedNode["blocks"], said: JudgedNode["blocks"] = {}): JudgedNode["blocks"] {
  const nameIn = (block: unknown): unknown => (isRecord(block) ? block.name : undefined);
  const isAnother = isRecord(found.inference) && nameIn(found.inference) !== nameIn(said.inference);
  return { ...found, ...said, ...(isAnother ? { inference: found.inference } : {}) };
}

/** Whether a block is a profile of an inference container. */
const isProfile = (block: BlockName): block is BlockName & `${string}Profile` => block.endsWith("Profile");

/** Whether a profile is that of this container, and not of another service's. */
const isFor = (profile: StackResource, { inputs }: StackResource): boolean =>
  typeof inputs?.name === "string" && profile.inputs?.name === inputs.name;

const partOf = (
  resource: StackResource | undefined,
  basis: JudgedNode["basis"],
): RawBlock | typeof unknownValue =>
  (basis === "declared" ? resource?.inputs : resource?.outputs) ?? unknownValue;

/** The resources of a block that may have several, each under its name. One whose name can't be told, or is another's too, is judged as well. */
function byName(
  block: SeveralBlock,
  resources: readonly StackResource[],
  basis: JudgedNode["basis"],
): RawBlock {
  const named: Record<string, unknown> = {};
  for (const resource of resources) {
    const given = resource.inputs?.[instanceKeys[block]];
    const name = typeof given === "string" ? given : unreadableNode.name;
    named[name in named ? `${name} (${resource.urn})` : name] = partOf(resource, basis);
  }
  return named;
}

/** The block of one resource by its inputs. */
export function blockOf(block: BlockName, resource: StackResource): JudgedNode["blocks"] {
  return { [block]: isSeveral(block) ? byName(block, [resource], "declared") : partOf(resource, "declared") };
}

/** The node a resource is connected to, `(unknown)` when that can't be told. */
export function nodeOf(resource: StackResource): string {
  const connection = resource.inputs?.connection;
  const node = isRecord(connection) ? connection.node : undefined;
  return typeof node === "string" ? node : unreadableNode.name;
}

/** Every waiver that a component of the stack carries. */
export function waiversOf(resources: readonly StackResource[]): Waiver[] {
  return resources.flatMap((resource) => declarationOf(resource)?.waivers ?? []);
}

/** Evaluates a whole stack by what was read back: the report, and the pack on recorded state. */
export function evaluateObserved(
  resources: readonly StackResource[],
  controls: readonly Control[],
  now: Date,
): Finding[] {
  return evaluate({ nodes: nodesOf(resources, "observed"), waivers: waiversOf(resources) }, controls, now);
}

const isRecord = (value: unknown): value is RawBlock =>
  typeof value === "object" && value !== null && !Array.isArray(value);
