import { quote } from "../device/shell-quote.ts";
import { directory, file, reboot, remove, run, unit, type PlainStep, type Step } from "../device/step.ts";
import { diffState } from "../diff.ts";
import { PlanRefused } from "../resource.ts";
import { keepFromStarting } from "./boot-units.ts";
import { desiredMarks, differingFiles } from "./managed-files.ts";
import { mayReboot, rebootSeconds } from "./reboot-inputs.ts";
import {
  formerJournal,
  inMemory,
  journalSetting,
  plainJournal,
  scratchFiles,
  scratchMounts,
  scratchPaths,
  sudoersFile,
} from "./scratch-files.ts";
import {
  bashHistoriesOff,
  environmentHistoriesOff,
  historiesBack,
  historyVariables,
  removeHistories,
} from "./scratch-histories.ts";
import { journalDirectoryOf, type ScratchInputs } from "./scratch-inputs.ts";
import { removeBeneath, removeCrashReports, removeJournal, removeSyslogFiles } from "./scratch-leftovers.ts";
import { syslogPrograms, type ScratchState } from "./scratch-observation.ts";

export function desiredScratch(inputs: ScratchInputs, now: Date): Partial<ScratchState> {
  const { journal, syslog, historyFiles, leftovers } = inputs;
  return {
    mountUnits: scratchMounts.map(({ unit }) => unit),
    mountDifferences: [],
    ...(mayReboot(inputs, now) ? { pendingReboot: false } : {}),
    journalSetting: journalSetting(inputs),
    journalIn: [journalDirectoryOf(inputs)],
    ...(journal === "volatile" ? {} : { journalLink: journal.directory }),
    ...(syslog === "off"
      ? { syslogUnits: [], syslogProcesses: [], ...(leftovers === "remove" ? { syslogFiles: [] } : {}) }
      : {}),
    crashReporters: [],
    historyVariables,
    bashHistory: "off",
    ...(historyFiles === "remove" ? { historyFiles: {} } : {}),
    ...(leftovers === "remove" ? { leftovers: [] } : {}),
    files: desiredMarks(scratchFiles(inputs)),
    overridingFiles: [],
  };
}

/**
 * Steps that keep what is said and typed on a node off its plain disk.
 * @throws PlanRefused when a file that edgeseal does not own has the last word.
 */
export function keepInMemory(inputs: ScratchInputs, observed: ScratchState, now: Date): readonly Step[] {
  const differences = new Set(
    diffState(desiredScratch(inputs, now), observed).map(({ path }) => path.split(/[.[]/)[0]),
  );
  if (differences.size === 0) return [];
  if (observed.overridingFiles.length > 0)
    throw new PlanRefused(
      `${observed.overridingFiles.join(" and ")} ${observed.overridingFiles.length === 1 ? "has" : "have"} the last word on /tmp, /var/tmp or the journal`,
      "remove these files, or the settings in them",
    );
  const mounts = mountSteps(inputs, observed);
  return [
    ...fileSteps(inputs, observed),
    ...(differences.has("historyVariables") ? [environmentHistoriesOff] : []),
    ...(differences.has("bashHistory") ? [bashHistoriesOff] : []),
    ...(inputs.syslog === "off" ? syslogSteps(observed) : []),
    ...keepFromStarting(observed.crashReporters, "collect crash reports", () => true),
    ...mounts,
    ...(["journalSetting", "journalIn", "journalLink"].some((each) => differences.has(each))
      ? journalSteps(inputs)
      : []),
    ...(differences.has("historyFiles") ? [removeHistories(observed.historyFiles)] : []),
    ...(inputs.leftovers === "remove" ? leftoverSteps(inputs, observed) : []),
    ...(observed.diskUsers.length > 0 && mayReboot(inputs, now) ? [rebootWith(inputs)] : []),
  ];
}

/** Steps that let the system have its own way again: mounts with the next boot, all else at once. */
export function takeScratchBack(observed: ScratchState): readonly Step[] {
  const link = observed.journalLink;
  return [
    run({
      title: "take /tmp and /var/tmp back to what the system makes of them, with the next boot",
      script: `systemctl disable -- ${mountUnits.join(" ")} 2>/dev/null || :`,
    }),
    ...scratchPaths.map((path) => remove({ title: `remove ${path}`, path })),
    ...historiesBack,
    ...observed.maskedUnits.map((name) => unit({ title: `unmask ${name}`, unit: name, masked: false })),
    run({
      title: "let journald keep the journal where the system's own settings say",
      script: [
        "set -eu",
        ...(link === ""
          ? []
          : [
              `if [ "$(readlink ${plainJournal})" = ${quote(link)} ]; then journalctl --relinquish-var; rm ${plainJournal}; fi`,
            ]),
        "systemctl daemon-reload",
        "systemctl restart systemd-journald.service",
      ].join("\n"),
    }),
  ];
}

const mountUnits: readonly string[] = scratchMounts.map(({ unit }) => unit);

function fileSteps(inputs: ScratchInputs, observed: ScratchState): readonly Step[] {
  const files = differingFiles(scratchFiles(inputs), observed.files);
  const stale = Object.keys(desiredMarks(scratchFiles(inputs)));
  const gone = Object.keys(observed.files).filter((path) => !stale.includes(path));
  const folders = new Set(files.map(({ path }) => path.slice(0, path.lastIndexOf("/"))));
  folders.delete("/etc/systemd/system");
  const isEnabled = mountUnits.every((name) => observed.mountUnits.includes(name));
  const ofManager = [...files.map(({ path }) => path), ...gone].some((path) =>
    path.startsWith("/etc/systemd/system/"),
  );
  return [
    ...gone.map((path) => remove({ title: `remove ${path}`, path })),
    ...[...folders].map((path) => directory({ title: `make the directory ${path}`, path, mode: "0755" })),
    ...files.map((each) =>
      each.path === sudoersFile ? sudoersStep(each) : file({ title: `write ${each.path}`, ...each }),
    ),
    ...(isEnabled
      ? ofManager
        ? [run({ title: "let systemd take up the units", script: "systemctl daemon-reload" })]
        : []
      : [
          run({
            title: `have the next boot start ${mountUnits.join(" and ")}`,
            script: `systemctl enable -- ${mountUnits.join(" ")}`,
          }),
        ]),
  ];
}

/** A file that sudo can't read keeps everybody from being root: it takes its name only once sudo's own parser took it. */
const sudoersStep = ({
  path,
  content,
  mode,
}: {
  readonly path: string;
  readonly content: string;
  readonly mode: string;
}): Step =>
  run({
    title: `write ${path}`,
    stdin: content,
    script: `set -eu
new=/run/edgeseal/sudoers.new
rm -f -- "$new"
trap 'rm -f "$new"' EXIT
umask 077
cat >"$new"
! command -v visudo >/dev/null || visudo -c -q -f "$new"
install -o root -g root -m ${mode} -- "$new" ${path}.edgeseal-new
mv -f -- ${path}.edgeseal-new ${path}
sync -- ${path}`,
  });

function syslogSteps({ syslogUnits, syslogProcesses }: ScratchState): readonly Step[] {
  const steps: Step[] = [...keepFromStarting(syslogUnits, "write the log to files", () => true)];
  if (syslogProcesses.length > 0)
    steps.push(
      run({
        title: `stop ${syslogProcesses.join(" and ")}`,
        script: `set -eu
running() { grep -lxE '${syslogPrograms.join("|")}' /proc/[0-9]*/comm 2>/dev/null | cut -d / -f 3; }
for pid in $(running); do
  unit=$(sed -n 's,^0::.*/\\([^/]*\\.service\\)$,\\1,p' "/proc/$pid/cgroup")
  [ -z "$unit" ] || systemctl stop -- "$unit"
done
[ -z "$(running)" ] || { echo "still running: $(running | tr '\\n' ' ')(process ids), in no service; end them by hand" >&2; exit 1; }`,
      }),
    );
  return steps;
}

const hasUsers = (observed: ScratchState, path: string): boolean =>
  observed.diskUsers.some((user) => user.startsWith(`${path}: `));

/** What can be done without a boot: memory that is there already gets its size and options; the disk is mounted over where nothing uses it. */
function mountSteps(inputs: ScratchInputs, observed: ScratchState): readonly Step[] {
  return scratchMounts.flatMap(({ path, unit: name, size }): readonly Step[] => {
    const now = observed.mounts[path] ?? "";
    if (now === inMemory(inputs[size])) return [];
    if (now.startsWith("tmpfs ")) return [remount(path, inputs[size])];
    if (hasUsers(observed, path)) return [];
    const start = unit({ title: `mount ${path} in memory`, unit: name, active: true });
    return inputs.leftovers === "remove" ? [start, removeBeneath(path)] : [start];
  });
}

const remount = (path: string, sizeMiB: number): Step =>
  run({
    title: `give ${path} ${sizeMiB} MiB of memory, nodev, nosuid and noexec`,
    precondition: `[ "$(stat -f -c %T ${path})" = tmpfs ]`,
    script: `set -eu
used=$(df --output=used -k ${path} | tail -n 1)
[ "$used" -le ${sizeMiB * 1024} ] || { echo "${path} holds $used KiB, which is more than ${sizeMiB} MiB; remove files there, or give it more" >&2; exit 1; }
mount -o remount,nosuid,nodev,noexec,size=${sizeMiB}m ${path}`,
  });

function journalSteps(inputs: ScratchInputs): readonly Step[] {
  const { journal, leftovers } = inputs;
  const restart = run({
    title: "let journald take up its settings",
    // It also closes what it has open elsewhere.
    script: "set -eu\nsystemctl restart systemd-journald.service\njournalctl --relinquish-var",
  });
  if (journal === "volatile") return [restart];
  const word = quote(journal.directory);
  return [
    restart,
    run({
      title: `keep the journal in ${journal.directory}`,
      script: `set -eu
source=$(awk -v dir=${word}/ '{ at = $5 == "/" ? "/" : $5 "/" } index(dir, at) == 1 && length(at) >= best { best = length(at); sub(/.* - [^ ]+ /, ""); source = $1 } END { print source }' /proc/self/mountinfo)
case $source in
  /dev/mapper/edgeseal-*) ;;
  *) echo ${word}" is on $source, which is no open sealed volume: the journal stays in memory until it is; see edgeseal:storage:SealedVolume, or name another directory" >&2; exit 1 ;;
esac
mkdir -p ${word}
chown root:systemd-journal ${word}
chmod 2755 ${word}
if [ -e ${plainJournal} ] && [ ! -L ${plainJournal} ]; then mv -T --backup=numbered -- ${plainJournal} ${formerJournal}; fi
ln -sfn -- ${word} ${plainJournal}.edgeseal-new
mv -T -- ${plainJournal}.edgeseal-new ${plainJournal}
journalctl --flush`,
    }),
    ...(leftovers === "remove" ? [removeJournal(formerJournal)] : []),
  ];
}

function leftoverSteps(inputs: ScratchInputs, { leftovers, syslogFiles }: ScratchState): readonly Step[] {
  return [
    ...scratchMounts.filter(({ path }) => leftovers.includes(path)).map(({ path }) => removeBeneath(path)),
    ...[plainJournal, formerJournal].filter((path) => leftovers.includes(path)).map(removeJournal),
    ...(leftovers.includes("/var/crash") ? [removeCrashReports] : []),
    ...(inputs.syslog === "off" && syslogFiles.length > 0 ? [removeSyslogFiles(syslogFiles)] : []),
  ];
}

function rebootWith(inputs: ScratchInputs): Step {
  const afterwards =
    inputs.leftovers === "remove" ? scratchMounts.map(({ path }) => removeBeneath(path) as PlainStep) : [];
  return reboot({
    title: "reboot, so that /tmp and /var/tmp are in memory for everything that runs",
    waitSeconds: rebootSeconds,
    unapproved: inputs.rebootUnapproved,
    afterwards,
  });
}
