import { said } from "../../pulumi.ts";
import { refusedByGate, type Violated } from "../refusal.ts";
import { nodeName } from "../site.ts";
import { holds, type DemoStep } from "../step.ts";
import { declareSite } from "./site.ts";

const loosened: readonly Violated[] = [
  "3.memory-locked" as const,
  "4.rootless-container" as const,
  "4.seccomp" as const,
  "4.apparmor" as const,
].map((control) => ({ control, node: nodeName }));

export const refuse: DemoStep = {
  title: "What would not be confined, or not fit, is refused",
  proves:
    "the gate names each layer of the confinement that was taken away; a context that the node's memory can't hold is a fault of the site file, with its line, before anything is deployed",
  async run(context) {
    await declareSite(context, {
      stack: "bad",
      inference: {
        confinement: {
          seccomp: "unconfined",
          appArmor: "unconfined",
          network: "host",
          memoryLock: false,
        },
      },
    });
    const up = ["up", "--yes", "--skip-preview", "--stack", "bad"] as const;
    const gate = await context.pulumi.run(up, { signal: context.signal });
    refusedByGate(context, gate, "pulumi up --skip-preview", loosened);

    await declareSite(context, { stack: "bad", inference: { contextTokens: 65_536 } });
    const large = await context.pulumi.run(up, { signal: context.signal });
    holds(
      context,
      large.code !== 0 &&
        /bad\.yaml:\d+:\d+: nodes\[0\]\.inference\.memoryMaxMiB: .* context \d+ /.test(said(large)),
      "a context of 65536 tokens is refused, with the sum, and the line of the site file",
      said(large),
    );
  },
};
