import { pulumiUp } from "../operator.ts";
import { nothingToDo } from "../refresh.ts";
import type { DemoStep } from "../step.ts";
import { tamper, type Tampering } from "../tampering.ts";
import { runAnotherImage } from "./by-hand.ts";
import { answers, confinedInEffect } from "./service.ts";

/** As the demo's site has it by default. */
const served = { name: "inference", storage: "/srv/models/containers/inference" } as const;

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
    what: "another image is brought past the policy, and a container of it started by hand",
    script: runAnotherImage(served, "/srv/models/by-hand"),
    shows: "InferenceContainer.foreignContainers",
  },
  {
    what: "the server's AppArmor profile is unloaded",
    script: "apparmor_parser -R /etc/apparmor.d/edgeseal-inference",
    shows: "InferenceContainer.confinement.appArmor",
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
