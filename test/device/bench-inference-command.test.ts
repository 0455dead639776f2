import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { benchInference, type World } from "../../cli/bench/inference.ts";
import { register, type BenchInferenceOptions } from "../../cli/bench.ts";
import type { VariantResult } from "../../cli/bench/samples.ts";
import { createSession } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { quote } from "../../provider/device/shell-quote.ts";
import { checkProgram, serviceUnit } from "../../provider/resources/inference-container-unit.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { example } from "../unit/resources/inference-container-example.ts";

/*
 * `edgeseal bench inference` on a node with a real systemd and the rendered unit. In the place of podman is a program that starts a server of some lines, whose speed tells how it was started.
 */

const inputs = { ...example, confinement: { ...example.confinement, appArmor: "unconfined" as const } };
const served = `edgeseal-${inputs.name}.service`;

const podman = `#!/usr/bin/perl
use strict; use warnings; use IO::Socket::UNIX; use POSIX ();
my $given = "@ARGV";
my ($pid_file) = $given =~ /--conmon-pidfile=(\\S+)/;
my ($folder) = $given =~ /--volume (\\S+):\\/run\\/inference/;
open my $status, '<', '/proc/self/status' or die $!;
my ($filtered) = join('', <$status>) =~ /^Seccomp:\\s*([1-9])/m;
my $speed = 100 + ($filtered ? 0 : 5) + ($given =~ /:\\/models:ro/ && $given =~ /\\/dev\\/shm/ ? 10 : 0) + ($given =~ /seccomp=unconfined/ ? 20 : 0) + ($given =~ /--pids-limit/ ? 0 : 40);
exit 7 if $given !~ /--pids-limit/ && -e '/etc/refuse-limitless';
my $server = IO::Socket::UNIX->new(Local => "$folder/http.sock", Listen => 8) or die "$folder: $!";
my $child = fork;
if ($child) { open my $file, '>', $pid_file or die $!; print {$file} "$child\\n"; exit 0 }
POSIX::setsid();
while (my $client = $server->accept) {
  my ($first, $length) = (scalar <$client>, 0);
  while (my $line = <$client>) { last if $line =~ /^\\r?$/; $length = $1 if $line =~ /^Content-Length: (\\d+)/i }
  read $client, my $body, $length if $length;
  if ($first =~ m{^GET }) { print {$client} "HTTP/1.1 200 OK\\r\\n\\r\\n{}" }
  else { print {$client} qq(HTTP/1.1 200 OK\\r\\n\\r\\ndata: {"timings":{"prompt_n":8,"prompt_per_second":$speed,"predicted_n":4,"predicted_per_second":$speed}}\\n\\n) }
  close $client;
}
`;

let node: NamespaceNode;
let folder: string;

beforeAll(async () => {
  node = await NamespaceNode.start();
  const model = `${inputs.modelDirectory}/${inputs.model.slice("sha256:".length)}`;
  await node.must(`set -eu
printf %s ${quote(podman)} >/usr/bin/podman
mkdir -p ${checkProgram.replace(/\/[^/]*$/, "")} ${model} ${inputs.storage}
printf '#!/bin/sh\\n' >${checkProgram}
chmod 755 /usr/bin/podman ${checkProgram}
head -c 65536 /dev/zero >${model}/model.gguf
useradd --system --no-create-home edgeseal-${inputs.name}
printf %s ${quote(serviceUnit(inputs))} >/etc/systemd/system/${served}
systemctl daemon-reload`);
  folder = mkdtempSync(join(tmpdir(), "edgeseal-bench-"));
  const { node: name, address, port, user, hostKey, identityFile } = node.connection;
  writeFileSync(
    join(folder, "site.yaml"),
    `site: bench
nodes:
  - name: ${name}
    address: ${address}
    port: ${port}
    user: ${user}
    hostKey: ${hostKey}
    identityFile: ${identityFile ?? ""}
    boot: { require: none }
    firewall: { management: [192.0.2.0/24], dns: [192.0.2.53], ntp: [192.0.2.123] }
`,
  );
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await (node as NamespaceNode | undefined)?.stop();
});
beforeEach(() => node.must(`systemctl start ${served}`));

const pid = (): Promise<string> => node.must(`systemctl show -P MainPID ${served}`);

const world = (answer?: string): World => ({
  open: (connection) => createSession({ connection, transport: ssh2Transport() }),
  canAsk: () => answer !== undefined,
  ask: () => Promise.resolve(answer ?? ""),
});

/** What the command printed, threw, and ended with. */
async function bench(
  change: Partial<BenchInferenceOptions>,
  answer?: string,
  onProgress: (line: string) => void = () => undefined,
): Promise<{ readonly printed: string; readonly code: number; readonly fault: unknown }> {
  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  const progress = vi.spyOn(console, "error").mockImplementation((line: unknown) => onProgress(String(line)));
  const before = process.exitCode;
  process.exitCode = 0;
  let fault: unknown;
  try {
    const options = {
      site: join(folder, "site.yaml"),
      service: inputs.name,
      minutes: 1,
      rounds: 1,
      promptTokens: 8,
      tokens: 4,
      ...change,
    };
    await benchInference(node.name, options, world(answer)).catch((error: unknown) => (fault = error));
    return { printed: log.mock.calls.flat().join("\n"), code: process.exitCode, fault };
  } finally {
    process.exitCode = before;
    log.mockRestore();
    progress.mockRestore();
  }
}

test("each layer is really taken away; the plot is written; the service is back", async () => {
  const plot = join(folder, "plot.svg");
  const { printed, code, fault } = await bench({ yes: true, json: true, plot });
  expect(fault).toBeUndefined();
  const found = JSON.parse(printed) as { emulated: boolean; results: VariantResult[]; failures: object };
  // Of the unit's hardening, the program that stands for podman sees its filters.
  expect(found.results.map(({ variant, absolute }) => [variant, absolute.prompt.median])).toEqual([
    ["as served", 100],
    ["with the model in memory, not on its volume", 110],
    ["and without the seccomp profile", 130],
    ["and without the unit's hardening", 135],
    ["and without limits", 175],
  ]);
  expect(found).toMatchObject({ emulated: true, failures: {} });
  expect(readFileSync(plot, "utf8")).toContain("emulated, not transferable");
  expect(code).toBe(0);
  expect(await node.must(`systemctl is-active ${served}`)).toBe("active\n");
});

test("what can't be started is told with its status, and the others are set against the last that could", async () => {
  await node.must("touch /etc/refuse-limitless");
  const { printed, code } = await bench({ yes: true });
  await node.must("rm /etc/refuse-limitless");
  expect(printed).toContain("not measured: and without limits: exit-code 7");
  expect(printed).toContain("Shares are of the speed of 'and without the unit's hardening'");
  expect(printed).not.toContain("NaN");
  expect(code).toBe(1);
});

test("nobody says yes: nothing is stopped, and the status says so", async () => {
  const before = await pid();
  expect(await bench({}, "n")).toMatchObject({ code: 4, printed: "" });
  expect(await bench({ json: true }, "y")).toMatchObject({ code: 4, printed: "" });
  expect(await pid()).toBe(before);
});

test("what is served is measured without a question, and without stopping it", async () => {
  const before = await pid();
  const { printed, code } = await bench({ servedOnly: true });
  expect(printed).toMatch(
    /^emulated, not transferable \(.*\)\n\nas it serves, 3 prompts of 8 tokens: prompt tokens\/s 100 /,
  );
  expect(code).toBe(0);
  expect(await pid()).toBe(before);
});

test("Ctrl-C: 130, and the node starts the service again", async () => {
  const { code, fault } = await bench({ yes: true, rounds: 50 }, undefined, (line) => {
    if (line.startsWith("round 2")) process.emit("SIGINT");
  });
  expect(code).toBe(130);
  expect(String(fault)).toContain("starts it again");
  await node.must(`timeout 20 sh -c 'until systemctl is-active -q ${served}; do sleep 0.1; done'`);
});

test("a service that is not there, or does not serve, is told before anything is done", async () => {
  expect(String((await bench({ yes: true, service: "other" })).fault)).toContain(
    "has no inference service other",
  );
  await node.must(`systemctl stop ${served}`);
  expect(String((await bench({ yes: true })).fault)).toContain("does not serve");
});

test("the command line takes whole numbers, and needs a site file", async () => {
  const parse = (...words: string[]): Promise<unknown> => {
    const program = new Command("edgeseal").exitOverride().configureOutput({ writeErr: () => undefined });
    register(program);
    for (const each of program.commands.flatMap((command) => [command, ...command.commands]))
      each.exitOverride().configureOutput({ writeErr: () => undefined });
    return program.parseAsync(["bench", "inference", ...words], { from: "user" });
  };
  await expect(parse("pi-1")).rejects.toThrow(/--site/);
  await expect(parse("pi-1", "--site", "x", "--rounds", "0")).rejects.toThrow(/whole number/);
});
