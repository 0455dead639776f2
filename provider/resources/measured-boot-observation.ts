import { Type, type Static } from "typebox";
import { outputOf, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { isDigest } from "../trust/digest.ts";
import { parseFiles, readFiles } from "./config-files.ts";
import { parseMarks, readMarks } from "./managed-files.ts";
import {
  measuredBootPaths,
  measuredDirectory,
  programDigest,
  recordsDirectory,
} from "./measured-boot-files.ts";
import { judge, readLog, type Seen } from "./measured-boot-judgement.ts";
import { oneOf, texts, textsByName } from "./state-schema.ts";

export const measuredBootState = Type.Object({
  tpmPresent: Type.Boolean({ description: "Whether the kernel drives a TPM 2.0 (/sys/class/tpm/tpm0)." }),
  pcr11: Type.String({
    description:
      "PCR 11 of the SHA-256 bank, read from the TPM: 64 hex digits; `unknown` without a TPM or that bank.",
  }),
  pcr15: Type.String({
    description: "PCR 15, likewise. All zeros means that volumes could still be unsealed.",
  }),
  measured: Type.Boolean({
    description:
      "Whether this boot was measured in the initramfs, whole and without a failure, and the log explains the value of PCR 11.",
  }),
  replay: oneOf(
    ["none", "consistent", "power-cycle", "tampered"],
    "What the event log says of PCR 11: `consistent`: it leads to it, from zeros. `power-cycle`: it leads to it from where a boot before it had left the TPM, which was not reset. `tampered`: it does not lead to it. `none`: there is no log, or no PCR.",
  ),
  desync: oneOf(
    ["none", "power-cycle", "tampered"],
    "Why log and PCR are not what a boot from power-on leaves, as in `replay`; `none` when nothing is wrong, or nothing was measured.",
  ),
  failures: texts(
    "What went wrong with the measuring of this boot, or keeps the next one from being predicted.",
  ),
  events: Type.Array(
    Type.Object({
      type: Type.String({ description: "E.g. `file`." }),
      name: Type.String({ description: "E.g. `config.txt`; empty where there is one of the type." }),
      digest: Type.String({ description: "What PCR 11 was extended with." }),
    }),
    { description: "The event log of this boot, in order." },
  ),
  initramfs: oneOf(
    ["current", "stale", "foreign", "image", "none", "unsupported"],
    "The initramfs that the firmware loads: `current`: built with the files that are installed. `stale`: with others. `foreign`: without them, or nobody knows. `image`: it is within a boot.img that measures nothing. `none`: it loads none. `unsupported`: this system has no initramfs-tools.",
  ),
  nextPcr11: Type.String({
    description:
      "PCR 11 as the next boot will measure it, from the files as they are now: 64 hex digits; `unknown` where the initramfs is not current, or something can't be predicted.",
  }),
  pendingReboot: Type.Boolean({
    description:
      "Whether the next boot will measure something else than this one did, or be the first to measure.",
  }),
  pendingChanges: texts(
    "What the next boot will measure otherwise than this one, e.g. `changed file config.txt`.",
  ),
  rootIntegrity: oneOf(
    ["verity", "encrypted", "none"],
    "What protects the root file system: a dm-verity or dm-crypt target of the device mapper below `/`, at any depth.",
  ),
  bootSource: Type.String({
    description:
      "The boot partition as /etc/fstab names it, e.g. `PARTUUID=4f1c-01`; empty where it does not.",
  }),
  files: textsByName("Every file of edgeseal's for this, by path: its mode, owner and digest."),
});

export type MeasuredBootState = Static<typeof measuredBootState>;

const { program, conf } = measuredBootPaths;
const logFile = `${measuredDirectory}/log`;
const troubleFile = `${measuredDirectory}/trouble`;

/** A program that is not ours is not run: what it says would be no prediction. */
const ifOurs = (command: string): string =>
  `if [ -f ${program} ] && echo '${programDigest}  ${program}' | sha256sum -c --status; then ${command}; fi`;

const tpm = `if [ -d /sys/class/tpm/tpm0 ]; then
  echo "version $(cat /sys/class/tpm/tpm0/tpm_version_major)"
  for n in 11 15; do echo "$n $(cat /sys/class/tpm/tpm0/pcr-sha256/$n)"; done
fi`;

/** The targets below the root file system, from the device mapper, down the stack of devices; nothing for a plain partition. */
const rootTargets = `walk() {
  if [ -d "$1/dm" ] && command -v dmsetup >/dev/null; then
    IFS=: read -r major minor <"$1/dev" && dmsetup table -j "$major" -m "$minor" || exit 1
  fi
  for s in "$1"/slaves/*; do if [ -e "$s" ]; then walk "$s"; fi; done
}
if device=$(mountpoint -d /) && [ -e "/sys/dev/block/$device" ]; then walk "/sys/dev/block/$device" | awk '{ print $3 }'; fi`;

const settings = readFiles(
  [
    conf,
    "/etc/fstab",
    "/proc/sys/kernel/random/boot_id",
    `${recordsDirectory}/*`,
    logFile,
    troubleFile,
    "/boot/firmware/config.txt",
    "/boot/config.txt",
  ],
  // fstab can hold passwords of network file systems.
  `FILENAME == "/etc/fstab" { if ($1 !~ /^#/ && ($2 ~ /^\\/boot\\/firmware$/ || ($2 ~ /^\\/boot$/ && $3 == "vfat"))) emit(); next } FILENAME ~ /config.txt$/ && !/^[ \\t]*(\\[|kernel|initramfs|auto_initramfs|os_prefix)/ { next } { emit() }`,
);

export const measuredBootProbe: Probe<Observed<MeasuredBootState>> = {
  id: "edgeseal:boot:MeasuredBoot",
  parts: {
    files: readMarks(Object.values(measuredBootPaths)),
    settings,
    next: ifOurs(`${program} --next`),
    conf: ifOurs(`{ ${program} --conf || true; } | sha256sum`),
    bootFiles: `if [ -d /boot/firmware ]; then cd /boot/firmware; else cd /boot || exit 0; fi
find . -maxdepth 1 -type f -printf '%f\\n'`,
    tools: "for t in mkinitramfs linux-version; do command -v $t >/dev/null || echo $t; done",
    tpm,
    root: rootTargets,
  },
  parse: (parts) => ({ outcome: "present", state: parseMeasuredBoot(parts) }),
};

function parseMeasuredBoot(parts: Readonly<Record<string, PartOutput>>): MeasuredBootState {
  const settings = parseFiles(outputOf(parts, "settings"));
  const targets = outputOf(parts, "root").split("\n");
  const seen: Seen = {
    files: parseMarks(outputOf(parts, "files")),
    settings,
    bootFiles: new Set(outputOf(parts, "bootFiles").split("\n")),
    log: readLog((settings.get(logFile) ?? []).map((line) => `${line}\n`).join("")),
    trouble: settings.get(troubleFile) ?? [],
    next: readLog(outputOf(parts, "next")),
    confDigest: outputOf(parts, "conf").slice(0, 64),
    tools: outputOf(parts, "tools").trim() === "",
    tpm: parseTpm(outputOf(parts, "tpm")),
  };
  return {
    tpmPresent: seen.tpm.present,
    pcr11: seen.tpm.pcr11 ?? "unknown",
    pcr15: seen.tpm.pcr15 ?? "unknown",
    ...judge(seen),
    rootIntegrity: targets.includes("verity") ? "verity" : targets.includes("crypt") ? "encrypted" : "none",
    bootSource: (settings.get("/etc/fstab")?.at(-1) ?? "").trim().split(/\s/)[0] ?? "",
    files: seen.files,
  };
}

/** A PCR as the kernel shows it, in capitals; a failed read leaves nothing. */
function parseTpm(output: string): Seen["tpm"] {
  const found = new Map(
    output.split("\n").map((line): [string, string] => [line.split(" ")[0] ?? "", line.split(" ")[1] ?? ""]),
  );
  const pcr = (number: string): string | undefined => {
    const value = (found.get(number) ?? "").toLowerCase();
    return isDigest(value) ? value : undefined;
  };
  return { present: found.get("version") === "2", pcr11: pcr("11"), pcr15: pcr("15") };
}
