import { said } from "../../pulumi.ts";
import { nothingToDo } from "../refresh.ts";
import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { onDemoNode, succeeded } from "../operator.ts";
import { bothOpen, volumesAre } from "./volumes.ts";

export const update: DemoStep = {
  title: "An update boots as it was approved",
  proves:
    "edgeseal update predicts what a newly built initramfs will measure, has it approved, ships that, reboots and confirms: the volumes open in the new state",
  async run(context) {
    const before = await pcr11(context);
    // apt keeps a copy of the boot partition before it changes anything: what the node would go back to.
    await onNode(
      context,
      "{ apt-get -y purge less && echo loop >>/etc/initramfs-tools/modules && update-initramfs -u; } >/dev/null 2>&1",
    );
    context.say("      on the node: apt ran, and the initramfs was built anew, with another module");

    const updated = await onDemoNode(context, ["update"]);
    succeeded(context, "edgeseal update has it approved, and boots it", updated);
    holds(
      context,
      /^ +changed +file initramfs_2712 /m.test(said(updated)),
      "what was to be approved was the initramfs",
      said(updated),
    );
    const after = await pcr11(context);
    holds(
      context,
      after !== before && said(updated).includes(`booted as predicted: PCR 11 is ${after}; open: `),
      `PCR 11 is another one, and the predicted one: ${after.slice(0, 16)}...`,
      `PCR 11 was ${before} and is ${after}\n${said(updated)}`,
    );
    await volumesAre(context, bothOpen);
    await nothingToDo(context);
  },
};

/** As the kernel reads it from the TPM. */
const pcr11 = async (context: DemoContext): Promise<string> =>
  (await onNode(context, "cat /sys/class/tpm/tpm0/pcr-sha256/11")).trim().toLowerCase();
