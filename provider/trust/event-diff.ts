import {
  eventKey,
  measuredText,
  type DetailedEvent,
  type EventType,
  type MeasuredEvent,
  type MeasuredTexts,
} from "./event-log.ts";

/** One thing that differs inside a measured text: a file of a tree, a property of the device tree, a word of the command line. */
export interface EntryChange {
  readonly change: "added" | "removed" | "changed";
  /** A path, or the word itself. */
  readonly name: string;
  /** What the approved and the found text have for it; `undefined` where it is not there, or the entry is nothing but its name. */
  readonly approved: string | undefined;
  readonly found: string | undefined;
}

/** One event that differs between two measurements. */
export interface EventChange {
  /** `moved`: the event is in both, and its place among the others is not the same, which makes another PCR value. */
  readonly change: "added" | "removed" | "changed" | "moved";
  readonly type: EventType;
  readonly name: string;
  /** The digests; `undefined` where the event is not there. */
  readonly approved: string | undefined;
  readonly found: string | undefined;
  /**
   * What differs inside. `undefined` when one of the texts is not known: then only that it changed can be said. Empty when the texts differ in nothing but order or
   * form.
   */
  readonly entries: readonly EntryChange[] | undefined;
}

/**
 * What changed from an approved measurement to another, in the order of the new one; what is gone comes last. Empty exactly when both lead to the same value of the PCR.
 * @param texts Listings and other measured texts of both, as far as they are known.
 */
export function diffLogs(
  approved: readonly MeasuredEvent[],
  found: readonly DetailedEvent[],
  texts: MeasuredTexts = new Map(),
): readonly EventChange[] {
  const before = new Map(approved.map((event) => [eventKey(event), event]));
  const after = new Map(found.map((event) => [eventKey(event), event]));
  const moved = outOfPlace(
    [...before.keys()].filter((key) => after.has(key)),
    [...after.keys()].filter((key) => before.has(key)),
  );
  const arrived = [...after].flatMap(([key, event]): EventChange[] => {
    const old = before.get(key);
    const common = { type: event.type, name: event.name, approved: old?.digest, found: event.digest };
    if (old === undefined) return [{ change: "added", ...common, entries: addedEntries(event, texts) }];
    if (old.digest !== event.digest) {
      return [{ change: "changed", ...common, entries: diffTexts(old, event, texts) }];
    }
    return moved.has(key) ? [{ change: "moved", ...common, entries: undefined }] : [];
  });
  const gone = [...before].flatMap(([key, { type, name, digest }]): EventChange[] =>
    after.has(key)
      ? []
      : [{ change: "removed", type, name, approved: digest, found: undefined, entries: undefined }],
  );
  return [...arrived, ...gone];
}

/** Of two orders of the same keys: those that are not where they were. */
function outOfPlace(before: readonly string[], after: readonly string[]): ReadonlySet<string> {
  return new Set(after.filter((key, index) => before[index] !== key));
}

/** A node's first command line is shown word by word: each of them decides how it boots. The first listing of a folder would be hundreds of names. */
function addedEntries(event: DetailedEvent, texts: MeasuredTexts): readonly EntryChange[] | undefined {
  const text = event.type === "cmdline" ? measuredText(event, texts) : undefined;
  return text === undefined ? undefined : diffEntries(new Map(), entriesOf(event.type, text));
}

function diffTexts(
  old: MeasuredEvent,
  event: DetailedEvent,
  texts: MeasuredTexts,
): readonly EntryChange[] | undefined {
  const before = measuredText(old, texts);
  const after = measuredText(event, texts);
  if (before === undefined || after === undefined) return undefined;
  return diffEntries(entriesOf(event.type, before), entriesOf(event.type, after));
}

function diffEntries(
  before: ReadonlyMap<string, string | undefined>,
  after: ReadonlyMap<string, string | undefined>,
): readonly EntryChange[] {
  const arrived = [...after].flatMap(([name, found]): EntryChange[] => {
    if (!before.has(name)) return [{ change: "added", name, approved: undefined, found }];
    const approved = before.get(name);
    return approved === found ? [] : [{ change: "changed", name, approved, found }];
  });
  const gone = [...before].flatMap(([name, approved]): EntryChange[] =>
    after.has(name) ? [] : [{ change: "removed", name, approved, found: undefined }],
  );
  return [...arrived, ...gone];
}

/** A line of `sha256sum`: digest, a space, a space or `*`, the path. */
const listed = /^([0-9a-f]{64}) [ *](.+)$/;

/** A text cut into entries. What is twice in it counts its times, so that a word that is repeated shows. */
function entriesOf(type: EventType, text: string): ReadonlyMap<string, string | undefined> {
  const pieces = type === "cmdline" ? text.trim().split(/\s+/) : text.split("\n");
  const entries = new Map<string, string | undefined>();
  for (const piece of pieces) {
    if (piece === "") continue;
    const [, digest, path] = listed.exec(piece) ?? [];
    let name = path ?? piece;
    for (let time = 2; entries.has(name); time++) name = `${path ?? piece} (${time})`;
    entries.set(name, digest);
  }
  return entries;
}
