import * as pulumi from "@pulumi/pulumi";
import { clashesInList, endpoint } from "../policies/distinct-nodes.ts";
import { volumeClashes, type PlacedVolume } from "../policies/distinct-volumes.ts";
import { checklist } from "../policies/checklist.ts";
import { evaluate, failures } from "../policies/evaluate.ts";
import { refusalText } from "../policies/message.ts";
import type { JudgedNode } from "../policies/node.ts";
import type { Waiver } from "../policies/waiver.ts";
import type { TpmArgs } from "./block-args.ts";
import type { ConnectionArgs } from "./connection-args.ts";

/** What follows from a refusal. */
const consequence = "none of its resources was registered, and no device was reached";

/**
 * Holds that no two nodes have one name, one address and port, or one TPM pinned. An address that comes from another resource is not known here: the policy pack
 * compares those.
 * @throws pulumi.RunError that names each pair.
 */
export function requireDistinctNodes(
  subject: string,
  nodes: readonly {
    readonly name: string;
    readonly connection: ConnectionArgs;
    readonly tpm?: TpmArgs;
  }[],
): void {
  const placed = nodes.map(({ name, connection: { address, port }, tpm }) => ({
    name,
    endorsementKey: tpm?.endorsementKeySha256,
    endpoint:
      typeof address === "string" && (port === undefined || typeof port === "number")
        ? endpoint(address, port)
        : undefined,
  }));
  const clashes = clashesInList(placed);
  requireNone(
    `${subject} has nodes that can't be told apart`,
    clashes.map(({ index, field, message }) => `nodes[${index}].${field}: ${message}`),
  );
}

function requireNone(what: string, clashes: readonly string[]): void {
  if (clashes.length === 0) return;
  throw new pulumi.RunError([`${what}; ${consequence}:`, ...clashes.map((each) => `  ${each}`)].join("\n"));
}

/**
 * Holds that the volumes of a node have a mount point and a device each.
 * @throws pulumi.RunError that names each pair.
 */
export function requireDistinctVolumes(
  subject: string,
  volumes: Readonly<Record<string, Omit<PlacedVolume, "name">>>,
): void {
  const clashes = volumeClashes(Object.entries(volumes).map(([name, volume]) => ({ ...volume, name })));
  requireNone(
    `${subject} has volumes that get in each other's way`,
    clashes.map(({ name, field, message }) => `volumes.${name}.${field}: ${message}`),
  );
}

/**
 * Holds declared nodes against the deployment checklist.
 * @param subject What is judged, for the message, e.g. `site "factory-3"`.
 * @throws pulumi.RunError (one message, no stack) that names every control that fails, on which node, and the mend.
 */
export function requireChecklist(
  subject: string,
  nodes: readonly JudgedNode[],
  waivers: readonly Waiver[],
  now: Date = new Date(),
): void {
  const findings = evaluate({ nodes, waivers }, checklist, now);
  if (failures(findings).length === 0) return;
  throw new pulumi.RunError(refusalText(subject, findings, consequence));
}
