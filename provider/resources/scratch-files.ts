import type { ManagedFile } from "./managed-files.ts";
import { historyVariables } from "./scratch-histories.ts";
import type { ScratchInputs } from "./scratch-inputs.ts";
import { unlockUnit } from "./sealed-volume-files.ts";

/** What is mounted in memory: the path, its unit, and the input with its size. */
export const scratchMounts = [
  { path: "/tmp", unit: "tmp.mount", size: "tmpMiB" },
  { path: "/var/tmp", unit: "var-tmp.mount", size: "varTmpMiB" },
] as const;

export const unitFile = (unit: string): string => `/etc/systemd/system/${unit}`;
/** Its name sorts after whatever begins with a number or a common word, so that it has the last word; likewise below. */
export const optionsFile = (unit: string): string => `${unitFile(unit)}.d/zz-edgeseal.conf`;

export const flushUnit = "systemd-journal-flush.service";
export const flushDropIn = optionsFile(flushUnit);
export const journaldDropIn = "/etc/systemd/journald.conf.d/zz-edgeseal.conf";
export const sudoersFile = "/etc/sudoers.d/edgeseal-histories";
/** Where journald looks for a journal that outlives the boot, and where the one that was there is set aside. */
export const plainJournal = "/var/log/journal";
export const formerJournal = "/var/log/journal.before-edgeseal";

/** Every file that edgeseal may have on a node for this. */
export const scratchPaths = [
  ...scratchMounts.flatMap(({ unit }) => [unitFile(unit), optionsFile(unit)]),
  journaldDropIn,
  flushDropIn,
  sudoersFile,
];

const written = "# Written by edgeseal (edgeseal:memory:Scratch).\n";

/** How a mount in memory is written in the state. */
export const inMemory = (sizeMiB: number): string => `tmpfs ${sizeMiB} MiB nodev noexec nosuid`;

/** A unit of its own in /etc for both: it stands before Debian's tmp.mount and before what systemd makes of /etc/fstab. */
const mountUnit = (path: string): string => `${written}[Unit]
Description=Temporary files in memory (${path})
ConditionPathIsSymbolicLink=!${path}
DefaultDependencies=no
Conflicts=umount.target
Before=local-fs.target umount.target
After=swap.target

[Mount]
What=tmpfs
Where=${path}
Type=tmpfs

[Install]
WantedBy=local-fs.target
`;

/**
 * The options in a drop-in, which has the last word.
 *
 * noexec on both: what is dropped there can't be started. Debian's own packages don't need it: maintainer scripts run in /var/lib/dpkg, debconf's in /var/cache/debconf, and
 * mkinitramfs runs the sources of what it unpacked (`get_source` in initramfs-tools' hook-functions).
 */
const mountOptions = (sizeMiB: number): string =>
  `${written}[Mount]\nOptions=mode=1777,strictatime,nosuid,nodev,noexec,size=${sizeMiB}m\n`;

/** What an options drop-in makes of a mount, in the state's words; `undefined` for a text that is not ours. */
export function declaredMount(lines: readonly string[]): string | undefined {
  const size = /^Options=mode=1777,strictatime,nosuid,nodev,noexec,size=(\d+)m$/m.exec(lines.join("\n"))?.[1];
  return size === undefined ? undefined : inMemory(Number(size));
}

/** Until the flush, journald writes to memory: so it comes after the volumes, and not at all while this one is locked. */
const flush = (directory: string): string => `${written}[Unit]
After=${unlockUnit}
RequiresMountsFor=${directory}

[Service]
ExecCondition=/bin/sh -c 'case $(findmnt -n -o SOURCE --target ${directory}) in /dev/mapper/edgeseal-*) ;; *) exit 1 ;; esac'
`;

/** `auto`: never makes the directory, so that a link whose volume is locked leads to a journal in memory. `persistent` would. */
export const journalSetting = ({ journal }: ScratchInputs): "volatile" | "auto" =>
  journal === "volatile" ? "volatile" : "auto";

export function scratchFiles(inputs: ScratchInputs): readonly ManagedFile[] {
  const { journal } = inputs;
  const keep = Object.keys(historyVariables).join(" ");
  return [
    ...scratchMounts.flatMap(({ path, unit, size }) => [
      { path: unitFile(unit), mode: "0644", content: mountUnit(path) },
      { path: optionsFile(unit), mode: "0644", content: mountOptions(inputs[size]) },
    ]),
    {
      path: journaldDropIn,
      mode: "0644",
      content: `${written}[Journal]\nStorage=${journalSetting(inputs)}\n`,
    },
    ...(journal === "volatile"
      ? []
      : [{ path: flushDropIn, mode: "0644", content: flush(journal.directory) }]),
    // sudo starts from an empty environment, without pam_env.
    { path: sudoersFile, mode: "0440", content: `${written}Defaults env_keep += "${keep}"\n` },
  ];
}
