import { diffState } from "../diff.ts";
import { directory, file, remove, run, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { differingFiles, type ManagedFile } from "./managed-files.ts";
import {
  filesOfInitramfs,
  managedFiles,
  measuredBootPaths,
  rebuildScript,
  recordsDirectory,
} from "./measured-boot-files.ts";
import type { MeasuredBootState } from "./measured-boot-observation.ts";
import { keepBeforeChange } from "./measured-boot-update.ts";

/** Two images of 60 MB each on a slow card, compressed by one processor; a minute on a Pi 5. */
const rebuildSeconds = 1800;

const directories: readonly string[] = [
  "/etc/edgeseal",
  "/usr/lib/edgeseal",
  "/etc/initramfs",
  "/etc/initramfs/post-update.d",
];

/**
 * Steps that lead to an initramfs that measures.
 * @throws PlanRefused when the node can't have one, or shows what only a person can judge.
 */
export function installMeasuring(node: string, state: MeasuredBootState): readonly Step[] {
  const differing = differingFiles(managedFiles(node), state.files);
  const rebuild =
    state.initramfs !== "current" || differing.some(({ name }) => filesOfInitramfs.includes(name));
  if (rebuild) requireInitramfs(state);
  return [
    // Before the program that does it is replaced.
    ...(rebuild && measuredBootPaths.keepBoot in state.files ? [keepBeforeChange()] : []),
    ...(differing.length === 0
      ? []
      : directories.map((path) => directory({ title: `make ${path}`, path, mode: "0755" }))),
    ...differing.map(write),
    ...(rebuild ? [rebuildStep("build the initramfs with the measuring program")] : []),
  ];
}

function requireInitramfs({ initramfs, bootSource }: MeasuredBootState): void {
  if (initramfs === "unsupported") {
    throw new PlanRefused(
      "this node has no initramfs-tools, and measuring is done in their initramfs",
      "install initramfs-tools",
    );
  }
  if (initramfs === "none") {
    throw new PlanRefused(
      "the firmware of this node loads no initramfs, so nothing could be measured before the root file system",
      "set auto_initramfs=1 in config.txt (boot:FirmwareConfig)",
    );
  }
  if (initramfs === "image") {
    throw new PlanRefused(
      "the initramfs of this node is within a boot.img, and the one that booted did not measure",
      "have edgeseal's files installed where the image is built and signed",
    );
  }
  if (bootSource === "") {
    throw new PlanRefused(
      "/etc/fstab has no line for /boot/firmware, so the initramfs can't know the boot partition",
      "add one, e.g. PARTUUID=...-01 /boot/firmware vfat defaults 0 2",
    );
  }
}

const write = ({ path, mode, content }: ManagedFile): Step =>
  file({ title: `write ${path}`, path, mode, content, owner: "root:root" });

const rebuildStep = (title: string): Step =>
  run({ title, script: rebuildScript, timeoutSeconds: rebuildSeconds });

/** Steps that take everything back. The next boot measures nothing, and leaves sealed volumes locked. */
export function removeMeasuring(state: MeasuredBootState): readonly Step[] {
  const paths = [...Object.values(measuredBootPaths)].reverse().filter((path) => path in state.files);
  return [
    ...paths.map((path) => remove({ title: `remove ${path}`, path })),
    run({
      title: "remove the notes on images, and what is empty",
      script: [
        "set -eu",
        `rm -rf -- ${recordsDirectory}`,
        "for each in /usr/lib/edgeseal /etc/edgeseal; do",
        '  if [ -d "$each" ]; then rmdir --ignore-fail-on-non-empty "$each"; fi',
        "done",
      ].join("\n"),
    }),
    ...(state.initramfs === "unsupported"
      ? []
      : [rebuildStep("build the initramfs without the measuring program"), tellOfVolumes()]),
  ];
}

/** What would say whether the next boot is an approved one is gone by then, and needs not be asked. */
const tellOfVolumes = (): Step =>
  run({
    title: "see whether there are sealed volumes, which nothing opens from the next boot on",
    onFailure: "warn",
    script: `set -- /etc/edgeseal/volumes/*.conf
[ -e "$1" ] || exit 0
echo 'nothing measures from the next boot on: sealed volumes stay locked in it' >&2
exit 3`,
  });

/** What keeps a node that has everything installed from being in its desired state, as the refusal says it. */
export function whyNot(differences: ReturnType<typeof diffState>, state: MeasuredBootState): PlanRefused {
  const { desync, failures } = state;
  if (desync === "tampered") {
    return new PlanRefused(
      `the event log of this boot does not lead to the value of PCR 11 (${state.pcr11}): something else was extended after the initramfs, or the log is not the one that it wrote`,
      "find out who had root on this node since it booted; nothing can be unsealed before the next boot, which measures anew",
    );
  }
  if (desync === "power-cycle") {
    return new PlanRefused(
      "the TPM was not reset before this boot, and PCR 11 went on from where the boot before had left it (desync: power-cycle)",
      "shut the node down and take its power away: a reboot does not reset this TPM",
    );
  }
  if (failures.length > 0) {
    return new PlanRefused(
      `this boot is not measured as it must be: ${failures.join("; ")}`,
      "/run/edgeseal/measured on the node has the log, and `trouble` beside it; mend that and reboot",
    );
  }
  return new PlanRefused(
    `${differences.map(({ path }) => path).join(", ")} can be mended by a reboot only, and reboot is 'never'`,
    "reboot the node, or set reboot: ifNeeded",
  );
}
