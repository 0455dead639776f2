import { createHash } from "node:crypto";
import { quote } from "./shell-quote.ts";

/**
 * Where a node keeps the inputs that its input-dependent probes need, one file for each probe id. It is there so that a provider process that
 * knows nothing yet can ask all of them in one second batch. It comes from the device, so it is not trusted with anything else.
 */
const manifestDirectory = "/var/lib/edgeseal/manifest";

/** A change of the node's manifest, sent along with the exec of a plan. */
export interface ManifestChange {
  /** Entries to write, by probe id; each is one line of JSON without secrets. */
  readonly set: ReadonlyMap<string, string>;
  /** Probe ids whose entries go. */
  readonly drop: readonly string[];
}

function pathOf(probeId: string): string {
  return `${manifestDirectory}/${createHash("sha256").update(probeId).digest("hex")}.json`;
}

/**
 * Shell that makes the change: a fragment for the body of a plan's script. It never fails a plan: without an entry the next refresh
 * takes one exec more, and is no less right.
 */
export function renderManifestChange(change: ManifestChange): string {
  if (change.set.size === 0 && change.drop.length === 0) return ":";
  const lines = [`umask 077`, `mkdir -p ${manifestDirectory}`];
  for (const [id, entry] of change.set) {
    const path = pathOf(id);
    lines.push(`printf '%s\\n' ${quote(entry)} >${path}.new && mv -f ${path}.new ${path}`);
  }
  if (change.drop.length > 0) lines.push(`rm -f ${change.drop.map(pathOf).join(" ")}`);
  return `( ${lines.join("; ")} ) </dev/null >/dev/null 2>&1 || :`;
}
