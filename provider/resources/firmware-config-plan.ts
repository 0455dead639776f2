import { createHash } from "node:crypto";
import { quote } from "../device/shell-quote.ts";
import { file, reboot, remove, run, unit, type PlainStep, type Step } from "../device/step.ts";
import { sandbox } from "../device/unit-sandbox.ts";
import { PlanRefused } from "../resource.ts";
import { editCommandLine, revertCommandLine, trialParameter } from "./firmware-config-command-line.ts";
import {
  bootedMarker,
  bootFolder,
  formerCommandLine,
  lastGoodFolder,
  type Declared,
  type FirmwareConfigState,
} from "./firmware-config-observation.ts";
import { keepBeforeChange } from "./measured-boot-update.ts";
import { blockBegin, blockEnd, blockLines, inForce } from "./firmware-config-text.ts";

/** The kernel of arm64 takes this many bytes, the firmware's own part included (COMMAND_LINE_SIZE). */
const longestCommandLine = 2048;

/** How long a boot on trial may take until the provider has come in and kept it; then the node boots as it did before. */
const trialSeconds = 300;

export const trialUnit = "edgeseal-trial.service";
const trialUnitPath = `/etc/systemd/system/${trialUnit}`;
const keptMarker = "/run/edgeseal/trial-kept";

/** What is written: edgeseal's lines of config.txt, and the line of the command line's file. */
export interface Edit {
  readonly block: readonly string[];
  readonly commandLine: string;
  readonly changesConfig: boolean;
  readonly changesCommandLine: boolean;
}

/**
 * The edit that leads from what is on the disk to what is declared.
 * @throws PlanRefused when the command line's file is not there, can't be edited, or would become too long.
 */
export function editOf(declared: Declared, observed: FirmwareConfigState): Edit {
  const missing = declared.settings.filter((each) => !observed.settingsElsewhere.includes(each));
  const commandLine = editCommandLine(observed.commandLineText, declared.commandLine);
  const changesCommandLine = commandLine !== observed.commandLineText;
  if (changesCommandLine) requireEditable(commandLine, observed);
  return {
    block: blockLines(missing),
    commandLine,
    changesConfig:
      observed.staleSettings.length > 0 ||
      Object.values(observed.settings).some((status) => status !== inForce),
    changesCommandLine,
  };
}

function requireEditable(line: string, { commandLineFile, commandLineDigest }: FirmwareConfigState): void {
  if (commandLineDigest === "") {
    throw new PlanRefused(
      `${bootFolder} has no ${commandLineFile}`,
      "put it there: it names the root file system",
    );
  }
  if (!/^[\x20-\x7e\t]*$/.test(line)) {
    throw new PlanRefused(
      `${commandLineFile} has bytes that are no printable ASCII, and is not touched`,
      "the kernel's command line is ASCII: correct the file",
    );
  }
  if (line.length >= longestCommandLine) {
    throw new PlanRefused(
      `${commandLineFile} would have ${line.length} characters, and the kernel takes ${longestCommandLine - 1}`,
      "take parameters out that are not needed",
    );
  }
}

/** Steps that write the edit in the place of the files. */
export function writeEdit(edit: Edit, observed: FirmwareConfigState): readonly PlainStep[] {
  if (!edit.changesConfig && !edit.changesCommandLine) return [];
  return [
    ...(observed.bootMeasured ? [keepBeforeChange()] : []),
    keepLastGood(observed),
    ...editFiles(edit, observed),
  ];
}

function editFiles(edit: Edit, observed: FirmwareConfigState): readonly PlainStep[] {
  return [
    ...(edit.changesConfig ? [writeConfig(edit.block, observed)] : []),
    ...(edit.changesCommandLine ? [writeCommandLine(edit.commandLine, observed)] : []),
  ];
}

/** Names one edit: the boot that it was tried with says so on its command line. */
export function trialName(edit: Edit, { configDigest, commandLineDigest }: FirmwareConfigState): string {
  const parts = [configDigest, commandLineDigest, ...edit.block, edit.commandLine];
  return createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 16);
}

/** `name` beside the command line's file, which may be in a folder (os_prefix). */
const beside = ({ commandLineFile }: FirmwareConfigState, name: string): string =>
  commandLineFile.slice(0, commandLineFile.lastIndexOf("/") + 1) + name;

/** The command line's file of a trial. */
const trialCommandLine = "edgeseal-trial.txt";

/**
 * Steps that boot the node with the edit once, and keep it only when we get in. The edit is in tryboot.txt, which the firmware reads in that one boot in the place of config.txt: whatever
 * else boots, after a hang and a power cut, say, is the node as it was. A boot on trial in which nobody comes in ends by itself.
 */
export function tryEdit(
  edit: Edit,
  observed: FirmwareConfigState,
  title: string,
  waitSeconds: number,
): readonly Step[] {
  const name = trialName(edit, observed);
  return [
    keepLastGood(observed),
    run({
      title: "write the trial's command line",
      script: writeBootFile(beside(observed, trialCommandLine), "cat"),
      stdin: `${edit.commandLine} ${trialParameter}=${name}\n`,
    }),
    run({
      title: `write ${bootFolder}/tryboot.txt`,
      precondition: isUnchanged("config.txt", observed.configDigest),
      script: writeBootFile("tryboot.txt", withBlock),
      stdin: blockText([
        ...(edit.block.length === 0 ? ["[all]"] : edit.block),
        `cmdline=${trialCommandLine}`,
      ]),
    }),
    file({ title: `write ${trialUnitPath}`, path: trialUnitPath, mode: "0644", content: trialUnitFile }),
    unit({ title: `enable ${trialUnit}`, unit: trialUnit, enabled: true, daemonReload: true }),
    reboot({ title, waitSeconds, tryboot: true, afterwards: keepTrial(edit, observed) }),
  ];
}

/** Steps, in the boot that is the trial of this edit, that make it the node's own. */
export function keepTrial(edit: Edit, observed: FirmwareConfigState): readonly PlainStep[] {
  const name = trialName(edit, observed);
  return [
    run({
      title: "see whether this boot is the trial",
      script: `set -eu
case " $(cat /proc/cmdline) " in
  *' ${trialParameter}=${name} '*) exit 0 ;;
esac
echo 'the node booted as before, not with the edit: its firmware knows no tryboot.txt, or the boot with it failed and another one followed' >&2
exit 1`,
    }),
    ...editFiles(edit, observed),
    run({ title: "end the trial", script: endTrial(observed) }),
  ];
}

function endTrial(observed: FirmwareConfigState): string {
  return `set -eu
mkdir -p ${dirOf(bootedMarker)}
: >${keptMarker}
sha256sum < ${bootFolder}/config.txt | cut -d ' ' -f 1 >${bootedMarker}.new
mv -f ${bootedMarker}.new ${bootedMarker}
rm -f ${bootFolder}/tryboot.txt ${quote(`${bootFolder}/${beside(observed, trialCommandLine)}`)}
sync -f ${bootFolder}
systemctl disable ${trialUnit}
`;
}

/**
 * The node's part of a trial. It starts with the first services, so that it also ends a boot that hangs in them.
 */
export const trialUnitFile = `# Written by edgeseal.
[Unit]
Description=End a boot that edgeseal tries, unless it is kept
ConditionKernelCommandLine=${trialParameter}
DefaultDependencies=no

[Service]
ExecStart=/bin/sh -c 'sleep ${trialSeconds}; if [ -e ${keptMarker} ]; then exit 0; fi; echo "<3>nobody kept this boot: booting as before" >&2; systemctl reboot; sleep 180; systemctl --force --force reboot'
TimeoutStopSec=5
${sandbox({ capabilities: ["CAP_SYS_BOOT"], addressFamilies: ["AF_UNIX"], systemCalls: ["@reboot"] })}

[Install]
WantedBy=sysinit.target
`;

const dirOf = (path: string): string => path.slice(0, path.lastIndexOf("/"));

const isUnchanged = (name: string, digest: string): string =>
  `[ "$(sha256sum < ${quote(`${bootFolder}/${name}`)})" = '${digest}  -' ]`;

/**
 * Copies the files that this boot was made of, before the first of them is changed. Not a command line that this boot does not have, such as one that was edited by
 * hand since: nobody knows whether anything comes up with it.
 */
function keepLastGood({ commandLineFile, trial }: FirmwareConfigState): PlainStep {
  return run({
    title: `keep the files of this boot in ${lastGoodFolder}`,
    script: `set -eu
if [ -e ${bootedMarker} ]; then exit 0; fi
copy() {
  if cmp -s "$1" "${lastGoodFolder}/$2"; then return; fi
  new=${lastGoodFolder}/.$2.new
  trap 'rm -f -- "$new"' EXIT
  cp -- "$1" "$new"
  sync "$new"
  mv -f -- "$new" "${lastGoodFolder}/$2"
  trap - EXIT
}
# The firmware puts the name of a device in the place of serial0.
is_booted() {
  set -f
  line=$(head -n 1 "$1" | tr -d '\\r')
  line=$(printf '%s ' $line)
  for serial in serial0 ttyAMA10 ttyAMA0 ttyS0; do
    case " $(cat /proc/cmdline) " in
      *" $(printf '%s' "$line" | sed "s/console=serial0/console=$serial/g")"*) return 0 ;;
    esac
  done
  return 1
}
mkdir -p ${lastGoodFolder}
cd ${bootFolder}
copy config.txt config.txt
file=${quote(commandLineFile)}
if [ -f "$file" ] && is_booted "$file"; then copy "$file" cmdline.txt; fi
sync -f ${bootFolder}
mkdir -p -m 0700 ${dirOf(bootedMarker)}
${trial === "" ? "sha256sum <config.txt | cut -d ' ' -f 1" : "echo trial"} >${bootedMarker}.new
mv -f ${bootedMarker}.new ${bootedMarker}
`,
  });
}

/**
 * Writes a file of the boot partition: beside its place, to the disk, and renamed. FAT has no journal; a rename over a file changes one directory entry in one sector, so that either
 * content is found, whole. `command` makes the content from standard input.
 */
function writeBootFile(name: string, command: string): string {
  const folder = name.includes("/") ? `/${dirOf(name)}` : "";
  return `set -eu
cd ${quote(`${bootFolder}${folder}`)}
name=${quote(name.slice(name.lastIndexOf("/") + 1))}
new=".$name.edgeseal-new"
trap 'rm -f -- "$new" "$new.kept"' EXIT
{ ${command}
} >"$new"
sync "$new"
mv -f -- "$new" "$name"
trap - EXIT
sync -f .
`;
}

/** config.txt without edgeseal's lines, then those on standard input; with its own line ends. */
const withBlock = `
  block=$(cat)
  cr=$(printf '\\r')
  begin=$(grep -c "^${blockBegin}$cr*\\$" config.txt || :)
  end=$(grep -c "^${blockEnd}$cr*\\$" config.txt || :)
  if [ "$begin" -ne "$end" ] || [ "$begin" -gt 1 ]; then
    echo "the marks around edgeseal's lines in config.txt are not one pair: put them in order, or remove them" >&2
    exit 1
  fi
  sed "/^${blockBegin}$cr*\\$/,/^${blockEnd}$cr*\\$/d" config.txt >"$new.kept"
  cat "$new.kept"
  if [ -n "$block" ]; then
    grep -q "$cr\\$" config.txt || cr=
    if [ -s "$new.kept" ] && [ "$(tail -c 1 "$new.kept" | od -An -tx1)" != ' 0a' ]; then printf '%s\\n' "$cr"; fi
    printf '%s\\n' "$block" | sed "s/\\$/$cr/"
  fi
  rm -f -- "$new.kept"`;

function blockText(lines: readonly string[]): string {
  return lines.length === 0 ? "" : `${[blockBegin, ...lines, blockEnd].join("\n")}\n`;
}

function writeConfig(block: readonly string[], { configDigest }: FirmwareConfigState): PlainStep {
  return run({
    title: `write edgeseal's lines in ${bootFolder}/config.txt`,
    precondition: isUnchanged("config.txt", configDigest),
    script: writeBootFile("config.txt", withBlock),
    stdin: blockText(block),
  });
}

/** Puts a line in the place of the first one of the file; keeps the line ends and whatever else is there. */
function writeCommandLine(
  line: string,
  { commandLineFile, commandLineDigest, commandLineText }: FirmwareConfigState,
): PlainStep {
  const base = quote(commandLineFile.slice(commandLineFile.lastIndexOf("/") + 1));
  return run({
    title: `write ${bootFolder}/${commandLineFile}`,
    precondition: isUnchanged(commandLineFile, commandLineDigest),
    script: `set -eu
if [ ! -e ${formerCommandLine} ]; then
  mkdir -p -m 0700 ${dirOf(formerCommandLine)}
  printf '%s\\n' ${quote(commandLineText)} >${formerCommandLine}.new
  sync ${formerCommandLine}.new
  mv -f ${formerCommandLine}.new ${formerCommandLine}
fi
${writeBootFile(
  commandLineFile,
  `
  cat
  head -n 1 ${base} | tail -c 2 | od -An -tx1 | grep -q '0d' && printf '\\r'
  if [ "$(head -n 1 ${base} | tail -c 1 | od -An -tx1)" = ' 0a' ]; then printf '\\n'; fi
  tail -n +2 ${base}`,
)}`,
    stdin: line,
  });
}

/** Steps that take edgeseal's lines out of config.txt, and bring back the parameters of cmdline.txt that it changed. */
export function takeBack(declared: Declared, observed: FirmwareConfigState): readonly Step[] {
  const hasOwn = observed.ownSettings.length > 0;
  const commandLine =
    observed.formerCommandLine === ""
      ? observed.commandLineText
      : revertCommandLine(observed.commandLineText, observed.formerCommandLine, declared.commandLine);
  const edit: Edit = {
    block: [],
    commandLine,
    changesConfig: hasOwn,
    changesCommandLine: commandLine !== observed.commandLineText,
  };
  if (edit.changesCommandLine) requireEditable(commandLine, observed);
  const steps = writeEdit(edit, observed);
  return [
    ...steps,
    ...(observed.formerCommandLine === ""
      ? []
      : [remove({ title: "forget the former command line", path: formerCommandLine })]),
  ];
}
