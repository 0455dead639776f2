import { quote } from "../../provider/device/shell-quote.ts";
import type { ServedUnit } from "./served-unit.ts";

/** What decides how a node can be compared. */
export interface NodeFacts {
  /** Whether the service runs. */
  readonly active: boolean;
  /** What the machine is emulated or virtualized by; `undefined` for a real one. */
  readonly virtualBy: string | undefined;
  /** What the firmware calls the board. */
  readonly board: string;
  readonly kernel: string;
  readonly architecture: string;
  readonly processors: number;
  /** Size of the model's file. */
  readonly modelBytes: number;
  /** What a copy of it could take, of memory and of /dev/shm. */
  readonly memoryFreeBytes: number;
  /** File system that the model is on. */
  readonly modelOn: string;
  /** The image's files in podman's storage; `undefined` when they are in several layers. */
  readonly imageRoot: string | undefined;
}

/** Shell that reads a unit; fails when there is none. */
export const readUnit = (name: string): string => `cat /etc/systemd/system/edgeseal-${name}.service`;

/** Shell for each part of `nodeFacts`. Nothing is changed. */
export function factParts({
  name,
  storage,
  image,
  modelFolder,
}: ServedUnit): Readonly<Record<"facts" | "manifest", string>> {
  const digest = image.slice(-64);
  return {
    facts: `printf 'active %s\\n' "$(systemctl show -P ActiveState edgeseal-${name}.service)"
printf 'virtual %s\\n' "$(systemd-detect-virt || :)"
printf 'board %s\\n' "$(tr -d '\\0' </proc/device-tree/model 2>/dev/null || cat /sys/class/dmi/id/product_name 2>/dev/null || :)"
printf 'kernel %s\\narchitecture %s\\nprocessors %s\\n' "$(uname -r)" "$(uname -m)" "$(nproc)"
printf 'model %s\\n' "$(stat -c %s ${quote(`${modelFolder}/model.gguf`)})"
printf 'available %s\\n' "$(awk '/^MemAvailable:/ { print $2 * 1024 }' /proc/meminfo)"
printf 'shm %s\\n' "$(($(stat -f -c '%a * %S' /dev/shm)))"
printf 'on %s\\n' "$(findmnt -n -o SOURCE,FSTYPE --target ${quote(modelFolder)})"`,
    manifest: `for manifest in ${storage}/overlay-images/*/manifest; do
  [ -r "$manifest" ] && [ "$(sha256sum <"$manifest")" = '${digest}  -' ] && cat "$manifest" && break
done
echo
ls ${storage}/overlay 2>/dev/null || :`,
  };
}

/**
 * Makes facts of what the parts printed.
 * @param unit as for `factParts`
 */
export function nodeFacts({ storage }: ServedUnit, facts: string, manifest: string): NodeFacts {
  const value = (key: string): string => new RegExp(`^${key} (.*)$`, "m").exec(facts)?.[1]?.trim() ?? "";
  const virtual = value("virtual");
  const free = Math.min(...["available", "shm"].map((key) => Number(value(key)) || 0));
  return {
    active: value("active") === "active",
    virtualBy: virtual === "" || virtual === "none" ? undefined : virtual,
    board: value("board"),
    kernel: value("kernel"),
    architecture: value("architecture"),
    processors: Number(value("processors")),
    modelBytes: Number(value("model")) || 0,
    memoryFreeBytes: free,
    modelOn: value("on").replaceAll(/\s+/g, " "),
    imageRoot: imageRootIn(storage, manifest),
  };
}

/** An image that is one layer is whole in that layer's folder, which podman names by the digest of its content. */
function imageRootIn(storage: string, printed: string): string | undefined {
  const end = printed.lastIndexOf("}") + 1;
  let layers: readonly string[];
  try {
    const manifest = JSON.parse(printed.slice(0, end)) as { layers?: readonly { digest?: unknown }[] };
    layers = (manifest.layers ?? []).map(({ digest }) => String(digest).slice("sha256:".length));
  } catch {
    return undefined;
  }
  const [layer = "", ...others] = layers;
  const folders = printed.slice(end).split(/\s+/);
  // A compressed layer has another digest than its content, and then no folder of that name.
  if (others.length > 0 || !/^[0-9a-f]{64}$/.test(layer) || !folders.includes(layer)) return undefined;
  return `${storage}/overlay/${layer}/diff`;
}
