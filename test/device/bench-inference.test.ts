import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import {
  comparedUnit,
  comparingUnit,
  guardUnit,
  renderComparison,
  runComparison,
  type Comparison,
} from "../../cli/bench/comparison.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import { createSession } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";

/*
 * What is served comes back, however a comparison ends: with a real systemd, and a server of some lines that answers as llama-server does, at a speed that is told it.
 */

const name = "inference";
const served = `edgeseal-${name}.service`;
const socket = `/run/edgeseal-${name}/http/http.sock`;

/** Answers each prompt after a while, and tells the speed that it was started with. */
const server = `use strict; use warnings; use IO::Socket::UNIX;
my ($path, $speed, $seconds) = @ARGV;
unlink $path;
my $server = IO::Socket::UNIX->new(Local => $path, Listen => 8) or die "$path: $!";
while (my $client = $server->accept) {
  my ($first, $length) = (scalar <$client>, 0);
  while (my $line = <$client>) { last if $line =~ /^\\r?$/; $length = $1 if $line =~ /^Content-Length: (\\d+)/i }
  read $client, my $body, $length if $length;
  if ($first =~ m{^GET /health }) { print {$client} "HTTP/1.1 200 OK\\r\\n\\r\\n{}" }
  else {
    select undef, undef, undef, $seconds;
    print {$client} "HTTP/1.1 200 OK\\r\\n\\r\\ndata: {\\"content\\":\\" one\\"}\\n\\n";
    print {$client} qq(data: {"timings":{"prompt_n":8,"prompt_per_second":$speed,"predicted_n":4,"predicted_per_second":$speed}}\\n\\n);
  }
  close $client;
}
`;

const unitWith = (command: string): string => `[Unit]
Conflicts=${served}
[Service]
Type=exec
RuntimeDirectory=edgeseal-${name} edgeseal-${name}/http
ExecStart=${command}
`;
const serving = (speed: number, seconds = 0.01): string =>
  unitWith(`/usr/bin/perl /usr/local/lib/server ${socket} ${speed} ${seconds}`);

const fast = { name: "fast", unit: serving(200) };
const slow = { name: "slow", unit: serving(100) };

const comparison = (change: Partial<Comparison> = {}): Comparison => ({
  name,
  socket,
  modelFile: "/etc/hostname",
  variants: [slow, fast],
  modelInMemory: undefined,
  rounds: 2,
  requests: 2,
  seconds: 60,
  loadSeconds: 20,
  promptTokens: 8,
  tokens: 4,
  ...change,
});
/** So slow that it is under way whenever it is looked at. */
const endless = comparison({ variants: [{ name: "endless", unit: serving(1, 30) }], rounds: 50 });

let node: NamespaceNode;
const state = async (unit: string): Promise<string> =>
  (await node.must(`systemctl show -P ActiveState ${unit}`)).trim();
/** systemd's own word for it: a unit that is being started is waited for, and one that nobody starts is not. */
const activeWithin = (unit: string, seconds = 20): Promise<string> =>
  node.must(`timeout ${seconds} sh -c 'until systemctl is-active -q ${unit}; do sleep 0.1; done'`);
const session = () => createSession({ connection: node.connection, transport: ssh2Transport() });

beforeAll(async () => {
  node = await NamespaceNode.start();
  await node.must(`cat >/usr/local/lib/server <<'END'
${server}END
cat >/etc/systemd/system/${served} <<'END'
${serving(50).replace(`Conflicts=${served}\n`, "")}END
systemctl daemon-reload`);
});
afterAll(() => (node as NamespaceNode | undefined)?.stop());
beforeEach(() => node.must(`systemctl stop ${comparingUnit(name)} 2>/dev/null; systemctl start ${served}`));

/** Nothing of a comparison is left, and what was served is served. */
async function expectServed(): Promise<void> {
  // Its folder is the last that the guard takes away.
  await node.must(`timeout 20 sh -c 'while [ -d /run/edgeseal-${name}-bench ]; do sleep 0.1; done'`);
  await activeWithin(served);
  expect(await state(comparedUnit(name))).toBe("inactive");
  expect(
    await node.must(
      `ls -d /run/systemd/system/${comparedUnit(name)} /run/systemd/system/${guardUnit(name)} /run/edgeseal-${name}-bench /dev/shm/edgeseal-${name}-bench 2>/dev/null || :`,
    ),
  ).toBe("");
}

/** Begins a comparison; resolves when its first variant is under way. */
async function begun(
  what: Comparison,
  signal: AbortSignal,
): Promise<{ readonly ended: Promise<unknown>; readonly close: () => Promise<void> }> {
  const ssh = session();
  let onBegin: () => void = () => undefined;
  const begins = new Promise<void>((resolve) => (onBegin = resolve));
  const ended = runComparison(ssh, what, {
    signal,
    onLine: (line) => {
      if (line.startsWith("loaded ")) onBegin();
    },
  }).catch((error: unknown) => error);
  await Promise.race([
    begins,
    ended.then((result) => {
      throw new Error(`it ended before it began: ${String(result)}`);
    }),
  ]);
  return { ended, close: () => ssh.close() };
}

test("variants are measured round by round, and what was served is served again", async () => {
  const ssh = session();
  const said: string[] = [];
  const inMemory = `/dev/shm/edgeseal-${name}-bench`;
  const broken = { name: "broken", unit: unitWith("/bin/false") };
  try {
    const measured = await runComparison(
      ssh,
      comparison({ modelInMemory: inMemory, variants: [slow, broken, fast] }),
      { onLine: (line) => said.push(line) },
    );
    expect(measured.serving.map(({ promptPerSecond }) => promptPerSecond)).toEqual([50, 50]);
    expect(measured.starts.map((start) => [start.round, start.variant])).toEqual([
      [1, "slow"],
      [1, "fast"],
      // Back and forth.
      [2, "fast"],
      [2, "slow"],
    ]);
    expect(measured.starts[0]?.samples.map(({ promptPerSecond }) => promptPerSecond)).toEqual([100, 100]);
    expect(measured.failures).toEqual({ broken: expect.stringMatching(/^exit-code 1\b/) as string });
    expect(said).toContain("begin 2 0");
  } finally {
    await ssh.close();
  }
  await expectServed();
});

/** A program that is started as podman is by a unit of edgeseal's. */
const forking = (path: string): string =>
  `[Unit]
Conflicts=${served}
[Service]
Type=forking
Delegate=yes
ExecStart=/bin/sh ${path}
`;
const programs = {
  podman: "echo Error: of podman >&2; exit 125",
  server: `group=/sys/fs/cgroup/system.slice/${comparedUnit(name)}
mkdir $group/libpod-payload-1
sh -c 'echo $$ >$0/libpod-payload-1/cgroup.procs; echo Error: with a part of a prompt; journalctl --sync' $group
exit 125`,
  plain: "echo Error: with a part of a prompt; exit 1",
};

test("why a variant does not start is told in podman's words, and never in the server's", async () => {
  for (const [program, does] of Object.entries(programs))
    await node.must(`cat >/usr/local/lib/${program}-fails <<'END'
${does}
END`);
  const ssh = session();
  try {
    const { failures } = await runComparison(
      ssh,
      comparison({
        variants: [
          fast,
          { name: "podman", unit: forking("/usr/local/lib/podman-fails") },
          { name: "server", unit: forking("/usr/local/lib/server-fails") },
          { name: "plain", unit: unitWith("/bin/sh /usr/local/lib/plain-fails") },
        ],
        rounds: 1,
      }),
    );
    const exited = `${comparedUnit(name)}: Control process exited, code=exited, status=125/n/a`;
    expect(failures).toEqual({
      podman: "exit-code 125 Error: of podman",
      server: `exit-code 125 ${exited}`,
      plain: expect.stringMatching(/^exit-code 1 .*: Main process exited, code=exited, status=1/) as string,
    });
  } finally {
    await ssh.close();
  }
  expect(await node.must(`journalctl -q -o cat -u ${comparedUnit(name)}`)).toContain(
    "with a part of a prompt",
  );
  await expectServed();
});

test("measuring what is served stops nothing", async () => {
  const pid = (): Promise<string> => node.must(`systemctl show -P MainPID ${served}`);
  const before = await pid();
  const ssh = session();
  try {
    const { serving: samples, starts } = await runComparison(ssh, comparison({ variants: [] }));
    expect([samples.length, starts.length]).toEqual([2, 0]);
  } finally {
    await ssh.close();
  }
  expect(await pid()).toBe(before);
});

test("Ctrl-C, and with it the connection: the node itself brings back what was served", async () => {
  const interruption = new AbortController();
  const { ended, close } = await begun(endless, interruption.signal);
  expect(await state(served)).toBe("inactive");
  interruption.abort();
  expect(await ended).toBeInstanceOf(DeviceError);
  await close();
  await expectServed();
});

test("the measuring program is killed", async () => {
  const { ended, close } = await begun(endless, new AbortController().signal);
  await node.must(`systemctl kill --signal=KILL ${comparingUnit(name)}`);
  expect(String(await ended)).toContain("did not come to its end");
  await close();
  await expectServed();
});

test("it takes too long, and nobody is there to end it: systemd does", async () => {
  const limited = renderComparison(endless).replace(/RuntimeMaxSec=\d+/, "RuntimeMaxSec=3");
  expect((await node.exec(limited)).code).not.toBe(0);
  await expectServed();
});

test("somebody starts the service meanwhile: the comparison ends, and says so", async () => {
  const { ended, close } = await begun(endless, new AbortController().signal);
  await node.must(`systemctl start ${served}`);
  expect(String(await ended)).toContain("was started meanwhile");
  await close();
  await expectServed();
});

test("a second comparison is refused while one is under way, and does not disturb it", async () => {
  const interruption = new AbortController();
  const { ended, close } = await begun(endless, interruption.signal);
  const second = await node.exec(renderComparison(comparison()));
  expect(second).toMatchObject({ code: 1, stderr: expect.stringContaining("under way") as string });
  expect(await state(comparedUnit(name))).toBe("active");
  interruption.abort();
  await ended;
  await close();
  await expectServed();
});

test("the twin: without the guard nothing would bring it back", async () => {
  const unguarded = renderComparison(endless).replaceAll(/-p On(Success|Failure)=\S+/g, "");
  const running = node.exec(unguarded);
  await activeWithin(comparedUnit(name));
  await node.must(`systemctl kill --signal=KILL ${comparingUnit(name)}`);
  await running;
  expect(await state(served)).toBe("inactive");
  await node.must(`systemctl stop ${comparedUnit(name)}; rm -rf /run/edgeseal-${name}-bench`);
});
