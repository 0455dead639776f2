import type { BlockName } from "../../policies/node.ts";
import type { Path } from "../../provider/host/values.ts";
import { shippedBeforeReboot, type NodeFacts } from "../block-args.ts";
import type { Plain } from "./merge.ts";
import { inputsFromElsewhere } from "./schema.ts";
import type { SiteTrust } from "./trust.ts";

/* Inputs of blocks that a site file says once, elsewhere: a node's name, its approvals, the site's keys. */

/** Whether a block is there only when somebody asks for it. */
export const asksFirst = (name: BlockName): boolean => name in inputsFromElsewhere;

/** What the blocks of a node are told that the site file says elsewhere. */
export function factsOf({ name }: Plain, { keys, approvalOf }: SiteTrust): NodeFacts {
  const node = typeof name === "string" ? name : "";
  // A name that is none is a fault of its own; it must not lead to a file.
  const approval = /^[a-z0-9-]+$/.test(node) ? approvalOf(node) : undefined;
  return {
    node,
    ...(keys === undefined ? {} : { trust: keys }),
    ...(approval === undefined ? {} : { approval }),
  };
}

/** Which blocks can't do without the site's keys, as the beginning of a sentence. */
export function needsKeys(block: BlockName): string | undefined {
  if (block === "volumes") return "sealed volumes need";
  return block === "tpm" ? "to own the TPM takes" : undefined;
}

/** Of these, what a block takes. */
export function factsFor(block: BlockName, facts: NodeFacts): Plain {
  const { node, trust, approval } = facts;
  switch (block) {
    case "firmware":
    case "scratch":
      return { ...shippedBeforeReboot(facts) };
    case "measuredBoot":
      return { ...shippedBeforeReboot(facts), node };
    case "tpm":
      return { node, recoveryPublicKey: trust?.recoveryKey };
    case "volumes":
      return { ...trust, node, ...(approval === undefined ? {} : { approval }) };
    default:
      return {};
  }
}

/** Where a fault is that is not in the block itself; `undefined` when it is. */
export function factOf(
  block: BlockName,
  path: string,
): { readonly path?: Path; readonly said: string } | undefined {
  const input = /^[A-Za-z]+/.exec(path)?.[0] ?? "";
  const given: readonly string[] =
    block in inputsFromElsewhere ? inputsFromElsewhere[block as "volumes"] : [];
  if (!given.includes(input)) return undefined;
  if (input === "policyKey" || input === "recoveryKey" || input === "generation")
    return { path: ["trust", input], said: "" };
  if (input === "recoveryPublicKey") return { path: ["trust", "recoveryKey"], said: "" };
  return {
    said: input === "approval" ? `the node's approvals: ${path.replace(/^approval\.?/, "")}: ` : `${input}: `,
  };
}
