import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { diffLogs } from "../../../provider/trust/event-diff.ts";
import {
  eventText,
  formatEventLog,
  judgeReplay,
  logObjections,
  measuredTexts,
  parseEventLog,
  pcr11Of,
  type EventLog,
} from "../../../provider/trust/event-log.ts";
import { policyPcrDigest } from "../../../provider/trust/pcr-policy.ts";
import { extend } from "../../../provider/trust/pcr.ts";
import { findOnPath } from "../../../tools/doctor/program.ts";
import { softwareTpm } from "../trust/software-tpm.ts";
import {
  bootFiles,
  deviceTree,
  FakeTpm,
  MeasuredNode,
  onDevice,
  sha256,
  systemFiles,
} from "./measure-fixture.ts";

/** Busybox's tools by their own names, and nothing else. */
const busyboxTools = ((): string | undefined => {
  if (findOnPath("busybox") === undefined) return undefined;
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-busybox-"));
  spawnSync("busybox", ["--install", "-s", folder]);
  return folder;
})();
afterAll(() => {
  if (busyboxTools !== undefined) rmSync(busyboxTools, { recursive: true });
});

const shells = ["sh", "busybox"] as const;

function aNode(
  shell: (typeof shells)[number] = "sh",
  more: Readonly<Record<string, string | Uint8Array>> = {},
): MeasuredNode {
  const node = new MeasuredNode({ ...systemFiles, ...bootFiles, ...deviceTree, ...more });
  if (shell === "busybox" && busyboxTools !== undefined) {
    node.shell = [join(busyboxTools, "sh")];
    node.path = busyboxTools;
  }
  return node;
}

async function next(node: MeasuredNode): Promise<EventLog> {
  const { code, stdout, stderr } = await node.measure(["--next"]);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return parseEventLog(stdout);
}

/** A boot of the node, measured by the program, with a TPM that was reset. */
async function boot(node: MeasuredNode, tpm = new FakeTpm()): Promise<EventLog & { readonly pcr11: string }> {
  node.reboot();
  const { code, stderr } = await node.extend(tpm);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return { ...parseEventLog(node.read("/run/edgeseal/measured/log")), pcr11: tpm.pcr11 };
}

const changed = (from: EventLog, to: EventLog): readonly string[] =>
  diffLogs(from.events, to.events).map((each) => `${each.change} ${eventText(each)}`);

const listing = (files: Readonly<Record<string, string | Uint8Array>>, folder: string, prefix = ""): string =>
  Object.keys(files)
    .filter((path) => path.startsWith(`${folder}/`))
    .sort()
    .map((path) => `${sha256(files[path] ?? "")}  ${prefix}${path.slice(folder.length + 1)}\n`)
    .join("");

describe.for(shells)("with the tools of %s", (shell) => {
  test("what is measured, in its order, is what the documentation says", async (context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
    using node = aNode(shell);
    const { events, start } = await next(node);
    const file = (name: string) => ({
      type: "file",
      name,
      digest: sha256(bootFiles[`/boot/firmware/${name}`] ?? ""),
      detail: "",
    });
    const commandLine = "coherent_pool=1M  console=ttyAMA10,115200 root=PARTUUID=4f1c-02 rootwait";
    const leftOut =
      /chosen\/(bootargs|kaslr-seed|rng-seed|linux,initrd-|user-warnings|power\/|bootloader\/(rsts|count|arg1))|soc@/;
    const kept = Object.fromEntries(Object.entries(deviceTree).filter(([path]) => !leftOut.test(path)));
    expect(start).toBe("0".repeat(64));
    expect(events).toEqual([
      {
        type: "program",
        name: "",
        digest: sha256(spawnSync("cat", [onDevice("measure")]).stdout),
        detail: "",
      },
      { type: "node", name: "pi-1", digest: sha256("pi-1"), detail: "" },
      file("bcm2712-rpi-5-b.dtb"),
      file("cmdline.txt"),
      file("config.txt"),
      file("initramfs_2712"),
      file("kernel_2712.img"),
      {
        type: "tree",
        name: "overlays",
        digest: sha256(listing(bootFiles, "/boot/firmware/overlays", "overlays/")),
        detail: "",
      },
      {
        type: "tree",
        name: "/",
        digest: sha256(
          "bcm2712-rpi-5-b.dtb\ncmdline.txt\nconfig.txt\ninitramfs_2712\nkernel_2712.img\noverlays/\n",
        ),
        detail: "",
      },
      { type: "cmdline", name: "", digest: sha256(commandLine), detail: commandLine },
      { type: "devicetree", name: "", digest: sha256(listing(kept, "/proc/device-tree")), detail: "" },
    ]);
    expect(logObjections({ start, events }, "pi-1")).toEqual([]);
  });

  test("PCR 11 gets what the log says, and what was predicted", async (context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
    using node = aNode(shell);
    const predicted = await next(node);
    const tpm = new FakeTpm();
    const log = await boot(node, tpm);
    expect(log.events).toEqual(predicted.events);
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
    expect(tpm.commands).toHaveLength(1 + log.events.length);
    expect(tpm.commands[0]).toBe("8001000000140000017e00000001000b03000800");
    expect(tpm.commands[2]).toBe(
      `800200000041000001820000000b0000000940000009000000000000000001000b${sha256("pi-1")}`,
    );
    expect(node.read("/run/edgeseal/measured/timing")).toMatch(
      new RegExp(`^commands ${tpm.commands.length}$`, "m"),
    );
  });

  test("the texts of listings are kept under their digests, for a diff that names the file", async (context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
    using node = aNode(shell);
    const before = await boot(node);
    const texts = (): readonly string[] =>
      node.list("/run/edgeseal/measured/texts").map((name) => {
        const text = node.read(`/run/edgeseal/measured/texts/${name}`);
        expect(sha256(text)).toBe(name);
        return text;
      });
    const old = texts();
    node.write("/boot/firmware/overlays/README", "other overlays");
    node.write("/proc/device-tree/chosen/bootloader/tryboot", Buffer.from("00000001", "hex"));
    const after = await boot(node);
    const changes = diffLogs(before.events, after.events, measuredTexts([...old, ...texts()]));
    expect(
      changes.map(({ type, name, entries }) => [type, name, entries?.map((entry) => entry.name)]),
    ).toEqual([
      ["tree", "overlays", ["overlays/README"]],
      ["devicetree", "", ["chosen/bootloader/tryboot"]],
    ]);
  });

  test("names of every kind", async (context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
    using node = aNode(shell, {
      "/boot/firmware/.hidden": "h",
      "/boot/firmware/System Volume Information/WPSettings.dat": "w",
      "/boot/firmware/a  b": "two spaces",
      "/boot/firmware/100%.txt": "p",
      "/boot/firmware/grüße": "u",
      "/boot/firmware/a-b/x": "1",
      "/boot/firmware/a/x/y": "2",
    });
    const { events } = await next(node);
    const names = (type: string) => events.filter((event) => event.type === type).map(({ name }) => name);
    expect(names("file").filter((name) => !(`/boot/firmware/${name}` in bootFiles))).toEqual([
      ".hidden",
      "100%.txt",
      "a  b",
      "grüße",
    ]);
    expect(names("tree")).toEqual(["System Volume Information", "a-b", "a", "overlays", "/"]);
    expect(events.find(({ name }) => name === "a")?.digest).toBe(sha256(`${sha256("2")}  a/x/y\n`));
    expect((await boot(node)).events).toEqual(events);
  });

  test("a failure that can be told is an event of its own, and the rest is measured all the same", async (context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
    using node = aNode(shell, { "/boot/firmware/two\nlines": "x" });
    const tpm = new FakeTpm();
    const log = await boot(node, tpm);
    expect(logObjections(log, "pi-1")[0]).toMatch(
      /^boot-partition could not be measured: a file has a name that can not be listed/,
    );
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
    expect(log.events.some(({ name }) => name === "config.txt")).toBe(true);
    expect(log.events.filter(({ type }) => type === "failed")).toHaveLength(1);
  });

  test("the policy digest is that of the value that the log leads to", async (context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
    using node = aNode(shell);
    const log = await next(node);
    const { stdout, code } = await node.measure(["--policy"], { stdin: formatEventLog(log) });
    expect([stdout, code]).toEqual([`${policyPcrDigest(pcr11Of(log.events))}\n`, 0]);
    expect(await node.measure(["--policy"], { stdin: "no log\n" })).toMatchObject({ code: 1, stdout: "" });
  });
});

describe("with a TPM in software", () => {
  const start = softwareTpm();

  test("the real one takes the bytes, and has the value that the log leads to", async (context) => {
    const tpm = start(context);
    using node = aNode();
    const { code, stderr } = await node.extend((end) => {
      const socket = connect(join(tpm.folder, "socket"));
      end.pipe(socket).pipe(end);
    });
    expect([code, stderr]).toEqual([0, ""]);
    const log = parseEventLog(node.read("/run/edgeseal/measured/log"));
    expect(log.events).toHaveLength(11);
    const read = await tpm.run("tpm2_pcrread", "sha256:11");
    expect(/11: 0x([0-9A-F]{64})/.exec(read)?.[1]?.toLowerCase()).toBe(pcr11Of(log.events));
    expect(log.start).toBe("0".repeat(64));

    // The same TPM once more, as after a reboot that did not reset it.
    node.reboot();
    await node.extend((end) => {
      const socket = connect(join(tpm.folder, "socket"));
      end.pipe(socket).pipe(end);
    });
    const again = parseEventLog(node.read("/run/edgeseal/measured/log"));
    const value = /11: 0x([0-9A-F]{64})/.exec(await tpm.run("tpm2_pcrread", "sha256:11"))?.[1]?.toLowerCase();
    expect(again.start).toBe(pcr11Of(log.events));
    expect(judgeReplay(again, value ?? "")).toBe("power-cycle");
  });
});

describe("two boots", () => {
  test("untouched ones have equal values, whatever differs from boot to boot by itself", async () => {
    using node = aNode();
    const first = await boot(node);
    const perBoot: Readonly<Record<string, string>> = {
      "kaslr-seed": "8899aabbccddeeff",
      "rng-seed": "ff".repeat(64),
      "linux,initrd-start": "000000003da85000",
      "linux,initrd-end": "000000003efffff0",
      "linux,uefi-mmap-start": "00",
      "user-warnings": "",
      "power/power_reset": "00000002",
      "power/max_current": "00000bb8",
      "bootloader/rsts": "00001020",
      "bootloader/pm_rsts": "00001020",
      "bootloader/count": "00000002",
      "bootloader/arg1": "0000002a",
    };
    for (const [path, hex] of Object.entries(perBoot))
      node.write(`/proc/device-tree/chosen/${path}`, Buffer.from(hex, "hex"));
    node.write("/proc/uptime", "7.31 22.0\n");
    expect((await boot(node)).pcr11).toBe(first.pcr11);
  });

  test.each([
    ["the kernel", "/boot/firmware/kernel_2712.img", "changed file kernel_2712.img"],
    ["the initramfs", "/boot/firmware/initramfs_2712", "changed file initramfs_2712"],
    ["config.txt", "/boot/firmware/config.txt", "changed file config.txt"],
    ["an overlay", "/boot/firmware/overlays/tpm-slb9670.dtbo", "changed tree overlays"],
    ["the command line", "/proc/cmdline", "changed cmdline"],
    ["the node's name", "/etc/edgeseal/measure.conf", "added node pi-2"],
    ["the board", "/proc/device-tree/serial-number", "changed devicetree"],
    ["the boot mode", "/proc/device-tree/chosen/bootloader/boot-mode", "changed devicetree"],
    ["the partition", "/proc/device-tree/chosen/bootloader/partition", "changed devicetree"],
    ["a tryboot", "/proc/device-tree/chosen/bootloader/tryboot", "changed devicetree"],
    ["a HAT", "/proc/device-tree/hat/product", "changed devicetree"],
  ])("with %s changed have different values, and the log names it", async (_name, path, expected) => {
    using node = aNode();
    const first = await boot(node);
    node.write(path, path.endsWith("measure.conf") ? "NODE=pi-2\n" : "something else\n");
    const second = await boot(node);
    expect(second.pcr11).not.toBe(first.pcr11);
    expect(changed(first, second)[0]).toBe(expected);
  });

  test("a file that gets another name, in the same place of the order, makes another value", async () => {
    using node = aNode();
    const first = await boot(node);
    node.remove("/boot/firmware/initramfs_2712");
    node.write("/boot/firmware/initramfs_2711", "initramfs");
    const second = await boot(node);
    expect(
      first.events.map(({ digest }) => digest).filter((each, at) => second.events[at]?.digest !== each),
    ).toHaveLength(1);
    expect(second.pcr11).not.toBe(first.pcr11);
    expect(changed(first, second)).toContain("changed tree /");
  });

  test("two files that swap their contents make another value", async () => {
    using node = aNode();
    const first = await boot(node);
    node.write("/boot/firmware/kernel_2712.img", "initramfs");
    node.write("/boot/firmware/initramfs_2712", "kernel");
    expect((await boot(node)).pcr11).not.toBe(first.pcr11);
  });

  test("a TPM that was not reset is told by the log", async () => {
    using node = aNode();
    const tpm = new FakeTpm();
    const first = await boot(node, tpm);
    const second = await boot(node, tpm);
    expect(second.start).toBe(first.pcr11);
    expect(judgeReplay(second, tpm.pcr11)).toBe("power-cycle");
    expect(logObjections(second, "pi-1")).toHaveLength(1);
  });
});

describe("the prediction", () => {
  const cmdline = "/boot/firmware/cmdline.txt";

  /** As the firmware does at a boot: its own part, then cmdline.txt, with the device of serial0 in its place. */
  function firmware(node: MeasuredNode, tty = "ttyAMA10"): void {
    const own = (node.read(cmdline).split("\n")[0] ?? "")
      .trim()
      .replaceAll("console=serial0", `console=${tty}`);
    node.write("/proc/cmdline", `coherent_pool=1M  ${own}\n`);
  }

  test.each(["ttyAMA10", "ttyAMA0", "ttyS0"])(
    "knows what the firmware makes of a changed cmdline.txt, with serial0 for %s",
    async (tty) => {
      using node = aNode();
      firmware(node, tty);
      await boot(node);
      node.write(
        cmdline,
        "  console=serial0,115200 console=tty1 root=PARTUUID=4f1c-02 lsm=apparmor quiet \r\n# more\n",
      );
      const predicted = await next(node);
      firmware(node, tty);
      expect((await boot(node)).events).toEqual(predicted.events);
      expect(predicted.events.at(-2)?.detail).toBe(
        `coherent_pool=1M  console=${tty},115200 console=tty1 root=PARTUUID=4f1c-02 lsm=apparmor quiet`,
      );
    },
  );

  test("holds before the first measured boot, too, as long as cmdline.txt is what booted", async () => {
    using node = aNode();
    const predicted = await next(node);
    expect((await boot(node)).events).toEqual(predicted.events);
  });

  test("is none when cmdline.txt was changed and no measured boot has seen the old one", async () => {
    using node = aNode();
    node.write(cmdline, "quiet\n");
    expect(logObjections(await next(node), "pi-1")).toEqual([
      "cmdline could not be measured: cmdline.txt is another one than this boot had, and this boot was not measured: what the firmware adds to it is not known",
      "there is no 'cmdline' event",
    ]);
  });

  test("takes the command line as it is where the boot partition has no cmdline.txt", async () => {
    using node = aNode();
    node.remove(cmdline);
    expect((await next(node)).events.at(-2)?.detail).toBe(node.read("/proc/cmdline").trim());
  });

  test("follows os_prefix", async () => {
    using node = aNode("sh", {
      "/proc/device-tree/chosen/os_prefix": "current/\0",
      "/boot/firmware/config.txt":
        "[tryboot]\nos_prefix=new/\n[all]\nos_prefix=current/\r\ncmdline=cmdline.txt\n",
      "/boot/firmware/current/cmdline.txt": "root=/dev/mmcblk0p2",
      "/proc/cmdline": "coherent_pool=1M root=/dev/mmcblk0p2\n",
    });
    await boot(node);
    node.write("/boot/firmware/current/cmdline.txt", "root=/dev/mmcblk0p3");
    expect((await next(node)).events.at(-2)?.detail).toBe("coherent_pool=1M root=/dev/mmcblk0p3");
  });

  const anotherFile =
    "cmdline could not be measured: config.txt names another file of the command line (cmdline=), which is not predicted";
  const anotherFolder =
    "cmdline could not be measured: config.txt names another folder (os_prefix=) than this boot had, which is not predicted";

  describe.for(shells)("with the tools of %s", (shell) => {
    test.for([
      ["another file of the command line", { "config.txt": "[all]\n cmdline = other.txt\r\n" }, anotherFile],
      ["one for some boards", { "config.txt": "[pi5]\ncmdline=other.txt\n[all]\n" }, anotherFile],
      [
        "one in a file that it includes",
        { "config.txt": "include more.txt\n", "more.txt": "cmdline=other.txt" },
        anotherFile,
      ],
      ["another folder", { "config.txt": "os_prefix=next/\n" }, anotherFolder],
    ] as const)("is none where config.txt names %s", async ([, files, said], context) => {
      if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
      using node = aNode(shell, { "/boot/firmware/other.txt": "init=/bin/sh\n" });
      await boot(node);
      // As they are to be, and as they are.
      for (const folder of ["/edit", "/boot/firmware"]) {
        for (const [name, text] of Object.entries(files)) node.write(`${folder}/${name}`, text);
        const { stdout } = await node.measure(["--next", "--with", join(node.root, "edit")]);
        expect(logObjections(parseEventLog(stdout), "pi-1")).toEqual([said, "there is no 'cmdline' event"]);
      }
      expect(logObjections(await next(node), "pi-1")).toContain(said);
      // What is measured is what the kernel has.
      expect((await boot(node)).events.some(({ type }) => type === "cmdline")).toBe(true);
    });

    test("is none where config.txt names no folder any more", async (context) => {
      if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
      using node = aNode(shell, { "/proc/device-tree/chosen/os_prefix": "current/\0" });
      await boot(node);
      expect(logObjections(await next(node), "pi-1")).toContain(anotherFolder);
    });
  });

  test("takes the device tree as the initramfs saw it: a running system may add to it", async () => {
    using node = aNode();
    const measured = await boot(node);
    node.write("/proc/device-tree/chosen/overlays-loaded-at-run-time", "x");
    expect((await next(node)).events).toEqual(measured.events);
    // With the texts asked for, that of this event is still the measured one.
    node.write("/texts/keep", "");
    const kept = await node.measure(["--next", "--keep", join(node.root, "texts")]);
    expect(kept.stderr).toBe("");
    const digest = measured.events.at(-1)?.digest ?? "";
    expect(sha256(node.read(`/texts/${digest}`))).toBe(digest);
  });

  test("writes nothing", async () => {
    using node = aNode();
    const snapshot = (): string =>
      spawnSync("find", [node.root, "-printf", "%p %T@ %C@\\n"], { encoding: "utf8" }).stdout;
    const before = snapshot();
    await next(node);
    expect(snapshot()).toBe(before);
  });

  test("names the boot image that lies on the boot partition, where the firmware loaded one", async () => {
    const loaded = sha256("signed image 1");
    using node = aNode("sh", {
      "/boot/firmware/boot.img": "signed image 1",
      "/proc/device-tree/chosen/bootloader/boot_img_sha256": Buffer.concat([
        Buffer.from(loaded, "hex"),
        Buffer.alloc(32),
      ]),
    });
    const measured = await boot(node);
    const image = (log: EventLog) => log.events.find(({ type }) => type === "bootimage")?.digest;
    expect(image(measured)).toBe(loaded);
    expect(measured.events.map(({ type }) => type).slice(-3)).toEqual(["bootimage", "cmdline", "devicetree"]);
    node.write("/boot/firmware/boot.img", "signed image 2");
    const predicted = await next(node);
    expect(changed(measured, predicted)).toEqual(["changed file boot.img", "changed bootimage"]);
    expect(image(predicted)).toBe(sha256("signed image 2"));
  });

  test("no boot image is measured where the firmware reports zeros", async () => {
    using node = aNode("sh", { "/proc/device-tree/chosen/bootloader/boot_img_sha256": Buffer.alloc(64) });
    expect((await next(node)).events.some(({ type }) => type === "bootimage")).toBe(false);
  });
});

describe.each(shells)("the prediction with files that are not on the boot partition yet (%s)", (shell) => {
  beforeEach((context) => {
    if (shell === "busybox" && busyboxTools === undefined) context.skip("busybox is not installed");
  });

  const staged: Readonly<Record<string, string>> = {
    "cmdline.txt": "console=serial0,115200 root=PARTUUID=4f1c-02 rootwait quiet\n",
    "config.txt": "auto_initramfs=1\ndtparam=spi=on\n",
    "edgeseal-last-good/config.txt": "auto_initramfs=1\n",
  };
  const stage = (node: MeasuredNode, files: Readonly<Record<string, string>> = staged): string => {
    for (const [path, content] of Object.entries(files)) node.write(`/staged/${path}`, content);
    return join(node.root, "staged");
  };
  const predict = async (node: MeasuredNode): Promise<EventLog> => {
    const { code, stdout, stderr } = await node.measure(["--next", "--with", join(node.root, "staged")]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    return parseEventLog(stdout);
  };

  test("is what a boot with them measures, and changes nothing", async () => {
    using node = aNode(shell);
    await boot(node);
    stage(node);
    const before = await next(node);
    const predicted = await predict(node);
    expect(await next(node)).toEqual(before);
    expect(changed(before, predicted)).toEqual([
      "changed file cmdline.txt",
      "changed file config.txt",
      "added tree edgeseal-last-good",
      "changed tree /",
      "changed cmdline",
    ]);
    for (const [path, content] of Object.entries(staged)) node.write(`/boot/firmware/${path}`, content);
    node.write("/proc/cmdline", node.read("/proc/cmdline").replace("rootwait", "rootwait quiet"));
    expect((await boot(node)).events).toEqual(predicted.events);
  });

  test("knows no difference between upper and lower case, as a FAT does", async () => {
    using node = aNode(shell);
    node.write("/boot/firmware/CONFIG.TXT", node.read("/boot/firmware/config.txt"));
    node.remove("/boot/firmware/config.txt");
    await boot(node);
    stage(node, { "config.txt": "x=1\n" });
    const predicted = await predict(node);
    node.write("/boot/firmware/CONFIG.TXT", "x=1\n");
    expect((await boot(node)).events).toEqual(predicted.events);
  });

  test("follows os_prefix", async () => {
    using node = aNode(shell, {
      "/proc/device-tree/chosen/os_prefix": "good/\0",
      "/boot/firmware/config.txt": "os_prefix=good/\n",
      "/boot/firmware/good/cmdline.txt": "root=/dev/mmcblk0p2",
      "/proc/cmdline": "coherent_pool=1M root=/dev/mmcblk0p2\n",
    });
    await boot(node);
    stage(node, { "good/cmdline.txt": "root=/dev/mmcblk0p2 quiet" });
    expect((await predict(node)).events.at(-2)?.detail).toBe("coherent_pool=1M root=/dev/mmcblk0p2 quiet");
  });

  test.each<[string, (node: MeasuredNode) => void]>([
    ["are not there", () => undefined],
    ["are none", (node) => mkdirSync(join(node.root, "staged"))],
  ])("is none when they %s", async (_, change) => {
    using node = aNode(shell);
    await boot(node);
    change(node);
    const { stdout } = await node.measure(["--next", "--with", join(node.root, "staged")]);
    expect(logObjections(parseEventLog(stdout), "pi-1").join()).toContain("can not be read");
  });

  test("is none in the boot of a trial: its command line says what it is, and its device tree that the firmware was asked to try", async () => {
    using node = aNode(shell);
    const plain = await boot(node);
    stage(node);
    node.write(
      "/proc/cmdline",
      node.read("/proc/cmdline").replace("rootwait", "rootwait quiet edgeseal.trial=1"),
    );
    node.write("/proc/device-tree/chosen/bootloader/tryboot", Buffer.from("00000001", "hex"));
    const trial = await boot(node);
    expect(changed(plain, trial)).toEqual(["changed cmdline", "changed devicetree"]);
    expect(logObjections(await predict(node), "pi-1").join()).toContain("cmdline could not be measured");
  });
});

describe("a machine without a device tree", () => {
  test("measures that there is none", async () => {
    using node = new MeasuredNode({ ...systemFiles, ...bootFiles });
    expect((await boot(node)).events.at(-1)).toEqual({
      type: "devicetree",
      name: "",
      digest: sha256("none"),
      detail: "none",
    });
  });
});

describe("no failure leads to a value that could be approved, and none stops the boot", () => {
  const rc = (code: string): string => `80010000000a${code}`;

  /** The value of PCR 11 that an attacker wants: that of a boot without the fault. */
  async function wanted(): Promise<string> {
    using node = aNode();
    return (await boot(node)).pcr11;
  }

  test.each<[string, Record<number, string | undefined>]>([
    ["the TPM is not started", { 0: rc("00000100") }],
    ["the TPM gives no answer", { 0: undefined }],
    ["the SHA-256 bank is off", { 0: `80010000001c00000000000000160000000100040300000000000000` }],
    ["the answer is cut off", { 0: "80010000003e00000000000000160000" }],
  ])("PCR 11 can't be read: %s", async (_name, faults) => {
    using node = aNode();
    const tpm = new FakeTpm(faults);
    const { code, stderr } = await node.extend((end) => {
      tpm.serve(end);
      // What answers too little says no more.
      end.on("data", () => setImmediate(() => end.end()));
    });
    expect(code).toBe(1);
    expect(stderr).toContain("PCR 11 can't be read");
    expect(node.read("/run/edgeseal/measured/trouble")).toContain("PCR 11 can't be read");
    expect(tpm.pcr11).toBe("0".repeat(64));
    expect(node.list("/run/edgeseal/measured")).not.toContain("log");
  });

  test("an extend is refused: the rest is not measured, and should the TPM still take one, it is a failure", async () => {
    using node = aNode();
    // A failure of the fourth extend that leaves the connection open, as an answer of another length.
    const tpm = new FakeTpm({ 4: "800200000013000009220000000000000100ff" });
    const { code, stderr } = await node.extend(tpm);
    expect(code).toBe(1);
    expect(stderr).toContain("the TPM refused to extend PCR 11 for file cmdline.txt");
    const log = parseEventLog(node.read("/run/edgeseal/measured/log"));
    expect(log.events.map(eventText)).toEqual([
      "program",
      "node pi-1",
      "file bcm2712-rpi-5-b.dtb",
      "failed tpm",
    ]);
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
    expect(tpm.pcr11).not.toBe(await wanted());
  });

  test("the TPM goes away in the middle", async () => {
    using node = aNode();
    const tpm = new FakeTpm({ 6: undefined });
    expect((await node.extend(tpm)).code).toBe(1);
    expect(node.read("/run/edgeseal/measured/trouble")).toContain("refused to extend PCR 11");
    expect(parseEventLog(node.read("/run/edgeseal/measured/log")).events).toHaveLength(5);
    expect(tpm.pcr11).not.toBe(await wanted());
  });

  test("the boot partition is empty", async () => {
    using node = new MeasuredNode({ ...systemFiles, "/boot/firmware/x": "" });
    node.remove("/boot/firmware/x");
    const log = await boot(node);
    expect(logObjections(log, "pi-1")).toContain("boot-partition could not be measured: it is empty");
  });

  test("a file can't be read", async () => {
    using node = aNode();
    node.tool(
      "sha256sum",
      `for each; do case $each in *kernel*) broken=yes ;; esac; done\n/usr/bin/sha256sum "$@"; exit \${broken:+1}`,
    );
    const log = await boot(node);
    expect(logObjections(log, "pi-1")).toContain(
      "boot-partition could not be measured: not every file could be read",
    );
  });

  test("a folder can't be read", async () => {
    using node = aNode();
    node.tool("find", `/usr/bin/find "$@" ! -path './overlays/*'; case $1 in .) exit 1 ;; esac`);
    const tpm = new FakeTpm();
    node.reboot();
    await node.extend(tpm);
    const log = parseEventLog(node.read("/run/edgeseal/measured/log"));
    expect(logObjections(log, "pi-1")).toContain(
      "boot-partition could not be measured: not every file could be read",
    );
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
  });

  test("nothing can be hashed at all", async () => {
    using node = aNode();
    node.tool("sha256sum", "exit 1");
    const tpm = new FakeTpm();
    const { code } = await node.extend(tpm);
    expect(code).toBe(0);
    const log = parseEventLog(node.read("/run/edgeseal/measured/log"));
    expect(log.events.every(({ type }) => type === "failed")).toBe(true);
    expect(tpm.pcr11).not.toBe("0".repeat(64));
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
  });

  test("the configuration names no node", async () => {
    using node = aNode("sh", { "/etc/edgeseal/measure.conf": "" });
    expect(logObjections(await boot(node), "")).toContain(
      "node could not be measured: the configuration names no node",
    );
  });

  test("a second run in one boot extends nothing", async () => {
    using node = aNode();
    const tpm = new FakeTpm();
    const { pcr11 } = await boot(node, tpm);
    const second = await node.extend(tpm);
    expect(second.code).toBe(1);
    expect(second.stderr).toContain("this boot is measured already");
    expect(tpm.pcr11).toBe(pcr11);
  });

  test("outside an initramfs of ours it extends nothing", () => {
    const { status, stderr } = spawnSync("sh", [onDevice("measure"), "--extend", "--tpm", "/nonexistent"], {
      encoding: "utf8",
    });
    expect(status).toBe(1);
    expect(stderr).toContain("this is no initramfs of edgeseal");
  });
});

describe("before the initramfs gives a shell", () => {
  const spoil = (node: MeasuredNode, tpm: FakeTpm) =>
    node.measure(["--spoil", "--tpm", "-"], { serve: tpm.serve });

  test("in a boot with an approved state, that value goes, and the log says why", async () => {
    using node = aNode();
    const tpm = new FakeTpm();
    const { pcr11 } = await boot(node, tpm);
    expect((await spoil(node, tpm)).code).toBe(0);
    expect(tpm.pcr11).toBe(extend(pcr11, sha256("failed")));
    const log = parseEventLog(node.read("/run/edgeseal/measured/log"));
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
    expect(logObjections(log, "pi-1")).toEqual(["shell could not be measured: the initramfs gave a shell"]);
  });

  test("a second shell in one boot changes nothing more", async () => {
    using node = aNode();
    const tpm = new FakeTpm();
    await boot(node, tpm);
    await spoil(node, tpm);
    const spoilt = tpm.pcr11;
    expect((await spoil(node, tpm)).code).toBe(0);
    expect(tpm.pcr11).toBe(spoilt);
    expect(judgeReplay(parseEventLog(node.read("/run/edgeseal/measured/log")), spoilt)).toBe("consistent");
  });

  test("one before the measuring (break=top) leaves no zeros to start from, and the boot is not measured", async () => {
    using node = aNode();
    const tpm = new FakeTpm();
    expect((await spoil(node, tpm)).code).toBe(0);
    expect(tpm.pcr11).toBe(extend("0".repeat(64), sha256("failed")));
    expect((await node.extend(tpm)).stderr).toContain("this boot is measured already");
    const log = parseEventLog(node.read("/run/edgeseal/measured/log"));
    expect(judgeReplay(log, tpm.pcr11)).toBe("consistent");
    expect(log.events.map(eventText)).toEqual(["failed shell"]);
  });

  test("a TPM that refuses is told, and asked again before the next shell", async () => {
    using node = aNode();
    await boot(node);
    const refusing = await spoil(node, new FakeTpm({ 0: "80010000000a00000922" }));
    expect(refusing.code).toBe(1);
    expect(node.read("/run/edgeseal/measured/trouble")).toContain("before a shell");
    const tpm = new FakeTpm();
    expect((await spoil(node, tpm)).code).toBe(0);
    expect(tpm.pcr11).not.toBe("0".repeat(64));
  });
});

describe("what an initramfs has to know", () => {
  test.each([
    [
      "Raspberry Pi OS",
      "proc /proc proc defaults 0 0\nPARTUUID=4f1c-01  /boot/firmware  vfat  defaults  0 2\n",
      "PARTUUID=4f1c-01",
      "/boot/firmware",
    ],
    [
      "one that was upgraded from bullseye",
      "PARTUUID=4f1c-01 /boot vfat defaults 0 2\n",
      "PARTUUID=4f1c-01",
      "/boot",
    ],
    [
      "a Debian with /boot beside it",
      "UUID=1 /boot ext4 defaults 0 2\nLABEL=RASPIFIRM /boot/firmware vfat rw 0 2\n",
      "LABEL=RASPIFIRM",
      "/boot/firmware",
    ],
    [
      "both of them on FAT",
      "UUID=1 /boot/firmware vfat rw 0 2\nUUID=2 /boot vfat rw 0 2\n",
      "UUID=1",
      "/boot/firmware",
    ],
  ])("with the fstab of %s", async (_name, fstab, source, folder) => {
    using node = aNode("sh", { "/etc/fstab": fstab });
    const { code, stdout } = await node.measure(["--conf"]);
    expect(stdout).toBe(`NODE=pi-1\nBOOT_SOURCE=${source}\nBOOT_FOLDER=${folder}\n`);
    expect(code).toBe(0);
  });

  test.each([
    [
      "no line for the boot partition",
      { "/etc/fstab": "#PARTUUID=1 /boot/firmware vfat defaults 0 2\nUUID=1 /boot ext4 defaults 0 2\n" },
    ],
    ["no node", { "/etc/edgeseal/measure.conf": "" }],
  ])("with %s there is nothing to build from", async (_name, files) => {
    using node = aNode("sh", files);
    expect((await node.measure(["--conf"])).code).toBe(1);
  });
});

test("an argument that it does not know is no measurement", async () => {
  using node = aNode();
  expect((await node.measure(["--nxet"])).code).toBe(2);
  expect((await node.measure([])).code).toBe(2);
  expect(spawnSync("sh", [onDevice("measure"), "--next", "--root"]).status).toBe(2);
});
