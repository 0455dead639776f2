import * as pulumi from "@pulumi/pulumi";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EdgeNode, type EdgeNodeArgs, type NodeWaiver } from "../../../components/edge-node.ts";
import { Site } from "../../../components/site.ts";
import { Swap } from "../../../components/resources.ts";
import { checklist } from "../../../policies/checklist.ts";
import { goodStates } from "../policies/cases.ts";
import { recorder, valueOf, type Registered } from "./recorder.ts";

/** Pulumi's mark of a secret. */
const signature = "4dabf18193072939515e22adb298388d";
const secretSignature = "1b47061264138c4ac30d75fd1eb44270";

const hostKey = `SHA256:${"A".repeat(43)}`;
const waivers: readonly NodeWaiver[] = checklist
  .filter(({ block }) => block === undefined || !["swap", "coreDumps", "firewall", "boot"].includes(block))
  .map(({ id }) => ({ control: id, reason: "later", owner: "platform", expires: "2999-12-31" }));
const args: EdgeNodeArgs = {
  connection: { address: "192.0.2.1", hostKey },
  firewall: { management: ["192.0.2.0/24"] },
  waivers,
};

let run: Awaited<ReturnType<typeof recorder>>;
beforeEach(async () => {
  run = await recorder();
});
// Registration goes on behind a constructor that has thrown: it must not reach into the next test.
afterEach(() => run.settled());

const types = (registered: readonly Registered[]) =>
  registered.map(({ type, name }) => `${type} ${name}`).sort();

describe("EdgeNode", () => {
  test("is secure where nothing is said", async () => {
    new EdgeNode("pi-1", args);
    await run.settled();
    const inputs = Object.fromEntries(run.registered.map(({ type, inputs: given }) => [type, given]));
    expect(types(run.registered)).toEqual([
      "edgeseal:boot:VerifiedBoot pi-1-boot",
      "edgeseal:index:EdgeNode pi-1",
      "edgeseal:memory:CoreDumps pi-1-core-dumps",
      "edgeseal:memory:Swap pi-1-swap",
      "edgeseal:network:Firewall pi-1-firewall",
    ]);
    expect(inputs["edgeseal:memory:Swap"]).toMatchObject({ mode: "off", leftoverFiles: "remove" });
    expect(inputs["edgeseal:memory:CoreDumps"]).toMatchObject({ mode: "off", storedDumps: "remove" });
    expect(inputs["edgeseal:network:Firewall"]).toMatchObject({
      egress: "allowlist",
      forward: "drop",
      allow: [],
    });
    expect(inputs["edgeseal:boot:VerifiedBoot"]).toMatchObject({ require: "signed-boot-locked" });
    for (const type of ["edgeseal:memory:Swap", "edgeseal:network:Firewall"]) {
      expect(inputs[type]?.connection).toEqual({ node: "pi-1", address: "192.0.2.1", hostKey });
      expect(inputs[type]).not.toHaveProperty("onDelete");
    }
  });

  test("hands on what it is told", async () => {
    new EdgeNode("pi-1", {
      ...args,
      connection: {
        address: "192.0.2.1",
        hostKey,
        port: 2222,
        user: "pi",
        identityCommand: "pass edge",
        identityFile: "~/.ssh/x",
      },
      firewall: { management: ["192.0.2.0/24"], allow: [{ name: "a", to: "203.0.113.5", ports: [443] }] },
      onDelete: "revert",
    });
    await run.settled();
    const firewall = run.registered.find(({ type }) => type === "edgeseal:network:Firewall");
    expect(firewall?.inputs).toMatchObject({
      allow: [{ name: "a", to: "203.0.113.5", protocol: "tcp", ports: [443] }],
      onDelete: "revert",
      connection: { port: 2222, user: "pi", identityCommand: "pass edge", identityFile: "~/.ssh/x" },
    });
  });

  test("makes a secret of a private key, whatever it came as, and shows it to no component", async () => {
    new EdgeNode("pi-1", {
      ...args,
      connection: { address: "192.0.2.1", hostKey, privateKey: "canary-key" },
    });
    await run.settled();
    const devices = run.registered.filter(({ type }) => !type.startsWith("edgeseal:index:"));
    expect(devices).toHaveLength(4);
    // Without an engine, what holds a secret is shown as a secret as a whole.
    for (const { inputs } of devices)
      expect(inputs.connection).toMatchObject({ [signature]: secretSignature });
    const components = run.registered.filter(({ type }) => type.startsWith("edgeseal:index:"));
    expect(JSON.stringify(components)).not.toContain("canary");
  });

  test.each<[string, Partial<EdgeNodeArgs>, string]>([
    [
      "a block that fails",
      { swap: { mode: "keep" } },
      '3.swap-off (checklist point 3) on pi-1: violation: swap.mode is "keep"',
    ],
    [
      "a control that nothing serves",
      { waivers: waivers.filter(({ control }) => control !== "5.mtls") },
      '  - { control: 5.mtls, node: pi-1, reason: "", owner: "", expires: YYYY-MM-DD }',
    ],
  ])("%s refuses the node, before any of its resources is registered", async (_, changes, message) => {
    expect(() => new EdgeNode("pi-1", { ...args, ...changes })).toThrow(message);
    await run.settled();
    expect(types(run.registered)).toEqual(["edgeseal:index:EdgeNode pi-1"]);
  });

  test("without a firewall is refused, and with a waiver goes on without one", async () => {
    const { firewall: _, ...bare } = args;
    expect(() => new EdgeNode("pi-1", bare)).toThrow(
      "the node has no `firewall` block (edgeseal:network:Firewall)",
    );
    const excuse = { reason: "behind another", owner: "platform", expires: "2999-12-31" };
    const node = new EdgeNode("pi-2", {
      ...bare,
      waivers: [
        ...waivers,
        { control: "5.default-deny", ...excuse },
        { control: "5.egress-allowlist", ...excuse },
      ],
    });
    await run.settled();
    expect(node.firewall).toBeUndefined();
    expect(types(run.registered)).not.toContain("edgeseal:network:Firewall pi-2-firewall");
  });

  test("its refusal is one message without a stack", () => {
    const { firewall: _, ...bare } = args;
    expect(() => new EdgeNode("pi-1", bare)).toThrow(pulumi.RunError);
  });
});

test("an EdgeNode with an image policy shows its keys to no component, and has it before it may be rebooted", async () => {
  new EdgeNode("pi-1", {
    ...args,
    measuredBoot: {},
    imagePolicy: { keys: { site: "(PEM)" }, allow: [{ image: "a.example/b", signedBy: ["site"] }] },
    waivers: waivers.filter(({ control }) => control !== "6.signed-images"),
  });
  await run.settled();
  const of = (name: string) => run.registered.find((each) => each.name === name);
  expect(of("pi-1-image-policy")?.inputs).toMatchObject({
    keys: { site: "(PEM)" },
    allow: [{ image: "a.example/b", signedBy: ["site"] }],
  });
  expect(JSON.stringify(of("pi-1")?.inputs)).not.toContain("PEM");
  expect(of("pi-1-measured-boot")?.after).toContain("pi-1-image-policy");
});

describe("an EdgeNode with sealed volumes", () => {
  const trust = { policyKey: "(policy PEM)", recoveryKey: "(recovery PEM)", generation: 2 };
  const volume = (name: string) => ({ device: `/dev/disk/by-id/nvme-${name}`, mountPoint: `/srv/${name}` });
  const sealed: EdgeNodeArgs = {
    ...args,
    trust,
    approval: "(approval)",
    measuredBoot: { reboot: "ifNeeded" },
    tpm: { endorsementKeySha256: "e1".repeat(32) },
    volumes: { models: volume("models"), logs: volume("logs") },
    waivers: waivers.filter(({ control }) => !/^(1\.measured|1\.tpm|2\.)/.test(control)),
  };

  test("hands each volume the site's keys and the node's approvals, and shows none of them to a component", async () => {
    new EdgeNode("pi-1", { ...sealed, firmware: {} });
    await run.settled();
    const inputs = new Map(run.registered.map(({ name, inputs: given }) => [name, given]));
    expect(inputs.get("pi-1-measured-boot")).toMatchObject({ node: "pi-1", reboot: "ifNeeded" });
    // Each may end in a reboot into what is approved, and the volumes come after it.
    const { recoveryKey: _, ...verifying } = trust;
    for (const part of ["firmware", "measured-boot"]) {
      expect(inputs.get(`pi-1-${part}`)).toMatchObject({
        ...verifying,
        node: "pi-1",
        approval: "(approval)",
      });
    }
    expect(inputs.get("pi-1-volume-logs")).toMatchObject({
      ...trust,
      ...volume("logs"),
      name: "logs",
      node: "pi-1",
      approval: "(approval)",
      filesystem: "ext4",
    });
    expect(inputs.has("pi-1-volume-models")).toBe(true);
    expect(JSON.stringify(inputs.get("pi-1"))).not.toMatch(/PEM|\(approval\)/);
    expect(inputs.get("pi-1")).toMatchObject({ node: { blocks: { volumes: { logs: { name: "logs" } } } } });
  });

  test("owns its TPM, after what brings it and before what is sealed to it", async () => {
    new EdgeNode("pi-1", { ...sealed, firmware: {} });
    await run.settled();
    const inputs = new Map(run.registered.map(({ name, inputs: given }) => [name, given]));
    expect(inputs.get("pi-1-tpm")).toMatchObject({
      node: "pi-1",
      recoveryPublicKey: trust.recoveryKey,
      endorsementKeySha256: "e1".repeat(32),
      maxTries: 32,
      connection: { node: "pi-1" },
    });
    expect(inputs.get("pi-1")).toMatchObject({
      node: { blocks: { tpm: { node: "pi-1", endorsementKeySha256: "e1".repeat(32) } } },
    });
    const after = (part: string) => run.registered.find(({ name }) => name === `pi-1-${part}`)?.after;
    expect(after("tpm")).toEqual(["pi-1-firmware", "pi-1-measured-boot"]);
    for (const volume of ["volume-models", "volume-logs"]) expect(after(volume)).toContain("pi-1-tpm");
  });

  test("keeps its TPM owned, whatever else is taken back when it is removed", async () => {
    new EdgeNode("pi-1", { ...sealed, onDelete: "revert" });
    await run.settled();
    const inputs = new Map(run.registered.map(({ name, inputs: given }) => [name, given]));
    expect(inputs.get("pi-1-tpm")).not.toHaveProperty("onDelete");
    for (const other of ["measured-boot", "volume-logs", "swap"])
      expect(inputs.get(`pi-1-${other}`)).toHaveProperty("onDelete", "revert");
  });

  test("without a `tpm` block is refused, though it seals and measures", () => {
    const { tpm: _, ...without } = sealed;
    expect(() => new EdgeNode("pi-1", without)).toThrow(
      "1.tpm (checklist point 1) on pi-1: violation: the node has no `tpm` block (edgeseal:tpm:Ownership)",
    );
  });

  test("that is strict is told to pin its TPM", () => {
    expect(() => new EdgeNode("pi-1", { ...sealed, tpm: {}, assurance: "strict" })).toThrow(
      "1.tpm (checklist point 1) on pi-1: violation: no endorsement key is pinned",
    );
  });

  test.each([
    ["measured", {}],
    ["sealed", { "edgeseal:boot:MeasuredBoot": { ...goodStates.measuredBoot, replay: "tampered" } }],
    ["none", { "edgeseal:storage:SealedVolume": { ...goodStates.volumes.models, openedBy: "formation" } }],
  ])("tells its level, %s, by what was read back", async (level, states) => {
    await run.settled();
    run = await recorder({}, [], {
      "edgeseal:boot:VerifiedBoot": goodStates.boot,
      "edgeseal:boot:MeasuredBoot": goodStates.measuredBoot,
      "edgeseal:storage:SealedVolume": goodStates.volumes.models ?? {},
      ...states,
    });
    expect((await valueOf(new EdgeNode("pi-1", sealed).level)).value).toBe(level);
  });

  test.each([
    [
      { ...volume("logs"), mountPoint: "/srv/models/logs" },
      "volumes.logs.mountPoint: expected a directory of its own, got '/srv/models/logs', which is below '/srv/models', the mount point of the volume models",
    ],
    [{ ...volume("logs"), mountPoint: "/srv" }, "volumes.models.mountPoint: expected a directory of its own"],
    [
      { ...volume("logs"), mountPoint: "/srv/./models" },
      "volumes.logs.mountPoint: expected a directory of its own",
    ],
    [
      { ...volume("logs"), device: volume("models").device },
      "volumes.logs.device: expected a device of its own, got '/dev/disk/by-id/nvme-models', which the volume models has",
    ],
  ])("of which one gets in the other's way (%o) is refused", (logs, said) => {
    const volumes = { models: volume("models"), logs };
    expect(() => new EdgeNode("pi-1", { ...sealed, volumes })).toThrow(
      `node "pi-1" has volumes that get in each other's way; none of its resources was registered, and no device was reached:\n  ${said}`,
    );
  });

  test("may have partitions of one disk, and mount points beside each other", async () => {
    const made = (name: string) => ({ ...volume(name), device: { disk: "/dev/disk/by-id/a", sizeMiB: 500 } });
    const volumes = { logs: made("logs"), models: made("models"), "models-2": made("models-2") };
    new EdgeNode("pi-1", { ...sealed, volumes });
    await run.settled();
    expect(run.registered.filter(({ name }) => name.includes("-volume-"))).toHaveLength(3);
  });

  test("without the site's keys is refused", () => {
    const { trust: _, tpm: __, ...without } = sealed;
    expect(() => new EdgeNode("pi-1", without)).toThrow(/has volumes and no `trust`/);
    expect(() => new EdgeNode("pi-1", { ...without, tpm: {} })).toThrow(/has a `tpm` block and no `trust`/);
  });
});

describe("Site", () => {
  const site = (nodes: readonly object[]) =>
    ({ nodes, waivers: waivers.map((waiver) => ({ ...waiver, node: "*" })) }) as ConstructorParameters<
      typeof Site
    >[1];
  const { waivers: _, ...node } = args;

  test("has a component for each node, below it", async () => {
    const { nodes, summary } = new Site(
      "plant",
      site([
        { ...node, name: "pi-1" },
        { ...node, name: "pi-2", connection: { address: "192.0.2.2", hostKey } },
      ]),
    );
    await run.settled();
    expect(Object.keys(nodes)).toEqual(["pi-1", "pi-2"]);
    expect(run.registered).toHaveLength(1 + 2 + 8);
    const resolved = await new Promise((resolve) => pulumi.output(summary).apply(resolve));
    expect(resolved).toEqual({
      site: "plant",
      nodes: {
        "pi-1": { address: "192.0.2.1", level: "none" },
        "pi-2": { address: "192.0.2.2", level: "none" },
      },
      waived: `${waivers.length} waivers, the first ends on 2999-12-31`,
    });
  });

  test("one node that fails keeps all of them out; the site itself is registered, for the pack to judge", async () => {
    const bad = {
      ...node,
      name: "pi-2",
      connection: { address: "192.0.2.2", hostKey },
      swap: { mode: "keep" },
    };
    expect(() => new Site("plant", site([{ ...node, name: "pi-1" }, bad]))).toThrow(
      'site "plant" does not meet the deployment checklist (1 finding); none of its resources was registered, and no device was reached:',
    );
    await run.settled();
    expect(types(run.registered)).toEqual(["edgeseal:index:Site plant"]);
    expect(run.registered[0]?.inputs.nodes).toMatchObject([
      { name: "pi-1" },
      { name: "pi-2", blocks: { swap: { mode: "keep" } } },
    ]);
  });
});

describe("a Site of which two nodes are one", () => {
  const { waivers: _, ...node } = args;
  const second = (name: string, connection: object) =>
    ({
      nodes: [
        { ...node, name: "pi-1" },
        { ...node, name, connection: { hostKey, ...connection } },
      ],
      waivers: waivers.map((waiver) => ({ ...waiver, node: "*" })),
    }) as ConstructorParameters<typeof Site>[1];

  test("is refused with every pair, before any of its resources is registered", async () => {
    expect(() => new Site("plant", second("pi-1", { address: "::ffff:192.0.2.1", port: 22 }))).toThrow(
      new pulumi.RunError(
        [
          'site "plant" has nodes that can\'t be told apart; none of its resources was registered, and no device was reached:',
          '  nodes[1].name: expected a name of its own, got "pi-1", which is the name of nodes[0]',
          "  nodes[1].address: expected an address and port of its own, got 192.0.2.1:22, where nodes[0] (pi-1) is: two nodes are two devices",
        ].join("\n"),
      ),
    );
    await run.settled();
    expect(types(run.registered)).toEqual(["edgeseal:index:Site plant"]);
  });

  test("is refused when they have one TPM pinned", () => {
    const tpm = { endorsementKeySha256: "e1".repeat(32) };
    const trust = { policyKey: "(PEM)", recoveryKey: "(PEM)" };
    const { nodes, ...rest } = second("pi-2", { address: "192.0.2.2" });
    expect(
      () => new Site("plant", { nodes: nodes.map((each) => ({ ...each, tpm, trust })), ...rest }),
    ).toThrow(
      `nodes[1].tpm.endorsementKeySha256: expected a TPM of its own, got ${"e1".repeat(8)}..., which is pinned for nodes[0] (pi-1): two nodes are two devices`,
    );
  });

  test.each([
    ["at another port", { address: "192.0.2.1", port: 2222 }],
    ["at an address that is an output, which the pack compares", { address: pulumi.output("192.0.2.1") }],
    ["at a port that is an output", { address: "192.0.2.1", port: pulumi.output(22) }],
  ])("is none when the second is %s", async (_, connection) => {
    new Site("plant", second("pi-2", connection));
    await run.settled();
    expect(run.registered).toHaveLength(1 + 2 + 8);
  });
});

test("a resource class gives what was read back as outputs", async () => {
  const swap = new Swap("s", { connection: { node: "pi-1", address: "192.0.2.1", hostKey }, mode: "off" });
  expect(pulumi.Output.isInstance(swap.activeAreas)).toBe(true);
  expect(pulumi.Output.isInstance(swap.rpiSwapMechanism)).toBe(true);
  await run.settled();
});
