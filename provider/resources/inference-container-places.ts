import { quote } from "../device/shell-quote.ts";
import type { InferenceContainerInputs } from "./inference-container-inputs.ts";
import { modelFolderOf } from "./inference-container-unit.ts";

/*
 * What the folders of a service are on: its model and its image are to be on an encrypted volume, and on no other that somebody mounted in its place.
 */

/** How a place says that another file system is mounted where the sealed volume belongs. */
export const notTheVolume = "not the sealed volume";

/** Shell that prints what `parsePlaces` reads. */
export const readPlaces = (inputs: InferenceContainerInputs): string =>
  `if [ -e ${quote(`${modelFolderOf(inputs)}/model.gguf`)} ]; then echo model; fi
for d in ${inputs.modelDirectory} ${inputs.storage}; do
  # It is still to be made.
  at=$d
  while [ -n "$at" ] && [ ! -d "$at" ]; do at=\${at%/*}; done
  m=$(stat -c %m -- "$at/" 2>/dev/null) || m=
  case $m in '' | /) echo "place $d"; continue ;; esac
  dev=$(awk -v m="$m" '$5 == m { d = $3 } END { print d }' /proc/self/mountinfo)
  uuid=
  read -r uuid <"/sys/dev/block/$dev/dm/uuid" 2>/dev/null
  v= b=
  for c in /etc/edgeseal/volumes/*.conf; do
    p=$(sed -n 's/^mount-point=//p' "$c" 2>/dev/null | head -n 1)
    case $d/ in "$p"/*) if [ "\${#p}" -gt "\${#b}" ]; then b=$p v=\${c##*/} v=\${v%.conf}; fi ;; esac
  done
  echo "place $d $m \${uuid:--} $v $b"
done`;

/** Whether the model is there, and by folder: mount point, and whether that is encrypted. */
export function parsePlaces(output: string): {
  readonly modelPresent: boolean;
  readonly volumes: Record<string, string>;
} {
  const lines = output.split("\n");
  return {
    modelPresent: lines.includes("model"),
    volumes: Object.fromEntries(
      lines.flatMap((line): [string, string][] => {
        const [word, path = "", mount = "", uuid = "", volume = "", belongs = ""] = line.split(" ");
        if (word !== "place") return [];
        if (mount === "") return [[path, "not mounted"]];
        // dm-crypt's are CRYPT-LUKS2-UUID-NAME.
        const right = volume === "" || (mount === belongs && uuid.endsWith(`-edgeseal-${volume}`));
        if (!right) return [[path, `${mount}, ${notTheVolume} ${volume}`]];
        return [[path, `${mount}, ${uuid.startsWith("CRYPT-") ? "encrypted" : "not encrypted"}`]];
      }),
    ),
  };
}
