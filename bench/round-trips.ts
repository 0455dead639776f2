/**
 * What an operation costs on the way to one node: connections and execs by sshd's own log, round trips and time through the delay proxy,
 * beside a floor (ssh2 alone: one connection, one exec) and peers' ways of working, all in the same run on the same node.
 *
 * Run: `node bench/round-trips.ts [--json]`, as root. The node is `NamespaceNode`: Debian's sshd, sudo and systemd, natively.
 */
import { parseArgs } from "node:util";
import type { Connection } from "../provider/connection.ts";
import { newNonce, renderProbes, renderScript } from "../provider/device/batch.ts";
import type { Devices } from "../provider/device/device.ts";
import { createDevices } from "../provider/device/devices.ts";
import { ssh2Transport } from "../provider/device/ssh2-transport.ts";
import type { Link } from "../provider/device/transport.ts";
import { LatencyProxy } from "../testbed/latency-proxy.ts";
import { NamespaceNode } from "../testbed/namespace/node.ts";
import { confirmedNote, kinds, namedNote, noteFolder, thirtyResources } from "../test/device/thirty-kinds.ts";
import type { ResourceKind } from "../provider/resource.ts";

interface Row {
  readonly operation: string;
  readonly rttMs: number;
  readonly connections: number;
  readonly execs: number;
  readonly roundTrips: number;
  /** Median of the repetitions. */
  readonly ms: number;
}

interface Operation {
  readonly name: string;
  /** What is there before the clock starts; gives what is measured, and what ends it. */
  prepare(connection: Connection): Promise<{ run(): Promise<void>; close(): Promise<void> }>;
}

const note = namedNote as unknown as ResourceKind;
const probes = thirtyResources.map(({ kind, inputs }) => kind.observe(inputs as never));
const nothing = { close: (): Promise<void> => Promise.resolve() };

async function observeAll(devices: Devices, connection: Connection): Promise<void> {
  await Promise.all(
    thirtyResources.map(async ({ kind, inputs }) => {
      const { outcome } = await devices.get(connection).observe(kind, inputs);
      if (outcome !== "present") throw new Error(`${kind.token} is ${outcome}`);
    }),
  );
}

async function withLink(connection: Connection, work: (link: Link) => Promise<void>): Promise<void> {
  const link = await ssh2Transport().connect(connection, { timeoutMs: 60_000 });
  try {
    await work(link);
  } finally {
    await link.close();
  }
}

/** One check as peers send it: the command on the command line, with a sudo of its own. */
async function checkAlone(link: Link, probe: (typeof probes)[number]): Promise<void> {
  const script = Object.values(probe.parts).join("\n").replaceAll("'", `'\\''`);
  await link.exec(`sudo -n sh -c '${script}'`, { timeoutMs: 60_000 });
}

/** An operation of ours on a device that is connected and observed already, as in the middle of `pulumi up`. */
function connected(
  name: string,
  run: (devices: Devices, connection: Connection) => Promise<void>,
  maxAgeMs = 600_000,
): Operation {
  return {
    name,
    async prepare(connection) {
      const devices = createDevices({ kinds, maxAgeMs });
      await observeAll(devices, connection);
      return { run: () => run(devices, connection), close: () => devices.close() };
    },
  };
}

let serial = 0;

const operations: readonly Operation[] = [
  {
    name: "floor: ssh2 alone, 30 checks in one script",
    prepare: (connection) => {
      const nonce = newNonce();
      const script = renderScript(renderProbes(probes, nonce), nonce);
      const run = (): Promise<void> =>
        withLink(connection, async (link) => {
          const { stdout } = await link.exec("sudo -n /bin/sh -c 'eval \"$(cat)\"'", {
            timeoutMs: 60_000,
            stdin: script,
          });
          if (!stdout.includes(`@${nonce} done`)) throw new Error("the floor did not reach its end");
        });
      return Promise.resolve({ run, ...nothing });
    },
  },
  {
    name: "edgeseal: read 30 resources, cold",
    prepare: (connection) => {
      const devices = createDevices({ kinds });
      return Promise.resolve({ run: () => observeAll(devices, connection), close: () => devices.close() });
    },
  },
  connected("edgeseal: read 30 resources again, connected", observeAll, 0),
  connected("edgeseal: read 30 resources, just observed", observeAll),
  connected("edgeseal: apply one resource and read back", async (devices, connection) => {
    const inputs = { name: "bench", content: `apply ${++serial}\n` };
    const device = devices.get(connection);
    const result = await device.apply(
      note,
      inputs,
      note.plan(inputs as never, { outcome: "absent" }, await device.route()),
    );
    if (result.failure !== undefined) throw result.failure;
  }),
  connected("edgeseal: apply one commit-confirmed resource", async (devices, connection) => {
    const inputs = { name: "bench", content: `confirmed ${++serial}\n` };
    const result = await devices.get(connection).apply(note, inputs, confirmedNote("bench", inputs.content));
    if (result.failure !== undefined) throw result.failure;
  }),
  {
    name: "peers: 30 checks, one exec and sudo each, one connection",
    prepare: (connection) =>
      Promise.resolve({
        run: () =>
          withLink(connection, async (link) => {
            for (const probe of probes) await checkAlone(link, probe);
          }),
        ...nothing,
      }),
  },
  {
    name: "peers: 30 checks, one connection each",
    prepare: (connection) =>
      Promise.resolve({
        run: async () => {
          for (const probe of probes) await withLink(connection, (link) => checkAlone(link, probe));
        },
        ...nothing,
      }),
  },
];

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

async function measure(
  node: NamespaceNode,
  operation: Operation,
  rttMs: number,
  repetitions: number,
): Promise<Row> {
  const times: number[] = [];
  let counts = { connections: 0, execs: 0, roundTrips: 0 };
  for (let repetition = 0; repetition < repetitions; repetition++) {
    await using proxy = await LatencyProxy.start({
      target: { host: "127.0.0.1", port: node.connection.port },
      rttMs,
    });
    const prepared = await operation.prepare({ ...node.connection, port: proxy.port });
    try {
      const before = await node.sshdCounts();
      proxy.resetCounts();
      const begun = performance.now();
      await prepared.run();
      times.push(performance.now() - begun);
      const { roundTrips } = proxy.counts;
      const after = await node.sshdCounts();
      counts = {
        connections: after.connections - before.connections,
        execs: after.execs - before.execs,
        roundTrips,
      };
    } finally {
      await prepared.close();
    }
  }
  return { operation: operation.name, rttMs, ...counts, ms: Math.round(median(times)) };
}

/** The node as it is after a first `up`: all thirty resources there, and the manifest written. */
async function bringUp(node: NamespaceNode): Promise<void> {
  await node.must(`mkdir -p ${noteFolder}`);
  const devices = createDevices({ kinds });
  try {
    const device = devices.get(node.connection);
    for (const { kind, inputs } of thirtyResources) {
      const observed = await device.observe(kind, inputs);
      await device.apply(kind, inputs, kind.plan(inputs as never, observed as never, await device.route()));
    }
  } finally {
    await devices.close();
  }
}

function table(rows: readonly Row[]): string {
  const cells = rows.map((row) => {
    const floor = rows.find((other) => other.rttMs === row.rttMs && other.operation.startsWith("floor"));
    const ratio = floor === undefined ? "" : `${(row.ms / floor.ms).toFixed(2)}x`;
    return [row.operation, row.rttMs, row.connections, row.execs, row.roundTrips, row.ms, ratio].map(String);
  });
  const all = [["operation", "RTT ms", "connections", "execs", "round trips", "ms", "of floor"], ...cells];
  const widths = all[0]?.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0))) ?? [];
  return all
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join("  "),
    )
    .join("\n");
}

const { values } = parseArgs({ options: { json: { type: "boolean", default: false } } });
await using node = await NamespaceNode.start();
await bringUp(node);
const rows: Row[] = [];
for (const rttMs of [0, 100]) {
  for (const operation of operations)
    rows.push(await measure(node, operation, rttMs, operation.name.endsWith("each") ? 1 : 3));
}
process.stdout.write(values.json ? `${JSON.stringify(rows, undefined, 2)}\n` : `${table(rows)}\n`);
