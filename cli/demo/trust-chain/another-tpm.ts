import { noDrift } from "../refresh.ts";
import { said } from "../../pulumi.ts";
import { holds, type DemoContext, type DemoStep } from "../step.ts";
import { whileOff } from "../while-off.ts";
import { refreshSaysWhyLocked } from "./locked.ts";
import { endorsementKeyOnConsole, onDemoNode, pulumiUp, succeeded } from "../operator.ts";
import { declareSite } from "./site.ts";
import { bothLocked, bothOpen, volumesAre } from "./volumes.ts";

export const anotherTpm: DemoStep = {
  title: "Another TPM opens nothing until the site recovers it",
  proves:
    "with another TPM on the board the volumes stay locked and pulumi refresh says so; with the original back they open; edgeseal volume recover sends keys to a TPM that is pinned and answers a challenge, to no other; from then on it opens them by itself",
  async run(context) {
    await bootWithAnother(context);
    const why = /^tpm-refused: .*(this TPM does not open it: another TPM)/;
    const { drifted } = await refreshSaysWhyLocked(context, { models: why, logs: why });
    holds(
      context,
      drifted.includes("Ownership.endorsementKeySha256"),
      "it says that the TPM is not the pinned one",
      drifted.join("\n"),
    );

    const refused = await onDemoNode(context, ["volume", "recover"]);
    holds(
      context,
      refused.code === 5 && said(refused).includes(`is ${await endorsementKeyOnConsole(context)}, and`),
      "edgeseal volume recover sends nothing to a TPM that is not the pinned one (exit status 5)",
      said(refused),
    );
    await volumesAre(context, bothLocked);

    await whileOff(context, "the original TPM was put back", () => context.pi.restoreTpm());
    await volumesAre(context, bothOpen);

    await bootWithAnother(context);
    const replaced = await endorsementKeyOnConsole(context);
    await declareSite(context, replaced);
    context.say("      the operator pins the new TPM in the site file");
    succeeded(
      context,
      "edgeseal volume recover seals both volumes to it",
      await onDemoNode(context, ["volume", "recover"]),
    );
    await volumesAre(context, bothOpen);
    await pulumiUp(context, "owns the new TPM");

    await context.pi.reboot();
    context.say("      rebooted");
    await volumesAre(context, bothOpen);
    await noDrift(context);
  },
};

/** Boots with a TPM that the node never had, which keeps both volumes locked. */
async function bootWithAnother(context: DemoContext): Promise<void> {
  await whileOff(context, "the TPM was replaced", () => context.pi.replaceTpm());
  await volumesAre(context, bothLocked);
}
