import { posix } from "node:path";

/** What places a volume on its node. */
export interface PlacedVolume {
  readonly name: string;
  readonly mountPoint: string;
  /** A disk or partition by its path, or a partition that is to be made on a disk. */
  readonly device: string | { readonly disk: string };
}

/** What a volume has in common with another one of its node. */
export interface VolumeClash {
  /** The volume whose input is the fault. */
  readonly name: string;
  readonly field: "mountPoint" | "device";
  readonly message: string;
}

/**
 * The volumes of one node of which only one could be opened and mounted as declared: mount points that are the same or within each other, and devices that are the same. All of them.
 */
export function volumeClashes(volumes: readonly PlacedVolume[]): VolumeClash[] {
  return volumes.flatMap((second, index) =>
    volumes
      .slice(0, index)
      .flatMap((first) => [...mountPointClash(first, second), ...deviceClash(first, second)]),
  );
}

function mountPointClash(first: PlacedVolume, second: PlacedVolume): VolumeClash[] {
  const [a, b] = [posix.normalize(first.mountPoint), posix.normalize(second.mountPoint)];
  const clash = (inner: PlacedVolume, outer: PlacedVolume, where: string): VolumeClash[] => [
    {
      name: inner.name,
      field: "mountPoint",
      message: `expected a directory of its own, got '${inner.mountPoint}', which is ${where} the mount point of the volume ${outer.name}: one would hide the other, or not be mounted; name one beside it, such as /srv/${inner.name}`,
    },
  ];
  if (a === b) return clash(second, first, "also");
  if (b.startsWith(`${a}/`)) return clash(second, first, `below '${first.mountPoint}',`);
  if (a.startsWith(`${b}/`)) return clash(first, second, `below '${second.mountPoint}',`);
  return [];
}

function deviceClash(first: PlacedVolume, second: PlacedVolume): VolumeClash[] {
  // Partitions that are made share their disk.
  if (typeof first.device !== "string" && typeof second.device !== "string") return [];
  const [a, b] = [pathOf(first), pathOf(second)];
  if (a !== b) return [];
  return [
    {
      name: second.name,
      field: "device",
      message: `expected a device of its own, got '${b}', which the volume ${first.name} has: name another disk or partition, or have partitions made for both, device: { disk, sizeMiB }`,
    },
  ];
}

const pathOf = ({ device }: PlacedVolume): string => (typeof device === "string" ? device : device.disk);
