import { stringify } from "yaml";
import { visible } from "../visible.ts";
import { isBlank, largestGapMiB, type DeviceDisk } from "./device-disks.ts";
import type { DeviceReading } from "./read-device.ts";

/** A node as it is written into a site file. What its `defaults` give is left out. */
export interface NodeBlock {
  readonly name: string;
  readonly address: string;
  readonly port?: number;
  readonly user?: string;
  readonly identityFile?: string;
  /** `null` takes away what `defaults` give. */
  readonly privateKey?: null;
  readonly identityCommand?: null;
  readonly hostKey: string;
  readonly tpm?: { readonly endorsementKeySha256: string };
}

/** The digest to pin, of a TPM that told it. */
function pinned({ identity }: DeviceReading): string | undefined {
  return identity.endorsementKey === "none" ? undefined : identity.endorsementKey;
}

/**
 * With the device's TPM pinned, where it has one, and the site has keys: without a recovery key there is nobody to own it for.
 */
export function withTpm(block: NodeBlock, reading: DeviceReading, hasKeys: boolean): NodeBlock {
  const digest = pinned(reading);
  return !hasKeys || digest === undefined ? block : { ...block, tpm: { endorsementKeySha256: digest } };
}

/**
 * The item of `nodes:`, line by line, not indented. What the device is, and where volumes could go, is said in comments: what is to become of a disk is for a person to
 * write down.
 */
export function blockLines(block: NodeBlock, reading: DeviceReading, now: Date): readonly string[] {
  const { name, ...rest } = block;
  const lines = yamlLines(rest);
  return [
    `- ${yamlLines({ name })[0] ?? ""}`,
    ...[`# ${summary(reading)}; first contact ${now.toISOString().slice(0, 10)}`, ...lines].map(indent),
    ...(block.tpm === undefined ? tpmComment(reading) : []).map(indent),
    ...volumeComment(reading.disks).map((line) => indent(visible(line))),
  ];
}

// Nothing is folded: a host key is one line.
const yamlLines = (value: object): string[] => stringify(value, { lineWidth: 0 }).trimEnd().split("\n");

const indent = (line: string): string => `  ${line}`;

/** `Raspberry Pi 5 Model B Rev 1.0, 8 GiB, Debian GNU/Linux 13 (trixie), arm64`. */
export function summary({ system, firmware }: DeviceReading): string {
  const model = firmware?.model ?? "unknown";
  return visible(
    [
      model === "unknown" ? "not known what board" : model,
      // The firmware and the kernel keep some of the memory.
      `${Math.ceil(system.memoryMiB / 1024)} GiB`,
      system.operatingSystem,
      system.architecture,
    ].join(", "),
  );
}

/** What is compared at first contact is kept, also where it can't be in force yet. */
function tpmComment(reading: DeviceReading): readonly string[] {
  const digest = pinned(reading);
  if (digest === undefined) return [];
  return [
    "# This node's TPM, to be pinned and owned once the site has keys, which `trust:` names (docs/trust.md):",
    `# tpm: { endorsementKeySha256: ${digest} }`,
  ];
}

/** The smallest partition that is worth to be suggested for models, and what is for logs then. */
const suggested = { modelsMiB: 8192, logsMiB: 4096 } as const;

/** Places for the two volumes that the checklist asks for; nothing where there is no room for both. */
function volumeComment(disks: readonly DeviceDisk[]): readonly string[] {
  const stable = disks.filter(
    (disk): disk is DeviceDisk & { stablePath: string } => disk.stablePath !== undefined,
  );
  const [models, logs] = stable.filter(isBlank);
  const roomy = stable.find((disk) => largestGapMiB(disk) >= suggested.modelsMiB + suggested.logsMiB);
  const roomForLogs = stable.find((disk) => disk !== models && largestGapMiB(disk) >= suggested.logsMiB);
  const part = (disk: string, sizeMiB: number): string => `{ disk: ${disk}, sizeMiB: ${sizeMiB} }`;
  const places =
    models !== undefined && (logs ?? roomForLogs) !== undefined
      ? [models.stablePath, logs?.stablePath ?? part(roomForLogs?.stablePath ?? "", suggested.logsMiB)]
      : roomy !== undefined
        ? [
            part(roomy.stablePath, largestGapMiB(roomy) - suggested.logsMiB),
            part(roomy.stablePath, suggested.logsMiB),
          ]
        : undefined;
  if (places === undefined) return [];
  return [
    "# There is room for sealed volumes (docs/resources/sealed-volume.md); they need `trust:` and `measuredBoot:` as well. For example:",
    "# volumes:",
    `#   models: { device: ${places[0] ?? ""}, mountPoint: /srv/models }`,
    `#   logs: { device: ${places[1] ?? ""}, mountPoint: /srv/logs }`,
  ];
}
