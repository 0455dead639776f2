import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { listUnits, parseUnits } from "./boot-units.ts";
import {
  baseName,
  byteOrder,
  kernelValue,
  parseFiles,
  readFiles,
  sysctlAtBoot,
  sysctlDirectories,
  systemdConfigPatterns,
  systemdSetting,
  type ConfigFiles,
  type SysctlSetting,
} from "./config-files.ts";
import { coreDumpFiles, discardingPattern, dumpDirectory, sysctlUnit } from "./core-dumps-files.ts";
import { coreLimits } from "./core-dumps-limits.ts";

const strings = (description: string) => Type.Array(Type.String(), { description });
const numberOrUnset = (description: string) =>
  Type.Union([Type.Integer(), Type.Literal("unset")], { description });

export const coreDumpsState = Type.Object({
  corePattern: Type.String({ description: "kernel.core_pattern in effect. `|/bin/false` when off." }),
  suidDumpable: Type.Integer({ description: "fs.suid_dumpable in effect (proc_sys_fs(5)): 0 is off." }),
  corePatternAtBoot: Type.String({
    description:
      "kernel.core_pattern as sysctl.d(5) will set it at the next boot; `unset` where nothing does, or systemd-sysctl.service is masked.",
  }),
  suidDumpableAtBoot: numberOrUnset(
    "fs.suid_dumpable as sysctl.d(5) will set it at the next boot; `unset` where nothing does, or systemd-sysctl.service is masked.",
  ),
  serviceCoreLimit: Type.String({
    description:
      "Hard RLIMIT_CORE that systemd gives to services it starts from now on, in bytes or `infinity`. `0` when off.",
  }),
  serviceCoreLimitAtBoot: Type.String({
    description:
      "The hard value of `DefaultLimitCORE=` in systemd's configuration; `unset` where nothing sets it.",
  }),
  userServiceCoreLimitAtBoot: Type.String({
    description: "The same for services of user sessions (user.conf).",
  }),
  loginsAllowedCores: strings(
    "Users, `@groups` and `*` (everybody but root) that /etc/security/limits.conf and limits.d do not hold to a hard core limit of 0, with `*` and `root` in the list when no line names them. Sorted.",
  ),
  coredumpStorage: Type.String({
    description: "`Storage=` of coredump.conf(5); `unset` means the built-in `external`: dumps are kept.",
  }),
  coredumpProcessSizeMax: Type.String({
    description: "`ProcessSizeMax=` of coredump.conf(5); `0` means that no dump is processed.",
  }),
  dumpCollectors: strings(
    "Units that would start at boot and collect dumps, of processes or of the whole kernel (kdump). Sorted.",
  ),
  storedDumps: Type.Integer({
    description:
      "Number of dumps on disk: files in /var/lib/systemd/coredump, and core files at the root directory, where services that crashed leave them.",
  }),
  overridingFiles: strings(
    "Files that are read after edgeseal's and set something else. Reported only. Sorted.",
  ),
  limitedLogins: strings(
    "Users and groups that files other than edgeseal's set a core limit for. Reported only. Sorted.",
  ),
  maskedUnits: strings("Those units that are masked in /etc. Reported only. Sorted."),
});

export type CoreDumpsState = Static<typeof coreDumpsState>;

const collectors = [
  "systemd-coredump.socket",
  "kdump-tools.service", // dumps the memory of the whole machine
  "apport.service",
  "abrtd.service",
  "abrt-ccpp.service",
] as const;

/** Shell test that the file named by a shell word is an ELF core file: magic, and e_type ET_CORE (4, little-endian; elf(5)). */
export function isElfCore(word: string): string {
  return `[ -f ${word} ] && [ ! -L ${word} ] && [ "$(od -An -v -tx1 -N 18 -- ${word} | tr -d ' \\n' | cut -c 1-8,33-36)" = 7f454c460400 ]`;
}

const settings = readFiles(
  [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/fs/suid_dumpable",
    ...sysctlDirectories.map((directory) => `${directory}/*.conf`),
    "/etc/security/limits.conf",
    "/etc/security/limits.d/*.conf",
    ...["coredump", "system", "user"].flatMap((name) => systemdConfigPatterns(`systemd/${name}.conf`)),
  ],
  // Comments make up most of these files. A line of limits.conf with two words lifts all limits.
  `/^[ \\t]*([#;]|$)/ { next } FILENAME ~ /sysctl.d/ && !/core_pattern|suid_dumpable/ { next } FILENAME ~ /security/ && !index(tolower($0), "core") && NF > 2 { next } { emit() }`,
);

const storedDumps = [
  "n=0",
  `for f in ${dumpDirectory}/* ${dumpDirectory}/.[!.]*; do if [ -f "$f" ]; then n=$((n + 1)); fi; done`,
  `for f in /core /core.[0-9]*; do if ${isElfCore('"$f"')}; then n=$((n + 1)); fi; done`,
  'echo "$n"',
].join("\n");

export const coreDumpsProbe: Probe<Observed<CoreDumpsState>> = {
  id: "edgeseal:memory:CoreDumps",
  parts: {
    settings,
    units: listUnits([...collectors, sysctlUnit]),
    manager: "systemctl show --property=DefaultLimitCORE",
    storedDumps,
  },
  parse: (parts) => ({ outcome: "present", state: parseCoreDumps(parts) }),
};

function parseCoreDumps(parts: Readonly<Record<string, PartOutput>>): CoreDumpsState {
  const files = parseFiles(outputOf(parts, "settings"));
  const units = parseUnits(outputOf(parts, "units"));
  const corePattern = kernelValue(files, "/proc/sys/kernel/core_pattern");
  if (corePattern === undefined)
    throw new UnknownObservation("the device has no /proc/sys/kernel/core_pattern");
  const settled = settledSettings(files, !units.masked.includes(sysctlUnit));
  const limits = coreLimits(files);
  const suidAtBoot = settled.suidDumpable.value;
  return {
    corePattern,
    suidDumpable: integer("fs.suid_dumpable", kernelValue(files, "/proc/sys/fs/suid_dumpable")),
    corePatternAtBoot: settled.corePattern.value ?? "unset",
    suidDumpableAtBoot:
      suidAtBoot === undefined ? "unset" : integer("fs.suid_dumpable in sysctl.d", suidAtBoot),
    serviceCoreLimit: managerLimit(outputOf(parts, "manager")),
    serviceCoreLimitAtBoot: settled.service.value ?? "unset",
    userServiceCoreLimitAtBoot: settled.user.value ?? "unset",
    loginsAllowedCores: [...limits.allowed],
    coredumpStorage: settled.storage.value ?? "unset",
    coredumpProcessSizeMax: settled.processSizeMax.value ?? "unset",
    dumpCollectors: units.starting.filter((unit) => unit !== sysctlUnit),
    storedDumps: integer("the number of dumps", outputOf(parts, "storedDumps").trim()),
    overridingFiles: [...new Set([...overriding(settled), ...limits.overriding])].sort(byteOrder),
    limitedLogins: [...limits.named],
    maskedUnits: [...units.masked],
  };
}

/** A setting that must have one value, as the files leave it, and edgeseal's file for it. */
interface Settled {
  readonly value: string | undefined;
  readonly wanted: string;
  readonly setBy: string;
  readonly ours: string;
}

function settledSettings(files: ConfigFiles, sysctlRuns: boolean) {
  const settled = (
    setting: SysctlSetting | undefined,
    wanted: string,
    ours: string,
    read = (value: string) => value,
  ): Settled => ({
    value: setting?.value === undefined ? undefined : read(setting.value),
    wanted,
    setBy: setting?.setBy ?? "",
    ours,
  });
  const atBoot = (key: string) => (sysctlRuns ? sysctlAtBoot(files, key) : undefined);
  const systemd = (name: string, section: string, key: string) =>
    systemdSetting(files, `systemd/${name}.conf`, section, key);
  const { sysctl, coredump, system, user } = coreDumpFiles;
  return {
    corePattern: settled(atBoot("kernel.core_pattern"), discardingPattern, sysctl),
    suidDumpable: settled(atBoot("fs.suid_dumpable"), "0", sysctl),
    storage: settled(systemd("coredump", "Coredump", "Storage"), "none", coredump),
    processSizeMax: settled(systemd("coredump", "Coredump", "ProcessSizeMax"), "0", coredump, sizeOf),
    service: settled(systemd("system", "Manager", "DefaultLimitCORE"), "0", system, hardLimit),
    user: settled(systemd("user", "Manager", "DefaultLimitCORE"), "0", user, hardLimit),
  } as const;
}

function overriding(settled: ReturnType<typeof settledSettings>): readonly string[] {
  return Object.values<Settled>(settled)
    .filter(
      ({ value, wanted, setBy, ours }) =>
        value !== wanted && setBy.includes(".d/") && byteOrder(baseName(setBy), baseName(ours)) > 0,
    )
    .map(({ setBy }) => setBy);
}

/** The hard half of `SOFT:HARD` (systemd.exec(5), "Process properties"). */
function hardLimit(value: string): string {
  const hard = value.slice(value.indexOf(":") + 1).trim();
  return sizeOf(hard);
}

/** `0K` and its like are `0`. */
function sizeOf(value: string): string {
  return /^0+[KMGTPE]?$/.test(value) ? "0" : value;
}

function managerLimit(output: string): string {
  const limit = /^DefaultLimitCORE=(.+)$/m.exec(output)?.[1];
  if (limit === undefined) throw new UnknownObservation("systemd does not tell its default core limit");
  return limit;
}

function integer(what: string, text: string | undefined): number {
  if (text === undefined || !/^\d+$/.test(text)) {
    throw new UnknownObservation(`${what} is not a number: '${text ?? "missing"}'`);
  }
  return Number(text);
}
