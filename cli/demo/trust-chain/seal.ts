import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { endorsementKeyOnConsole, makeKeys, onDemoNode, pulumiUp, succeeded } from "../operator.ts";
import { dataDisk } from "../site.ts";
import { declareSite, modelsPartition } from "./site.ts";
import { bothOpen, fillVolumes, volumeNames, volumesAre } from "./volumes.ts";

export const seal: DemoStep = {
  title: "Volumes are sealed to a measured boot",
  proves:
    "from a site's keys and the TPM that its console shows, pulumi up leads to a measured boot, an owned TPM and two sealed volumes; a person approves what was measured",
  async run(context) {
    await prepareNode(context);
    const pinned = await endorsementKeyOnConsole(context);
    await makeKeys(context);
    await declareSite(context, pinned);
    await pulumiUp(context, "measures the boot, reboots into it, owns the TPM and forms the volumes");
    await mountedAsDeclared(context);
    await fillVolumes(context);
    await volumesAre(context, bothOpen);
    succeeded(
      context,
      "edgeseal approve signs what this boot measured",
      await onDemoNode(context, ["approve"], "--current"),
    );
    await pulumiUp(context, "ships the approval");
  },
};

/** What the operator finds, or does by hand: a disk with one partition, and room for another. */
async function prepareNode(context: DemoContext): Promise<void> {
  await onNode(
    context,
    `printf 'label: gpt\\nsize=512MiB, uuid=${modelsPartition}\\n' | sfdisk --quiet ${dataDisk}
udevadm settle
# Better compression of the initramfs only costs emulated time here.
echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/zz-fast`,
  );
  const disk = await onNode(context, `lsblk --noheadings --output NAME,SIZE,FSTYPE,PARTUUID ${dataDisk}`);
  holds(
    context,
    disk.includes(modelsPartition) && !/LUKS/i.test(disk),
    "a disk with a blank partition, and unallocated space",
    disk,
  );
}

async function mountedAsDeclared(context: DemoContext): Promise<void> {
  for (const volume of volumeNames) {
    const mount = await onNode(
      context,
      `findmnt --noheadings --output FSTYPE,OPTIONS /srv/${volume} && blkid -p -s TYPE -o value "$(sed -n 's/^device=//p' /etc/edgeseal/volumes/${volume}.pins)"`,
    );
    holds(
      context,
      ["nodev", "nosuid", "noexec"].every((option) => mount.includes(option)) && /^crypto_LUKS$/m.test(mount),
      `${volume}: LUKS, mounted nodev, nosuid, noexec`,
      mount,
    );
  }
}
