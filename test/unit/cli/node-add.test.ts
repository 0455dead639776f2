import {
  chmodSync,
  lstatSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { parse } from "yaml";
import { Interrupted } from "../../../cli/ask.ts";
import { addNode } from "../../../cli/node-add/add.ts";
import { endorsementPart, hostPart } from "../../../cli/node-add/comparison.ts";
import type { AddOptions } from "../../../cli/node-add/options.ts";
import { parseSite } from "../../../components/site-file/read.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import { fingerprint } from "../../../provider/device/host-key.ts";
import { hostKey } from "../site/site-text.ts";
import { testKey } from "../trust/keys.ts";
import {
  aReading,
  aWorld,
  ecdsaHostKey,
  endorsementKey,
  otherHostKey,
  rootDisk,
  shownKey,
  type FakeWorld,
} from "./node-add-fixture.ts";
import { scratchFolder } from "./scratch.ts";

const scratch = scratchFolder();
const address = "192.168.10.21";
const line = `${hostPart(shownKey)} ${endorsementPart(endorsementKey) ?? ""}`;

let printed: string[];
let told: string[];
beforeEach(() => {
  printed = [];
  told = [];
  vi.spyOn(console, "log").mockImplementation((text: string) => void printed.push(text));
  vi.spyOn(console, "error").mockImplementation((text: string) => void told.push(text));
  process.exitCode = undefined;
});
afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

const exitCode = (): number => Number(process.exitCode ?? 0);
const add = (options: AddOptions, world: FakeWorld = aWorld()) => addNode(address, options, world);
const output = (): string => `${printed.join("\n")}\n`;

const plant = `# The plant
site: plant
defaults:
  user: ops   # who may sudo
  port: 2222
  identityFile: ~/.ssh/plant
  firewall: { management: [192.168.10.0/24] }

nodes:
  - name: pi-1
    address: 192.168.10.11
    hostKey: ${otherHostKey}
    # swap: { mode: keep }

waivers: []
`;
const site = (text = plant): string => {
  writeFileSync(scratch("plant.yaml"), text);
  return scratch("plant.yaml");
};
const siteNow = (): string => readFileSync(scratch("plant.yaml"), "utf8");

describe("a host key is never trusted for being the first", () => {
  test("without a terminal, and with nothing expected, nothing is even asked for", async () => {
    const world = aWorld();
    await expect(add({}, world)).rejects.toThrow(/no terminal for a person to compare/);
    expect(exitCode()).toBe(4);
    expect(world.did).toEqual([]);
  });

  test.each([["no"], [""], ["y"], ["ja"]])("when a person types %j, it stays at that", async (types) => {
    const world = aWorld({ types });
    await expect(add({ site: site(), name: "pi-2" }, world)).rejects.toThrow(
      /was not compared: nothing was sent/,
    );
    expect(exitCode()).toBe(4);
    expect(world.did).not.toContain("read");
    expect(siteNow()).toBe(plant);
  });

  test.each([
    ["another fingerprint", { hostKey: fingerprint(Buffer.from("x")) }],
    ["another key", { hostKey: otherHostKey }],
    ["another check line", { expect: line.replace(/^.{4}/, "0000") }],
    ["one right, and one wrong", { hostKey, expect: line.replace(/^.{4}/, "0000") }],
  ])("when %s is expected, nothing is sent, and nothing is written", async (_, expected) => {
    const world = aWorld();
    const adding = add({ site: site(), name: "pi-2", ...expected }, world);
    await expect(adding).rejects.toThrow(/is not the expected one: expected .*, shown ssh-ed25519 SHA256:/);
    expect(exitCode()).toBe(5);
    expect(world.did.filter((what) => !what.startsWith("scan"))).toEqual([]);
    expect(siteNow()).toBe(plant);
  });

  test("when what a person types is of another key, likewise", async () => {
    const world = aWorld({ types: hostPart({ type: "", blob: Buffer.from("x") }) });
    await expect(add({}, world)).rejects.toThrow(/not the expected one: expected what you typed/);
    expect(exitCode()).toBe(5);
    expect(world.did).not.toContain("read");
  });

  test.each([
    ["the fingerprint", { hostKey: fingerprint(shownKey.blob) }],
    ["the key", { hostKey: `${hostKey} root@pi` }],
    ["the check line", { expect: line }],
    ["the check line's first part", { expect: hostPart(shownKey) }],
  ])("%s of the device lets it be read, over a connection that has its key pinned", async (_, expected) => {
    const world = aWorld();
    await add(expected, world);
    expect(exitCode()).toBe(0);
    expect(world.connection?.hostKey).toBe(hostKey);
  });

  test("when another device answers after the comparison, the status says so", async () => {
    const world: FakeWorld = {
      ...aWorld(),
      read: () =>
        Promise.reject(
          new DeviceError("hostKeyMismatch", "pi-2", "the host key is not the pinned one", { hint: "look" }),
        ),
    };
    await expect(add({ site: site(), name: "pi-2", expect: line }, world)).rejects.toThrow(
      /not the pinned one/,
    );
    expect(exitCode()).toBe(5);
    expect(siteNow()).toBe(plant);
  });

  test("a person is shown what to compare, and with what", async () => {
    const world = aWorld({ types: "yes" });
    await add({}, world);
    const [, question] = world.did;
    for (const shown of [
      "ssh-ed25519",
      fingerprint(shownKey.blob),
      hostPart(shownKey),
      "sudo sh first-contact",
    ])
      expect(question).toContain(shown);
  });

  test("the key of another type than the first may be the expected one", async () => {
    const world = aWorld({ keys: [hostKey, ecdsaHostKey] });
    const blob = Buffer.from(ecdsaHostKey.split(" ")[1] ?? "", "base64");
    await add({ hostKey: fingerprint(blob) }, world);
    expect(world.connection?.hostKey).toBe(ecdsaHostKey);
  });
});

describe("the TPM", () => {
  test("that is not the one of the check line is refused, and nothing is written", async () => {
    const other = `${hostPart(shownKey)} ${endorsementPart("ab".repeat(32)) ?? ""}`;
    await expect(add({ site: site(), name: "pi-2", expect: other })).rejects.toThrow(
      /the TPM is not the one of the check line/,
    );
    expect(exitCode()).toBe(5);
    expect(siteNow()).toBe(plant);
  });

  test("is pinned where the site has keys to own it for", async () => {
    const keys = { "policy.pem": testKey("policy"), "recovery.pem": testKey("recovery") };
    for (const [name, key] of Object.entries(keys)) writeFileSync(scratch(name), key.publicKeyPem);
    const text = plant.replace(
      "defaults:",
      "trust: { policyKey: policy.pem, recoveryKey: recovery.pem }\ndefaults:",
    );
    await add({ site: site(text), name: "pi-2", expect: line });
    expect((parse(siteNow()) as { nodes: object[] }).nodes[1]).toMatchObject({
      tpm: { endorsementKeySha256: endorsementKey },
    });
  });

  test("is kept in a comment where there are none", async () => {
    await add({ expect: line });
    expect(output()).toContain(`  # tpm: { endorsementKeySha256: ${endorsementKey} }`);
  });

  test("that did not tell its key is named with the reason, and compared with no check line that has one", async () => {
    const identity = { ...aReading().identity, endorsementKey: undefined, trouble: "response code 00000922" };
    const reading = aReading({ identity });
    await add({ hostKey }, aWorld({ reading }));
    expect(told.join("\n")).toContain("endorsement key not read: response code 00000922");
    await expect(add({ expect: line }, aWorld({ reading }))).rejects.toThrow(
      /did not tell its endorsement key/,
    );
  });
});

describe("the block", () => {
  test("is standard output, and all else is not", async () => {
    await add({ expect: line, user: "pi", port: 2022, identityFile: "~/.ssh/x" });
    const [node] = parse(output()) as object[];
    expect(node).toEqual({
      name: "raspberrypi",
      address,
      port: 2022,
      user: "pi",
      identityFile: "~/.ssh/x",
      hostKey,
    });
    expect(printed[1]).toBe(
      "  # Raspberry Pi 5 Model B Rev 1.0, 8 GiB, Debian GNU/Linux 13 (trixie), arm64; first contact 2027-01-15",
    );
    expect(told[0]).toContain(`raspberrypi at ${address}:2022`);
  });

  test("says where volumes could go, in comments that hold as they stand", async () => {
    await add({ expect: line });
    const commented = printed.slice(printed.findIndex((text) => text.includes("# volumes:")));
    expect(parse(commented.map((text) => text.replace("  # ", "")).join("\n"))).toEqual({
      volumes: {
        models: { device: "/dev/disk/by-id/nvme-Samsung_SSD_980_S64", mountPoint: "/srv/models" },
        logs: { device: { disk: "/dev/disk/by-id/mmc-SD64G_0x1", sizeMiB: 4096 }, mountPoint: "/srv/logs" },
      },
    });
  });

  test("says nothing of volumes where there is no room", async () => {
    const reading = aReading({ disks: [{ ...rootDisk, unallocatedMiB: [] }] });
    await add({ expect: line }, aWorld({ reading }));
    expect(output()).not.toContain("volumes");
    expect(told.join("\n")).toContain("no disk is blank");
  });

  test("has no text of the device that could be more than a comment", async () => {
    const system = {
      ...aReading().system,
      operatingSystem: "x\u2028evil: true\u001b[2J",
      hostName: "Desk_Pi #1.local",
    };
    await add({ expect: line }, aWorld({ reading: aReading({ system }) }));
    expect(parse(output())).toEqual([{ name: "desk-pi-1", address, hostKey }]);
    expect(output() + told.join("\n")).not.toMatch(/\u001b|\u2028/);
  });

  test("as JSON has everything, and asks nothing", async () => {
    const world = aWorld({ types: "yes" });
    await add({ expect: line, json: true }, world);
    const read = JSON.parse(output()) as Record<string, unknown>;
    expect(read).toMatchObject({
      node: { name: "raspberrypi", address, port: 22, user: "edgeseal", hostKey },
      fingerprint: fingerprint(shownKey.blob),
      compared: "--expect",
      endorsementKeySha256: endorsementKey,
      endorsementKeyCompared: true,
      wrote: false,
    });
    expect(parse(read["block"] as string)).toEqual([{ name: "raspberrypi", address, hostKey }]);
    expect(told).toEqual([]);
    expect(world.did.some((what) => what.startsWith("ask"))).toBe(false);
  });
});

describe("a site file", () => {
  test("gets the node behind its last one, and is otherwise as it was", async () => {
    await add({ site: site(), name: "pi-2", expect: line });
    const text = siteNow();
    const added = text.slice(text.indexOf("  - name: pi-2"), text.indexOf("\nwaivers"));
    expect(text.replace(added, "")).toBe(plant);
    expect(text.indexOf(added)).toBeGreaterThan(text.indexOf("# swap: { mode: keep }"));
    const [, node] = parseSite(scratch("plant.yaml"), text).nodes;
    expect(node).toMatchObject({ name: "pi-2", address, hostKey, user: "ops", port: 2222 });
    // What defaults give is not said again.
    expect(added).not.toMatch(/port|user|identityFile/);
    expect(printed).toEqual([`added node pi-2 to ${scratch("plant.yaml")}`]);
  });

  test("says how the device is reached, unless options say otherwise", async () => {
    const world = aWorld();
    await add({ site: site(), name: "pi-2", expect: line }, world);
    expect(world.connection).toMatchObject({ user: "ops", port: 2222, identityFile: "~/.ssh/plant" });
    await add({ site: site(), name: "pi-2", expect: line, port: 22, user: "pi" }, world);
    expect(world.connection).toMatchObject({ user: "pi", port: 22, identityFile: "~/.ssh/plant" });
    expect(parseSite(scratch("plant.yaml"), siteNow()).nodes[1]).toMatchObject({ user: "pi", port: 22 });
  });

  test("with a key in Pulumi configuration or by a command lets a file come before it, for this node", async () => {
    const text = plant.replace(
      "identityFile: ~/.ssh/plant",
      "privateKey: { config: sshKey }\n  identityCommand: pass edge",
    );
    const world = aWorld();
    await add({ site: site(text), name: "pi-2", expect: line, identityFile: "~/.ssh/mine" }, world);
    expect(world.connection).not.toHaveProperty("privateKey");
    const [, node] = parseSite(scratch("plant.yaml"), siteNow()).nodes;
    expect(node).toMatchObject({ identityFile: "~/.ssh/mine" });
    expect(node).not.toHaveProperty("privateKey");
    expect(node).not.toHaveProperty("identityCommand");
  });

  test.each([
    ["the name of another node", { name: "pi-1" }, /has a node pi-1 already/],
    ["a name that is none", { name: "Pi 2" }, /name: /],
  ])("is not asked to take %s: nothing is asked for then", async (_, options, why) => {
    const world = aWorld();
    await expect(add({ site: site(), expect: line, ...options }, world)).rejects.toThrow(why);
    expect(world.did).toEqual([]);
    expect(siteNow()).toBe(plant);
  });

  test("does not take a second node at one address and port, however they are written", async () => {
    const taken = site(plant.replace("192.168.10.11", address));
    await expect(add({ site: taken, name: "pi-2", expect: line })).rejects.toThrow(
      /has a node at 192.168.10.21:2222 already: pi-1/,
    );
    await add({ site: taken, name: "pi-2", expect: line, port: 22 });
    expect(siteNow()).toContain("pi-2");
  });

  test("with faults is refused with all of them, before anything", async () => {
    const world = aWorld();
    const adding = add(
      { site: site(plant.replace("site: plant", "site: Plant\nsitee: x")), name: "pi-2" },
      world,
    );
    await expect(adding).rejects.toThrow(/plant.yaml:2:\d+: site: .*\n.*sitee/);
    expect(world.did).toEqual([]);
  });

  test("that is not there is told, with what to do", async () => {
    await expect(add({ site: scratch("none.yaml"), name: "pi-2" })).rejects.toThrow(
      /none.yaml can't be read: ENOENT/,
    );
  });

  test("that somebody changed while somebody compared keeps that change", async () => {
    const file = site();
    const meanwhile = (): void => writeFileSync(file, plant.replace("# The plant", "# The new plant"));
    await add({ site: file, name: "pi-2" }, aWorld({ types: "yes", meanwhile }));
    expect(siteNow()).toMatch(/^# The new plant\n[^]*name: pi-2/);
  });

  test("that somebody gave the same node meanwhile is not written", async () => {
    const file = site();
    const meanwhile = (): void => writeFileSync(file, plant.replaceAll("pi-1", "pi-2"));
    const adding = add({ site: file, name: "pi-2" }, aWorld({ types: "yes", meanwhile }));
    await expect(adding).rejects.toThrow(/expected a name of its own, got "pi-2"/);
    expect(siteNow()).toBe(plant.replaceAll("pi-1", "pi-2"));
  });

  test("keeps its mode, and stays where a symbolic link leads to; nothing else is left", async () => {
    const file = site();
    chmodSync(file, 0o640);
    symlinkSync(file, scratch("link.yaml"));
    await add({ site: scratch("link.yaml"), name: "pi-2", expect: line });
    expect(lstatSync(scratch("link.yaml")).isSymbolicLink()).toBe(true);
    expect(statSync(file).mode & 0o777).toBe(0o640);
    expect(siteNow()).toContain("pi-2");
    expect(readdirSync(scratch("."))).toEqual(["link.yaml", "plant.yaml"]);
  });

  test("without a node yet gets its first one", async () => {
    await add({ site: site("site: plant # new\nnodes: []\n"), name: "pi-1", expect: line });
    expect(parseSite(scratch("plant.yaml"), siteNow()).nodes).toHaveLength(1);
    expect(siteNow()).toContain("# new");
  });

  test("is only shown with --dry-run", async () => {
    await add({ site: site(), name: "pi-2", expect: line, dryRun: true });
    expect(siteNow()).toBe(plant);
    expect(parse(output())).toEqual([{ name: "pi-2", address, hostKey }]);
    expect(told.at(-1)).toContain("nothing was written");
  });
});

describe("what is missing", () => {
  const missing = () =>
    told.slice(told.indexOf("What the checklist still asks for (docs/checklist.md):")).join("\n");

  test("is told for each of the nine points", async () => {
    await add({ expect: line });
    expect(
      missing()
        .match(/^\d .+$/gm)
        ?.map((heading) => heading[0]),
    ).toEqual(["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
  });

  test("is what the device does not have, and what the site does not declare", async () => {
    const blocks = {
      swap: {
        activeAreas: ["/dev/zram0"],
        zramDevices: [],
        fstabEntries: [],
        swapUnits: [],
        rpiSwapMechanism: "unset",
        swapFiles: [],
        rpiSwapSetBy: "",
        maskedUnits: [],
        fstabCommentedOut: [],
      },
    };
    const identity = { ...aReading().identity, tpm: "none" as const, endorsementKey: "none" };
    const reading = aReading({ blocks, identity, disks: [{ ...rootDisk, unallocatedMiB: [] }] });
    await add({ expect: `${hostPart(shownKey)} no-tpm` }, aWorld({ reading }));
    expect(missing()).toMatch(/1 Boot[^]*drives no TPM: fit a TPM 2.0[^]*\n2 Model[^]*no disk is blank/);
    expect(missing()).toMatch(
      /3.swap-off: on the device: violation, \/dev\/zram0 in use.*\n +it is declared, so `pulumi up` sees to it/,
    );
    expect(missing()).toMatch(
      /5.default-deny: on the device: .*\n +as declared: violation, the node has no `firewall` block.*\n +mend: /,
    );
    expect(missing()).toMatch(/no resource serves yet, so it takes a waiver: 7.prompts-sanitized/);
  });
});

test("an interruption ends what is under way, and nothing is written", async () => {
  const world: FakeWorld = {
    ...aWorld(),
    read: (_connection, options) =>
      new Promise((_resolve, reject) => {
        options?.signal?.addEventListener("abort", () => reject(new Error("the connection went away")));
        process.emit("SIGINT", "SIGINT");
      }),
  };
  await expect(add({ site: site(), name: "pi-2", expect: line }, world)).rejects.toThrow(Interrupted);
  expect(siteNow()).toBe(plant);
  expect(process.listenerCount("SIGINT")).toBe(0);
});

describe("wrong usage", () => {
  test.each([
    ["an address with a user and a port", "ssh://pi@192.168.10.21:2222", {}, /expected an IP address/],
    [
      "a host key that is none",
      address,
      { hostKey: "ssh-ed25519 AAAA" },
      /--host-key takes a key or a fingerprint/,
    ],
    ["a check line that is none", address, { expect: "1234" }, /--expect takes the check line/],
  ])("%s is told before anything is done", async (_, given, options, why) => {
    const world = aWorld({ types: "yes" });
    await expect(addNode(given, options, world)).rejects.toThrow(why);
    expect(world.did).toEqual([]);
  });
});
