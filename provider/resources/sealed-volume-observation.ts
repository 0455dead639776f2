import { gunzipSync } from "node:zlib";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import { quote } from "../device/shell-quote.ts";
import type { Observed } from "../resource.ts";
import { diffLogs } from "../trust/event-diff.ts";
import { eventText, parseEventLog, type MeasuredEvent } from "../trust/event-log.ts";
import { measuredDirectory } from "./measured-boot-files.ts";
import { parseApproval } from "../trust/approval.ts";
import { isDigest } from "../trust/digest.ts";
import { policyPcrDigest } from "../trust/pcr-policy.ts";
import { zeroPcr } from "../trust/pcr.ts";
import { isWholeCiphertext } from "../trust/recovery.ts";
import { directoriesBeforeEtc, unitDirectories } from "./boot-units.ts";
import { byteOrder, parseFiles, readFiles, type ConfigFiles } from "./config-files.ts";
import { parseMarks, readMarks } from "./managed-files.ts";
import {
  approvalsPath,
  capUnit,
  formVolume,
  managedFiles,
  mappingOf,
  policyKeyOf,
  recordsDirectory,
  settingsDirectory,
  statusDirectory,
  unlockUnit,
  wantedBy,
} from "./sealed-volume-files.ts";
import {
  cipherOf,
  enrolledPolicyKey,
  headerBytesRead,
  headerDifferences,
  readHeader,
  type LuksHeader,
} from "./sealed-volume-header.ts";
import type { SealedVolumeInputs } from "./sealed-volume-inputs.ts";
import { partitionUuid, readDisk } from "./sealed-volume-partition.ts";
import type { SealedVolumeState } from "./sealed-volume-state.ts";

/** What the functions in `form-volume` need to know to look, as shell. */
export function lookingFor({ name, device, mayErase, node }: SealedVolumeInputs): string {
  const isPath = typeof device === "string";
  return [
    `name=${quote(name)}`,
    `device=${isPath ? quote(device) : ""}`,
    `disk=${isPath ? "" : quote(device.disk)}`,
    `candidate=${isPath ? "" : partitionUuid(node, name)}`,
    `may_erase=${quote(mayErase.join(" "))}`,
    formVolume,
  ].join("\n");
}

const units = [unlockUnit, capUnit] as const;

/** Packages of Debian trixie, by a file of theirs. systemd loads the libraries of the TPM by name at run time, so nothing else brings them. */
const packages: readonly (readonly [name: string, file: string])[] = [
  ["cryptsetup-bin", "/usr/sbin/cryptsetup"],
  ["dmsetup", "/usr/sbin/dmsetup"],
  ["libtss2-esys-3.0.2-0t64", "/usr/lib/*/libtss2-esys.so.0"],
  ["libtss2-mu-4.0.1-0t64", "/usr/lib/*/libtss2-mu.so.0"],
  ["libtss2-rc0t64", "/usr/lib/*/libtss2-rc.so.0"],
  ["libtss2-tcti-device0t64", "/usr/lib/*/libtss2-tcti-device.so.0"],
  ["openssl", "/usr/bin/openssl"],
  ["systemd-cryptsetup", "/usr/lib/systemd/systemd-cryptsetup"],
];

const packagesOf = ({ filesystem, device }: SealedVolumeInputs): typeof packages => [
  ...packages,
  ...(filesystem === "xfs" ? [["xfsprogs", "/usr/sbin/mkfs.xfs"] as const] : []),
  ...(typeof device === "string" ? [] : [["fdisk", "/usr/sbin/sfdisk"] as const]),
];

/** The files that say how far a volume came. */
const recordsOf = (name: string) => ({
  pins: `${settingsDirectory}/${name}.pins`,
  formation: `${recordsDirectory}/${name}/formation`,
  recovery: `${recordsDirectory}/${name}/recovery`,
  status: `${statusDirectory}/${name}`,
  approvals: approvalsPath,
});

const pcrFile = (pcr: number): string => `/sys/class/tpm/tpm0/pcr-sha256/${pcr}`;

/** The probe of one volume. It reads the header past the page cache, since what counts is what is on the disk. */
export function sealedVolumeProbe(inputs: SealedVolumeInputs): Probe<Observed<SealedVolumeState>> {
  const { name } = inputs;
  const looking = lookingFor(inputs);
  const records = recordsOf(name);
  return {
    id: `edgeseal:storage:SealedVolume#${name}`,
    parts: {
      device: `${looking}\nif locate; then inspect; else echo 'to be made'; inspect_disk; fi`,
      header: `${looking}
locate || exit 0
dev=$(readlink -e -- "$device") && [ -b "$dev" ] || exit 0
resolve
[ "$bytes" -gt "$header_bytes" ] || exit 0
# What opens the volume is what is told of, though the device has it in parts only.
finished=
if is_written_ahead; then finished=$ahead; fi
# start BYTES: that much of the device; in a pipeline, whose status is not its own, it says on descriptor 3 that it failed.
start() { dd if="$dev" bs=1M count="$1" iflag=direct,count_bytes,fullblock status=none || echo unread >&3; }
{
  unread=$({
    if [ -n "$finished" ]; then head -c ${headerBytesRead} "$written_ahead"; else start ${headerBytesRead}; fi | gzip -c | base64 -w 0
    echo
    digest=$(start "$header_bytes" | sha256sum)
    echo "\${digest%% *}"
    # What it is to be.
    if [ -z "$finished" ] && [ -n "$(marker "$header_marker")" ]; then
      finished=$({ start "$header_marker"; head -c "$block" /dev/zero; } | sha256sum)
    fi
    [ -z "$finished" ] || echo "\${finished%% *}"
  } 3>&1 >&4)
} 4>&1
[ -z "$unread" ] || refuse "the header on $device could not be read to its end"`,
      mapping: `for d in /sys/block/dm-*/dm; do
  if [ -e "$d/name" ] && [ "$(cat "$d/name")" = ${quote(mappingOf(name))} ]; then
    printf 'uuid %s\\n' "$(cat "$d/uuid")"
    printf 'diskseq %s\\n' "$(cat "\${d%/dm}/diskseq")"
    printf 'table %s\\n' "$(dmsetup table ${quote(mappingOf(name))})"
    awk -v device="$(cat "\${d%/dm}/dev")" '$3 == device { print "mount " $0 }' /proc/self/mountinfo
  fi
done`,
      records: readFiles([...Object.values(records), `${measuredDirectory}/log`, pcrFile(11), pcrFile(15)]),
      files: readMarks(managedFiles(inputs).map(({ path }) => path)),
      units: `for u in ${units.join(" ")}; do
  case $u in
${units.map((unit) => `  ${unit}) wanted='${wantedBy[unit].join(" ")}' ;;`).join("\n")}
  esac
  for w in $wanted; do
    if ! [ -L "/etc/systemd/system/$w.wants/$u" ]; then wanted=; fi
  done
  if [ -n "$wanted" ]; then echo "enabled $u"; fi
  if [ /etc/systemd/system/$u -ef /dev/null ] || [ /run/systemd/system/$u -ef /dev/null ]; then echo "masked $u"; fi
  for d in ${directoriesBeforeEtc.join(" ")}; do
    if [ -e "$d/$u" ] && ! [ "$d/$u" -ef /dev/null ]; then echo "changed $u $d/$u"; fi
  done
  for d in ${unitDirectories.join(" ")}; do
    for f in "$d/$u.d"/*.conf "$d"/edgeseal-.service.d/*.conf; do if [ -s "$f" ]; then echo "changed $u $f"; fi; done
  done
done`,
      machine: `for f in ${packagesOf(inputs)
        .map(([, path]) => path)
        .join(" ")}; do if [ -e "$f" ]; then echo "there $f"; fi; done
if [ -e /dev/tpmrm0 ]; then echo tpm; fi
awk -F : '$1 ~ /^(flags|Features)[ \\t]*$/ && (" " $2 " ") ~ / aes / { print "aes"; exit }' /proc/cpuinfo`,
    },
    parse: (parts) => ({ outcome: "present", state: parseVolume(inputs, parts) }),
  };
}

function parseVolume(
  inputs: SealedVolumeInputs,
  parts: Readonly<Record<string, PartOutput>>,
): SealedVolumeState {
  const recorded = readRecords(inputs.name, parseFiles(outputOf(parts, "records")));
  const device = readDevice(inputs, outputOf(parts, "device"));
  const header = readHeaderPart(outputOf(parts, "header"));
  const records = pinnedUnrecorded(recorded, device, header)
    ? { ...recorded, formation: "complete" as const }
    : recorded;
  const mapping = readMapping(inputs, records, outputOf(parts, "mapping"));
  const diskSequence = /^diskseq (\d+)$/m.exec(outputOf(parts, "mapping"))?.[1];
  const machine = outputOf(parts, "machine").split("\n");
  const { read } = header;
  const policyKey = read === undefined ? "" : enrolledPolicyKey(read.metadata);
  const approvals = readApprovals(inputs, records.approvals, policyKey || policyKeyOf(inputs));
  const { pcr11, pcr15 } = records;
  return {
    formation: records.formation,
    ...device,
    device: records.pins.get("device") ?? device.device,
    luksUuid: read?.uuid ?? "",
    cipher: read === undefined ? "" : cipherOf(read.metadata),
    keySlots: (read?.metadata.keySlots ?? []).map((each) => ({ ...each })),
    tokens: (read?.metadata.tokens ?? []).map((each) => ({
      ...each,
      keySlots: [...each.keySlots],
      pcrs: [...each.pcrs],
      signedPcrs: [...each.signedPcrs],
    })),
    segments: (read?.metadata.segments ?? []).map((each) => ({ ...each })),
    ...pinned(records, header),
    policyKey,
    recoveryKey: records.recoveryKey,
    recoveryCiphertext: records.recoveryCiphertext,
    recoveryFor: records.recoveryCiphertext === "" ? "" : records.uuid,
    ...mapping,
    ...unlocking(inputs, records, { ...mapping, diskSequence }),
    tpmPresent: machine.includes("tpm"),
    pcr11: pcr11 ?? "unknown",
    pcr15Capped: pcr15 !== undefined && pcr15 !== zeroPcr,
    pcr11Approved:
      pcr11 !== undefined &&
      (read === undefined || policyKey === policyKeyOf(inputs)) &&
      isApproved(approvals, pcr11),
    approvals,
    files: parseMarks(outputOf(parts, "files")),
    bootUnits: readUnits(outputOf(parts, "units")),
    missingPackages: missing(inputs, machine),
    aesInstructions: machine.includes("aes"),
  };
}

interface Records {
  readonly formation: SealedVolumeState["formation"];
  readonly uuid: string;
  readonly recoveryKey: string;
  readonly recoveryCiphertext: string;
  readonly pins: ReadonlyMap<string, string>;
  readonly pinnedFacts: readonly string[];
  readonly status: ReadonlyMap<string, string>;
  readonly approvals: string;
  /** The event log of this boot; empty where nothing was measured. */
  readonly log: string;
  readonly pcr11: string | undefined;
  readonly pcr15: string | undefined;
}

function readRecords(name: string, files: ConfigFiles): Records {
  const paths = recordsOf(name);
  const linesOf = (path: string): readonly string[] => files.get(path) ?? [];
  const values = (path: string): Map<string, string> =>
    new Map(
      linesOf(path)
        .filter((line) => /^[a-z0-9-]+=/.test(line))
        .map((line): [string, string] => [
          line.slice(0, line.indexOf("=")),
          line.slice(line.indexOf("=") + 1),
        ]),
    );
  const formation = values(paths.formation);
  const phase = files.has(paths.formation) ? formation.get("phase") : "none";
  if (phase !== "none" && phase !== "forming" && phase !== "complete")
    throw new UnknownObservation(`${paths.formation} does not say how far the volume came: '${phase ?? ""}'`);
  const ciphertext = linesOf(paths.recovery).join("");
  return {
    formation: phase,
    uuid: formation.get("uuid") ?? "",
    recoveryKey: isWholeCiphertext(ciphertext) ? (formation.get("recovery-key") ?? "") : "",
    recoveryCiphertext: isWholeCiphertext(ciphertext) ? ciphertext : "",
    pins: values(paths.pins),
    pinnedFacts: linesOf(paths.pins).flatMap((line) => (line.startsWith("fact ") ? [line.slice(5)] : [])),
    status: values(paths.status),
    approvals: linesOf(paths.approvals).join("\n"),
    log: linesOf(`${measuredDirectory}/log`).join("\n"),
    pcr11: pcrOf(files, 11),
    pcr15: pcrOf(files, 15),
  };
}

function pcrOf(files: ConfigFiles, pcr: number): string | undefined {
  const value = files.get(pcrFile(pcr))?.[0]?.trim().toLowerCase();
  if (value === undefined) return undefined;
  if (!isDigest(value)) throw new UnknownObservation(`PCR ${pcr} is not a SHA-256 value: '${value}'`);
  return value;
}

type DeviceState = Pick<
  SealedVolumeState,
  | "device"
  | "devicePresent"
  | "deviceBytes"
  | "content"
  | "usedBy"
  | "formationMarker"
  | "headerUnfinished"
  | "disk"
>;

function readDevice({ name }: SealedVolumeInputs, output: string): DeviceState {
  const absent = {
    devicePresent: false,
    deviceBytes: 0,
    content: [],
    usedBy: [],
    formationMarker: "",
    headerUnfinished: false,
  };
  if (output.startsWith("to be made\n")) {
    const disk = readDisk(output.slice("to be made\n".length));
    return { device: "", ...absent, ...(disk === undefined ? {} : { disk }) };
  }
  const lines = output.split("\n");
  const all = (key: string): string[] =>
    lines.flatMap((line) => (line.startsWith(`${key} `) ? [line.slice(key.length + 1)] : []));
  const [device] = all("path");
  if (device === undefined || device === "")
    throw new UnknownObservation(`the device was not told: '${output.slice(0, 120)}'`);
  if (lines.includes("missing")) return { device, ...absent };
  const deviceBytes = Number(all("bytes")[0]);
  const formationMarker = all("marker")[0] ?? "";
  if (!Number.isInteger(deviceBytes)) throw new UnknownObservation(`${device} has no size that is a number`);
  return {
    device,
    devicePresent: true,
    deviceBytes,
    content: all("content"),
    usedBy: all("use").filter((use) => use !== `held by ${mappingOf(name)}`),
    formationMarker,
    headerUnfinished: formationMarker !== "" || lines.includes("header written ahead"),
  };
}

interface HeaderPart {
  readonly read: LuksHeader | undefined;
  readonly digest: string;
  /** The digest that it has once it is finished: without its marker, or as it was written ahead; empty when it is. */
  readonly finished: string;
}

function readHeaderPart(output: string): HeaderPart {
  const [encoded = "", digest = "", finished = ""] = output.split("\n");
  if (encoded === "") return { read: undefined, digest: "", finished: "" };
  if (!isDigest(digest))
    throw new UnknownObservation("the header of the device could not be read to its end");
  try {
    return { read: readHeader(gunzipSync(Buffer.from(encoded, "base64"))), digest, finished };
  } catch (error) {
    throw new UnknownObservation("the header of the device did not arrive whole", { cause: error });
  }
}

/** Whether the power went between the pins and the record: the volume is finished with the pins, since from then on a boot opens it. The same is in `form-volume`. */
const pinnedUnrecorded = (
  { formation, uuid, pins }: Records,
  { formationMarker }: DeviceState,
  { finished }: HeaderPart,
): boolean =>
  formation === "forming" &&
  uuid !== "" &&
  formationMarker === uuid &&
  finished !== "" &&
  finished === pins.get("header-sha256");

function pinned(
  { pins, pinnedFacts }: Records,
  { read, digest, finished }: HeaderPart,
): Pick<SealedVolumeState, "headerDigest" | "pinnedDigest" | "headerMatchesPins" | "headerDifferences"> {
  const pinnedDigest = pins.get("header-sha256") ?? "";
  const headerMatchesPins = pinnedDigest !== "" && digest === pinnedDigest;
  return {
    headerDigest: read === undefined && !headerMatchesPins ? "" : digest,
    pinnedDigest,
    headerMatchesPins,
    headerDifferences:
      pinnedDigest === "" || headerMatchesPins || finished === pinnedDigest
        ? []
        : differencesOf(pinnedFacts, read),
  };
}

function differencesOf(pinnedFacts: readonly string[], read: LuksHeader | undefined): string[] {
  if (read === undefined) return ["there is no LUKS2 header any more that can be read"];
  const differences = headerDifferences(pinnedFacts, read.facts);
  return differences.length > 0
    ? [...differences]
    : [
        "what it says is as pinned, so the key slots themselves or the second copy of the header were changed",
      ];
}

type MappingState = Pick<
  SealedVolumeState,
  "open" | "mountedAt" | "mountOptions" | "missingOptions" | "filesystem" | "readOnly"
>;

const closed: MappingState = {
  open: false,
  mountedAt: "",
  mountOptions: [],
  missingOptions: [],
  filesystem: "",
  readOnly: false,
};

/** Options without which a file on the volume could be more than data. */
const wantedOptions = ["nodev", "noexec", "nosuid"] as const;

function readMapping(
  { name, mountPoint }: SealedVolumeInputs,
  { pins, uuid }: Records,
  output: string,
): MappingState {
  const lines = output.split("\n");
  const value = (key: string): string | undefined =>
    lines.find((line) => line.startsWith(`${key} `))?.slice(key.length + 1);
  const ours = `CRYPT-LUKS2-${(pins.get("uuid") ?? uuid).replaceAll("-", "")}-${mappingOf(name)}`;
  const table = value("table")?.split(" ") ?? [];
  const asPinned =
    pins.get("cipher") === undefined ||
    (table[2] === "crypt" &&
      table[3] === pins.get("cipher") &&
      Number(table[7]) * 512 === Number(pins.get("header-bytes")));
  if (value("uuid") !== ours || !asPinned) return closed;
  // proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER-OPTIONS
  const mounts = lines.filter((line) => line.startsWith("mount ")).map((line) => line.slice("mount ".length));
  // Others may be parts of it that containers have.
  const mount = mounts.find((each) => each.split(" ")[4] === mountPoint) ?? mounts[0];
  if (mount === undefined) return { ...closed, open: true };
  const [before = "", after = ""] = mount.split(" - ");
  const [, , , , mountedAt = "", options = ""] = before.split(" ");
  const [filesystem = "", , superOptions = ""] = after.split(" ");
  const ofMount = options.split(",");
  return {
    open: true,
    mountedAt,
    mountOptions: [...new Set([...ofMount, ...superOptions.split(",")])].sort(byteOrder),
    missingOptions: wantedOptions.filter((option) => !ofMount.includes(option)),
    filesystem,
    readOnly: ofMount.includes("ro") || superOptions.split(",").includes("ro"),
  };
}

function unlocking(
  inputs: SealedVolumeInputs,
  { formation, status, log }: Records,
  { open, diskSequence }: MappingState & { readonly diskSequence: string | undefined },
): Pick<SealedVolumeState, "openedBy" | "unlock" | "lockedReason"> {
  // What is on record is of one mapping: not of another that somebody made of the volume since.
  const isOfThis = diskSequence !== undefined && status.get("diskseq") === diskSequence;
  const by = isOfThis ? status.get("by") : undefined;
  const openedBy = !open ? "none" : by === "tpm" || by === "formation" ? by : "other";
  return {
    openedBy,
    unlock: formation !== "complete" ? "none" : openedBy === "tpm" ? "observed" : "pending-reboot",
    lockedReason: open ? "" : explained(inputs, status.get("reason") ?? "", log),
  };
}

/** Why a volume is locked, with the events of this boot by which it is none of the approved ones: against that of them which it is nearest to. */
function explained({ approval }: SealedVolumeInputs, reason: string, log: string): string {
  if (!reason.startsWith("pcr11-not-approved") || approval === undefined || log === "") return reason;
  let events: readonly MeasuredEvent[];
  try {
    ({ events } = parseEventLog(`${log}\n`));
  } catch {
    return reason;
  }
  const differences = parseApproval(approval).states.map((state) => diffLogs(state.events, events));
  const [nearest] = differences.sort((a, b) => a.length - b.length);
  if (nearest === undefined) return reason;
  const names = nearest.slice(0, 12).map((each) => `${each.change} ${eventText(each)}`);
  const more = nearest.length > names.length ? [`and ${nearest.length - names.length} more`] : [];
  // Names come from the device.
  const list = [...names, ...more].join(", ").replaceAll(/[^\x20-\x7e]/g, "?");
  return `${reason}; against the nearest approved state: ${list}`;
}

interface Signature {
  readonly pkfp?: unknown;
  readonly pol?: unknown;
}

function readApprovals(
  { approval }: SealedVolumeInputs,
  json: string,
  policyKey: string,
): SealedVolumeState["approvals"] {
  const known = new Map(
    approval === undefined ? [] : parseApproval(approval).states.map(({ pol, pcr11 }) => [pol, pcr11]),
  );
  let signatures: readonly Signature[] = [];
  try {
    const found = (JSON.parse(json) as { sha256?: unknown } | null)?.sha256;
    if (Array.isArray(found)) signatures = found as readonly Signature[];
  } catch {
    // None, or not ours: nothing is approved by it, and its digest differs.
  }
  return signatures
    .flatMap(({ pkfp, pol }) => (pkfp === policyKey && typeof pol === "string" && isDigest(pol) ? [pol] : []))
    .sort(byteOrder)
    .map((pol) => ({ pcr11: known.get(pol) ?? "unknown", pol }));
}

/** Whether a value is approved: on the node, whose file any root can write, and in the approval, whose signatures were verified before it came here. */
const isApproved = (approvals: SealedVolumeState["approvals"], value: string): boolean =>
  approvals.some(({ pcr11, pol }) => pcr11 === value && pol === policyPcrDigest(value));

function readUnits(output: string): Record<string, string> {
  const lines = output.split("\n");
  return Object.fromEntries(
    units.map((unit): [string, string] => {
      const changed = lines.find((line) => line.startsWith(`changed ${unit} `));
      if (lines.includes(`masked ${unit}`)) return [unit, "masked"];
      if (changed !== undefined) return [unit, `changed by ${changed.slice(`changed ${unit} `.length)}`];
      return [unit, lines.includes(`enabled ${unit}`) ? "enabled" : "not enabled"];
    }),
  );
}

function missing(inputs: SealedVolumeInputs, machine: readonly string[]): string[] {
  const there = machine.flatMap((line) => (line.startsWith("there ") ? [line.slice("there ".length)] : []));
  const matches = (pattern: string): boolean => {
    const [before = "", after] = pattern.split("*");
    return there.some((path) =>
      after === undefined ? path === pattern : path.startsWith(before) && path.endsWith(after),
    );
  };
  return packagesOf(inputs)
    .filter(([, path]) => !matches(path))
    .map(([name]) => name)
    .sort(byteOrder);
}
