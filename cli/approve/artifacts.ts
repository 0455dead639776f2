import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { pipeline } from "node:stream/promises";
import { sha256Hex } from "../../provider/trust/digest.ts";
import { diffLogs, type EventChange } from "../../provider/trust/event-diff.ts";
import { measuredTexts, type LoggedEvent, type MeasuredEvent } from "../../provider/trust/event-log.ts";
import { UserError } from "../errors.ts";

/*
 * What a boot partition ought to measure, computed from a trusted copy of it, as the measuring program does (provider/resources/on-device/measure). What a device
 * says of its own files is only as good as the device; this is not said by it.
 */

/** What a copy of a boot partition leads to. */
export interface ArtifactEvents {
  readonly events: readonly MeasuredEvent[];
  /** The listings of its folders, and the names at its top. */
  readonly texts: readonly string[];
  /** The first line of cmdline.txt without white space around it; `undefined` where there is no such file. */
  readonly commandLine: string | undefined;
}

/**
 * Measures a copy of a boot partition: a folder with config.txt, the kernel, overlays/ and all else that is on it.
 * @throws UserError
 */
export async function artifactEvents(folder: string): Promise<ArtifactEvents> {
  const paths = await filesBelow(folder);
  if (paths.length === 0)
    throw new UserError(`${folder} has no file: expected a copy of the node's boot partition`);
  const events: MeasuredEvent[] = [];
  const folders = new Map<string, string>();
  let top = "";
  for (const path of paths) {
    const digest = await fileDigest(join(folder, path));
    const [first = "", ...below] = path.split("/");
    if (below.length > 0) {
      folders.set(first, `${folders.get(first) ?? ""}${digest}  ${path}\n`);
    } else {
      events.push({ type: "file", name: path, digest });
      top += `${path}\n`;
    }
  }
  for (const [name, listing] of folders) {
    events.push({ type: "tree", name, digest: sha256Hex(listing) });
    top += `${name}/\n`;
  }
  events.push({ type: "tree", name: "/", digest: sha256Hex(top) });
  return { events, texts: [...folders.values(), top], commandLine: await ownCommandLine(folder, paths) };
}

/** Every file, by its path from there, in the order of `sort` in the C locale. */
async function filesBelow(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    throw new UserError(
      `${folder} can't be read: ${(error as NodeJS.ErrnoException).code ?? "unknown error"}`,
    );
  });
  const odd = entries.find((entry) => !entry.isFile() && !entry.isDirectory());
  if (odd !== undefined) {
    throw new UserError(`${join(odd.parentPath, odd.name)} is neither a file nor a folder`, {
      hint: "a boot partition (FAT) has nothing else: copy the files themselves",
    });
  }
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

async function fileDigest(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

async function ownCommandLine(folder: string, paths: readonly string[]): Promise<string | undefined> {
  if (!paths.includes("cmdline.txt")) return undefined;
  const [line = ""] = (await readFile(join(folder, "cmdline.txt"), "utf8")).split(/\r?\n/, 1);
  return line.replace(/^[ \t]+|[ \t]+$/g, "");
}

/** What a device reports, held against a trusted copy. */
export interface ArtifactCheck {
  /** What the device reports differently: `approved` is what the copy has, `found` what the device says. */
  readonly differences: readonly EventChange[];
  /** Other things that don't go together. */
  readonly remarks: readonly string[];
  /** How many events the copy vouches for. */
  readonly confirmed: number;
}

/** What the firmware may put in the place of `serial0`. */
const serials = ["serial0", "ttyAMA10", "ttyAMA0", "ttyS0"];

export function checkAgainstArtifacts(
  reported: readonly LoggedEvent[],
  reportedTexts: readonly string[],
  { events, texts, commandLine }: ArtifactEvents,
): ArtifactCheck {
  const files = reported.filter(({ type }) => type === "file" || type === "tree");
  const differences = diffLogs(events, files, measuredTexts([...texts, ...reportedTexts]));
  const different = differences.filter(({ change }) => change !== "removed").length;
  return {
    differences,
    remarks: commandLineRemarks(reported, commandLine),
    confirmed: files.length - different,
  };
}

function commandLineRemarks(reported: readonly LoggedEvent[], own: string | undefined): readonly string[] {
  const event = reported.find(({ type }) => type === "cmdline");
  if (own === undefined || event === undefined) return [];
  if (sha256Hex(event.detail) !== event.digest) {
    return ["the text of the command line is not the one that was measured"];
  }
  const isThere = serials.some((serial) => {
    const part = own.replaceAll("console=serial0", `console=${serial}`);
    return event.detail === part || event.detail.endsWith(` ${part}`);
  });
  return isThere ? [] : ["the command line does not end with what cmdline.txt of the trusted copy has"];
}
