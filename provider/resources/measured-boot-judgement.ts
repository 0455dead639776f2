import { diffLogs } from "../trust/event-diff.ts";
import {
  EventLogRefused,
  eventText,
  judgeReplay,
  logObjections,
  parseEventLog,
  pcr11Of,
  type EventLog,
} from "../trust/event-log.ts";
import { zeroPcr } from "../trust/pcr.ts";
import { kernelValue, type ConfigFiles } from "./config-files.ts";
import {
  filesOfInitramfs,
  measuredBootPaths,
  programDigest,
  recordsDirectory,
} from "./measured-boot-files.ts";
import { initramfsThatBoots } from "./measured-boot-firmware.ts";

/*
 * What the files, logs and values that a node shows mean together: whether this boot was measured, and what the next one will measure.
 */

/** A log, or why it can't be read; `undefined` where there is none. */
export type FoundLog = EventLog | EventLogRefused | undefined;

/** What was read from a node, taken apart but not yet judged. */
export interface Seen {
  /** Mode, owner and digest of each file of ours, by path. */
  readonly files: Readonly<Record<string, string>>;
  /** Configuration, the records of images, and the boot id. */
  readonly settings: ConfigFiles;
  /** Names of the files at the top of the boot partition. */
  readonly bootFiles: ReadonlySet<string>;
  readonly log: FoundLog;
  /** What the program could not put into the log. */
  readonly trouble: readonly string[];
  /** The log that the next boot would leave; `undefined` where our program is not installed. */
  readonly next: FoundLog;
  /** SHA-256 of the configuration that an initramfs built now would get. */
  readonly confDigest: string;
  /** Whether initramfs-tools are installed. */
  readonly tools: boolean;
  readonly tpm: {
    readonly present: boolean;
    readonly pcr11: string | undefined;
    readonly pcr15: string | undefined;
  };
}

export interface Judgement {
  readonly measured: boolean;
  readonly replay: "none" | "consistent" | "power-cycle" | "tampered";
  readonly desync: "none" | "power-cycle" | "tampered";
  readonly failures: string[];
  readonly events: { type: string; name: string; digest: string }[];
  readonly initramfs: "current" | "stale" | "foreign" | "image" | "none" | "unsupported";
  readonly nextPcr11: string;
  readonly pendingReboot: boolean;
  readonly pendingChanges: string[];
}

export function readLog(text: string): FoundLog {
  if (text === "") return undefined;
  try {
    return parseEventLog(text);
  } catch (error) {
    if (error instanceof EventLogRefused) return error;
    throw error;
  }
}

export function judge(seen: Seen): Judgement {
  const { initramfs, builtInThisBoot } = judgeInitramfs(seen);
  const replay = replayOf(seen);
  const log = seen.log instanceof EventLogRefused ? undefined : seen.log;
  const failures = failuresOf(seen);
  const skipped =
    seen.log === undefined && failures.length === 0 && initramfs === "current" && !builtInThisBoot;
  if (skipped) {
    failures.push(
      "this boot was not measured, although the initramfs on the boot partition measures: another one was booted, or none (rdinit= or break= on the command line, tryboot, another disk)",
    );
  }
  const measured = replay === "consistent" && failures.length === 0;
  const next = judgeNext(seen, initramfs, log);
  if (measured && next.problem !== undefined)
    failures.push(`the next boot can't be predicted: ${next.problem}`);
  return {
    measured,
    replay,
    desync: replay === "power-cycle" || replay === "tampered" ? replay : "none",
    failures,
    events: (log?.events ?? []).map(({ type, name, digest }) => ({ type, name, digest })),
    initramfs,
    nextPcr11: next.pcr11 ?? "unknown",
    pendingReboot: next.differs && !skipped,
    pendingChanges: [...next.changes],
  };
}

/** A log that can't be read is not the one that the program wrote. */
function replayOf({ log, tpm }: Seen): Judgement["replay"] {
  if (log instanceof EventLogRefused) return "tampered";
  if (log === undefined || tpm.pcr11 === undefined) return "none";
  return judgeReplay(log, tpm.pcr11);
}

function failuresOf({ log, trouble, tpm }: Seen): string[] {
  const failures = [...trouble];
  if (log instanceof EventLogRefused)
    failures.push(`the event log can't be read: ${log.message.replaceAll("\n", "; ")}`);
  else if (log !== undefined) {
    if (tpm.pcr11 === undefined) failures.push("PCR 11 can't be read from the TPM");
    failures.push(...objectionsTo(log));
  }
  return failures;
}

/** What keeps a log from being a whole one. Where it started is said by its replay, and whose it is by its `node` event. */
function objectionsTo({ events }: EventLog): readonly string[] {
  const node = events.find(({ type }) => type === "node")?.name ?? "";
  return logObjections({ start: zeroPcr, events }, node);
}

interface Image {
  readonly initramfs: Judgement["initramfs"];
  /** Whether it was built after this boot began, so that this boot could not use it. */
  readonly builtInThisBoot: boolean;
}

/**
 * Whether the initramfs that the firmware loads has what is installed: by its digest, under which the hook noted at its building what it put in. Unpacking it each time would
 * take seconds, and prove no more: whoever could forge the note, could forge the image.
 */
function judgeInitramfs(seen: Seen): Image {
  const { settings, bootFiles, files, next, confDigest } = seen;
  const judged = (initramfs: Judgement["initramfs"], boot?: string): Image => ({
    initramfs,
    builtInThisBoot: boot !== undefined && boot === kernelValue(settings, "/proc/sys/kernel/random/boot_id"),
  });
  if (!seen.tools) return judged("unsupported");
  const config = settings.get("/boot/firmware/config.txt") ?? settings.get("/boot/config.txt") ?? [];
  const name = initramfsThatBoots(config, bootFiles);
  // Within a signed image it can't be looked at; that it measures is seen from what it measured.
  if (name === undefined && bootFiles.has("boot.img"))
    return judged(measuredByOurs(seen) ? "current" : "image");
  if (name === undefined) return judged("none");
  if (next === undefined || next instanceof EventLogRefused) return judged("foreign");
  const digest = next.events.find((event) => event.type === "file" && event.name === name)?.digest;
  const record = [...settings.keys()]
    .filter((path) => path.startsWith(`${recordsDirectory}/`))
    .map((path) => new Map((settings.get(path) ?? []).map((line) => splitAt(line, "="))))
    .find((each) => digest !== undefined && each.get("image") === digest);
  if (record === undefined) return judged("foreign");
  const isInstalled = filesOfInitramfs.every((file) => {
    const wanted = file === "conf" ? confDigest : files[measuredBootPaths[file]]?.split("sha256:")[1];
    return record.get(file) === wanted;
  });
  // Half of an image, which a power cut left behind: it is measured, and building anew removes it.
  const hasRest = [...bootFiles].some((each) => each.endsWith(".edgeseal-new"));
  return judged(isInstalled && !hasRest ? "current" : "stale", record.get("boot"));
}

function measuredByOurs({ log, files }: Seen): boolean {
  if (log === undefined || log instanceof EventLogRefused) return false;
  const installed = files[measuredBootPaths.program]?.endsWith(`sha256:${programDigest}`) === true;
  return installed && log.events.some(({ type, digest }) => type === "program" && digest === programDigest);
}

interface Next {
  readonly pcr11: string | undefined;
  readonly differs: boolean;
  readonly changes: readonly string[];
  readonly problem: string | undefined;
}

/** What the next boot will measure, against what this one did. Before the first measured boot not everything can be predicted, and that is no fault. */
function judgeNext({ next }: Seen, initramfs: Judgement["initramfs"], log: EventLog | undefined): Next {
  if (initramfs !== "current" || next === undefined || next instanceof EventLogRefused) {
    return {
      pcr11: undefined,
      differs: false,
      changes: [],
      problem: next instanceof EventLogRefused ? next.message : undefined,
    };
  }
  const problems = objectionsTo(next);
  const changes = log === undefined ? [] : diffLogs(log.events, next.events);
  // The names' own event repeats what the events of the files say.
  const telling = changes.filter(({ type, name }) => changes.length === 1 || type !== "tree" || name !== "/");
  return {
    pcr11: problems.length === 0 ? pcr11Of(next.events) : undefined,
    differs: log === undefined || changes.length > 0,
    changes: telling.map((change) => `${change.change} ${eventText(change)}`),
    problem: problems.length === 0 ? undefined : problems.join("; "),
  };
}

function splitAt(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}
