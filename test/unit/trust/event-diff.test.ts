import { describe, expect, test } from "vitest";
import { diffLogs } from "../../../provider/trust/event-diff.ts";
import { measuredTexts } from "../../../provider/trust/event-log.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { measurement, type Boot } from "./measurement.ts";

const base: Boot = {
  files: { "config.txt": "a", "kernel.img": "k" },
  overlays: { "tpm.dtbo": "t", "u.dtbo": "u" },
};

function changes(boot: Boot) {
  const before = measurement(base);
  const after = measurement({ ...base, ...boot });
  return diffLogs(before.log.events, after.log.events, measuredTexts([...before.texts, ...after.texts]));
}
const brief = (boot: Boot) =>
  changes(boot).map(({ change, type, name }) => [change, type, name].join(" ").trim());

describe("what changed", () => {
  test("is nothing between equal measurements", () => expect(changes({})).toEqual([]));

  test("names a file that changed, came or went; with names, the list of all names changes", () => {
    expect(brief({ files: { "config.txt": "b", "kernel.img": "k" } })).toEqual(["changed file config.txt"]);
    expect(brief({ files: { "config.txt": "a", "autoboot.txt": "x" } })).toEqual([
      "added file autoboot.txt",
      "changed tree /",
      "removed file kernel.img",
    ]);
  });

  test("has the digests of both sides", () => {
    expect(changes({ files: { "config.txt": "b", "kernel.img": "k" } })[0]).toEqual({
      change: "changed",
      type: "file",
      name: "config.txt",
      approved: sha256Hex("a"),
      found: sha256Hex("b"),
      entries: undefined,
    });
  });

  test("names the file inside a tree", () => {
    const [tree] = changes({ overlays: { "tpm.dtbo": "T", "v.dtbo": "v" } });
    expect(tree).toMatchObject({ change: "changed", type: "tree", name: "overlays" });
    expect(tree?.entries).toEqual([
      { change: "changed", name: "overlays/tpm.dtbo", approved: sha256Hex("t"), found: sha256Hex("T") },
      { change: "added", name: "overlays/v.dtbo", approved: undefined, found: sha256Hex("v") },
      { change: "removed", name: "overlays/u.dtbo", approved: sha256Hex("u"), found: undefined },
    ]);
  });

  test("tells a file that was only renamed, since the names are measured too", () => {
    expect(brief({ files: { "config.txt": "a", "kernel.old": "k" } })).toEqual([
      "added file kernel.old",
      "changed tree /",
      "removed file kernel.img",
    ]);
    const root = changes({ files: { "config.txt": "a", "kernel.old": "k" } }).find(
      ({ name }) => name === "/",
    );
    expect(root?.entries?.map(({ change, name }) => [change, name])).toEqual([
      ["added", "kernel.old"],
      ["removed", "kernel.img"],
    ]);
  });

  test("names words of the command line, repeated ones too", () => {
    const cmdline = "coherent_pool=1M console=tty1 console=tty1 root=PARTUUID=1-02 init=/bin/sh";
    expect(changes({ cmdline })).toEqual([
      expect.objectContaining({
        type: "cmdline",
        entries: [
          { change: "added", name: "console=tty1 (2)", approved: undefined, found: undefined },
          { change: "added", name: "init=/bin/sh", approved: undefined, found: undefined },
          { change: "removed", name: "rootwait", approved: undefined, found: undefined },
        ],
      }),
    ]);
  });

  test("of a command line with other white space, or another order of words, is told without an entry", () => {
    const before = measurement().log.events.find(({ type }) => type === "cmdline");
    const cmdline = (before?.detail ?? "").split(" ").toReversed().join(" ");
    const [change] = diffLogs(
      measurement().log.events,
      measurement({ cmdline }).log.events,
      measuredTexts([before?.detail ?? "", cmdline]),
    );
    expect(change).toMatchObject({ change: "changed", type: "cmdline", entries: [] });
  });

  test("names properties of the device tree", () => {
    const deviceTree = { "chosen/bootloader/signed": "\u0009", model: "Raspberry Pi 5" };
    expect(changes({ deviceTree })[0]?.entries).toEqual([
      expect.objectContaining({ change: "changed", name: "chosen/bootloader/signed" }),
    ]);
  });

  test("can't be told inside, where a text is not known", () => {
    const before = measurement(base);
    const after = measurement({ ...base, overlays: { "tpm.dtbo": "t" } });
    const [tree] = diffLogs(before.log.events, after.log.events, measuredTexts(before.texts));
    expect(tree).toMatchObject({ type: "tree", name: "overlays", entries: undefined });
  });

  test("is never nothing where the values differ: events that changed places are told", () => {
    const { events } = measurement(base).log;
    const swapped = [...events];
    [swapped[2], swapped[3]] = [events[3] as never, events[2] as never];
    expect(diffLogs(events, swapped).map(({ change, name }) => [change, name])).toEqual([
      ["moved", "kernel.img"],
      ["moved", "config.txt"],
    ]);
  });
});
