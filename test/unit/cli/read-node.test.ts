import { cpSync, mkdirSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { artifactEvents, checkAgainstArtifacts } from "../../../cli/approve/artifacts.ts";
import { readNode, type WhichState } from "../../../cli/approve/read-node.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import { diffLogs } from "../../../provider/trust/event-diff.ts";
import {
  logObjections,
  measuredText,
  measuredTexts,
  parseEventLog,
  pcr11Of,
} from "../../../provider/trust/event-log.ts";
import {
  bootFiles,
  deviceTree,
  FakeTpm,
  MeasuredNode,
  sha256,
  systemFiles,
} from "../resources/measure-fixture.ts";
import { connection, localSession } from "./approve-fixture.ts";

let node: MeasuredNode;
beforeEach(() => {
  node = new MeasuredNode({ ...bootFiles, ...systemFiles, ...deviceTree, "/usr/lib/edgeseal/measure": "" });
  mkdirSync(join(node.root, "run"));
});
afterEach(() => node[Symbol.dispose]());

const read = (which: WhichState) => readNode(connection, which, { session: localSession(node) });

describe("the next boot", () => {
  test("is read as the measuring program predicts it, with every text that has a digest", async () => {
    const { log, texts, pcr11 } = await read("next");
    const parsed = parseEventLog(log);
    expect(logObjections(parsed, "pi-1")).toEqual([]);
    expect(pcr11).toBeUndefined();
    const known = measuredTexts(texts);
    for (const event of parsed.events.filter(({ type }) =>
      ["tree", "cmdline", "devicetree"].includes(type),
    )) {
      expect(measuredText({ ...event, detail: "" }, known), event.type).toBeDefined();
    }
    expect(readdirSync(join(node.root, "run")), "nothing is left on the node").toEqual([]);
  });

  test("is what is then measured, and reads back as the current state", async () => {
    const predicted = parseEventLog((await read("next")).log);
    const tpm = new FakeTpm();
    await node.extend(tpm);
    node.write("/sys/class/tpm/tpm0/pcr-sha256/11", `${tpm.pcr11.toUpperCase()}\n`);
    const current = await read("current");
    expect(current.pcr11).toBe(tpm.pcr11);
    expect(pcr11Of(parseEventLog(current.log).events)).toBe(tpm.pcr11);
    expect(diffLogs(predicted.events, parseEventLog(current.log).events)).toEqual([]);
    expect(measuredTexts(current.texts).size).toBe(4);
  });

  test("of a file whose name is not plain is read as it is", async () => {
    node.write("/boot/firmware/über mich 100%.txt", "x");
    const { log } = await read("next");
    expect(parseEventLog(log).events).toContainEqual(expect.objectContaining({ name: "über mich 100%.txt" }));
  });
});

describe("an edit that waits for its trial", () => {
  const folder = "/var/lib/edgeseal/firmware-edit";
  const config = "auto_initramfs=1\narm_boost=1\n";
  beforeEach(() => {
    node.write(`${folder}/files/config.txt`, config);
    node.write(`${folder}/files.sha256`, `${sha256(config)}  ./config.txt\n`);
    node.write(`${folder}/from.sha256`, `${sha256(node.read("/boot/firmware/config.txt"))}  config.txt\n`);
    node.write(`${folder}/name`, "0123456789abcdef\n");
  });

  test("is told, is no part of the next boot, and is one of the boot after the trial", async () => {
    const next = await read("next");
    expect(next.staged).toBe(true);
    const after = await read("afterTrial");
    const [from, to] = [next, after].map(({ log }) => parseEventLog(log).events);
    expect(diffLogs(from ?? [], to ?? [])).toMatchObject([{ change: "changed", name: "config.txt" }]);
    node.write("/boot/firmware/config.txt", config);
    expect((await read("next")).log).toBe(after.log);
  });

  test.each<[string, () => void]>([
    ["is not there", () => node.remove(folder)],
    ["is not whole", () => node.write(`${folder}/files/config.txt`, "x=1\n")],
    ["is of other files", () => node.write("/boot/firmware/config.txt", "x=1\n")],
  ])("that %s is none", async (_, change) => {
    change();
    expect((await read("next")).staged).toBe(false);
  });
});

describe("a node", () => {
  test("without the program is told, and the session is closed", async () => {
    node.remove("/usr/lib/edgeseal/measure");
    const session = localSession(node);
    const reading = readNode(connection, "next", { session });
    await expect(reading).rejects.toThrow(DeviceError);
    await expect(reading).rejects.toThrow(
      /pi-1: the measuring program is not installed; declare measured boot/,
    );
    expect(session.closed).toBe(true);
  });

  test("whose boot was not measured is told", async () => {
    await expect(read("current")).rejects.toThrow(/this boot was not measured/);
  });

  test("without a TPM has no value", async () => {
    await node.extend(new FakeTpm());
    expect((await read("current")).pcr11).toBeUndefined();
  });

  test.each([
    ["is cut off", "", { code: 0, stdout: "", stderr: "" }, /incomplete/],
    ["is an error", "exit 7", undefined, /can't say what it measures/],
  ])("whose answer %s is no answer", async (_, log, result, message) => {
    const session = localSession(node);
    const run = session.run.bind(session);
    session.run = (script, options) =>
      result === undefined ? run(script.replaceAll("mktemp -d", log), options) : Promise.resolve(result);
    await expect(readNode(connection, "next", { session })).rejects.toThrow(message);
  });
});

describe("a trusted copy of the boot partition", () => {
  const copy = (): string => {
    const folder = join(node.root, "copy");
    cpSync(join(node.root, "boot/firmware"), folder, { recursive: true });
    return folder;
  };
  const check = async (folder: string) => {
    const { log, texts } = await read("next");
    return checkAgainstArtifacts(parseEventLog(log).events, texts, await artifactEvents(folder));
  };

  test("leads to the very events that the program reports", async () => {
    node.write("/boot/firmware/overlays-old/deep/er/x", "x");
    node.write("/boot/firmware/a.b", "1");
    node.write("/boot/firmware/a/b", "2");
    node.write("/boot/firmware/a b", "3");
    node.write("/boot/firmware/Z", "4");
    node.write("/boot/firmware/ü", "5");
    const { log } = await read("next");
    const reported = parseEventLog(log)
      .events.filter(({ type }) => type === "file" || type === "tree")
      .map(({ type, name, digest }) => ({ type, name, digest }));
    const { events } = await artifactEvents(copy());
    expect(events).toEqual(reported);
    expect(await check(copy())).toEqual({ differences: [], remarks: [], confirmed: reported.length });
  });

  test("shows what the device reports differently, by file", async () => {
    const folder = copy();
    node.write("/boot/firmware/kernel_2712.img", "implant");
    node.write("/boot/firmware/overlays/evil.dtbo", "x");
    node.write("/boot/firmware/autoboot.txt", "x");
    node.remove("/boot/firmware/bcm2712-rpi-5-b.dtb");
    const { differences, confirmed } = await check(folder);
    expect(differences.map(({ change, type, name }) => `${change} ${type} ${name}`)).toEqual([
      "added file autoboot.txt",
      "changed file kernel_2712.img",
      "changed tree overlays",
      "changed tree /",
      "removed file bcm2712-rpi-5-b.dtb",
    ]);
    expect(differences[2]?.entries).toEqual([
      expect.objectContaining({ change: "added", name: "overlays/evil.dtbo" }),
    ]);
    expect(confirmed).toBe(3);
  });

  test("shows a command line that does not come from its cmdline.txt", async () => {
    const folder = copy();
    const evil = "root=PARTUUID=4f1c-02 rootwait init=/bin/sh\n";
    node.write("/boot/firmware/cmdline.txt", `console=serial0,115200 ${evil}`);
    node.write("/proc/cmdline", `coherent_pool=1M  console=ttyAMA10,115200 ${evil}`);
    const { remarks } = await check(folder);
    expect(remarks).toEqual([
      expect.stringContaining("does not end with what cmdline.txt of the trusted copy has"),
    ]);
  });

  test("may be named in any way", async () => {
    const folder = copy();
    const { events } = await artifactEvents(folder);
    for (const name of [`${folder}/`, `${folder}/./overlays/..`, relative(process.cwd(), folder)]) {
      expect((await artifactEvents(name)).events).toEqual(events);
    }
  });

  test("is refused when it is empty, not there, or has something that FAT can't have", async () => {
    mkdirSync(join(node.root, "empty"));
    await expect(artifactEvents(join(node.root, "empty"))).rejects.toThrow(/has no file/);
    await expect(artifactEvents(join(node.root, "none"))).rejects.toThrow(/can't be read: ENOENT/);
    node.link("/copy/link", "/etc/passwd");
    await expect(artifactEvents(join(node.root, "copy"))).rejects.toThrow(/neither a file nor a folder/);
  });
});
