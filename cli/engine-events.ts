import { readFile, rm } from "node:fs/promises";

interface EngineEvent {
  readonly resOutputsEvent?: {
    readonly metadata: {
      readonly urn: string;
      readonly detailedDiff?: Readonly<Record<string, unknown>>;
    };
  };
}

/**
 * The properties that a refresh found changed, as `resource.path`, from the engine's event log (`--event-log`). `resource` is the last part of the
 * resource's name, after the node's. Reads the log once and removes it.
 */
export async function driftOf(path: string): Promise<readonly string[]> {
  const lines = (await readFile(path, "utf8")).split("\n").filter((line) => line !== "");
  await rm(path);
  return lines.flatMap((line) => {
    const metadata = (JSON.parse(line) as EngineEvent).resOutputsEvent?.metadata;
    if (metadata?.detailedDiff === undefined) return [];
    const name = metadata.urn.split("::").at(-1) ?? metadata.urn;
    const resource = name.split("-").at(-1) ?? name;
    return Object.keys(metadata.detailedDiff).map((property) => `${resource}.${property}`);
  });
}
