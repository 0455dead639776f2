import { createHash } from "node:crypto";
import { posix } from "node:path";
import { quote } from "../device/shell-quote.ts";
import { directory, file, reboot, run, type PlainStep, type RebootStep, type Step } from "../device/step.ts";
import { sandbox } from "../device/unit-sandbox.ts";
import { editCommandLine, trialParameter } from "./firmware-config-command-line.ts";
import {
  beside,
  copyBooted,
  isUnchanged,
  newCommandLine,
  newConfig,
  requireEditable,
  type Edit,
} from "./firmware-config-plan.ts";
import { bootFolder } from "./firmware-config-files.ts";
import type { FirmwareConfigState } from "./firmware-config-observation.ts";
import { stagedEdit, stagedFiles, trialMark } from "./firmware-config-staged.ts";
import { onDevice } from "./managed-files.ts";
import { keepBeforeChange } from "./measured-boot-update.ts";
import { rebootSeconds, rebootSteps, type RebootInputs } from "./reboot-inputs.ts";

/*
 * An edit that is tried before it is the node's own. It waits on the root file system (staged), is booted once by way of tryboot.txt, and comes to the boot partition only when we get in. Where boots
 * are measured, what is approved is the boot after that one: the trial is another state, in which volumes stay locked, and all that it has to show is that the node boots and lets us in.
 */

/** How long a boot on trial may take until the provider has come in and kept it; then the node boots as it did before. */
const trialSeconds = 300;

/** The boot partition of a slow card, read through. */
const keepSeconds = 120;

const program = "/usr/lib/edgeseal/firmware-trial";
const trialUnit = "edgeseal-trial.service";
const trialEndUnit = "edgeseal-trial-end.service";

/** The node's part of a trial. It starts with the first services, so that it also ends a boot that hangs in them. */
const trialUnitFile = `# Written by edgeseal.
[Unit]
Description=End a boot that edgeseal tries, unless it is kept
ConditionKernelCommandLine=${trialParameter}
DefaultDependencies=no

[Service]
ExecStart=/bin/sh -c 'sleep ${trialSeconds}; if [ -e /run/edgeseal/trial-kept ]; then exit 0; fi; echo "<3>the time of this trial is over: booting again" >&2; systemctl --check-inhibitors=no reboot; sleep 180; systemctl --force --force reboot'
TimeoutStopSec=5
${sandbox({ capabilities: ["CAP_SYS_BOOT"], addressFamilies: ["AF_UNIX"], systemCalls: ["@reboot"] })}

[Install]
WantedBy=sysinit.target
`;

/** Of the boots after it. Before anybody is let in: nobody is to look at a node that boots again in a moment. */
const trialEndUnitFile = `# Written by edgeseal.
[Unit]
Description=Bring a trial of boot files to its end
ConditionPathExists=${stagedEdit}/phase
ConditionKernelCommandLine=!${trialParameter}
DefaultDependencies=no
RequiresMountsFor=${bootFolder}
After=local-fs.target edgeseal-volumes.service edgeseal-cap-pcr15.service
Wants=network-pre.target
Before=network-pre.target systemd-networkd.service NetworkManager.service dhcpcd.service networking.service
Before=ssh.service ssh.socket sshd.service sshd.socket dropbear.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=${program} settle
TimeoutStartSec=300
${sandbox({ capabilities: ["CAP_DAC_OVERRIDE"], addressFamilies: ["AF_UNIX"] })}

[Install]
WantedBy=sysinit.target
`;

export const trialUnits: Readonly<Record<string, string>> = {
  [trialUnit]: trialUnitFile,
  [trialEndUnit]: trialEndUnitFile,
};

/** Names one edit of one pair of files: the boot that it was tried with says so on its command line. */
export function trialName(edit: Edit, { configDigest, commandLineDigest }: FirmwareConfigState): string {
  const parts = [configDigest, commandLineDigest, ...edit.block, edit.commandLine];
  return createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 16);
}

/** Steps that all others below rely on. */
export const installTrial = (): readonly PlainStep[] => [
  directory({ title: `make ${posix.dirname(program)}`, path: posix.dirname(program), mode: "0755" }),
  file({ title: `write ${program}`, path: program, mode: "0755", content: onDevice("firmware-trial") }),
];

/** The command line's file of a trial. */
const trialCommandLine = "edgeseal-trial.txt";

/**
 * Steps after which the edit waits for its trial. The boot partition stays as it is.
 * @throws PlanRefused when the trial's command line can't be written
 */
export function stageEdit(edit: Edit, observed: FirmwareConfigState): readonly PlainStep[] {
  const name = trialName(edit, observed);
  const { commandLineFile } = observed;
  const line = editCommandLine(edit.commandLine, { present: [`${trialParameter}=${name}`], absent: [] });
  requireEditable(line, observed);
  const config = edit.changesConfig ? `${stagedEdit}.new/files/config.txt` : "config.txt";
  return [
    ...(observed.bootMeasured ? [keepBeforeChange()] : []),
    run({
      title: "stage the edit for its trial",
      precondition: `${isUnchanged("config.txt", observed.configDigest)} && ${isUnchanged(commandLineFile, observed.commandLineDigest)}`,
      script: `set -eu
umask 077
if [ -d ${stagedEdit} ]; then ${program} drop; fi
rm -rf ${stagedEdit} ${stagedEdit}.new
for each in files trial; do mkdir -p "${stagedEdit}.new/$each/"${quote(posix.dirname(commandLineFile))}; done
cd ${bootFolder}
${copyBooted(`${stagedEdit}.new/files/edgeseal-last-good`, commandLineFile)}
${edit.changesConfig ? `new=${config}\n{ ${newConfig(edit.block)}\n} >"$new"` : ""}
${edit.changesCommandLine ? `{ ${newCommandLine(edit.commandLine, commandLineFile)}\n} >${stagedEdit}.new/files/${quote(commandLineFile)}` : ""}
{ cat ${config}; printf '\\n${trialMark}\\n[all]\\ncmdline=${trialCommandLine}\\n'; } >${stagedEdit}.new/trial/tryboot.txt
printf '%s\\n' ${quote(line)} >${stagedEdit}.new/trial/${quote(beside(observed, trialCommandLine))}
sha256sum config.txt ${quote(commandLineFile)} >${stagedEdit}.new/from.sha256
${edit.changesCommandLine ? `printf '%s\\n' ${quote(observed.commandLineText)} >${stagedEdit}.new/former` : ""}
cd ${stagedEdit}.new/files
find . -type f -exec sha256sum {} + >../files.sha256
cd ..
echo ${name} >name
echo staged >phase
sync -f .
mv -T ${stagedEdit}.new ${stagedEdit}
sync ${posix.dirname(stagedEdit)}`,
    }),
  ];
}

/** Steps that try the edit that is staged, and then boot the node with it. */
export function tryStaged(
  name: string,
  observed: FirmwareConfigState,
  inputs: RebootInputs,
  now: Date,
): readonly Step[] {
  const title = "reboot on trial with the edit of config.txt and cmdline.txt";
  return [
    ...Object.entries(trialUnits).map(([unit, content]) => {
      const path = `/etc/systemd/system/${unit}`;
      return file({ title: `write ${path}`, path, mode: "0644", content });
    }),
    run({
      title: "enable the units that end a trial",
      script: `systemctl daemon-reload && systemctl enable ${Object.keys(trialUnits).join(" ")}`,
    }),
    ...rebootSteps(
      inputs,
      observed.bootMeasured ? `${title}; sealed volumes stay locked in that boot` : title,
      now,
      {
        tryboot: true,
        ...(observed.bootMeasured ? { approvedWith: stagedFiles } : {}),
        prepare: { script: `${program} begin ${name}`, undo: `${program} undo` },
        afterwards: keepSteps(name, observed),
      },
    ),
  ];
}

/** Steps, in the boot that is the trial of what is staged, that make it the node's own; in any other one they say that its trial failed. */
export const keepTrial = (observed: FirmwareConfigState): readonly Step[] => [
  ...installTrial(),
  ...keepSteps(observed.staged, observed),
];

const keepSteps = (
  name: string,
  { bootMeasured }: FirmwareConfigState,
): readonly (PlainStep | RebootStep)[] => [
  run({
    title: "see whether this boot is the trial, and keep the edit",
    script: `${program} keep ${name}`,
    timeoutSeconds: keepSeconds,
  }),
  ...(bootMeasured ? [leaveTrial()] : []),
];

/**
 * Of a boot on trial that was measured, into the state that was approved before it: by digest the edit that is in place is the one that this was predicted with, and so is all else on the boot partition, or the edit is
 * not kept. Nothing can be predicted in here, where command line and device tree are the trial's.
 */
export const leaveTrial = (): RebootStep =>
  reboot({
    title: "reboot into the approved state",
    waitSeconds: rebootSeconds,
    unapproved: "unasked",
  });

/** Steps that forget what is staged. */
export const dropStaged = (): readonly PlainStep[] => [
  ...installTrial(),
  run({ title: "forget the edit that waits for its trial", script: `${program} drop` }),
];
