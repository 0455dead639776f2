import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";
import type { PartOutput } from "../../../provider/device/probe.ts";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { swap } from "../../../provider/resources/swap.ts";
import type { SwapState } from "../../../provider/resources/swap-observation.ts";
import { escapeForProcSwaps, unescapeOctal } from "../../../provider/resources/swap-signature.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const off = { mode: "off", leftoverFiles: "remove" } as const;
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const probe = swap.observe(off);

const swapsHeader = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
const meminfo = "MemTotal:        8064096 kB\nMemFree:         6000000 kB\nMemAvailable:    7168000 kB\n";

/** A swap file as mkswap leaves it on a kernel with pages of this size. */
function swapFile(pageSize = 4096): Buffer {
  const bytes = Buffer.alloc(pageSize * 2);
  bytes.write("SWAPSPACE2", pageSize - 10, "latin1");
  return bytes;
}

function bareRoot(): FakeRoot {
  const root = new FakeRoot();
  root.write("/proc/swaps", swapsHeader);
  root.write("/proc/meminfo", meminfo);
  root.write("/proc/mounts", "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\n");
  root.write(
    "/etc/fstab",
    "proc /proc proc defaults 0 0\nPARTUUID=4f1c-02 / ext4 defaults,noatime 0 1\n//nas/x /mnt cifs password=secret 0 0\n",
  );
  return root;
}

/** Raspberry Pi OS trixie as it boots: rpi-swap's zram with write-back to /var/swap. */
function trixieRoot(): FakeRoot {
  const root = bareRoot();
  root.write(
    "/proc/swaps",
    `${swapsHeader}/dev/zram0                              partition\t2097136\t\t1024\t\t100\n`,
  );
  root.write(
    "/etc/rpi/swap.conf",
    "#  This file is part of rpi-swap.\n[Main]\n#Mechanism=auto\n\n[File]\n#Path=/var/swap\n[Zram]\n",
  );
  root.write(
    "/usr/lib/systemd/zram-generator.conf.d/20-rpi-swap-zram0-ctrl.conf",
    "# Disable zram0 unless configuration explicitly requested\n[zram0]\nhost-memory-limit=0\nfs-type=none\n",
  );
  root.write(
    "/run/systemd/zram-generator.conf.d/20-rpi-swap-zram0-ctrl.conf",
    "[zram0]\nhost-memory-limit=none\nfs-type=swap\nwriteback-device=/dev/disk/by-backingfile/var-swap\n",
  );
  root.write("/run/systemd/generator/dev-zram0.swap", "[Swap]\nWhat=/dev/zram0\n");
  root.link("/run/systemd/generator/swap.target.wants/dev-zram0.swap", "../dev-zram0.swap");
  root.write("/run/systemd/generator/rpi-zram-writeback.timer", "[Timer]\nOnBootSec=180min\n");
  root.link(
    "/run/systemd/generator/timers.target.wants/rpi-zram-writeback.timer",
    "../rpi-zram-writeback.timer",
  );
  root.write("/sys/block/zram0/disksize", "2147483648\n");
  root.write("/sys/block/zram0/backing_dev", "/dev/loop0\n");
  root.write("/sys/block/loop0/loop/backing_file", "@ROOT/var/swap\n");
  root.write("/var/swap", swapFile(16384));
  return root;
}

/** Raspberry Pi OS bookworm as it boots: dphys-swapfile. */
function bookwormRoot(): FakeRoot {
  const root = bareRoot();
  root.write(
    "/proc/swaps",
    `${swapsHeader}@ROOT/var/swap                               file\t\t524272\t\t0\t\t-2\n`,
  );
  root.write(
    "/etc/dphys-swapfile",
    '# CONF_SWAPFILE=/var/other\nCONF_SWAPFILE="@ROOT/var/swap"\nCONF_SWAPSIZE=512\n',
  );
  root.write("/usr/lib/systemd/system/dphys-swapfile.service", "[Service]\n");
  root.link(
    "/etc/systemd/system/multi-user.target.wants/dphys-swapfile.service",
    "/lib/systemd/system/dphys-swapfile.service",
  );
  root.write("/var/swap", swapFile());
  return root;
}

/** A Debian with a swap file in fstab, and its unit as systemd-fstab-generator makes it. */
function debianRoot(): FakeRoot {
  const root = bareRoot();
  root.write(
    "/proc/swaps",
    `${swapsHeader}@ROOT/swapfile                          file\t\t1048572\t\t0\t\t-2\n`,
  );
  root.write(
    "/etc/fstab",
    "UUID=1 / ext4 defaults 0 1\n@ROOT/swapfile\tnone  swap sw 0 0\n#/old none swap sw 0 0\n",
  );
  root.write("/run/systemd/generator/swapfile.swap", "[Swap]\nWhat=/swapfile\n");
  root.link("/run/systemd/generator/swap.target.wants/swapfile.swap", "../swapfile.swap");
  root.write(
    "/on-reload",
    'rm -f "$ROOT"/run/systemd/generator/swapfile.swap "$ROOT"/run/systemd/generator/*/swapfile.swap\n',
  );
  root.write("/swapfile", swapFile());
  return root;
}

function stateOf(root: FakeRoot): SwapState {
  const observed = root.observe(probe);
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const planFor = (state: SwapState, inputs: Parameters<typeof swap.plan>[0] = off): readonly Step[] =>
  swap.plan(inputs, { outcome: "present", state }, route);

const clean: SwapState = {
  activeAreas: [],
  zramDevices: [],
  fstabEntries: [],
  swapUnits: [],
  rpiSwapMechanism: "none",
  swapFiles: [],
  rpiSwapSetBy: "/etc/rpi/swap.conf.d/zz-edgeseal.conf",
  maskedUnits: [],
  fstabCommentedOut: [],
};

describe("what the probe reads", () => {
  test("a node without swap", () => {
    using root = bareRoot();
    expect(stateOf(root)).toEqual({ ...clean, rpiSwapMechanism: "unset", rpiSwapSetBy: "" });
  });

  test("Raspberry Pi OS trixie: zram, its backing file, the units and rpi-swap's default", () => {
    using root = trixieRoot();
    expect(stateOf(root)).toEqual({
      ...clean,
      activeAreas: ["/dev/zram0"],
      zramDevices: [
        { device: "zram0", sizeBytes: 2147483648, backingDevice: "/dev/loop0", backingFile: "/var/swap" },
      ],
      swapUnits: ["dev-zram0.swap", "rpi-zram-writeback.timer"],
      rpiSwapMechanism: "unset",
      rpiSwapSetBy: "",
    });
  });

  test("a file in use is an area or a backing file, and left over once it is not", () => {
    using root = bookwormRoot();
    expect(stateOf(root)).toMatchObject({ activeAreas: ["/var/swap"], swapFiles: [] });
    root.write("/proc/swaps", swapsHeader);
    expect(stateOf(root)).toMatchObject({ activeAreas: [], swapFiles: ["/var/swap"] });
    using trixie = trixieRoot();
    trixie.write("/sys/block/zram0/backing_dev", "none\n");
    expect(stateOf(trixie)).toMatchObject({ swapFiles: ["/var/swap"] });
  });

  test("Raspberry Pi OS bookworm: dphys-swapfile", () => {
    using root = bookwormRoot();
    expect(stateOf(root)).toMatchObject({
      activeAreas: ["/var/swap"],
      swapUnits: ["dphys-swapfile.service"],
      swapFiles: [],
    });
  });

  test("a swap file in fstab, whose other lines stay on the device", () => {
    using root = debianRoot();
    expect(stateOf(root)).toMatchObject({
      activeAreas: ["/swapfile"],
      fstabEntries: ["/swapfile\tnone  swap sw 0 0"],
      swapUnits: ["swapfile.swap"],
      swapFiles: [],
    });
    using withPassword = bareRoot();
    expect(withPassword.sh(probe.parts["settings"] ?? "").stdout).not.toContain("secret");
  });

  test("zram that is still backed after its swap was turned off: `swapon` lists nothing", () => {
    using root = trixieRoot();
    root.write("/proc/swaps", swapsHeader);
    expect(stateOf(root)).toMatchObject({
      activeAreas: [],
      zramDevices: [{ device: "zram0", backingDevice: "/dev/loop0" }],
    });
  });

  test("zram that holds something else is not swap", () => {
    using root = bareRoot();
    root.write("/sys/block/zram0/disksize", "268435456\n");
    root.write("/sys/block/zram0/backing_dev", "none\n");
    expect(stateOf(root).zramDevices).toEqual([]);
  });

  test("a kernel without write-back has no backing_dev", () => {
    using root = bareRoot();
    root.write("/proc/swaps", `${swapsHeader}/dev/zram0 partition 1024 0 100\n`);
    root.write("/sys/block/zram0/disksize", "1048576\n");
    expect(stateOf(root).zramDevices).toEqual([
      { device: "zram0", sizeBytes: 1048576, backingDevice: "none", backingFile: "" },
    ]);
  });

  test("a masked unit does not start, and is reported as masked", () => {
    using root = bookwormRoot();
    root.link("/etc/systemd/system/dphys-swapfile.service", "/dev/null");
    expect(stateOf(root)).toMatchObject({ swapUnits: [], maskedUnits: ["dphys-swapfile.service"] });
  });

  test("a unit that nothing wants does not start; nor does a link whose unit is gone", () => {
    using root = bareRoot();
    root.write("/etc/systemd/system/lonely.swap", "[Swap]\nWhat=/dev/sda3\n");
    root.link("/etc/systemd/system/swap.target.wants/gone.swap", "/etc/systemd/system/gone.swap");
    expect(stateOf(root).swapUnits).toEqual([]);
  });

  test("what zram-generator is set to make at the next boot counts before it is made", () => {
    using root = bareRoot();
    root.write(
      "/etc/systemd/zram-generator.conf",
      "[zram0]\n\n[zram1]\nfs-type = ext4\nmount-point = /var/log\n",
    );
    expect(stateOf(root).swapUnits).toEqual(["dev-zram0.swap"]);
    root.link("/etc/systemd/system/dev-zram0.swap", "/dev/null");
    expect(stateOf(root).swapUnits).toEqual([]);
  });

  test.each([
    ["the main file", { "/etc/rpi/swap.conf": "[Main]\nMechanism=none\n" }, "none", "/etc/rpi/swap.conf"],
    ["another section", { "/etc/rpi/swap.conf": "[File]\nMechanism=none\n" }, "unset", ""],
    [
      "the drop-in that sorts last",
      {
        "/etc/rpi/swap.conf.d/80-a.conf": "[Main]\nMechanism=none\n",
        "/usr/lib/rpi/swap.conf.d/90-b.conf": "[Main]\nMechanism = zram\n",
      },
      "zram",
      "/usr/lib/rpi/swap.conf.d/90-b.conf",
    ],
    [
      "/etc over /usr/lib for one name",
      {
        "/etc/rpi/swap.conf.d/90-b.conf": "[Main]\nMechanism=none\n",
        "/usr/lib/rpi/swap.conf.d/90-b.conf": "[Main]\nMechanism=zram\n",
      },
      "none",
      "/etc/rpi/swap.conf.d/90-b.conf",
    ],
    [
      "an empty file that hides the vendor's",
      {
        "/etc/rpi/swap.conf.d/90-b.conf": "",
        "/usr/lib/rpi/swap.conf.d/90-b.conf": "[Main]\nMechanism=zram\n",
      },
      "unset",
      "",
    ],
    [
      "an empty value, which restores the default",
      {
        "/etc/rpi/swap.conf": "[Main]\nMechanism=none\n",
        "/etc/rpi/swap.conf.d/a.conf": "[Main]\nMechanism=\n",
      },
      "unset",
      "",
    ],
  ])("rpi-swap's mechanism: %s", (_name, files, mechanism, setBy) => {
    using root = bareRoot();
    for (const [path, content] of Object.entries(files)) root.write(path, content);
    expect(stateOf(root)).toMatchObject({ rpiSwapMechanism: mechanism, rpiSwapSetBy: setBy });
  });

  test("a masked drop-in (a link to /dev/null) hides the vendor's", () => {
    using root = bareRoot();
    root.write("/usr/lib/rpi/swap.conf.d/90-b.conf", "[Main]\nMechanism=zram\n");
    root.link("/etc/rpi/swap.conf.d/90-b.conf", "/dev/null");
    expect(stateOf(root).rpiSwapMechanism).toBe("unset");
  });

  test.each([4096, 8192, 16384, 65536])("a left-over swap file made with pages of %i bytes", (pageSize) => {
    using root = bareRoot();
    root.write("/swapfile", swapFile(pageSize));
    expect(stateOf(root).swapFiles).toEqual(["/swapfile"]);
  });

  test("a file without the signature, or with it elsewhere, is not a swap file", () => {
    using root = bareRoot();
    root.write("/swapfile", "holiday pictures");
    root.write(
      "/var/swapfile",
      Buffer.concat([Buffer.alloc(100), Buffer.from("SWAPSPACE2"), Buffer.alloc(9000)]),
    );
    root.link("/swap.img", "swapfile");
    expect(stateOf(root).swapFiles).toEqual([]);
  });

  test("rpi-swap's own file is one without a signature: zram's write-back leaves pages and no header", () => {
    using root = bareRoot();
    root.write("/var/swap", "pages of a process that read prompts");
    expect(stateOf(root).swapFiles).toEqual(["/var/swap"]);
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.exists("/var/swap")).toBe(false);
  });

  test("left-over files that only a configuration names are found: dphys-swapfile, rpi-swap, a line edgeseal commented out", () => {
    using root = bareRoot();
    root.write("/etc/dphys-swapfile", "CONF_SWAPFILE='@ROOT/var/a'\n");
    root.write("/etc/rpi/swap.conf", "[File]\nPath = @ROOT/var/b\n");
    root.write("/etc/fstab", "#edgeseal-swap-off# @ROOT/var/my\\040swap none swap sw 0 0\n");
    for (const name of ["a", "b", "my swap"]) root.write(`/var/${name}`, swapFile());
    expect(stateOf(root)).toMatchObject({
      swapFiles: ["/var/a", "/var/b", "/var/my swap"],
      fstabEntries: [],
      fstabCommentedOut: ["/var/my\\040swap none swap sw 0 0"],
    });
  });
});

describe("what it can't read is unknown, never absent", () => {
  const good = (root: FakeRoot): Record<string, PartOutput> =>
    Object.fromEntries(Object.entries(probe.parts).map(([name, script]) => [name, root.sh(script)]));

  test.each(Object.keys(probe.parts))("the part '%s' fails", (name) => {
    using root = bareRoot();
    const parts = { ...good(root), [name]: { code: 2, stdout: "", stderr: "Permission denied" } };
    expect(() => probe.parse(parts)).toThrow(UnknownObservation);
    expect(() => probe.parse(parts)).toThrow(
      `'${name}' failed on the device with exit status 2: Permission denied`,
    );
  });

  test.each(Object.keys(probe.parts))("the part '%s' is missing", (name) => {
    using root = bareRoot();
    const { [name]: _missing, ...parts } = good(root);
    expect(() => probe.parse(parts)).toThrow(`did not answer '${name}'`);
  });

  test("no /proc/swaps", () => {
    using root = bareRoot();
    root.remove("/proc/swaps");
    expect(() => stateOf(root)).toThrow("/proc/swaps");
  });

  test("no unit directories", () => {
    using root = bareRoot();
    root.remove("/etc/systemd");
    root.remove("/usr/lib/systemd");
    expect(() => stateOf(root)).toThrow("no systemd unit directory found");
  });

  test("a possible swap file that can't be read", () => {
    const output = "F /swapfile\n1:edgeseal-unreadable\n";
    using root = bareRoot();
    expect(() => probe.parse({ ...good(root), candidates: { code: 0, stdout: output, stderr: "" } })).toThrow(
      "/swapfile",
    );
  });

  test("garbage in a listing", () => {
    using root = bareRoot();
    const garbage = { code: 0, stdout: "sh: 1: whoops\n", stderr: "" };
    expect(() => probe.parse({ ...good(root), settings: garbage })).toThrow(UnknownObservation);
    expect(() => probe.parse({ ...good(root), units: garbage })).toThrow(UnknownObservation);
  });
});

describe("the plan leads to the desired state", () => {
  test.each([
    ["a bare node", bareRoot],
    ["trixie", trixieRoot],
    ["bookworm", bookwormRoot],
    ["Debian", debianRoot],
  ])("%s", (_name, make) => {
    using root = make();
    for (const step of planFor(stateOf(root))) root.apply(step);
    const after = stateOf(root);
    expect(diffState(swap.desired(off), after)).toEqual([]);
    expect(planFor(after)).toEqual([]);
  });

  test.each([
    ["trixie", trixieRoot],
    ["bookworm", bookwormRoot],
    ["Debian", debianRoot],
  ])("%s, interrupted after every step in turn: the next plan goes on from there", (_name, make) => {
    using fresh = make();
    const count = planFor(stateOf(fresh)).length;
    for (let done = 0; done < count; done++) {
      using root = make();
      for (const step of planFor(stateOf(root)).slice(0, done)) root.apply(step);
      for (const step of planFor(stateOf(root))) root.apply(step);
      expect(diffState(swap.desired(off), stateOf(root)), `after ${done} steps`).toEqual([]);
      expect(root.exists("/var/swap") || root.exists("/swapfile")).toBe(false);
    }
  });

  test("every step may run twice", () => {
    using root = trixieRoot();
    for (const step of planFor(stateOf(root))) {
      root.apply(step);
      if (root.holds(step)) root.apply(step);
    }
    expect(planFor(stateOf(root))).toEqual([]);
  });

  test("fstab keeps its other lines as they were", () => {
    using root = debianRoot();
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.read("/etc/fstab")).toBe(
      "UUID=1 / ext4 defaults 0 1\n#edgeseal-swap-off# /swapfile\tnone  swap sw 0 0\n#/old none swap sw 0 0\n",
    );
  });

  test("what the next boot does comes before what is in use now", () => {
    using root = trixieRoot();
    expect(planFor(stateOf(root)).map(({ title }) => title)).toEqual([
      "make the directory /etc/rpi",
      "make the directory for rpi-swap's drop-ins",
      "turn rpi-swap off",
      "keep units from starting that turn swap on: dev-zram0.swap, rpi-zram-writeback.timer",
      "turn off swap area /dev/zram0",
      "reset zram0 and detach its backing device /dev/loop0, and remove /var/swap",
    ]);
  });

  test("a unit file of the administrator's own in /etc is disabled, since it can't be masked", () => {
    using root = bareRoot();
    root.write("/etc/systemd/system/dev-sda3.swap", "[Swap]\nWhat=/dev/sda3\n");
    root.link("/etc/systemd/system/swap.target.wants/dev-sda3.swap", "/etc/systemd/system/dev-sda3.swap");
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.calls()).toEqual(["systemctl disable -- dev-sda3.swap"]);
    expect(root.read("/etc/systemd/system/dev-sda3.swap")).toContain("What=/dev/sda3");
    expect(stateOf(root).swapUnits).toEqual([]);
  });

  test("left-over files are kept when asked", () => {
    using root = bookwormRoot();
    const inputs = { ...off, leftoverFiles: "keep" } as const;
    for (const step of planFor(stateOf(root), inputs)) root.apply(step);
    expect(root.exists("/var/swap")).toBe(true);
    expect(planFor(stateOf(root), inputs)).toEqual([]);
    expect(planFor(stateOf(root))).toHaveLength(1);
  });

  test("mode keep changes nothing, and demands nothing", () => {
    using root = trixieRoot();
    const inputs = { ...off, mode: "keep" } as const;
    expect(swap.desired(inputs)).toEqual({});
    expect(planFor(stateOf(root), inputs)).toEqual([]);
  });

  test("a drop-in that is read after ours is refused by name, not fought with", () => {
    const state = { ...clean, rpiSwapMechanism: "zram", rpiSwapSetBy: "/etc/rpi/swap.conf.d/zzz-mine.conf" };
    expect(() => planFor(state)).toThrow(PlanRefused);
    expect(() => planFor(state)).toThrow(
      "/etc/rpi/swap.conf.d/zzz-mine.conf sets rpi-swap's Mechanism to 'zram'",
    );
  });
});

describe("what could destroy something checks first, on the device", () => {
  const destructive = (step: Step): boolean =>
    step.kind === "run" && /\brm -f -- |swapoff|\/reset|mv -f/.test(step.script);

  test.each([
    ["trixie", trixieRoot],
    ["bookworm", bookwormRoot],
    ["Debian", debianRoot],
  ])(
    "every such step of the plan for %s has a precondition, and it holds when nothing changed",
    (_name, make) => {
      using root = make();
      const steps = planFor(stateOf(root));
      expect(steps.filter(destructive).length).toBeGreaterThan(0);
      for (const step of steps) {
        if (destructive(step)) expect(step.precondition, step.title).toBeDefined();
        root.apply(step);
      }
    },
  );

  test("an area that is off by now is not turned off", () => {
    using root = bookwormRoot();
    const step = planFor(stateOf(root)).find(({ title }) => title.startsWith("turn off"));
    root.write("/proc/swaps", swapsHeader);
    expect(step && root.holds(step)).toBe(false);
  });

  test("too little memory: nothing is turned off, and the message says what to do", () => {
    using root = bookwormRoot();
    root.write("/proc/swaps", `${swapsHeader}@ROOT/var/swap file 2097148 1900000 -2\n`);
    root.write("/proc/meminfo", "MemTotal: 8064096 kB\nMemAvailable: 1900000 kB\n");
    const steps = planFor(stateOf(root));
    expect(() => steps.forEach((step) => root.apply(step))).toThrow(
      "too little memory to turn it off now: 1900000 KiB are in swap, 1900000 KiB of memory are available; stop a service, or reboot",
    );
    expect(root.calls().filter((call) => call.startsWith("swapoff"))).toEqual([]);
    expect(root.exists("/var/swap")).toBe(true);
    // What keeps it off after a boot was done before.
    expect(stateOf(root)).toMatchObject({ swapUnits: [], rpiSwapMechanism: "none" });
  });

  test("a swap file that was removed while in use: all else is mended, then the message asks for a reboot", () => {
    using root = bookwormRoot();
    root.write(
      "/proc/swaps",
      `${swapsHeader}@ROOT/var/swap\\040(deleted) file 524272 0 -2\n/dev/sda2 partition 8 0 -3\n`,
    );
    root.remove("/var/swap");
    expect(stateOf(root).activeAreas).toEqual(["/dev/sda2", "/var/swap (deleted)"]);
    const steps = planFor(stateOf(root));
    expect(() => steps.forEach((step) => root.apply(step))).toThrow(
      "/var/swap was removed while it was in use as swap, and without a name nothing can turn it off; reboot the node: swap is already kept from coming back",
    );
    expect(root.calls().filter((call) => call.startsWith("swapoff"))).toEqual(["swapoff -- /dev/sda2"]);
    expect(diffState(swap.desired(off), stateOf(root)).map(({ path }) => path)).toEqual(["activeAreas"]);
    expect(planFor(stateOf(root))).toHaveLength(1);
    // What the reboot leaves.
    root.write("/proc/swaps", swapsHeader);
    expect(planFor(stateOf(root))).toEqual([]);
  });

  test("a swap file that is really named so is turned off like any other", () => {
    using root = bareRoot();
    root.write("/proc/swaps", `${swapsHeader}@ROOT/var/my\\040(deleted) file 524272 0 -2\n`);
    root.write("/var/my (deleted)", swapFile());
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.calls()).toContain("swapoff -- /var/my (deleted)");
    expect(root.exists("/var/my (deleted)")).toBe(false);
  });

  test("a full swap is turned off when memory suffices", () => {
    using root = bookwormRoot();
    root.write("/proc/swaps", `${swapsHeader}@ROOT/var/swap file 2097148 1900000 -2\n`);
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.calls()).toContain("swapoff -- /var/swap");
  });

  test.each([
    ["became another file", (root: FakeRoot) => root.write("/swapfile", "thesis")],
    [
      "became a link",
      (root: FakeRoot) => {
        root.remove("/swapfile");
        root.write("/var/precious", swapFile());
        root.link("/swapfile", "var/precious");
      },
    ],
    [
      "is in use by now",
      (root: FakeRoot) => root.write("/proc/swaps", `${swapsHeader}@ROOT/swapfile file 8 0 -2\n`),
    ],
    ["is gone", (root: FakeRoot) => root.remove("/swapfile")],
  ])("a left-over file that %s is not removed", (_name, change) => {
    using root = bareRoot();
    root.write("/swapfile", swapFile());
    const step = planFor(stateOf(root)).find(({ title }) => title === "remove left-over swap file /swapfile");
    expect(step && root.holds(step)).toBe(true);
    change(root);
    expect(step && root.holds(step)).toBe(false);
  });

  test("the removal itself looks again: a file that was exchanged after the check stays", () => {
    using root = bareRoot();
    root.write("/swapfile", swapFile());
    const step = planFor(stateOf(root)).find(({ title }) => title === "remove left-over swap file /swapfile");
    root.write("/swapfile", "thesis");
    expect(step?.kind === "run" && root.sh(step.script).code).toBe(0);
    expect(root.read("/swapfile")).toBe("thesis");
  });

  test("a step that was killed over fstab leaves nothing that is in the way", () => {
    using root = debianRoot();
    root.write("/etc/.fstab.edgeseal-new", "half");
    for (const step of planFor(stateOf(root))) root.apply(step);
    expect(root.exists("/etc/.fstab.edgeseal-new")).toBe(false);
    expect(planFor(stateOf(root))).toEqual([]);
  });

  test("an active file that lost its signature is turned off and kept", () => {
    using root = debianRoot();
    const steps = planFor(stateOf(root));
    root.write("/swapfile", "not swap any more");
    for (const step of steps) root.apply(step);
    expect(root.exists("/swapfile")).toBe(true);
  });

  test("an fstab that somebody edited is left alone", () => {
    using root = debianRoot();
    const step = planFor(stateOf(root)).find(({ title }) => title.includes("fstab"));
    root.write("/etc/fstab", "UUID=1 / ext4 defaults 0 1\n@ROOT/swapfile none swap sw,pri=5 0 0\n");
    expect(step && root.holds(step)).toBe(false);
  });

  test.each([
    [
      "is swap again",
      (root: FakeRoot) => root.write("/proc/swaps", `${swapsHeader}/dev/zram0 partition 1024 0 100\n`),
    ],
    ["is mounted", (root: FakeRoot) => root.write("/proc/mounts", "/dev/zram0 /var/log ext4 rw 0 0\n")],
  ])("a zram device that %s is not reset", (_name, change) => {
    using root = trixieRoot();
    root.write("/proc/swaps", swapsHeader);
    const step = planFor(stateOf(root)).find(({ title }) => title.startsWith("reset zram0"));
    expect(step && root.holds(step)).toBe(true);
    change(root);
    expect(step && root.holds(step)).toBe(false);
  });
});

test("the law: there is a plan exactly when something differs", () => {
  let differing = 0;
  for (let seed = 1; seed <= 2000; seed++) {
    const choose = new Choices(seed);
    const state: SwapState = {
      ...clean,
      activeAreas: choose.mostly(
        [],
        ["/dev/zram0"],
        ["/swapfile"],
        ["/dev/sda2", "/var/my swap", "/var/swap (deleted)"],
      ),
      zramDevices: choose.mostly(
        [],
        [{ device: "zram0", sizeBytes: 1, backingDevice: "none", backingFile: "" }],
        [{ device: "zram1", sizeBytes: 1, backingDevice: "/dev/loop7", backingFile: "/var/swap" }],
      ),
      fstabEntries: choose.mostly(
        [],
        ["/swapfile none swap sw 0 0"],
        ["/a none swap sw 0 0", "/b'c none swap sw 0 0"],
      ),
      swapUnits: choose.mostly([], ["dphys-swapfile.service"], ["dev-zram0.swap", "swapspace.service"]),
      rpiSwapMechanism: choose.mostly("none", "unset", "auto", "zram"),
      rpiSwapSetBy: choose.mostly("", "/etc/rpi/swap.conf", "/etc/rpi/swap.conf.d/80-a.conf"),
      swapFiles: choose.mostly([], ["/swapfile"], ["/var/swap", "/var/my swap"]),
    };
    const inputs = {
      mode: choose.mostly("off" as const, "keep" as const),
      leftoverFiles: choose.mostly("remove" as const, "keep" as const),
    };
    const differences = diffState(swap.desired(inputs), state);
    const steps = planFor(state, inputs);
    expect(steps.length > 0, `seed ${seed}: ${JSON.stringify(state)}`).toBe(differences.length > 0);
    if (differences.length > 0) differing++;
    for (const step of steps) {
      for (const script of [step.precondition, step.kind === "run" ? step.script : undefined]) {
        if (script !== undefined && seed <= 40)
          expect(spawnSync("sh", ["-n", "-c", script]).status, script).toBe(0);
      }
    }
  }
  expect(differing).toBeGreaterThan(500);
  expect(differing).toBeLessThan(1900);
});

test("revert takes back what edgeseal set, and makes no swap file again", () => {
  using root = debianRoot();
  const fstab = root.read("/etc/fstab");
  for (const step of planFor(stateOf(root))) root.apply(step);
  for (const step of swap.revert(off, { outcome: "present", state: stateOf(root) })) root.apply(step);
  expect(root.read("/etc/fstab")).toBe(fstab);
  expect(stateOf(root)).toMatchObject({
    maskedUnits: [],
    rpiSwapMechanism: "unset",
    swapFiles: [],
    activeAreas: [],
  });
  const again = swap.revert(off, { outcome: "present", state: stateOf(root) });
  expect(again.map(({ kind }) => kind)).toEqual(["remove"]);
});

test("paths are escaped as the kernel does in /proc/swaps", () => {
  expect(escapeForProcSwaps("/a b\tc\\d")).toBe("/a\\040b\\011c\\134d");
  expect(unescapeOctal(escapeForProcSwaps("/a b\tc\\d"))).toBe("/a b\tc\\d");
});
