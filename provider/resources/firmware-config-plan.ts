import { posix } from "node:path";
import { quote } from "../device/shell-quote.ts";
import { remove, run, type PlainStep, type Step } from "../device/step.ts";
import { PlanRefused } from "../resource.ts";
import { editCommandLine, revertCommandLine } from "./firmware-config-command-line.ts";
import { bootFolder } from "./firmware-config-files.ts";
import {
  bootedMarker,
  formerCommandLine,
  lastGoodFolder,
  type Declared,
  type FirmwareConfigState,
} from "./firmware-config-observation.ts";
import { keepBeforeChange } from "./measured-boot-update.ts";
import { blockBegin, blockEnd, blockLines, inForce } from "./firmware-config-text.ts";
import { tellOfNextBoot } from "./reboot-inputs.ts";

/** The kernel of arm64 takes this many bytes, the firmware's own part included (COMMAND_LINE_SIZE). */
const longestCommandLine = 2048;

/** What is written: edgeseal's lines of config.txt, and the line of the command line's file. */
export interface Edit {
  readonly block: readonly string[];
  readonly commandLine: string;
  readonly changesConfig: boolean;
  readonly changesCommandLine: boolean;
}

/**
 * The edit that leads from what is on the boot partition to what is declared, whatever is staged.
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
      observed.ownSettings.some((each) => !declared.settings.includes(each)) ||
      Object.values(observed.settingsWritten).some((status) => status !== inForce),
    changesCommandLine,
  };
}

export function requireEditable(
  line: string,
  { commandLineFile, commandLineDigest }: FirmwareConfigState,
): void {
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

/** `name` beside the command line's file, which may be in a folder (os_prefix). */
export const beside = (
  { commandLineFile }: Pick<FirmwareConfigState, "commandLineFile">,
  name: string,
): string => commandLineFile.slice(0, commandLineFile.lastIndexOf("/") + 1) + name;

export const isUnchanged = (name: string, digest: string): string =>
  `[ "$(sha256sum < ${quote(`${bootFolder}/${name}`)})" = '${digest}  -' ]`;

/**
 * Shell, in the boot folder, that copies the files that this boot was made of to a folder, unless edgeseal changed them in it. Not a command line that this boot does not have, such as one
 * that was edited by hand since: nobody knows whether anything comes up with it.
 */
export const copyBooted = (folder: string, commandLineFile: string): string => `
copy() {
  if cmp -s "$1" "${folder}/$2"; then return; fi
  new=${folder}/.$2.new
  trap 'rm -f -- "$new"' EXIT
  cp -- "$1" "$new"
  sync "$new"
  mv -f -- "$new" "${folder}/$2"
  trap - EXIT
}
# The firmware puts the name of a device in the place of serial0.
is_booted() {
  set -f
  line=$(head -n 1 "$1" | tr -d '\\r')
  line=$(printf '%s ' $line)
  set +f
  for serial in serial0 ttyAMA10 ttyAMA0 ttyS0; do
    case " $(cat /proc/cmdline) " in
      *" $(printf '%s' "$line" | sed "s/console=serial0/console=$serial/g")"*) return 0 ;;
    esac
  done
  return 1
}
file=${quote(commandLineFile)}
if [ ! -e ${bootedMarker} ]; then
  mkdir -p ${folder}
  copy config.txt config.txt
  if [ -f "$file" ] && is_booted "$file"; then copy "$file" cmdline.txt; fi
fi`;

/** Copies them beside themselves, before the first of them is changed, and notes that edgeseal changes them. */
function keepLastGood({ commandLineFile, trial }: FirmwareConfigState): PlainStep {
  return run({
    title: `keep the files of this boot in ${lastGoodFolder}`,
    script: `set -eu
if [ -e ${bootedMarker} ]; then exit 0; fi
cd ${bootFolder}
${copyBooted(lastGoodFolder, commandLineFile)}
sync -f ${bootFolder}
mkdir -p -m 0700 ${posix.dirname(bootedMarker)}
${trial === "" ? "sha256sum <config.txt | cut -d ' ' -f 1" : "echo trial"} >${bootedMarker}.new
mv -f ${bootedMarker}.new ${bootedMarker}
`,
  });
}

/**
 * Writes a file of the boot partition: beside its place, to the disk, and renamed. FAT has no journal; a rename over a file changes one directory entry in one sector, so that either
 * content is found, whole. `command`, in the boot folder, prints the content.
 */
function writeBootFile(name: string, command: string): string {
  return `set -eu
cd ${bootFolder}
new=${quote(beside({ commandLineFile: name }, `.${name.slice(name.lastIndexOf("/") + 1)}.edgeseal-new`))}
trap 'rm -f -- "$new" "$new.kept"' EXIT
{ ${command}
} >"$new"
sync "$new"
mv -f -- "$new" ${quote(name)}
trap - EXIT
sync -f .
`;
}

/**
 * Shell that prints config.txt without edgeseal's lines, then with these; with its own line ends. Fails where the marks are broken, as `ownBlock` tells it: whose the lines there are is
 * not guessed. Needs a place for a file at `$new.kept`.
 */
export const newConfig = (block: readonly string[]): string => `
  block=${quote(block.length === 0 ? "" : [blockBegin, ...block, blockEnd].join("\n"))}
  cr=$(printf '\\r')
  marks=$(sed -n "s/$cr\\$//;/^${blockBegin}\\$/p;/^${blockEnd}\\$/p" config.txt)
  if [ -n "$marks" ] && [ "$marks" != ${quote(`${blockBegin}\n${blockEnd}`)} ]; then
    echo "the marks around edgeseal's lines in config.txt are not one pair: put them in order, or remove them" >&2
    exit 1
  fi
  sed "/^${blockBegin}$cr\\{0,1\\}\\$/,/^${blockEnd}$cr\\{0,1\\}\\$/d" config.txt >"$new.kept"
  cat "$new.kept"
  if [ -n "$block" ]; then
    grep -q "$cr\\$" config.txt || cr=
    if [ -s "$new.kept" ] && [ "$(tail -c 1 "$new.kept" | od -An -tx1)" != ' 0a' ]; then printf '%s\\n' "$cr"; fi
    printf '%s\\n' "$block" | sed "s/\\$/$cr/"
  fi
  rm -f -- "$new.kept"`;

/** Shell that prints the command line's file with this line in the place of its first one; with its own line ends and whatever else is there. */
export const newCommandLine = (line: string, commandLineFile: string): string => `
  file=${quote(commandLineFile)}
  printf '%s' ${quote(line)}
  head -n 1 "$file" | tail -c 2 | od -An -tx1 | grep -q '0d' && printf '\\r'
  if [ "$(head -n 1 "$file" | tail -c 1 | od -An -tx1)" = ' 0a' ]; then printf '\\n'; fi
  tail -n +2 "$file"`;

function writeConfig(block: readonly string[], { configDigest }: FirmwareConfigState): PlainStep {
  return run({
    title: `write edgeseal's lines in ${bootFolder}/config.txt`,
    precondition: isUnchanged("config.txt", configDigest),
    script: writeBootFile("config.txt", newConfig(block)),
  });
}

function writeCommandLine(
  line: string,
  { commandLineFile, commandLineDigest, commandLineText }: FirmwareConfigState,
): PlainStep {
  return run({
    title: `write ${bootFolder}/${commandLineFile}`,
    precondition: isUnchanged(commandLineFile, commandLineDigest),
    script: `set -eu
if [ ! -e ${formerCommandLine} ]; then
  mkdir -p -m 0700 ${posix.dirname(formerCommandLine)}
  printf '%s\\n' ${quote(commandLineText)} >${formerCommandLine}.new
  sync ${formerCommandLine}.new
  mv -f ${formerCommandLine}.new ${formerCommandLine}
fi
${writeBootFile(commandLineFile, newCommandLine(line, commandLineFile))}`,
  });
}

/** Steps that take edgeseal's lines out of config.txt, and bring back the parameters of cmdline.txt that it changed. */
export function takeBack(declared: Declared, observed: FirmwareConfigState): readonly Step[] {
  // With broken marks the step fails, and says so: else edgeseal's lines would be left without a word.
  const hasOwn = observed.ownSettings.length > 0 || observed.marks === "broken";
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
    ...(steps.length === 0 ? [] : [tellOfNextBoot()]),
  ];
}
