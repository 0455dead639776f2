import { pulumiUp } from "../operator.ts";
import { nothingToDo } from "../refresh.ts";
import type { DemoStep } from "../step.ts";
import { tamper, type Tampering } from "../tampering.ts";
import { answers, confinedInEffect } from "./service.ts";

const tamperings: readonly Tampering[] = [
  {
    what: "the service's user is added to the group video",
    script: "usermod -aG video edgeseal-inference",
    shows: "InferenceContainer.groups",
  },
  {
    what: "a drop-in takes a limit off its unit",
    script:
      "mkdir -p /etc/systemd/system/edgeseal-inference.service.d && printf '[Service]\\nMemoryMax=infinity\\n' >/etc/systemd/system/edgeseal-inference.service.d/more.conf && systemctl daemon-reload",
    shows: "InferenceContainer.unitOverrides",
  },
  {
    what: "the image policy accepts anything",
    script: `echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json`,
    shows: "ImagePolicy.defaultRule",
  },
  {
    what: "another program is run as the service's user",
    script: "systemd-run --quiet --uid=edgeseal-inference --unit=by-hand sleep 3600",
    shows: "InferenceContainer.foreignProcesses",
  },
];

export const drift: DemoStep = {
  title: "What is loosened by hand is found and mended",
  proves:
    "pulumi refresh names each layer that was loosened behind our back; up mends them, and the model is served",
  async run(context) {
    await tamper(context, tamperings);
    await pulumiUp(context, "mends it");
    await nothingToDo(context);
    await answers(context);
    await confinedInEffect(context);
  },
};
