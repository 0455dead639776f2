import { reportFindings } from "../../report-lines.ts";
import { judgeReport } from "../judged-report.ts";
import { nothingToDo } from "../refresh.ts";
import type { DemoStep } from "../step.ts";
import { trustControls } from "./site.ts";
import { bothOpen, volumesAre } from "./volumes.ts";

export const reboot: DemoStep = {
  title: "They open without a person",
  proves:
    "after a reboot both volumes are open with what was on them, and every control of boot and volumes passes on what was read back, without a waiver",
  async run(context) {
    await context.pi.reboot();
    context.say("      rebooted");
    await volumesAre(context, bothOpen);
    await nothingToDo(context);
    judgeReport(context, reportFindings(await context.pulumi.export("demo"), new Date()), trustControls);
  },
};
