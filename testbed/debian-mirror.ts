import { readFile } from "node:fs/promises";

/** Where packages come from when this machine's own apt sources name no Debian mirror. */
export const defaultMirror = "http://deb.debian.org/debian";

const sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/** The mirror that this machine's own apt uses, so that a site's proxy or cache is used for nodes, too. */
export async function debianMirror(): Promise<string> {
  for (const path of sources) {
    const found = mirrorIn(await readFile(path, "utf8").catch(() => ""));
    if (found !== undefined) return found;
  }
  return defaultMirror;
}

/** The first mirror of Debian's main archive in apt's sources, in either style (sources.list(5)); `undefined` when they name none. */
export function mirrorIn(text: string): string | undefined {
  return /^(?:URIs:|deb)\s+(?:\[[^\]]*\]\s+)?(https?:\/\/\S+\/debian)\/?(?:\s|$)/m.exec(text)?.[1];
}
