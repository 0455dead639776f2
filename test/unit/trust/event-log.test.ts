import { describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import {
  EventLogRefused,
  formatEventLog,
  judgeReplay,
  logObjections,
  measuredText,
  measuredTexts,
  parseEventLog,
  pcr11Of,
  type LoggedEvent,
} from "../../../provider/trust/event-log.ts";
import { extend, replay, zeroPcr } from "../../../provider/trust/pcr.ts";
import { measurement } from "./measurement.ts";

const digest = sha256Hex("x");
const head = `edgeseal-event-log 1\nstart\t11\t${zeroPcr}\n`;
const refusal = (text: string): string => {
  try {
    parseEventLog(text);
  } catch (error) {
    if (error instanceof EventLogRefused) return error.message;
    throw error;
  }
  return "taken";
};

describe("parsing", () => {
  test("gives the events in their order, with names and details as they were", () => {
    const text = `${head}11\tprogram\t\t${digest}\t\n11\tfile\tmy%20file%25.txt\t${digest}\t\n11\tcmdline\t\t${digest}\ta=1 b%3d%C3%A9\n`;
    expect(parseEventLog(text)).toEqual({
      start: zeroPcr,
      events: [
        { type: "program", name: "", digest, detail: "" },
        { type: "file", name: "my file%.txt", digest, detail: "" },
        { type: "cmdline", name: "", digest, detail: "a=1 b=é" },
      ],
    });
  });

  test("takes a log without events", () =>
    expect(parseEventLog(head)).toEqual({ start: zeroPcr, events: [] }));

  test("gives back what was formatted, whatever the names are", () => {
    const names = [
      "",
      "config.txt",
      "a b",
      "100%",
      "%41",
      "tab\there",
      "line\nfeed",
      "ü–漢",
      "\u001b[2J",
      "~!$&",
    ];
    const events = names.map((name): LoggedEvent => ({ type: "file", name, digest, detail: name }));
    expect(parseEventLog(formatEventLog({ start: digest, events }))).toEqual({ start: digest, events });
  });

  test.each([
    ["nothing", "", "it is empty"],
    ["another version", head.replace("log 1", "log 2"), "its first line is not 'edgeseal-event-log 1'"],
    ["a log that is cut off within a line", `${head}11\tnode\tpi`, "does not end with a line feed"],
    ["no second line", "edgeseal-event-log 1\n", "line 2: expected 'start'"],
    ["a start of another PCR", head.replace("\t11\t", "\t12\t"), "line 2: expected 'start'"],
    [
      "a start in upper case",
      `edgeseal-event-log 1\nstart\t11\t${digest.toUpperCase()}\n`,
      "line 2: expected",
    ],
    ["too few fields", `${head}11\tnode\tpi\t${digest}\n`, "line 3: expected 5 tab-separated fields, got 4"],
    [
      "too many fields",
      `${head}11\tnode\tpi\t${digest}\t\t\n`,
      "line 3: expected 5 tab-separated fields, got 6",
    ],
    ["an empty line", `${head}\n`, "line 3: expected 5 tab-separated fields, got 1"],
    ["an event of another PCR", `${head}15\tnode\tpi\t${digest}\t\n`, 'an event of PCR "15"'],
    ["an unknown type", `${head}11\tmodule\tx\t${digest}\t\n`, 'no event of type "module"'],
    [
      "a digest in upper case",
      `${head}11\tnode\tpi\t${digest.toUpperCase()}\t\n`,
      "not 64 lower-case hex digits",
    ],
    ["a short digest", `${head}11\tnode\tpi\tabc\t\n`, "not 64 lower-case hex digits"],
    ["a lone percent sign", `${head}11\tfile\t100%\t${digest}\t\n`, "not percent-encoded UTF-8"],
    ["bytes that are no UTF-8", `${head}11\tfile\t%FF\t${digest}\t\n`, "not percent-encoded UTF-8"],
    [
      "a byte that was lost on the way",
      `${head}11\tfile\t\ufffd\t${digest}\t\n`,
      "not percent-encoded UTF-8",
    ],
    ["a raw escape character", `${head}11\tfile\t\u001b[2J\t${digest}\t\n`, "not percent-encoded UTF-8"],
    ["a carriage return", `${head}11\tnode\tpi\t${digest}\t\r\n`, "not percent-encoded UTF-8"],
    [
      "an event given twice",
      `${head}11\tfile\ta\t${digest}\t\n11\tfile\t%61\t${digest}\t\n`,
      "file a is there twice",
    ],
  ])("refuses %s", (_, text, message) => expect(refusal(text)).toContain(message));

  test("tells every fault at once", () => {
    const text = `${head}11\tmodule\tx\t${digest}\t\n11\tnode\tpi\tabc\t\n`;
    expect(refusal(text).split("\n")).toEqual([
      expect.stringContaining("line 3: there is no event of type"),
      expect.stringContaining("line 4: the digest"),
    ]);
  });
});

describe("replaying", () => {
  const { log } = measurement();
  const pcr11 = pcr11Of(log.events);
  const warm = { ...log, start: pcr11 };

  test.each([
    ["consistent", "a TPM that was reset", log, pcr11],
    ["power-cycle", "a TPM that kept its PCRs", warm, replay(log.events, pcr11)],
    ["tampered", "something more was extended", log, extend(pcr11, digest)],
    ["tampered", "nothing was extended", log, zeroPcr],
    ["tampered", "an event is missing from the log", { ...log, events: log.events.slice(0, -1) }, pcr11],
    ["tampered", "two events changed places", { ...log, events: log.events.toReversed() }, pcr11],
    ["tampered", "the log's start is not what was found", warm, pcr11],
  ])("is %s: %s", (verdict, _, given, value) => expect(judgeReplay(given, value)).toBe(verdict));
});

describe("objections to an approval", () => {
  const { log } = measurement();
  const without = (type: string) => ({ ...log, events: log.events.filter((event) => event.type !== type) });
  /** A boot partition with another kernel, where the old one lies under a name before it: its events, told under other names. */
  const { log: disguised } = measurement({
    files: { "config.txt": "arm_64bit=1\n", "kernel_2711.bak": "kernel", "kernel_2712.img": "evil" },
  });
  const lies = new Map([
    ["kernel_2711.bak", "kernel_2712.img"],
    ["kernel_2712.img", "kernel_2713.txt"],
  ]);
  Object.assign(disguised, {
    events: disguised.events.map((event) => ({ ...event, name: lies.get(event.name) ?? event.name })),
  });

  test("there are none to an ordinary boot", () => expect(logObjections(log, "pi-1")).toEqual([]));

  test.each([
    ["of another node", log, "pi-2", /^it is the log of pi-1, not of pi-2$/],
    [
      "from a TPM that was not reset",
      { ...log, start: digest },
      "pi-1",
      /the TPM was not reset.*cut the power/,
    ],
    ["without the program", without("program"), "pi-1", /^there is no 'program' event$/],
    ["without the node", without("node"), "pi-1", /^there is no 'node' event$/],
    ["without the command line", without("cmdline"), "pi-1", /^there is no 'cmdline' event$/],
    ["without the device tree, as one that is cut off", without("devicetree"), "pi-1", /'devicetree'/],
    ["without any file", without("file"), "pi-1", /^no file of the boot partition was measured$/],
    ["out of order", { ...log, events: log.events.toReversed() }, "pi-1", /not in their order/],
    [
      "with a failure",
      {
        ...log,
        events: [...log.events, { type: "failed", name: "cmdline", digest, detail: "no such file" } as const],
      },
      "pi-1",
      /^cmdline could not be measured: no such file$/,
    ],
    [
      "whose node's digest is another one's",
      {
        ...log,
        events: log.events.map((event) =>
          event.type === "node" ? { ...event, digest: sha256Hex("pi-2") } : event,
        ),
      },
      "pi-1",
      /digest of the node's name/,
    ],
    [
      "in which a changed kernel is told as an added file, and the old digest as the kernel's",
      { ...log, events: disguised.events },
      "pi-1",
      /^the names of the files and folders are not those that were measured/,
    ],
    [
      "without the names of its files",
      { ...log, events: log.events.filter(({ name }) => name !== "/") },
      "pi-1",
      /^there is no 'tree \/' event/,
    ],
    [
      "with a command line beside its digest that was not measured",
      {
        ...log,
        events: log.events.map((event) =>
          event.type === "cmdline" ? { ...event, digest: sha256Hex("init=/bin/sh") } : event,
        ),
      },
      "pi-1",
      /not the command line that was measured/,
    ],
    [
      "with a second program",
      {
        ...log,
        events: log.events.toSpliced(1, 0, { type: "program", name: "x", digest, detail: "" } as const),
      },
      "pi-1",
      /^program x: there is one 'program' event, and it has no name$/,
    ],
  ])("there is one to a log %s", (_, given, node, message) => {
    expect(logObjections(given, node)).toEqual([expect.stringMatching(message)]);
  });

  test("all are told at once", () => {
    expect(logObjections({ start: digest, events: [] }, "pi-1")).toHaveLength(6);
  });
});

describe("measured texts", () => {
  const { log, texts } = measurement();
  const known = measuredTexts(texts);
  const eventOf = (type: string) => log.events.find((event) => event.type === type) as LoggedEvent;

  test("are found by the digest of their event, and by nothing else", () => {
    expect(measuredText(eventOf("tree"), known)).toBe(texts[0]);
    expect(measuredText(eventOf("file"), known)).toBeUndefined();
  });

  test("may be the detail itself, where it has that digest", () => {
    expect(measuredText(eventOf("cmdline"), new Map())).toContain("root=PARTUUID=1-02");
    expect(measuredText({ ...eventOf("cmdline"), detail: "root=/dev/evil" }, new Map())).toBeUndefined();
  });
});
