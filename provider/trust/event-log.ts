import { isDigest, sha256Hex } from "./digest.ts";
import { measuredPcr } from "./pcr-policy.ts";
import { replay, zeroPcr } from "./pcr.ts";

/*
 * The log of the measuring program: what it extended PCR 11 with, in order. It proves nothing by itself; it explains a value of the PCR, when replaying it gives that
 * value.
 *
 *     edgeseal-event-log 1
 *     start <TAB> 11 <TAB> <PCR 11 as it was found, hex>
 *     11 <TAB> TYPE <TAB> NAME <TAB> <digest, hex> <TAB> DETAIL
 *     ...
 *
 * One event a line, each line ended by a line feed. In NAME and DETAIL, `%` and control characters are written as `%XX`; every other byte may be. What they stand for
 * is UTF-8.
 */

/** What is measured, in the order in which it comes. */
export const eventTypes = [
  /** The measuring program itself. No name. */
  "program",
  /** The node's name, baked into the initramfs. */
  "node",
  /** A file at the top of the boot partition, by its name. Sorted by bytes. */
  "file",
  /** A folder at the top of the boot partition, by its name: the digest of its listing. */
  "tree",
  /** The digest of the boot image, as the firmware gives it. Only there when the firmware does. */
  "bootimage",
  /** The projection of the kernel command line. */
  "cmdline",
  /** The listing of the projection of the device tree. */
  "devicetree",
  /** Something could not be measured: with this, no approved value is reached. */
  "failed",
] as const;

export type EventType = (typeof eventTypes)[number];

/** One extend of PCR 11. */
export interface MeasuredEvent {
  readonly type: EventType;
  /** What was measured: a file's name, for instance. Empty where there is only one of the type. Unique within its type. */
  readonly name: string;
  /** What was extended, 64 lower-case hex digits. */
  readonly digest: string;
}

/** An event as a log has it. */
export interface LoggedEvent extends MeasuredEvent {
  /** For people, and for showing what changed; empty when there is nothing to say. Not a part of what is extended, unless the digest is that of this very text. */
  readonly detail: string;
}

/** An event of a log, or one that was kept without its detail. */
export type DetailedEvent = MeasuredEvent & { readonly detail?: string };

export interface EventLog {
  /** PCR 11 before the first extend, 64 lower-case hex digits; zeros, unless the TPM was not reset. */
  readonly start: string;
  readonly events: readonly LoggedEvent[];
}

/** One fault of a log. */
export interface EventLogProblem {
  /** From 1; 0 for the log as a whole. */
  readonly line: number;
  readonly message: string;
}

/** A log can't be understood. `message` has every problem, one a line. */
export class EventLogRefused extends Error {
  override readonly name = "EventLogRefused";
  readonly problems: readonly EventLogProblem[];
  constructor(problems: readonly EventLogProblem[]) {
    super(
      problems.map(({ line, message }) => (line === 0 ? message : `line ${line}: ${message}`)).join("\n"),
    );
    this.problems = problems;
  }
}

const magic = "edgeseal-event-log 1";

/**
 * Reads a log. Strict: a log that is cut off, or has anything in it that this version does not know, is refused.
 * @throws EventLogRefused with every problem.
 */
export function parseEventLog(text: string): EventLog {
  if (!text.startsWith(`${magic}\n`)) {
    const what = text === "" ? "it is empty" : `its first line is not '${magic}'`;
    throw new EventLogRefused([{ line: 0, message: `not an event log of this version: ${what}` }]);
  }
  if (!text.endsWith("\n")) {
    throw new EventLogRefused([{ line: 0, message: "the log is cut off: it does not end with a line feed" }]);
  }
  const [, second = "", ...rest] = text.slice(0, -1).split("\n");
  const problems: EventLogProblem[] = [];
  const start = startOf(second);
  if (start === undefined) {
    problems.push({
      line: 2,
      message: `expected 'start', ${measuredPcr} and the value of the PCR, tab-separated`,
    });
  }
  const events = rest.flatMap((line, index) => {
    const event = eventOf(line);
    if (typeof event !== "string") return [event];
    problems.push({ line: index + 3, message: event });
    return [];
  });
  const seen = new Set<string>();
  for (const event of events) {
    const key = eventKey(event);
    // Two events of one name could be shown as one.
    if (seen.has(key)) problems.push({ line: 0, message: `${eventText(event)} is there twice` });
    seen.add(key);
  }
  if (start === undefined || problems.length > 0) throw new EventLogRefused(problems);
  return { start, events };
}

function startOf(line: string): string | undefined {
  const [word, pcr, value = "", ...more] = line.split("\t");
  return word === "start" && pcr === String(measuredPcr) && isDigest(value) && more.length === 0
    ? value
    : undefined;
}

/** An event, or what is wrong with its line. */
function eventOf(line: string): LoggedEvent | string {
  const [pcr, type, name, digest, detail, ...more] = line.split("\t");
  if (name === undefined || digest === undefined || detail === undefined || more.length > 0) {
    return `expected 5 tab-separated fields, got ${line.split("\t").length}`;
  }
  if (pcr !== String(measuredPcr))
    return `an event of PCR ${JSON.stringify(pcr)}, where only ${measuredPcr} is measured`;
  if (!isEventType(type)) return `there is no event of type ${JSON.stringify(type)}`;
  if (!isDigest(digest)) return "the digest is not 64 lower-case hex digits";
  const decodedName = unescape(name);
  const decodedDetail = unescape(detail);
  if (decodedName === undefined || decodedDetail === undefined) {
    return "a field is not percent-encoded UTF-8; a file of the boot partition may have a name that is none: rename it";
  }
  return { type, name: decodedName, digest, detail: decodedDetail };
}

const isEventType = (text: string | undefined): text is EventType =>
  (eventTypes as readonly (string | undefined)[]).includes(text);

/** No `%` but that of `%XX`, no control character, and nothing that was lost when bytes became a text (U+FFFD). */
const escaped = /^(?:[^%\x00-\x1f\x7f\ufffd]|%[0-9A-Fa-f]{2})*$/;

function unescape(field: string): string | undefined {
  if (!escaped.test(field)) return undefined;
  try {
    return decodeURIComponent(field);
  } catch {
    return undefined;
  }
}

/** A field as the log has it. */
export const escapeField = (text: string): string =>
  [...Buffer.from(text)]
    .map((byte) =>
      byte > 0x20 && byte < 0x7f && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`,
    )
    .join("");

/** A log as the measuring program writes it. */
export function formatEventLog({ start, events }: EventLog): string {
  const lines = events.map(({ type, name, digest, detail }) =>
    [measuredPcr, type, escapeField(name), digest, escapeField(detail)].join("\t"),
  );
  return `${[magic, `start\t${measuredPcr}\t${start}`, ...lines].join("\n")}\n`;
}

/** One name for one event, to find the same in another log. */
export const eventKey = ({ type, name }: Pick<MeasuredEvent, "type" | "name">): string => `${type}\t${name}`;

/** `file config.txt`, `cmdline`. */
export const eventText = ({ type, name }: Pick<MeasuredEvent, "type" | "name">): string =>
  name === "" ? type : `${type} ${name}`;

/**
 * What a log says of the PCR's value.
 * - `consistent`: the TPM was reset before the measurement, and the log explains the value.
 * - `power-cycle`: it was not reset (a warm reboot of a board whose TPM keeps its PCRs), and the log explains the value from where it started. No approved value
 *   can be reached; a power cycle mends it.
 * - `tampered`: the log does not explain the value: something else was extended, or the log is not the one that was written.
 */
export type ReplayVerdict = "consistent" | "power-cycle" | "tampered";

/**
 * Holds a log against the value that was read back from the TPM.
 * @param pcr11 64 lower-case hex digits.
 */
export function judgeReplay({ start, events }: EventLog, pcr11: string): ReplayVerdict {
  if (replay(events, start) !== pcr11) return "tampered";
  return start === zeroPcr ? "consistent" : "power-cycle";
}

/** The value of PCR 11 that these events lead to, in a TPM that was reset. */
export const pcr11Of = (events: readonly MeasuredEvent[]): string => replay(events);

/**
 * What keeps a log from being approved: all of it. An approval stands for a whole, ordinary measurement of one node, from a TPM that was reset.
 * @param node The node's name.
 */
export function logObjections(
  { start, events }: { readonly start: string; readonly events: readonly DetailedEvent[] },
  node: string,
): readonly string[] {
  const objections: string[] = [];
  if (start !== zeroPcr) {
    objections.push(
      `PCR 11 was ${start.slice(0, 16)}... before the first event, not zeros: the TPM was not reset (a warm reboot?); cut the power and boot again`,
    );
  }
  for (const event of events.filter(({ type }) => type === "failed")) {
    objections.push(
      `${event.name === "" ? "something" : event.name} could not be measured${(event.detail ?? "") === "" ? "" : `: ${event.detail}`}`,
    );
  }
  for (const type of ["program", "node", "cmdline", "devicetree"] as const) {
    if (!events.some((event) => event.type === type)) objections.push(`there is no '${type}' event`);
  }
  if (!events.some(({ type }) => type === "file")) {
    objections.push("no file of the boot partition was measured");
  }
  // Beside the one that is measured, another could be told.
  for (const event of events.filter(({ type, name }) => onlyOnes.has(type) && name !== "")) {
    objections.push(`${eventText(event)}: there is one '${event.type}' event, and it has no name`);
  }
  const other = events.find((event) => event.type === "node" && event.name !== node);
  if (other !== undefined) {
    objections.push(
      `it is the log of ${other.name === "" ? "a node without a name" : other.name}, not of ${node}`,
    );
  }
  // What is extended is the digest; the name beside it is only told.
  if (events.some(({ type, name, digest }) => type === "node" && digest !== sha256Hex(name))) {
    objections.push("the digest of the 'node' event is not the digest of the node's name");
  }
  if (
    events.some(
      ({ type, detail, digest }) =>
        type === "cmdline" && detail !== undefined && sha256Hex(detail) !== digest,
    )
  ) {
    objections.push("the text beside the 'cmdline' event is not the command line that was measured");
  }
  const ranks = events.filter(({ type }) => type !== "failed").map(({ type }) => eventTypes.indexOf(type));
  if (ranks.some((rank, index) => rank < (ranks[index - 1] ?? 0))) {
    objections.push(`the events are not in their order (${eventTypes.slice(0, -1).join(", ")})`);
  } else if (events.some(({ type }) => type === "file")) objections.push(...nameObjections(events));
  return objections;
}

/** Types of which there is one event, without a name. */
const onlyOnes: ReadonlySet<EventType> = new Set(["program", "bootimage", "cmdline", "devicetree"]);

/**
 * What is extended for a file is the digest of its content; what it is called is said by the event `tree /` alone, whose text the program makes of all names in their
 * order. It can be made again from the names of a log. Were it not, a device could have a changed kernel approved as an added README.
 */
function nameObjections(events: readonly MeasuredEvent[]): readonly string[] {
  const names = events.find(({ type, name }) => type === "tree" && name === "/");
  if (names === undefined) {
    return ["there is no 'tree /' event, so nothing says that the files have the names that are told"];
  }
  const told = events.flatMap(({ type, name }) =>
    type === "file" ? [`${name}\n`] : type === "tree" && name !== "/" ? [`${name}/\n`] : [],
  );
  return sha256Hex(...told) === names.digest
    ? []
    : ["the names of the files and folders are not those that were measured ('tree /')"];
}

/** Listings and other measured texts, by their SHA-256 in lower-case hex: what is found under the digest of an event is what was measured. */
export type MeasuredTexts = ReadonlyMap<string, string>;

/** Texts under their digests, so that none can be taken for another. */
export const measuredTexts = (texts: Iterable<string>): MeasuredTexts =>
  new Map([...texts].map((text) => [sha256Hex(text), text]));

/** The measured text of an event, when it is known: a listing, or a detail that is itself what was measured. */
export function measuredText(event: DetailedEvent, texts: MeasuredTexts): string | undefined {
  const { digest, detail } = event;
  return texts.get(digest) ?? (detail !== undefined && sha256Hex(detail) === digest ? detail : undefined);
}
