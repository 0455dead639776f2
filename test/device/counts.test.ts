import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Connection } from "../../provider/connection.ts";
import type { Devices } from "../../provider/device/device.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { diffState } from "../../provider/diff.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import { coreDumps } from "../../provider/resources/core-dumps.ts";
import { firewall } from "../../provider/resources/firewall.ts";
import { swap } from "../../provider/resources/swap.ts";
import { Fleet, type FleetNode, type SshdCounts } from "../../testbed/fleet.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { nodeFirewall } from "./node-firewall.ts";
import {
  confirmedNote,
  kinds,
  namedNote,
  noteFolder,
  thirtyResources,
  type Instance,
} from "./thirty-kinds.ts";

/** What the nodes' own sshd logged while `action` ran, one entry a node. */
async function counted(
  nodes: readonly FleetNode[],
  action: () => Promise<void>,
): Promise<readonly Pick<SshdCounts, "connections" | "execs">[]> {
  const before = await Promise.all(nodes.map((node) => node.counts()));
  await action();
  const after = await Promise.all(nodes.map((node) => node.counts()));
  return after.map((count, index) => ({
    connections: count.connections - (before[index]?.connections ?? 0),
    execs: count.execs - (before[index]?.execs ?? 0),
  }));
}

/** As the engine does: at most `parallel` resources under way at a time, each taken when another is done. */
async function inParallel<T>(
  items: readonly T[],
  parallel: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = [...items];
  await Promise.all(
    Array.from({ length: parallel }, async () => {
      for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
    }),
  );
}

async function withDevices<T>(work: (devices: Devices) => Promise<T>): Promise<T> {
  const devices = createDevices({ kinds });
  try {
    return await work(devices);
  } finally {
    await devices.close();
  }
}

async function bring(devices: Devices, connection: Connection, { kind, inputs }: Instance): Promise<void> {
  const device = devices.get(connection);
  const observed = await device.observe(kind, inputs);
  const steps = kind.plan(inputs, observed as never, await device.route());
  const result = await device.apply(kind, inputs, steps);
  expect(result.failure).toBeUndefined();
  expect(result.observed).toEqual({ outcome: "present", state: { content: inputs.content } });
}

describe("execs and connections, from sshd's own log", () => {
  let fleet: Fleet;
  beforeAll(async () => {
    fleet = await Fleet.start(3);
    for (const node of fleet.nodes) await node.exec(`mkdir -p ${noteFolder}`);
  });
  afterAll(() => fleet.stop());

  const all = (): readonly { readonly node: FleetNode; readonly instance: Instance }[] =>
    thirtyResources.flatMap((instance) => fleet.nodes.map((node) => ({ node, instance })));

  test("applying a resource makes 1 exec", async () => {
    await withDevices(async (devices) => {
      const looking = await counted(fleet.nodes, () =>
        inParallel(all(), 90, async ({ node, instance: { kind, inputs } }) => {
          expect(await devices.get(node.connection).observe(kind, inputs)).toEqual({ outcome: "absent" });
        }),
      );
      for (const { connections, execs } of looking) {
        expect(connections).toBe(1);
        expect(execs).toBeLessThanOrEqual(2);
      }
      const applying = await counted(fleet.nodes, () =>
        inParallel(all(), 10, ({ node, instance }) => bring(devices, node.connection, instance)),
      );
      for (const count of applying) expect(count).toEqual({ connections: 0, execs: thirtyResources.length });
    });
  });

  test.each([2, 90])(
    "a refresh of 3 nodes with 30 resources each makes 1 connection and at most 2 execs a node, %i at a time",
    async (parallel) => {
      const counts = await counted(fleet.nodes, () =>
        withDevices(async (devices) => {
          await inParallel(all(), parallel, async ({ node, instance: { kind, inputs } }) => {
            const observed = await devices.get(node.connection).observe(kind, inputs);
            expect(observed).toEqual({ outcome: "present", state: { content: inputs.content } });
          });
        }),
      );
      for (const { connections, execs } of counts) {
        expect(connections).toBe(1);
        expect(execs).toBeLessThanOrEqual(2);
      }
    },
  );

  test("without the manifest the answers are the same, at the price of more execs", async () => {
    const [node] = fleet.nodes;
    if (node === undefined) throw new Error("no node");
    await node.exec("mv /var/lib/edgeseal/manifest /var/lib/edgeseal/manifest.away");
    try {
      const [count] = await counted([node], () =>
        withDevices((devices) =>
          inParallel(thirtyResources, 2, async ({ kind, inputs }) => {
            const observed = await devices.get(node.connection).observe(kind, inputs);
            expect(observed).toEqual({ outcome: "present", state: { content: inputs.content } });
          }),
        ),
      );
      expect(count?.connections).toBe(1);
      expect(count?.execs).toBeGreaterThan(2);
    } finally {
      await node.exec("mv /var/lib/edgeseal/manifest.away /var/lib/edgeseal/manifest");
    }
  });

  test("any write makes the observation stale, and what it read back answers without another exec", async () => {
    const [node] = fleet.nodes;
    if (node === undefined) throw new Error("no node");
    await withDevices(async (devices) => {
      const device = devices.get(node.connection);
      const [first] = thirtyResources;
      const last = thirtyResources.at(-1);
      if (first === undefined || last === undefined) throw new Error("no resources");
      await device.observe(last.kind, last.inputs);
      // Changed behind our back: only a new look can know.
      await node.exec(`echo tampered >${noteFolder}/${last.inputs.name ?? ""}`);
      expect(await device.observe(last.kind, last.inputs)).toMatchObject({
        state: { content: last.inputs.content },
      });
      const [count] = await counted([node], async () => {
        await device.apply(
          first.kind,
          first.inputs,
          first.kind.plan(first.inputs as never, { outcome: "absent" }, await device.route()),
        );
        expect(await device.observe(last.kind, last.inputs)).toMatchObject({
          state: { content: "tampered\n" },
        });
      });
      expect(count).toEqual({ connections: 0, execs: 1 });
    });
    await withDevices((devices) => bring(devices, node.connection, thirtyResources.at(-1) as Instance));
  });

  test("an observation that is too old is made anew", async () => {
    const [node] = fleet.nodes;
    const [first] = thirtyResources;
    if (node === undefined || first === undefined) throw new Error("no node");
    const devices = createDevices({ kinds, maxAgeMs: 0 });
    try {
      const [count] = await counted([node], async () => {
        for (let look = 0; look < 3; look++)
          await devices.get(node.connection).observe(first.kind, first.inputs);
      });
      expect(count).toEqual({ connections: 1, execs: 3 });
    } finally {
      await devices.close();
    }
  });

  test("a secret input reaches neither the manifest nor anything else on the node", async () => {
    const [node] = fleet.nodes;
    if (node === undefined) throw new Error("no node");
    const kind = namedNote as unknown as ResourceKind;
    const inputs = {
      name: "with-secret",
      content: "public\n",
      password: "canary-4711",
      connection: { privateKey: "canary-4712" },
    };
    await withDevices(async (devices) => {
      await devices
        .get(node.connection)
        .apply(
          kind,
          inputs,
          namedNote.plan(inputs, { outcome: "absent" }, await devices.get(node.connection).route()),
        );
    });
    // The control: the entry is there, and the search finds what is in it.
    expect(
      await node.exec("grep -rl with-secret /var/lib/edgeseal /run/edgeseal-test /run/edgeseal || :"),
    ).toContain("/manifest/");
    expect(await node.exec("grep -rl canary-471 /var/lib /run || :")).toBe("");
  });
});

describe("a commit-confirmed change", () => {
  test("makes 2 execs and one new connection", async () => {
    await using node = await NamespaceNode.start();
    await node.must(`mkdir -p ${noteFolder}`);
    const devices = createDevices({ kinds });
    try {
      const device = devices.get(node.connection);
      const kind = namedNote as unknown as ResourceKind;
      const inputs = { name: "confirmed", content: "kept\n" };
      expect(await device.observe(kind, inputs)).toEqual({ outcome: "absent" });
      const before = await node.sshdCounts();
      const result = await device.apply(kind, inputs, confirmedNote("confirmed", "kept\n"));
      expect(result.failure).toBeUndefined();
      expect(result.observed).toEqual({ outcome: "present", state: { content: "kept\n" } });
      const after = await node.sshdCounts();
      expect({
        connections: after.connections - before.connections,
        execs: after.execs - before.execs,
      }).toEqual({ connections: 1, execs: 2 });
    } finally {
      await devices.close();
    }
  });
});

describe("the provider's own kinds, on an unprotected node", () => {
  let node: NamespaceNode;
  beforeAll(async () => {
    node = await NamespaceNode.start();
    await node.must("printf '/swapfile none swap sw 0 0\\n' >/etc/fstab");
  });
  afterAll(() => node.stop());

  test.each<{ kind: ResourceKind; inputs: object; connections: number; execs: number }>([
    { kind: swap, inputs: { mode: "off", leftoverFiles: "remove" }, connections: 0, execs: 1 },
    { kind: coreDumps, inputs: { mode: "off", storedDumps: "remove" }, connections: 0, execs: 1 },
    { kind: firewall, inputs: nodeFirewall, connections: 1, execs: 2 },
  ])(
    "applying $kind.token makes $execs execs and $connections new connections",
    async ({ kind, inputs, connections, execs }) => {
      const devices = createDevices({ kinds: [kind] });
      try {
        const device = devices.get(node.connection);
        const observed = await device.observe(kind, inputs);
        const before = await node.sshdCounts();
        const steps = kind.plan(inputs as never, observed as never, await device.route());
        expect(steps).not.toEqual([]);
        const result = await device.apply(kind, inputs, steps);
        const after = await node.sshdCounts();
        expect(result.failure).toBeUndefined();
        const state = (result.observed as { readonly state?: object }).state ?? {};
        expect(diffState(kind.desired(inputs as never), state)).toEqual([]);
        expect({
          connections: after.connections - before.connections,
          execs: after.execs - before.execs,
        }).toEqual({ connections, execs });
      } finally {
        await devices.close();
      }
    },
  );
});
