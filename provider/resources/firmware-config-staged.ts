import { UnknownObservation } from "../device/probe.ts";
import { bootFolder, parseBootFiles } from "./firmware-config-files.ts";

/*
 * Where an edit of the boot files waits for its trial on a node, and whether it still can be made; on-device/firmware-trial says what is in there.
 */

export const stagedEdit = "/var/lib/edgeseal/firmware-edit";
/** What the boot partition is to have when the trial went well, by the names there. */
export const stagedFiles = `${stagedEdit}/files`;

/** Shell function `staged_fits`: whether there is an edit that is whole, and of the files that are on the boot partition now. */
export const stagedFits = `
staged_fits() {
  [ -f ${stagedEdit}/name ] && (cd ${stagedFiles} && sha256sum -c --status ../files.sha256) && (cd ${bootFolder} && sha256sum -c --status ${stagedEdit}/from.sha256)
}`;

/** The line by which a tryboot.txt is told for edgeseal's; on-device/firmware-trial looks for it, too. */
export const trialMark = "# edgeseal trial";

export const phases = ["none", "staged", "tried", "failed", "kept"] as const;

/** The edit that waits: what it is, and its files in the form of `bootFiles`. One that is being kept is of files that are partly its own by now. */
export const staged = `${stagedFits}
[ -f ${stagedEdit}/phase ] || exit 0
phase=$(cat ${stagedEdit}/phase)
staged_fits 2>/dev/null || [ "$phase" = kept ] || exit 0
printf 'name %s\\nphase %s\\n' "$(cat ${stagedEdit}/name)" "$phase"
cd ${stagedFiles} || exit 1
find . -type f ! -path './edgeseal-last-good/*' | while IFS= read -r file; do
  printf 'file %s %s\\n' "\${file#./}" "$(base64 -w 0 <"$file")"
done`;

interface StagedEdit {
  readonly name: string;
  readonly phase: (typeof phases)[number];
  /** What it puts onto the boot partition, by name. */
  readonly files: ReadonlyMap<string, string>;
}

export function parseStaged(output: string): StagedEdit {
  const lines = output.split("\n").filter((line) => line !== "");
  if (lines.length === 0) return { name: "", phase: "none", files: new Map() };
  const word = (key: string): string | undefined =>
    lines.find((line) => line.startsWith(`${key} `))?.slice(key.length + 1);
  const phase = phases.find((each) => each === word("phase"));
  const name = word("name");
  if (phase === undefined || name === undefined || !/^[0-9a-f]{16}$/.test(name))
    throw new UnknownObservation(`the edit in ${stagedEdit} is none that edgeseal has staged`);
  const files = lines.filter((line) => line.startsWith("file ")).map((line) => line.slice("file ".length));
  return { name, phase, files: parseBootFiles(files.join("\n")) };
}
