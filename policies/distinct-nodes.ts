import ipaddr from "ipaddr.js";
import { blockOfType, blockTypes, type RawBlock, type unknownValue } from "./node.ts";
import { declarationOf, edgeNodeType, nodeOf, siteType, type StackResource } from "./stack.ts";

/*
 * Two nodes are two devices. With one name they would be told apart by nobody; at one address and port each would undo what the other says, with
 * every other update; with one TPM, one of them would not be what it is taken for. No waiver helps: it is no point of the checklist.
 */

/** The port of sshd when none is given (provider/connection.ts). */
const sshPort = 22;

/** A node as far as it is known who it is. */
export interface PlacedNode {
  readonly name: string | undefined;
  /** Address and port, as `endpoint` writes them. */
  readonly endpoint: string | undefined;
  /** Digest of the endorsement key that is pinned for it. */
  readonly endorsementKey?: string | undefined;
}

/** What a node has in common with one before it. */
export interface Clash {
  /** Which of the nodes. */
  readonly index: number;
  readonly field: "name" | "address" | "tpm.endorsementKeySha256";
  /** What was expected, what was given, and where it stood before. */
  readonly message: string;
}

/** Address and port, written in one way: `fe80:0::1` and `FE80::1` are one address. */
export function endpoint(address: string, port = sshPort): string {
  const host = ipaddr.isValid(address)
    ? ipaddr.process(address).toString()
    : address.toLowerCase().replace(/\.$/, "");
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** The nodes of one list that have a name, an address and port, or a TPM, of one before them. All of them. */
export function clashesInList(nodes: readonly PlacedNode[]): Clash[] {
  const names = nodes.map(({ name }) => name);
  return [
    ...repeated(names).map(({ index, first, value }): Clash => ({
      index,
      field: "name",
      message: `expected a name of its own, got ${JSON.stringify(value)}, which is the name of nodes[${first}]`,
    })),
    ...repeated(nodes.map((node) => node.endpoint)).map(({ index, first, value }): Clash => ({
      index,
      field: "address",
      message: `expected an address and port of its own, got ${value}, where nodes[${first}] (${names[first] ?? "unnamed"}) is: two nodes are two devices`,
    })),
    ...repeated(nodes.map((node) => node.endorsementKey)).map(({ index, first, value }): Clash => ({
      index,
      field: "tpm.endorsementKeySha256",
      message: `expected a TPM of its own, got ${value.slice(0, 16)}..., which is pinned for nodes[${first}] (${names[first] ?? "unnamed"}): two nodes are two devices`,
    })),
  ];
}

/**
 * What a resource of a stack has in common with one of another node, one text for each; both are named. Addresses that are not known yet are not
 * compared: the update knows them.
 * @param seen What was registered before it; may hold the resource itself.
 */
export function clashesInStack(resource: StackResource, seen: Iterable<StackResource>): string[] {
  const others = [...seen].filter(({ urn }) => urn !== resource.urn);
  if (resource.type === siteType) {
    const nodes = declarationOf(resource)?.nodes ?? [];
    return clashesInList(
      nodes.map(({ name, blocks }) => ({
        name,
        endpoint: undefined,
        endorsementKey: pinnedKey(blocks.tpm),
      })),
    ).map(({ index, field, message }) => `nodes[${index}].${field}: ${message}`);
  }
  if (resource.type === edgeNodeType) {
    const name = declaredName(resource);
    return others
      .filter((other) => other.type === edgeNodeType && name !== undefined && declaredName(other) === name)
      .map(
        ({ urn }) => `${urn} and ${resource.urn} are both named ${name ?? ""}: give each a name of its own`,
      );
  }
  const node = nodeOf(resource);
  const sharing = (of: (resource: StackResource) => string | undefined, text: (what: string) => string) => {
    const what = of(resource);
    if (what === undefined) return [];
    const those = others.filter((other) => of(other) === what).map(nodeOf);
    return [...new Set(those)]
      .filter((other) => other !== node)
      .map((other) => `${other} and ${node} ${text(what)}`);
  };
  return [
    ...sharing(
      endpointOf,
      (place) => `are both at ${place}: two nodes are two devices; give each an address and port of its own`,
    ),
    ...sharing(
      endorsementKeyOf,
      (digest) =>
        `both have the endorsement key ${digest.slice(0, 16)}... pinned: two nodes are two devices; a TPM is in one of them`,
    ),
  ];
}

/** `undefined` when the name is not known. */
function declaredName(resource: StackResource): string | undefined {
  const node = resource.inputs?.node;
  const name = typeof node === "object" && node !== null && "name" in node ? node.name : undefined;
  return typeof name === "string" ? name : undefined;
}

/** The endorsement key that a block pins; `undefined` when it pins none, or it is not known. */
function pinnedKey(block: object | typeof unknownValue | undefined): string | undefined {
  const digest = typeof block === "object" ? (block as RawBlock)["endorsementKeySha256"] : undefined;
  return typeof digest === "string" ? digest : undefined;
}

const endorsementKeyOf = ({ type, inputs }: StackResource): string | undefined =>
  type === blockTypes.tpm ? pinnedKey(inputs) : undefined;

/** Where a device resource is; `undefined` for a component, and when it is not known. */
function endpointOf(resource: StackResource): string | undefined {
  const connection = resource.inputs?.connection;
  if (blockOfType(resource.type) === undefined || typeof connection !== "object" || connection === null)
    return undefined;
  const { address, port = sshPort } = connection as { readonly address?: unknown; readonly port?: unknown };
  return typeof address === "string" && typeof port === "number" ? endpoint(address, port) : undefined;
}

/** The values that stood before, with both places. */
function repeated(
  values: readonly (string | undefined)[],
): { readonly index: number; readonly first: number; readonly value: string }[] {
  return values.flatMap((value, index) => {
    const first = values.indexOf(value);
    return value === undefined || first === index ? [] : [{ index, first, value }];
  });
}
