import { PolicyPack, type ResourceValidationPolicy, type StackValidationPolicy } from "@pulumi/policy";
import { checklist } from "./checklist.ts";
import type { Control } from "./control.ts";
import { known } from "./known.ts";
import { findingTexts } from "./message.ts";
import { concerns, isJudged, StackJudge } from "./stack-judge.ts";
import type { StackResource } from "./stack.ts";

/**
 * The checklist as a CrossGuard pack: the independent second of the gate that the Site component runs. It judges what the program really
 * registers, whatever the program checked itself.
 */
const judge = new StackJudge();

interface Shown {
  readonly urn: string;
  readonly type: string;
  readonly props: Readonly<Record<string, unknown>>;
}

const asInputs = (shown: Shown, parent: string | undefined): StackResource => ({
  urn: shown.urn,
  type: shown.type,
  parent,
  inputs: known(shown.props),
  outputs: undefined,
});

const asOutputs = (shown: Shown): StackResource => ({
  urn: shown.urn,
  type: shown.type,
  parent: undefined,
  inputs: undefined,
  outputs: known(shown.props),
});

/** One policy for each control, on each resource and on the stack, so that the engine's own report names the control. */
function policy(control: Control): ResourceValidationPolicy & StackValidationPolicy {
  return {
    name: control.id,
    description: control.title,
    enforcementLevel: "mandatory",
    remediationSteps: control.mend,
    validateResource: (args, reportViolation) => {
      if (!concerns(control, args.type)) return;
      const resource = asInputs(args, args.opts.parent);
      judge.note(resource);
      for (const text of findingTexts(judge.resource(control, resource))) reportViolation(text);
    },
    validateStack: (args, reportViolation) => {
      const resources = args.resources.filter(({ type }) => isJudged(type)).map(asOutputs);
      for (const text of findingTexts(judge.stack(control, resources))) reportViolation(text);
    },
  };
}

/** No point of the checklist, but what it rests on: that each node is a device of its own. */
const distinctNodes: ResourceValidationPolicy = {
  name: "distinct-nodes",
  description: "No two nodes have one name, one address and port, or one TPM",
  enforcementLevel: "mandatory",
  remediationSteps: "Give each node a name, an address and port, and a pinned endorsement key, of its own",
  validateResource: (args, reportViolation) => {
    if (!isJudged(args.type)) return;
    const resource = asInputs(args, args.opts.parent);
    judge.note(resource);
    for (const text of judge.clashes(resource)) reportViolation(text);
  },
};

new PolicyPack("edgeseal-checklist", {
  enforcementLevel: "mandatory",
  policies: [distinctNodes, ...checklist.map(policy)],
});
