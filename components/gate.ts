import * as pulumi from "@pulumi/pulumi";
import { checklist } from "../policies/checklist.ts";
import { evaluate, failures } from "../policies/evaluate.ts";
import { refusalText } from "../policies/message.ts";
import type { JudgedNode } from "../policies/node.ts";
import type { Waiver } from "../policies/waiver.ts";

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
  const failing = failures(evaluate({ nodes, waivers }, checklist, now));
  if (failing.length === 0) return;
  const consequence = "none of its resources was registered, and no device was reached";
  throw new pulumi.RunError(refusalText(subject, failing, consequence));
}
