import { readFile, rm } from "node:fs/promises";

interface EngineEvent {
  readonly resOutputsEvent?: {
    readonly metadata: {
      readonly urn: string;
      readonly detailedDiff?: Readonly<Record<string, unknown>> | null;
    };
  };
}

/**
 * The properties that a refresh found changed, as `Kind.path` (e.g. `Swap.activeAreas`), from the engine's event log
 * (`--event-log`). Reads the log once and removes it.
 */
export async function driftOf(path: string): Promise<readonly string[]> {
  const lines = (await readFile(path, "utf8")).split("\n").filter((line) => line !== "");
  await rm(path);
  return lines.flatMap((line) => {
    const metadata = (JSON.parse(line) as EngineEvent).resOutputsEvent?.metadata;
    if (metadata?.detailedDiff === undefined || metadata.detailedDiff === null) return [];
    // urn:pulumi:STACK::PROJECT::PARENT$TYPE::NAME
    const kind = metadata.urn.split("::").at(-2)?.split(":").at(-1) ?? metadata.urn;
    return Object.keys(metadata.detailedDiff).map((property) => `${kind}.${property}`);
  });
}
