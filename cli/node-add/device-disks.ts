import { quote } from "../../provider/device/shell-quote.ts";
import { UnknownObservation } from "../../provider/device/probe.ts";
import { formVolume } from "../../provider/resources/sealed-volume-files.ts";
import { readDisk } from "../../provider/resources/sealed-volume-partition.ts";

/** A partition of a disk. */
export interface Partition {
  readonly path: string;
  readonly bytes: number;
  /** What blkid(8) takes it for: `ext4`, `vfat`, `crypto_LUKS`, ...; empty for nothing that it knows. */
  readonly signature: string;
  readonly mountPoints: readonly string[];
}

/** A disk of a device, as a volume that is to be formed on it would find it. */
export interface DeviceDisk {
  readonly path: string;
  /** A path that names the same disk at every boot, `/dev/disk/by-id/...`; `undefined` when it has none. */
  readonly stablePath: string | undefined;
  readonly model: string;
  readonly bytes: number;
  /** Whether the running system's root is on it. */
  readonly holdsRoot: boolean;
  /** Partition table: `gpt`, `dos`, another, `none`; `unknown` where it could not be read. */
  readonly table: string;
  readonly partitions: readonly Partition[];
  /** Stretches that no partition has, in MiB; only of a disk with a partition table that could be read. */
  readonly unallocatedMiB: readonly number[];
  /** What is on it and on its partitions, as blkid names it; `unknown-data` for none that is known; empty for a blank disk. `undefined` when it could not be told. */
  readonly content: readonly string[] | undefined;
  /** What uses it, e.g. `mounted at /`. */
  readonly uses: readonly string[];
}

const columns = "NAME,PATH,TYPE,SIZE,FSTYPE,MODEL,MOUNTPOINTS";
const begin = "@disk ";

/**
 * Lists disks, and looks at each with the very functions that a sealed volume is formed by: what they call blank is what will be taken as blank. Compressed memory, loop
 * devices and the like are no disks.
 */
export const disksScript = `
lsblk --json --bytes --output ${columns} || exit
for link in /dev/disk/by-id/*; do
  if [ -b "$link" ]; then printf '@link %s %s\\n' "$(readlink -e -- "$link")" "$link"; fi
done
for sys in /sys/block/*; do
  case \${sys##*/} in zram* | loop* | ram* | dm-* | md* | mtdblock* | sr* | fd* | *boot[01] | *rpmb) continue ;; esac
  if [ "$(cat "$sys/size")" = 0 ]; then continue; fi
  (
    printf '${begin}%s\\n' "$(sed -n 's/^DEVNAME=/\\/dev\\//p' "$sys/uevent")"
    name=first-contact may_erase='' candidate=
    device=$(sed -n 's/^DEVNAME=/\\/dev\\//p' "$sys/uevent")
    disk=$device
    eval ${quote(formVolume)}
    ( inspect ) || echo 'not inspected'
    echo '@table'
    made=''
    inspect_disk
  )
done`;

interface Listed {
  readonly name?: unknown;
  readonly path?: unknown;
  readonly type?: unknown;
  readonly size?: unknown;
  readonly fstype?: unknown;
  readonly model?: unknown;
  readonly mountpoints?: readonly unknown[];
  readonly children?: readonly Listed[];
}

/**
 * Reads what the script printed.
 * @throws UnknownObservation
 */
export function parseDisks(output: string): readonly DeviceDisk[] {
  const [head = "", ...sections] = output.split(`\n${begin}`);
  const links = [...head.matchAll(/^@link (\S+) (\S+)$/gm)].map(([, device = "", link = ""]) => ({
    device,
    link,
  }));
  const listed = listing(head.replaceAll(/^@link .*$/gm, ""));
  return sections.map((section) => {
    const [path = "", ...lines] = section.split("\n");
    const at = lines.indexOf("@table");
    const found = listed.find((each) => each.path === path) ?? {};
    return diskOf(
      path,
      found,
      links.filter(({ device }) => device === path).map(({ link }) => link),
      lines.slice(0, at),
      lines.slice(at + 1).join("\n"),
    );
  });
}

function listing(json: string): readonly Listed[] {
  try {
    return (JSON.parse(json) as { blockdevices?: readonly Listed[] }).blockdevices ?? [];
  } catch {
    throw new UnknownObservation(
      `lsblk printed no list of disks that can be read: '${json.trim().slice(0, 120)}'`,
    );
  }
}

function diskOf(
  path: string,
  listed: Listed,
  links: readonly string[],
  inspected: readonly string[],
  tableText: string,
): DeviceDisk {
  const valuesOf = (key: string): string[] =>
    inspected.flatMap((line) => (line.startsWith(`${key} `) ? [line.slice(key.length + 1)] : []));
  const seen = valuesOf("device").length > 0 && !inspected.includes("not inspected");
  const table = tableOf(tableText);
  const tree = flat(listed);
  return {
    path,
    stablePath: stablest(links),
    model: text(listed.model).trim(),
    bytes: Number(valuesOf("bytes")[0] ?? number(listed.size)),
    holdsRoot: tree.some(({ mountpoints }) => mountpoints?.includes("/") === true),
    table: table?.label ?? "unknown",
    partitions: (listed.children ?? [])
      .filter(({ type }) => type === "part")
      .map((each) => ({
        path: text(each.path),
        bytes: number(each.size),
        signature: text(each.fstype),
        mountPoints: flat(each).flatMap(({ mountpoints = [] }) =>
          mountpoints.filter((one) => typeof one === "string"),
        ),
      })),
    unallocatedMiB: (table?.free ?? []).map(({ sectors }) =>
      Math.floor((sectors * (table?.sectorBytes ?? 512)) / 1024 ** 2),
    ),
    content: seen ? valuesOf("content") : undefined,
    uses: valuesOf("use"),
  };
}

function tableOf(output: string): ReturnType<typeof readDisk> {
  try {
    return readDisk(output);
  } catch (error) {
    if (error instanceof UnknownObservation) return undefined;
    throw error;
  }
}

/** One that a person can tell the disk by: of model and serial number, before that of a World Wide Name. */
const stablest = (links: readonly string[]): string | undefined =>
  links.find((link) => !/\/(nvme-(eui|nvme|uuid)\.|wwn-|nvme-.*_\d+$)/.test(link)) ?? links[0];

const flat = (listed: Listed): Listed[] => [listed, ...(listed.children ?? []).flatMap(flat)];

const text = (value: unknown): string => (typeof value === "string" ? value : "");
const number = (value: unknown): number => (Number.isFinite(Number(value)) ? Number(value) : 0);

/** Whether a volume can be formed on the whole disk with nothing erased. */
export const isBlank = ({ content, uses, holdsRoot }: DeviceDisk): boolean =>
  content?.length === 0 && uses.length === 0 && !holdsRoot;

/** What is left of it for a new partition, in MiB: the longest stretch. */
export const largestGapMiB = ({ unallocatedMiB }: DeviceDisk): number => Math.max(0, ...unallocatedMiB);
