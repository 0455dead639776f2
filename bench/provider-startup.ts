/*
 * How long the provider takes from being started to saying its port, and its peak memory once it has checked inputs and tried to reach a node: against the floor, a bare
 * Node process that serves an empty service with @grpc/grpc-js. Runs of the two alternate, so that a busy machine is as unfair to both.
 *
 *   node bench/provider-startup.ts [RUNS]
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { grpc, provider, providerService, struct } from "../provider/host/proto.ts";

const runs = Number(process.argv[2] ?? 15);
const executable = fileURLToPath(new URL("../provider/pulumi-resource-edgeseal", import.meta.url));
const bare = `
  const grpc = require("@grpc/grpc-js");
  const server = new grpc.Server();
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => console.log(port));
  process.stdin.on("end", () => process.exit(0)).resume();
`;

interface Run {
  readonly startMs: number;
  readonly peakMb: number;
}

async function run(
  command: string,
  args: readonly string[],
  use: (port: number) => Promise<void>,
): Promise<Run> {
  const begun = performance.now();
  const child = spawn(command, args, {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, EDGESEAL_NODE: process.execPath },
  });
  const port = await new Promise<number>((resolve, reject) => {
    child.stdout.once("data", (line: Buffer) => resolve(Number(line.toString())));
    child.once("exit", (code) => reject(new Error(`${command} ended with ${code} before it said its port`)));
  });
  const startMs = performance.now() - begun;
  await use(port);
  const peakKb = /VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${child.pid ?? 0}/status`, "utf8"))?.[1];
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.stdin.end();
  await ended;
  return { startMs, peakMb: Number(peakKb) / 1024 };
}

/** Makes the provider load what it loads in earnest: all kinds, ajv, the device layer with ssh2. */
async function loadAll(port: number): Promise<void> {
  const client = new providerService.ResourceProviderClient(
    `127.0.0.1:${port}`,
    grpc.credentials.createInsecure(),
  );
  const request = new provider.CheckRequest()
    .setUrn("urn:pulumi:dev::site::edgeseal:memory:Swap::swap")
    .setNews(struct.Struct.fromJavaScript({}));
  await new Promise<void>((resolve, reject) => {
    client.check(request, (error) => (error === null ? resolve() : reject(error)));
  });
  // Nothing listens there: the device layer is loaded, and gives up.
  const hostKey = `SHA256:${"a".repeat(43)}`;
  const connection = {
    node: "nobody",
    address: "127.0.0.1",
    port: 1,
    user: "nobody",
    hostKey,
    agent: "/nowhere",
  };
  const create = new provider.CreateRequest()
    .setUrn("urn:pulumi:dev::site::edgeseal:memory:Swap::swap")
    .setTimeout(20)
    .setProperties(
      struct.Struct.fromJavaScript({ mode: "off", leftoverFiles: "remove", connection, onDelete: "keep" }),
    );
  await new Promise<void>((resolve, reject) => {
    client.create(create, (error) => {
      if (error?.details.startsWith("nobody: ") === true) resolve();
      else reject(new Error(`the device layer was to fail, and said: ${error?.details ?? "nothing"}`));
    });
  });
  client.close();
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

const floor: Run[] = [];
const ours: Run[] = [];
// The first run of ours fills the compile cache; a user has it once per version.
const cold = await run(executable, [], loadAll);
for (let i = 0; i < runs; i++) {
  floor.push(await run(process.execPath, ["-e", bare], () => Promise.resolve()));
  ours.push(await run(executable, [], loadAll));
}
const row = (name: string, all: readonly Run[]) => ({
  process: name,
  "start, median (ms)": Math.round(median(all.map(({ startMs }) => startMs))),
  "start, slowest (ms)": Math.round(Math.max(...all.map(({ startMs }) => startMs))),
  "peak memory (MB)": Math.round(Math.max(...all.map(({ peakMb }) => peakMb))),
});
console.table([
  row("floor: bare gRPC server", floor),
  row("edgeseal provider", ours),
  row("edgeseal provider, first start", [cold]),
]);
