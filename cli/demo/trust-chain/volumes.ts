import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { holds, onNode, type DemoContext } from "../step.ts";

/*
 * The two sealed volumes, seen from outside the provider: what the kernel has mapped and mounted, and whether the file on each is the one that was written there.
 */

export const volumeNames = ["models", "logs"] as const;
export type VolumeName = (typeof volumeNames)[number];
export type VolumesAre = Readonly<Record<VolumeName, "open" | "locked">>;

export const bothOpen: VolumesAre = { models: "open", logs: "open" };
export const bothLocked: VolumesAre = { models: "locked", logs: "locked" };

/** Writes a file on each volume, and keeps their checksums. */
export async function fillVolumes(context: DemoContext): Promise<void> {
  const sums = await onNode(
    context,
    `for volume in ${volumeNames.join(" ")}; do
  head -c 1000000 /dev/urandom >/srv/$volume/file
  printf '%s ' "$volume"; sha256sum </srv/$volume/file
done
sync`,
  );
  await writeFile(checksumsFile(context), sums);
}

const checksumsFile = ({ pulumi }: DemoContext): string => join(pulumi.folder, "checksums");

/** Holds that each volume is open with its file, or locked, and that nothing sealed can be unsealed any more in this boot. */
export async function volumesAre(context: DemoContext, expected: VolumesAre): Promise<void> {
  const checksums = await readFile(checksumsFile(context), "utf8");
  const found = await onNode(
    context,
    `for volume in ${volumeNames.join(" ")}; do
  printf '%s' "$volume"
  if [ -e /dev/mapper/edgeseal-$volume ]; then printf ' mapped'; fi
  if mountpoint -q /srv/$volume; then printf ' mounted %s' "$(sha256sum </srv/$volume/file)"; fi
  echo
done
printf 'PCR 15 '; cat /sys/class/tpm/tpm0/pcr-sha256/15`,
  );
  for (const volume of volumeNames) {
    const sum = new RegExp(`^${volume} (.*)$`, "m").exec(checksums)?.[1];
    const [line, claim] =
      expected[volume] === "open"
        ? [`${volume} mapped mounted ${sum ?? "UNKNOWN"}`, `${volume} is open, and its file has its checksum`]
        : [volume, `${volume} stays locked`];
    holds(context, found.split("\n").includes(line), claim, found);
  }
  holds(
    context,
    /^PCR 15 (?!0+$)[0-9A-F]{64}$/m.test(found),
    "nothing can be unsealed any more: PCR 15 is capped",
    found,
  );
}
