import { sha256Hex } from "../../../provider/trust/digest.ts";
import type { EventLog, EventType, LoggedEvent } from "../../../provider/trust/event-log.ts";
import { zeroPcr } from "../../../provider/trust/pcr.ts";

const event = (type: EventType, name: string, text: string, detail = ""): LoggedEvent => ({
  type,
  name,
  digest: sha256Hex(text),
  detail,
});

/** What an ordinary boot measures, in small. */
export interface Boot {
  readonly node?: string;
  /** Content by name, at the top of the boot partition. */
  readonly files?: Readonly<Record<string, string>>;
  /** Content by name, in overlays/. */
  readonly overlays?: Readonly<Record<string, string>>;
  readonly cmdline?: string;
  readonly deviceTree?: Readonly<Record<string, string>>;
}

const lines = (entries: Readonly<Record<string, string>>, folder = ""): string =>
  Object.entries(entries)
    .map(([name, content]) => `${sha256Hex(content)}  ${folder}${name}\n`)
    .join("");

/** The log of a boot, as the measuring program writes it, and the texts that it keeps. */
export function measurement({
  node = "pi-1",
  files = { "config.txt": "arm_64bit=1\n", "kernel_2712.img": "kernel" },
  overlays = { "tpm-slb9670.dtbo": "tpm", "uart0.dtbo": "uart" },
  cmdline = "coherent_pool=1M console=tty1 root=PARTUUID=1-02 rootwait",
  deviceTree = { "chosen/bootloader/signed": "\0", model: "Raspberry Pi 5" },
}: Boot = {}): { readonly log: EventLog; readonly texts: readonly string[] } {
  const overlayListing = lines(overlays, "overlays/");
  const top = [...Object.keys(files), "overlays/"].map((name) => `${name}\n`).join("");
  const tree = lines(deviceTree);
  const events = [
    event("program", "", "#!/bin/sh"),
    event("node", node, node),
    ...Object.entries(files).map(([name, content]) => event("file", name, content)),
    event("tree", "overlays", overlayListing),
    event("tree", "/", top),
    event("cmdline", "", cmdline, cmdline),
    event("devicetree", "", tree),
  ];
  return { log: { start: zeroPcr, events }, texts: [overlayListing, top, cmdline, tree] };
}
