import { fingerprint } from "../../provider/device/host-key.ts";
import { where } from "../../provider/device/ssh2-transport.ts";
import { visible } from "../visible.ts";
import type { Contact } from "./add.ts";
import { isBlank, type DeviceDisk } from "./device-disks.ts";
import { missingLines } from "./missing.ts";
import { summary } from "./node-block.ts";

/** What first contact found, for people. Everything that the device said is shown as it can't harm a terminal. */
export function contactLines(contact: Contact): readonly string[] {
  const { connection, compared, reading, missing, siteFile, wrote } = contact;
  const { firmware, system, disks, unknown } = reading;
  return [
    `${connection.node} at ${where(connection)}: ${summary(reading)}, kernel ${system.kernel}`,
    `  host key  ${compared.key.type} ${fingerprint(compared.key.blob)}, compared: ${compared.how}`,
    `  TPM       ${tpmText(contact)}`,
    ...(firmware === undefined || firmware.model === "unknown"
      ? []
      : [
          `  firmware  bootloader ${firmware.eepromVersion} of ${firmware.eepromBuildTime}; signed boot ${firmware.signedBootEnabled}, key locked in OTP ${firmware.otpKeyLocked}`,
        ]),
    `  sudo      ${connection.user === "root" ? "not needed: the login is root" : "without a password"}`,
    ...disks.flatMap(diskLines),
    ...Object.entries(unknown).map(([what, why]) => `  unknown   ${what}: ${why}`),
    ...otherKeyLines(contact),
    "",
    "What the checklist still asks for (docs/checklist.md):",
    ...missingLines(missing),
    "",
    wrote
      ? "Next: `edgeseal site check`, have the change reviewed, `pulumi up`."
      : siteFile === undefined
        ? "The node's block, for `nodes:` of a site file:"
        : `With --dry-run nothing was written; ${siteFile} would get:`,
  ].map((line) => visible(line));
}

function tpmText({ compared, reading: { identity } }: Contact): string {
  const { tpm, endorsementKey, trouble } = identity;
  if (tpm === "none") return "none that the kernel drives";
  if (endorsementKey === undefined) return `${tpm}, endorsement key not read: ${trouble ?? ""}`;
  const comparison =
    compared.line?.endorsement === undefined
      ? "read over this connection; to compare it with the console, give the whole check line"
      : "compared: the check line";
  return `${tpm}, endorsement key ${endorsementKey}, ${comparison}`;
}

/** sshd may have been started with other keys than its configuration names now. */
function otherKeyLines({ compared, reading }: Contact): string[] {
  const { fingerprint: ofFiles } = reading.identity;
  const shown = fingerprint(compared.key.blob);
  return ofFiles === undefined || ofFiles === shown
    ? []
    : [
        `  note      sshd shows ${shown}, and first-contact on this device shows ${ofFiles}: another type of key, or other files`,
      ];
}

function diskLines(disk: DeviceDisk): string[] {
  const { path, stablePath, model, bytes, holdsRoot, table, partitions, unallocatedMiB, content } = disk;
  const facts = [
    size(bytes),
    ...(model === "" ? [] : [model]),
    ...(holdsRoot ? ["holds the root"] : []),
    isBlank(disk)
      ? "blank"
      : content === undefined
        ? "not known what is on it"
        : content.length > 0
          ? `holds ${content.join(", ")}`
          : `in use`,
    ...(table === "none" || table === "missing" ? [] : [`partition table ${table}`]),
    ...(unallocatedMiB.length === 0
      ? []
      : [`unallocated ${unallocatedMiB.map((mib) => size(mib * 1024 ** 2)).join(" + ")}`]),
    stablePath ?? "no name in /dev/disk/by-id",
  ];
  return [
    `  disk      ${path}: ${facts.join(", ")}`,
    ...partitions.map(
      (each) =>
        `            ${each.path}: ${size(each.bytes)}, ${each.signature === "" ? "nothing known on it" : each.signature}${each.mountPoints.length === 0 ? "" : `, mounted at ${each.mountPoints.join(", ")}`}`,
    ),
  ];
}

/** `931.5 GiB`, `512 MiB`. */
function size(bytes: number): string {
  const mib = bytes / 1024 ** 2;
  return mib < 1024 ? `${Math.floor(mib)} MiB` : `${Math.floor(mib / 102.4) / 10} GiB`;
}

/** The same for programs. */
export function contactJson(contact: Contact): object {
  const { connection, compared, reading, lines, missing, siteFile, wrote } = contact;
  const { node, address, port, user, hostKey } = connection;
  const { blocks: _, ...device } = reading;
  return {
    node: { name: node, address, port, user, hostKey },
    fingerprint: fingerprint(compared.key.blob),
    compared: compared.how,
    endorsementKeySha256:
      reading.identity.endorsementKey === "none" ? undefined : reading.identity.endorsementKey,
    endorsementKeyCompared: compared.line?.endorsement !== undefined,
    device,
    missing,
    block: `${lines.join("\n")}\n`,
    siteFile,
    wrote,
  };
}
