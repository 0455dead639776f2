import ipaddr from "ipaddr.js";
import { blockOfType } from "./node.ts";
import { declarationOf, edgeNodeType, nodeOf, siteType, type StackResource } from "./stack.ts";

/*
 * Two nodes are two devices. With one name they would be told apart by nobody; at one address and port each would undo what the other says, with
 * every other update. No waiver helps: it is no point of the checklist.
 */

/** The port of sshd when none is given (provider/connection.ts). */
const sshPort = 22;

/** A node as far as it is known who it is. */
export interface PlacedNode {
  readonly name: string | undefined;
  /** Address and port, as `endpoint` writes them. */
  readonly endpoint: string | undefined;
}

/** What a node has in common with one before it. */
export interface Clash {
  /** Which of the nodes. */
  readonly index: number;
  readonly field: "name" | "address";
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

/** The nodes of one list that have a name, or an address and port, of one before them. All of them. */
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
    return clashesInList(nodes.map(({ name }) => ({ name, endpoint: undefined }))).map(
      ({ index, field, message }) => `nodes[${index}].${field}: ${message}`,
    );
  }
  if (resource.type === edgeNodeType) {
    const name = declaredName(resource);
    return others
      .filter((other) => other.type === edgeNodeType && name !== undefined && declaredName(other) === name)
      .map(
        ({ urn }) => `${urn} and ${resource.urn} are both named ${name ?? ""}: give each a name of its own`,
      );
  }
  const place = endpointOf(resource);
  if (place === undefined) return [];
  const node = nodeOf(resource);
  const there = others.filter((other) => endpointOf(other) === place).map(nodeOf);
  return [...new Set(there)]
    .filter((other) => other !== node)
    .map(
      (other) =>
        `${other} and ${node} are both at ${place}: two nodes are two devices; give each an address and port of its own`,
    );
}

/** `undefined` when the name is not known. */
function declaredName(resource: StackResource): string | undefined {
  const node = resource.inputs?.node;
  const name = typeof node === "object" && node !== null && "name" in node ? node.name : undefined;
  return typeof name === "string" ? name : undefined;
}

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
