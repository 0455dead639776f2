import { UnknownObservation } from "../device/probe.ts";
import { sha256 } from "../trust/digest.ts";
import type { SealedVolumeState } from "./sealed-volume-state.ts";

/** A disk that a partition is to be made on, as `sfdisk` reads it. */
export type Disk = NonNullable<SealedVolumeState["disk"]>;

/** A partition that is to be made: its place in sectors of the disk, and how it will be found. */
export interface Placement {
  readonly number: number;
  readonly start: number;
  readonly sectors: number;
  readonly partuuid: string;
  /** The rest of the line for sfdisk(8): type, and what identifies it. */
  readonly attributes: string;
}

const MiB = 1024 * 1024;
/** "Linux LUKS": systemd-gpt-auto-generator opens nothing of this type by itself. */
const luksType = { gpt: "CA7D7CCB-63ED-4C53-861C-1742536059CC", dos: "e8" } as const;

/** PARTUUID of a volume's partition in a GPT: the same for the same volume, so that a plan that was cut off finds what it made. A UUID of version 8 (RFC 9562, 5.8). */
export function partitionUuid(node: string, name: string): string {
  const bytes = sha256(`edgeseal partition v1\n${node}\n${name}`).subarray(0, 16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x80, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

interface Table {
  readonly label?: unknown;
  readonly id?: unknown;
  readonly device?: unknown;
  readonly firstlba?: unknown;
  readonly lastlba?: unknown;
  readonly sectorsize?: unknown;
  readonly partitions?: readonly {
    readonly node?: unknown;
    readonly start?: unknown;
    readonly size?: unknown;
  }[];
}

/**
 * Reads what `inspect_disk` printed.
 * @returns undefined when the disk can't be looked at without sfdisk, which is not installed.
 */
export function readDisk(output: string): Disk | undefined {
  if (output.trim() === "") return undefined;
  if (output.trim() === "missing")
    return { label: "missing", digest: "", sectorBytes: 512, id: "", numbers: [], free: [] };
  if (output.trim() === "no table")
    return { label: "none", digest: "", sectorBytes: 512, id: "", numbers: [], free: [] };
  const digest = /^table ([0-9a-f]{64})$/m.exec(output)?.[1];
  const halfKiB = /^sectors (\d+)$/m.exec(output)?.[1];
  const table = tableOf(output.slice(output.indexOf("{")));
  const sectorBytes = Number(table?.sectorsize ?? 512);
  if (digest === undefined || halfKiB === undefined || table === undefined || !Number.isInteger(sectorBytes))
    throw new UnknownObservation(
      `sfdisk told nothing that can be read of the partition table: '${output.slice(0, 120)}'`,
    );
  const total = (Number(halfKiB) * 512) / sectorBytes;
  const taken = (table.partitions ?? []).map(({ node, start, size }) => ({
    number: Number(/(\d+)$/.exec(String(node))?.[1]),
    start: Number(start),
    end: Number(start) + Number(size),
  }));
  if (taken.some(({ number, start, end }) => ![number, start, end].every(Number.isInteger)))
    throw new UnknownObservation("sfdisk lists a partition without a number, start or size");
  const label = table.label === "gpt" || table.label === "dos" ? table.label : "other";
  const [, partuuid, start, sectors] = /^made (\S+) (\d+) (\d+)$/m.exec(output) ?? [];
  const made = taken.find(
    (each) => each.start === Number(start) && each.end === Number(start) + Number(sectors),
  );
  // An MBR has 32 bits for a sector's number.
  const end = label === "gpt" ? Number(table.lastlba) + 1 : Math.min(total, 2 ** 32);
  return {
    label,
    digest,
    sectorBytes,
    id: typeof table.id === "string" ? table.id : "",
    numbers: taken.map(({ number }) => number).sort((a, b) => a - b),
    ...(made === undefined || partuuid === undefined
      ? {}
      : { made: { number: made.number, start: made.start, sectors: made.end - made.start, partuuid } }),
    free: gaps(taken, label === "gpt" ? Number(table.firstlba) : 1, end, MiB / sectorBytes),
  };
}

function tableOf(json: string): Table | undefined {
  try {
    return (JSON.parse(json) as { partitiontable?: Table }).partitiontable;
  } catch {
    return undefined;
  }
}

/** Stretches that no partition has, from one whole MiB to another. */
function gaps(
  taken: readonly { readonly start: number; readonly end: number }[],
  first: number,
  end: number,
  align: number,
): Disk["free"] {
  const free: Disk["free"][number][] = [];
  let from = first;
  for (const next of [...taken, { start: end, end }].sort((a, b) => a.start - b.start)) {
    const start = Math.ceil(from / align) * align;
    const sectors = Math.floor(next.start / align) * align - start;
    if (sectors > 0) free.push({ start, sectors });
    from = Math.max(from, next.end);
  }
  return free;
}

/**
 * Where a partition of that size goes: at the beginning of the first stretch that is long enough.
 * @returns what keeps it from being made, as a sentence, when nothing is.
 */
export function place(
  disk: Disk,
  wanted: { readonly path: string; readonly sizeMiB: number; readonly node: string; readonly name: string },
): Placement | string {
  const { label, sectorBytes, id, numbers, free, made } = disk;
  if (label === "missing") return `there is no block device ${wanted.path}`;
  if (label === "none")
    return `${wanted.path} has no partition table; to use the whole disk, give its path as the device`;
  if (label === "other") return `${wanted.path} has a partition table that is neither GPT nor MBR`;
  // It was made, and cut off before the kernel knew it. Nothing is written to the table again.
  if (made !== undefined) return { ...made, attributes: "" };
  const sectors = (wanted.sizeMiB * MiB) / sectorBytes;
  const gap = free.find((each) => each.sectors >= sectors);
  if (gap === undefined) {
    const sizes = free.map((each) => `${(each.sectors * sectorBytes) / MiB} MiB`);
    return `${wanted.path} has no ${wanted.sizeMiB} MiB in one piece that no partition has; unallocated: ${sizes.length === 0 ? "nothing" : sizes.join(", ")}. Existing partitions are not made smaller`;
  }
  if (label === "dos") {
    const number = [1, 2, 3, 4].find((each) => !numbers.includes(each));
    if (number === undefined)
      return `all four primary partitions of ${wanted.path} are taken, and an MBR has no more`;
    const signature = id.replace(/^0x/, "");
    if (!/^[0-9a-f]{8}$/.test(signature) || signature === "00000000")
      return `the MBR of ${wanted.path} has no disk signature, so its partitions have no PARTUUID; \`sfdisk --disk-id\` gives it one`;
    const partuuid = `${signature}-${number.toString(16).padStart(2, "0")}`;
    return { number, start: gap.start, sectors, partuuid, attributes: `type=${luksType.dos}` };
  }
  const number = Math.max(0, ...numbers) + 1;
  const partuuid = partitionUuid(wanted.node, wanted.name);
  return {
    number,
    start: gap.start,
    sectors,
    partuuid,
    attributes: `type=${luksType.gpt}, uuid=${partuuid}, name="edgeseal-${wanted.name}"`,
  };
}
