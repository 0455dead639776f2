import { reportFindings } from "../../report-lines.ts";
import { judgeReport } from "../judged-report.ts";
import { onDemoNode, pulumiUp, succeeded } from "../operator.ts";
import type { DemoStep } from "../step.ts";
import { answers, confinedInEffect } from "./service.ts";
import { declareSite, inferenceControls } from "./site.ts";

export const serve: DemoStep = {
  title: "The model is served",
  proves:
    "pulumi up forms the volume, ships image and model, which the node verifies by itself, and starts the container; a prompt gets an answer, and each control is judged on what the kernel says of the process",
  async run(context) {
    await declareSite(context);
    await pulumiUp(context, "brings the node to serving, and healthy");
    await answers(context);
    await confinedInEffect(context);
    succeeded(
      context,
      "edgeseal approve signs what this boot measured",
      await onDemoNode(context, ["approve"], "--current"),
    );
    await pulumiUp(context, "ships the approval");
    judgeReport(context, reportFindings(await context.pulumi.export("demo"), new Date()), inferenceControls);
  },
};
