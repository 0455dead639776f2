import { Type, type Static } from "typebox";
import { outputOf, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { directoriesBeforeEtc, listUnits, parseUnits, unitDirectories } from "./boot-units.ts";
import {
  baseName,
  byteOrder,
  parseFiles,
  readFiles,
  systemdConfigPatterns,
  systemdSetting,
  type ConfigFiles,
} from "./config-files.ts";
import { parseMarks, readMarks } from "./managed-files.ts";
import { rebootState } from "./reboot-inputs.ts";
import {
  declaredMount,
  flushUnit,
  inMemory,
  journaldDropIn,
  optionsFile,
  plainJournal,
  scratchMounts,
  scratchPaths,
} from "./scratch-files.ts";
import {
  bashFile,
  bashHistoryOff,
  environmentFile,
  historyLines,
  listHistories,
  variablesIn,
} from "./scratch-histories.ts";
import { beneath, listLeftovers, syslogFiles } from "./scratch-leftovers.ts";
import { holding, parseMounts, privateUsers, whereMounted } from "./scratch-mounts.ts";
import { oneOf, texts, textsByName } from "./state-schema.ts";

export const scratchState = Type.Object({
  mountUnits: texts("Which of tmp.mount and var-tmp.mount the next boot starts. Sorted."),
  mounts: textsByName(
    "Where /tmp and /var/tmp are now: `tmpfs 256 MiB nodev noexec nosuid`, or the file system and its device. Reported only.",
  ),
  mountDifferences: texts(
    "Which of the two is not as its unit says, and can be made so without a boot: another size or options, or on the disk with nothing that uses it there.",
  ),
  diskUsers: texts(
    "What uses a /tmp or /var/tmp that is on the disk, so that nothing may be mounted over it: services with a private one, processes with open files, sockets. Reported only. Sorted.",
  ),
  ...rebootState,
  journalSetting: Type.String({ description: "`Storage=` of journald.conf(5); `unset` means `auto`." }),
  journalIn: texts(
    "Directories that journald has its files open in now; with the device behind it where that is neither memory nor a sealed volume. Sorted.",
  ),
  journalLink: Type.String({ description: "Where the link /var/log/journal leads; empty without one." }),
  syslogUnits: texts(
    "Units that the next boot starts and that write the log to files a second time. Sorted.",
  ),
  syslogProcesses: texts("Programs of that kind that run now. Sorted."),
  syslogFiles: texts("Their files that may have what services said. Sorted."),
  crashReporters: texts("Units that the next boot starts and that collect crash reports. Sorted."),
  historyVariables: textsByName("What /etc/environment sets of the variables that turn histories off."),
  bashHistory: oneOf(["off", "on"], "Whether bash is told to keep no history."),
  historyFiles: textsByName("Histories in homes that have something in them, with their users, by path."),
  leftovers: texts(
    "What was written to the plain disk before: `/tmp` and `/var/tmp` below the memory that is mounted there, journals, crash reports. Sorted.",
  ),
  files: textsByName("Mode, owner and digest of edgeseal's files, by path."),
  overridingFiles: texts("Files that are read after edgeseal's, or in their place. Sorted."),
  maskedUnits: texts("Those units that are masked in /etc. Reported only. Sorted."),
});

export type ScratchState = Static<typeof scratchState>;

const syslogNames = [
  "rsyslog.service",
  "syslog-ng.service",
  "busybox-syslogd.service",
  "inetutils-syslogd.service",
  "sysklogd.service",
  // Logs in memory that are copied to the disk every day and at every shutdown.
  "log2ram.service",
  "log2ram-daily.timer",
  "armbian-ramlog.service",
] as const;
export const syslogPrograms = ["rsyslogd", "syslog-ng", "syslogd"] as const;

/** systemd-coredump, apport and abrt are for `edgeseal:memory:CoreDumps`. */
const crashNames = [
  "kerneloops.service",
  "whoopsie.service",
  "whoopsie.path",
  "apport-autoreport.path",
] as const;

const mountNames = scratchMounts.map(({ unit }) => unit);

const overriding = [
  `for unit in ${[...mountNames, flushUnit].join(" ")}; do`,
  `  for d in ${unitDirectories.join(" ")}; do for f in "$d/$unit.d"/*.conf; do if [ -f "$f" ] && [ -s "$f" ]; then echo "$f"; fi; done; done`,
  `  for d in ${directoriesBeforeEtc.join(" ")}; do if [ -e "$d/$unit" ]; then echo "$d/$unit"; fi; done`,
  "done",
].join("\n");

const journal = [
  "for c in $(grep -lx systemd-journal /proc/[0-9]*/comm 2>/dev/null); do",
  `  find "\${c%comm}fd" -lname '*.journal*' -printf 'open %l\\n' 2>/dev/null || :`,
  "done",
  `if [ -L ${plainJournal} ]; then printf 'link %s\\n' "$(readlink ${plainJournal})"; fi`,
].join("\n");

export const scratchProbe: Probe<Observed<ScratchState>> = {
  id: "edgeseal:memory:Scratch",
  parts: {
    settings: readFiles(
      [
        ...systemdConfigPatterns("systemd/journald.conf"),
        ...mountNames.map(optionsFile),
        environmentFile,
        bashFile,
      ],
      `${historyLines()} /^[ \\t]*([#;]|$)/ { next } { emit() }`,
    ),
    marks: readMarks(scratchPaths),
    units: listUnits([...mountNames, ...syslogNames, ...crashNames]),
    overriding,
    mounts: whereMounted,
    users: holding,
    journal,
    programs: `grep -hxE '${syslogPrograms.join("|")}' /proc/[0-9]*/comm 2>/dev/null | sort -u`,
    beneath,
    leftovers: listLeftovers,
    histories: listHistories,
  },
  parse: (parts) => ({ outcome: "present", state: parseScratch(parts) }),
};

const linesOf = (output: string): readonly string[] => output.split("\n").filter((line) => line !== "");

function parseScratch(parts: Readonly<Record<string, PartOutput>>): ScratchState {
  const read = (name: string): readonly string[] => linesOf(outputOf(parts, name));
  const files = parseFiles(outputOf(parts, "settings"));
  const units = parseUnits(outputOf(parts, "units"));
  const starting = (names: readonly string[]) => units.starting.filter((unit) => names.includes(unit));
  const { mounted, sourceOf, elsewhere } = parseMounts(outputOf(parts, "mounts"));
  const diskUsers = [...privateUsers(mounted, elsewhere), ...read("users").map(userOf)].sort(byteOrder);
  const mounts = Object.fromEntries(scratchMounts.map(({ path }) => [path, mountText(mounted, path)]));
  const setting = systemdSetting(files, "systemd/journald.conf", "Journal", "Storage");
  const journal = read("journal");
  const found = read("leftovers");
  return {
    mountUnits: starting(mountNames),
    mounts,
    mountDifferences: differencesOf(mounts, diskUsers, files),
    diskUsers: [...new Set(diskUsers)],
    pendingReboot: diskUsers.some((user) =>
      scratchMounts.some(({ path, unit }) => user.startsWith(`${path}: `) && files.has(optionsFile(unit))),
    ),
    journalSetting: setting?.value ?? "unset",
    journalIn: journalDirectories(journal, sourceOf),
    journalLink: journal.find((line) => line.startsWith("link "))?.slice("link ".length) ?? "",
    syslogUnits: starting(syslogNames),
    syslogProcesses: [...read("programs")],
    syslogFiles: found.filter(isSyslogFile).sort(byteOrder),
    crashReporters: starting(crashNames),
    historyVariables: variablesIn(files.get(environmentFile) ?? []),
    bashHistory: bashHistoryOff(files.get(bashFile) ?? []) ? "off" : "on",
    historyFiles: Object.fromEntries(
      read("histories").map((line) => [line.slice(line.indexOf(" ") + 1), line.slice(0, line.indexOf(" "))]),
    ),
    leftovers: [
      ...new Set([
        ...read("beneath").filter((path) => !diskUsers.some((user) => user.startsWith(`${path}: `))),
        ...found.filter((path) => !isSyslogFile(path) && isPlain(sourceOf(path))),
      ]),
    ].sort(byteOrder),
    files: parseMarks(outputOf(parts, "marks")),
    overridingFiles: overridingFiles(read("overriding"), setting?.setBy),
    maskedUnits: [...units.masked],
  };
}

const isSyslogFile = (path: string): boolean => syslogFiles.some((name) => baseName(path).startsWith(name));

/** Whether what is there is on a disk that anybody can read who has it. */
const isPlain = (source: string): boolean => source !== "tmpfs" && !isSealed(source);
const isSealed = (source: string): boolean => source.startsWith("/dev/mapper/edgeseal-");

const userOf = (line: string): string => {
  const [path = "", pid = "", ...name] = line.split(" ");
  return pid === "socket"
    ? `${path}: socket ${name.join(" ")}`
    : `${path}: ${name.join(" ")} (process ${pid})`;
};

type Mounted = ReturnType<typeof parseMounts>["mounted"];

function mountText(mounted: Mounted, path: string): string {
  const mount = mounted(path);
  if (mount.point !== path || mount.type !== "tmpfs") return `${mount.type} on ${mount.source}`;
  const kib = /(?:^|,)size=(\d+)k(?:,|$)/.exec(mount.superOptions)?.[1];
  const options = ["nodev", "noexec", "nosuid"].filter((each) => mount.options.split(",").includes(each));
  return kib === undefined
    ? ["tmpfs of the kernel's default size", ...options].join(" ")
    : Number(kib) % 1024 === 0 && options.length === 3
      ? inMemory(Number(kib) / 1024)
      : [`tmpfs ${(Number(kib) / 1024).toFixed()} MiB`, ...options].join(" ");
}

function differencesOf(
  mounts: Readonly<Record<string, string>>,
  users: readonly string[],
  files: ConfigFiles,
): string[] {
  return scratchMounts.flatMap(({ path, unit }) => {
    const declared = declaredMount(files.get(optionsFile(unit)) ?? []);
    const now = mounts[path] ?? "";
    if (declared === undefined || now === declared) return [];
    const isUsed = users.some((user) => user.startsWith(`${path}: `));
    return now.startsWith("tmpfs ") || !isUsed ? [`${path}: ${now}, and its unit says ${declared}`] : [];
  });
}

function journalDirectories(lines: readonly string[], sourceOf: (path: string) => string): string[] {
  const directories = lines
    .filter((line) => line.startsWith("open "))
    // DIRECTORY/MACHINE-ID/FILE
    .map((line) => line.slice("open ".length).replace(/\/[^/]+\/[^/]+$/, ""));
  return [...new Set(directories)].sort(byteOrder).map((path) => {
    const source = sourceOf(path);
    return isPlain(source) ? `${path} (on ${source})` : path;
  });
}

function overridingFiles(found: readonly string[], journalSetBy: string | undefined): string[] {
  const ours: readonly string[] = scratchPaths;
  const later = (path: string, than: string): boolean => byteOrder(baseName(path), baseName(than)) > 0;
  const dropIns = found.filter(
    (path) => !ours.includes(path) && (!path.endsWith(".conf") || later(path, optionsFile("any"))),
  );
  const isJournal = journalSetBy?.includes(".conf.d/") === true && later(journalSetBy, journaldDropIn);
  return [...dropIns, ...(isJournal ? [journalSetBy] : [])].sort(byteOrder);
}
