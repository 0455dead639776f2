import { createHash } from "node:crypto";
import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { kernelValue, parseFiles, readFiles, type ConfigFiles } from "./config-files.ts";
import { absence, isMadeOf, presence, trialOf, withoutTrial } from "./firmware-config-command-line.ts";
import { inForce, linesOf, ownBlock, readConfig, statusOf, type ConfigLine } from "./firmware-config-text.ts";
import { bootFiles, bootFolder, parseBootFiles } from "./firmware-config-files.ts";
import { parseStaged, phases, staged, trialMark } from "./firmware-config-staged.ts";
import { rebootState } from "./reboot-inputs.ts";
import { oneOf, texts, textsByName } from "./state-schema.ts";

/** Copies, on the boot partition, of the files of the last boot that came up with them: what to put back by hand. */
export const lastGoodFolder = `${bootFolder}/edgeseal-last-good`;
/** Gone with the boot: the digest of config.txt as this boot was made of it, once edgeseal changed the file. */
export const bootedMarker = "/run/edgeseal/firmware-config";
/** cmdline.txt's line before edgeseal first changed it. */
export const formerCommandLine = "/var/lib/edgeseal/firmware-config/command-line";

export const firmwareConfigState = Type.Object({
  settings: textsByName(
    "Each declared setting by its line: `in force` with the next boot that edgeseal makes, or why it is not, e.g. `missing` or `overridden: config.txt line 12 has 'spi=off'`.",
  ),
  staleSettings: texts("Lines of edgeseal's in config.txt that are not declared any more."),
  commandLine: textsByName(
    "Each declared parameter of cmdline.txt: `present`, `absent`, or what is there instead, e.g. `it is 'lsm=landlock'`.",
  ),
  settingsWritten: textsByName(
    "The same as `settings`, without what is staged: by what is on the boot partition.",
  ),
  ...rebootState,
  bootedCommandLine: textsByName("The same parameters on the command line of this boot (/proc/cmdline)."),
  activeLsms: texts("Security modules of the running kernel, in order (/sys/kernel/security/lsm)."),
  appArmor: oneOf(["enabled", "disabled"], "Whether AppArmor is active in the running kernel."),
  memoryCgroup: oneOf(
    ["enabled", "disabled"],
    "Whether the running kernel limits memory (cgroup.controllers has `memory`).",
  ),
  tpm: oneOf(["2.0", "1.2", "none"], "The TPM that the running kernel drives; `none` without /dev/tpm0."),
  marks: oneOf(
    ["pair", "none", "broken"],
    "The marks around edgeseal's lines in config.txt: `broken` when they are not one pair in order, so that nothing is known to be edgeseal's, and nothing is written.",
  ),
  ownSettings: texts("edgeseal's lines in config.txt."),
  settingsElsewhere: texts("Declared settings that are in force without edgeseal's lines."),
  commandLineFile: Type.String({ description: "The file of the command line on the boot partition." }),
  commandLineText: Type.String({ description: "Its line." }),
  formerCommandLine: Type.String({
    description: "Its line before edgeseal first changed it; empty when it never did.",
  }),
  configDigest: Type.String({ description: "SHA-256 of config.txt." }),
  commandLineDigest: Type.String({ description: "SHA-256 of the command line's file." }),
  lastGood: textsByName("SHA-256 of the kept copies of the files of the last boot that came up, by name."),
  tryboot: oneOf(
    ["supported", "taken", "unknown"],
    "Whether the firmware can boot once with tryboot.txt in config.txt's place: `supported`; `taken` by somebody else (a tryboot.txt that is not edgeseal's, or A/B partitions); `unknown` where it doesn't say.",
  ),
  trial: Type.String({ description: "The edit that this boot is a trial of; empty in any other boot." }),
  trialEnds: Type.Boolean({
    description:
      "Whether this boot is a trial that was measured as one, so that sealed volumes are locked in it, and another one has to follow.",
  }),
  staged: Type.String({
    description:
      "The edit that waits for its trial: whole, and of the files that are on the boot partition; empty when there is none.",
  }),
  stagedPhase: oneOf(
    phases,
    "How far it came: `tried`: its trial was asked for. `failed`: the node booted as before. `kept`: it is being put onto the boot partition.",
  ),
  bootMeasured: Type.Boolean({
    description: "Whether boots of this node are measured (edgeseal:boot:MeasuredBoot is installed).",
  }),
});

export type FirmwareConfigState = Static<typeof firmwareConfigState>;

/** What of the inputs decides how the answer is read. */
export interface Declared {
  readonly settings: readonly string[];
  readonly commandLine: { readonly present: readonly string[]; readonly absent: readonly string[] };
}

const lastGood = `cd ${lastGoodFolder} 2>/dev/null || exit 0
for name in *; do [ ! -f "$name" ] || sha256sum -- "$name" || exit 1; done`;

const running = readFiles([
  "/proc/cmdline",
  "/sys/kernel/security/lsm",
  "/sys/module/apparmor/parameters/enabled",
  "/sys/fs/cgroup/cgroup.controllers",
  "/sys/class/tpm/tpm0/tpm_version_major",
  "/proc/device-tree/model",
  bootedMarker,
  formerCommandLine,
]);

const facts = `
if [ -e /proc/device-tree/chosen/bootloader/tryboot ]; then echo tryboot; fi
if [ -e /usr/lib/edgeseal/measure ]; then echo measured; fi
if [ -d /run/edgeseal/measured ]; then echo booted-measured; fi
`;

/** The questions are the same whatever is declared; only how the answers are read depends on it. */
export function firmwareConfigProbe(declared: Declared): Probe<Observed<FirmwareConfigState>> {
  return {
    id: "edgeseal:boot:FirmwareConfig",
    parts: { bootFiles, lastGood, staged, running, facts },
    parse: (parts) =>
      parts["bootFiles"]?.code === 66
        ? { outcome: "absent" }
        : { outcome: "present", state: parseFirmwareConfig(parts, declared) },
  };
}

const sha256 = (text: string): string => createHash("sha256").update(text, "latin1").digest("hex");

/** The board that a node is taken for that doesn't say: edgeseal is made for it. */
const usualModel = "Raspberry Pi 5";

/** The last word on a setting of one value, by lines that are sure to count. */
const valueOf = (config: readonly ConfigLine[], key: string): string | undefined =>
  config.findLast((line) => line.key === key && line.applies === "yes")?.value;

function parseFirmwareConfig(
  parts: Readonly<Record<string, PartOutput>>,
  declared: Declared,
): FirmwareConfigState {
  const boot = parseBootFiles(outputOf(parts, "bootFiles"));
  const system = parseFiles(outputOf(parts, "running"));
  const facts = outputOf(parts, "facts").split("\n");
  const text = boot.get("config.txt") ?? "";
  const model = kernelValue(system, "/proc/device-tree/model")?.replaceAll("\0", "") ?? "";
  const edit = parseStaged(outputOf(parts, "staged"));
  const board = model === "" ? usualModel : model;
  const config = readConfig(boot, board);
  const next = readConfig(new Map([...boot, ...edit.files]), board);
  const booted = kernelValue(system, "/proc/cmdline");
  if (booted === undefined) throw new UnknownObservation("the device has no /proc/cmdline");
  const commandLineFile = `${valueOf(config, "os_prefix") ?? ""}${valueOf(config, "cmdline") ?? "cmdline.txt"}`;
  const commandLineText = boot.get(commandLineFile);
  const line = firstLine(commandLineText ?? "");
  const block = ownBlock(linesOf(text));
  const withoutOwn = config.filter(({ ours }) => !ours);
  const tryboot = boot.get("tryboot.txt");
  const judge = (commandLine: string): Record<string, string> => {
    const found: Record<string, string> = {};
    for (const each of declared.commandLine.present) found[each] = presence(commandLine, each);
    for (const each of declared.commandLine.absent) found[each] = absence(commandLine, each);
    return found;
  };
  const onDisk = judge(firstLine(edit.files.get(commandLineFile) ?? commandLineText ?? ""));
  const inBoot = judge(withoutTrial(booted));
  const commandLineBooted = commandLineText !== undefined && isMadeOf(booted, line);
  const written = judge(line);
  const isOther = declaredKeys(declared).some((key) => written[key] !== inBoot[key]);
  const trial = trialOf(booted) ?? "";
  const trialEnds = trial !== "" && facts.includes("booted-measured");
  const configDigest = sha256(text);
  const marker = kernelValue(system, bootedMarker);
  return {
    settings: Object.fromEntries(declared.settings.map((each) => [each, statusOf(next, each)])),
    staleSettings: ownLines(edit.files.get("config.txt") ?? text).filter(
      (each) => !declared.settings.includes(each),
    ),
    settingsWritten: Object.fromEntries(declared.settings.map((each) => [each, statusOf(config, each)])),
    commandLine: onDisk,
    pendingReboot:
      edit.name !== "" ||
      trialEnds ||
      (marker !== undefined && marker !== configDigest) ||
      (!commandLineBooted && isOther),
    bootedCommandLine: inBoot,
    activeLsms: (kernelValue(system, "/sys/kernel/security/lsm") ?? "")
      .split(",")
      .filter((each) => each !== ""),
    appArmor: isAppArmorEnabled(system) ? "enabled" : "disabled",
    memoryCgroup: (kernelValue(system, "/sys/fs/cgroup/cgroup.controllers") ?? "")
      .split(" ")
      .includes("memory")
      ? "enabled"
      : "disabled",
    tpm: tpmOf(kernelValue(system, "/sys/class/tpm/tpm0/tpm_version_major")),
    marks: typeof block === "object" ? "pair" : block,
    ownSettings: ownLines(text),
    settingsElsewhere: declared.settings.filter((each) => statusOf(withoutOwn, each) === inForce),
    commandLineFile,
    commandLineText: line,
    formerCommandLine: kernelValue(system, formerCommandLine) ?? "",
    configDigest,
    commandLineDigest: commandLineText === undefined ? "" : sha256(commandLineText),
    lastGood: parseDigests(outputOf(parts, "lastGood")),
    tryboot: trybootOf(facts.includes("tryboot"), tryboot, boot.get("autoboot.txt")),
    trial,
    trialEnds,
    staged: edit.name,
    stagedPhase: edit.phase,
    bootMeasured: facts.includes("measured"),
  };
}

const declaredKeys = ({ commandLine }: Declared): readonly string[] => [
  ...commandLine.present,
  ...commandLine.absent,
];

const firstLine = (text: string): string => (text.split("\n")[0] ?? "").replace(/\r$/, "");

/** What stands between edgeseal's marks, without the section and the end of an overlay's reach, which are no settings. */
function ownLines(text: string): string[] {
  const lines = linesOf(text);
  const block = ownBlock(lines);
  if (typeof block === "string") return [];
  return lines.slice(block.begin + 1, block.end).filter((line) => line !== "[all]" && line !== "dtoverlay=");
}

const isAppArmorEnabled = (system: ConfigFiles): boolean =>
  kernelValue(system, "/sys/module/apparmor/parameters/enabled") === "Y" &&
  (kernelValue(system, "/sys/kernel/security/lsm") ?? "").split(",").includes("apparmor");

function tpmOf(version: string | undefined): FirmwareConfigState["tpm"] {
  if (version === undefined) return "none";
  if (version === "2") return "2.0";
  if (version === "1") return "1.2";
  throw new UnknownObservation(`the kernel tells no version of the TPM that is known: '${version}'`);
}

function trybootOf(
  reported: boolean,
  file: string | undefined,
  autoboot: string | undefined,
): FirmwareConfigState["tryboot"] {
  const isForeign = file !== undefined && !new RegExp(`^${trialMark}$`, "m").test(file);
  // With A/B partitions the flag chooses another partition, and tryboot.txt is not read.
  if (isForeign || /^\s*tryboot_a_b\s*=\s*1/m.test(autoboot ?? "")) return "taken";
  return reported ? "supported" : "unknown";
}

function parseDigests(output: string): Record<string, string> {
  return Object.fromEntries(
    output
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => {
        const [, digest, name] = /^([0-9a-f]{64}) [ *](.+)$/.exec(line) ?? [];
        if (digest === undefined || name === undefined)
          throw new UnknownObservation(`unexpected line in a list of digests: '${line.slice(0, 120)}'`);
        return [name, digest];
      }),
  );
}
