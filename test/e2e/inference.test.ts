import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { plainName } from "../../cli/bench/variants.ts";
import { runAnotherImage } from "../../cli/demo/inference/by-hand.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { edgesealIn } from "./command-line.ts";
import {
  completion,
  confinementOf,
  InferenceSupply,
  mountPoint,
  port,
  serviceOf,
  startPrepared,
  stateOf,
  type Supply,
} from "./inference-node.ts";
import { bringUp, driftOf, onPi } from "./provider-on-pi.ts";

/*
 * A real model, served in a container whose confinement is read from its process: brought up, asked, taken apart in each of the ways that a refresh has to name, and mended.
 */

const supplies = new InferenceSupply();
let pi: VirtualPi;
let supply: Supply;
let service: ReturnType<typeof serviceOf>;

beforeAll(async () => {
  supply = await supplies.real();
  service = serviceOf(supply);
  pi = await startPrepared(supply, supplies.key);
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  supplies[Symbol.dispose]();
});

const state = () => stateOf(pi, service);
const drift = () => driftOf(pi, service);

/** Seconds of the node's clock until it answers. */
const untilHealthy = async (): Promise<number> =>
  Number(
    await onPi(
      pi,
      `read -r from _ </proc/uptime
i=0
until /usr/lib/edgeseal/ask-inference /run/edgeseal-inference/http/http.sock /health 5 >/dev/null; do i=$((i + 1)); [ $i -lt 300 ] || exit 1; sleep 0.5; done
read -r now _ </proc/uptime
echo $((\${now%.*} - \${from%.*}))`,
    ),
  );

test("from a node with a volume, a model and its profiles to an answer of the real model", async () => {
  await bringUp(pi, service);
  expect(await completion(pi, "The capital of France is", 3)).toMatch(/^ [a-z]/i);
});

test("what holds of the process, as the kernel has it", async () => {
  const { confinement, exposure, image, model, health } = await state();
  expect({ health, image, model }).toEqual({
    health: "healthy",
    image: supply.image.slice(supply.image.indexOf("@") + 1),
    model: supply.model.digest,
  });
  expect(confinement).toMatchObject({
    user: "edgeseal-inference",
    capabilities: "none",
    seccomp: "profile",
    appArmor: "edgeseal-inference and edgeseal-inference-podman (enforce)",
    rootFilesystem: "read-only",
    interfaces: "lo",
    swapMax: "0 MiB",
    modelLocked: "all",
  });
  // systemd calls what is below 4 "OK".
  expect(Object.keys(exposure)).toHaveLength(3);
  for (const [unit, figure] of Object.entries(exposure)) expect(Number(figure), unit).toBeLessThan(4);
});

/** Started without the check and with fewer filters, by a drop-in that is gone again. */
const unchecked = `mkdir -p /run/systemd/system/edgeseal-inference.service.d
printf '[Service]\\nExecCondition=\\nSystemCallFilter=\\n' >/run/systemd/system/edgeseal-inference.service.d/x.conf
systemctl daemon-reload && systemctl restart edgeseal-inference
rm -r /run/systemd/system/edgeseal-inference.service.d
systemctl daemon-reload`;
const byHand = `${runAnotherImage({ name: "inference", storage: `${mountPoint}/containers/inference` }, `${mountPoint}/by-hand`)}
systemd-run --quiet -p User=edgeseal-inference sleep 1000`;
const override = `mkdir -p /etc/systemd/system/edgeseal-inference.service.d
printf '[Service]\\nMemoryMax=infinity\\n' >/etc/systemd/system/edgeseal-inference.service.d/x.conf
systemctl daemon-reload
until [ "$(cat /sys/fs/cgroup/system.slice/edgeseal-inference.service/memory.max)" = max ]; do sleep 0.5; done`;

describe("drift", () => {
  /** Each start takes a minute here, so that all of them are mended by one. */
  test.each<[string, string, readonly string[]]>([
    [
      "the service is started while its seccomp profile is looser, which is put back",
      `cd /etc/edgeseal/seccomp && cp inference.json kept
sed -i 's/"brk",/"brk", "ptrace",/' inference.json && ! cmp -s inference.json kept
systemctl restart edgeseal-inference && mv kept inference.json`,
      ["confinement.seccomp"],
    ],
    [
      "the service is started with a drop-in that skips its check, which is removed",
      unchecked,
      ['units["edgeseal-inference.service"]'],
    ],
    ["the user is added to video", "usermod -aG video edgeseal-inference", ["groups"]],
    ["an override is dropped in", override, ["confinement.memoryMax", "unitOverrides"]],
    [
      "another image is brought and started by hand",
      byHand,
      ["foreignContainers", "foreignProcesses", "leftovers"],
    ],
    [
      "a profile is unloaded: the process is found unconfined",
      "apparmor_parser -R /etc/apparmor.d/edgeseal-inference",
      ["confinement.appArmor"],
    ],
  ])("%s: named by a refresh", async (_, script, paths) => {
    await onPi(pi, script);
    expect(await drift()).toEqual(expect.arrayContaining([...paths]));
    if (script === byHand)
      expect((await state()).foreignContainers.join()).toMatch(/^by-hand of sha256:(?!unknown)/);
  });

  test("all of it is mended by an update", async () => {
    await bringUp(pi, confinementOf().appArmor);
    await bringUp(pi, service);
    expect(await drift()).toEqual([]);
  });
});

test("a server that is killed comes back", async () => {
  await onPi(pi, "pkill -KILL -x llama-server && sleep 1");
  const seconds = await untilHealthy();
  console.info(`serving again after SIGKILL: ${seconds} s`);
  // As docs/figures.md has it.
  expect(seconds).toBeLessThan(120);
  const { restarts, health } = await state();
  expect({ restarts, health }).toEqual({ restarts: 1, health: "healthy" });
  // The check went before that start, too.
  expect(await drift()).toEqual([]);
});

test("more connections than it takes cost it nothing: at the port others are closed, at its socket they wait", async () => {
  const invocation = "systemctl show -P InvocationID edgeseal-inference";
  const before = await onPi(pi, invocation);
  /** What the health check is told within 10 s while 60 requests are begun and not ended, and how many of these are still open then. */
  const crowded = (at: string): Promise<string> =>
    onPi(
      pi,
      `cat >/run/crowd <<'END'
use IO::Socket::INET; use IO::Socket::UNIX; use IO::Select;
my $at = shift;
my @all = map { my $to = $at =~ m{^/} ? IO::Socket::UNIX->new(Peer => $at) : IO::Socket::INET->new(PeerAddr => $at); syswrite $to, "GET /health HTTP/1.1\r\n"; $to } 1 .. 60;
sleep 2;
print \`/usr/lib/edgeseal/ask-inference /run/edgeseal-inference/http/http.sock /health 10\`;
print 60 - IO::Select->new(@all)->can_read(0), "\n";
END
perl /run/crowd ${at}; rm /run/crowd`,
    );
  // Of 27 connections (docs/resources/inference-container.md) 23 are for the port.
  expect(await crowded(`127.0.0.1:${port}`)).toBe("healthy\n23\n");
  expect(await crowded("/run/edgeseal-inference/http/http.sock")).toBe("no answer\n60\n");
  expect(await untilHealthy()).toBeLessThan(30);
  expect(await onPi(pi, invocation), "it is still the same start").toBe(before);
});

test("a server that hangs is started anew by its health check, within three minutes", async () => {
  const invocation = "systemctl show -P InvocationID edgeseal-inference";
  const before = (await onPi(pi, invocation)).trim();
  // It keeps its socket, and answers nothing.
  await onPi(pi, "pkill -STOP -x llama-server");
  await onPi(
    pi,
    `read -r from _ </proc/uptime
while [ "$(${invocation})" = ${before} ]; do read -r now _ </proc/uptime; [ $((\${now%.*} - \${from%.*})) -lt 180 ] || exit 1; sleep 1; done`,
  );
  console.info(`serving again after a hang: ${await untilHealthy()} s more`);
  expect((await state()).health).toBe("healthy");
}, 900_000);

test("after a reboot it serves again without a person", async () => {
  await pi.reboot();
  await untilHealthy();
  const uptime = Number(await onPi(pi, "cut -d. -f1 /proc/uptime"));
  console.info(`serving again after a reboot, at an uptime of ${uptime} s`);
  expect(uptime).toBeLessThan(300);
  expect(await drift()).toEqual([]);
  expect(await completion(pi, "The capital of France is", 2)).not.toBe("");
});

test("each layer is taken away and measured, labelled as emulated, and then it is served as before", async () => {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-bench-"));
  try {
    const { host, ...login } = pi.ssh;
    const site = { site: "lab", nodes: [{ name: "pi-1", address: host, ...login }] };
    writeFileSync(join(folder, "lab.yaml"), stringify(site));
    const few = ["--rounds", "1", "--prompt-tokens", "4", "--tokens", "2", "--minutes", "20"];
    const { code, stdout, text } = await edgesealIn(folder, [
      ...["bench", "inference", "pi-1", "--site", "lab.yaml", "--yes", "--json", "--plot", "cost.svg"],
      ...few,
    ]);
    expect(code, text).toBe(0);
    const { emulated, results, failures } = JSON.parse(stdout) as {
      readonly emulated: boolean;
      readonly results: readonly {
        readonly variant: string;
        readonly absolute: { readonly generation: { readonly median: number } };
      }[];
      readonly failures: object;
    };
    expect({ emulated, failures }).toEqual({ emulated: true, failures: {} });
    expect(results.map(({ variant }) => variant)).toEqual([
      "as served",
      "with the model in memory, not on its volume",
      ...["AppArmor", "the seccomp profile", "the unit's hardening", "limits"].map(
        (layer) => `and without ${layer}`,
      ),
      plainName,
    ]);
    for (const { variant, absolute } of results)
      expect(absolute.generation.median, variant).toBeGreaterThan(0);
    expect(readFileSync(join(folder, "cost.svg"), "utf8")).toContain("not transferable");
  } finally {
    rmSync(folder, { recursive: true });
  }
  await untilHealthy();
  expect(await drift()).toEqual([]);
}, 1_800_000);
