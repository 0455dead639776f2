import { once } from "node:events";
import { connect as connectTcp } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { Type } from "typebox";
import type { Connection } from "../../provider/connection.ts";
import { renderScript } from "../../provider/device/batch.ts";
import type { Devices } from "../../provider/device/device.ts";
import { createDevices, type DevicesOptions } from "../../provider/device/devices.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import { outputOf, UnknownObservation } from "../../provider/device/probe.ts";
import { createSession, type Session } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { defineResource, type ResourceKind } from "../../provider/resource.ts";
import { Fleet, type FleetNode } from "../../testbed/fleet.ts";
import { LatencyProxy } from "../../testbed/latency-proxy.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { kinds, noteFolder, thirtyResources } from "./thirty-kinds.ts";

/** A kind that only looks, with the script that a test gives. */
function looking(name: string, script: string): ResourceKind {
  return defineResource({
    token: `edgeseal:test:${name}`,
    description: "Looks.",
    inputs: Type.Object({}),
    state: Type.Object({ said: Type.String() }),
    observe: () => ({
      id: `edgeseal:test:${name}`,
      parts: { look: script },
      parse: (parts) => ({ outcome: "present", state: { said: outputOf(parts, "look") } }),
    }),
    desired: () => ({}),
    plan: () => [],
    revert: () => [],
  });
}

async function failure(promise: Promise<unknown>): Promise<DeviceError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof DeviceError) return error;
    throw error;
  }
  throw new Error("it succeeded");
}

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()));
});

function devicesWith(some: readonly ResourceKind[], options: Partial<DevicesOptions> = {}): Devices {
  const devices = createDevices({ kinds: some, ...options });
  opened.push(devices);
  return devices;
}

function sessionTo(
  connection: Connection,
  options: Partial<Parameters<typeof createSession>[0]> = {},
): Session {
  const session = createSession({ connection, transport: ssh2Transport(), ...options });
  opened.push(session);
  return session;
}

const whoami = looking(
  "WhoAmI",
  `id -un; printf '%s\\n' "$LC_ALL" "$PATH" "$HOME"; env | wc -l; ls /nonexistent 2>&1 || :`,
);
const whoamiSays = `root\nC\n/usr/sbin:/usr/bin:/sbin:/bin\n/root\n`;

describe("a node with sudo", () => {
  let node: NamespaceNode;
  beforeAll(async () => {
    node = await NamespaceNode.start();
  });
  afterAll(() => node.stop());

  const look = async (): Promise<unknown> => devicesWith([whoami]).get(node.connection).observe(whoami, {});

  test("runs as root in a clean environment", async () => {
    expect(await look()).toMatchObject({
      outcome: "present",
      state: { said: expect.stringContaining(whoamiSays) as string },
    });
  });

  test("sudo that asks for a password: `denied`, with the line that mends it", async () => {
    await node.must("printf 'edge ALL=(ALL) ALL\\n' >/etc/sudoers.d/edge && chmod 0440 /etc/sudoers.d/edge");
    try {
      const error = await failure(look());
      expect(error.kind).toBe("denied");
      expect(error.message).toMatch(
        /sudo asks for a password \(sudo: a password is required\); .*'edge ALL=\(root\) NOPASSWD: \/bin\/sh'/,
      );
      // The line that the hint gives is enough.
      await node.must("printf 'edge ALL=(root) NOPASSWD: /bin/sh\\n' >/etc/sudoers.d/edge && visudo -c");
      expect(await look()).toMatchObject({ outcome: "present" });
    } finally {
      await node.must("printf 'edge ALL=(ALL) NOPASSWD: ALL\\n' >/etc/sudoers.d/edge");
    }
  });

  test("sudo that does not know the user, or is not there: `denied`, each with its mend", async () => {
    await node.must("printf 'edge ALL=(root) NOPASSWD: /bin/true\\n' >/etc/sudoers.d/edge");
    try {
      expect((await failure(look())).kind).toBe("denied");
      await node.must(": >/etc/sudoers.d/edge");
      expect((await failure(look())).message).toMatch(/sudo/);
    } finally {
      await node.must("printf 'edge ALL=(ALL) NOPASSWD: ALL\\n' >/etc/sudoers.d/edge");
    }
    await node.must("mv /usr/bin/sudo /usr/bin/sudo.away");
    try {
      const error = await failure(look());
      expect(error.kind).toBe("denied");
      expect(error.message).toMatch(/the device has no sudo .*install it/);
    } finally {
      await node.must("mv /usr/bin/sudo.away /usr/bin/sudo");
    }
  });

  test("noise of login scripts on both outputs, a slow one, and another locale change nothing", async () => {
    const before = await look();
    await node.must(
      `cp /home/edge/.bashrc /home/edge/.bashrc.away 2>/dev/null || :
       printf '%s\\n' 'echo "Willkommen!"; printf "ohne Zeilenende"; echo "Warnung" >&2' 'export LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8 LANGUAGE=de' 'alias exec=false sudo=false' 'sleep 0.2' >/home/edge/.bashrc`,
    );
    try {
      // The control: a command that is not framed has the noise in it.
      const link = await ssh2Transport().connect(node.connection, { timeoutMs: 10_000 });
      opened.push(link);
      expect((await link.exec("echo plain", { timeoutMs: 5000 })).stdout).toContain("Willkommen!");
      expect(await look()).toEqual(before);
    } finally {
      await node.must(
        "rm -f /home/edge/.bashrc; mv /home/edge/.bashrc.away /home/edge/.bashrc 2>/dev/null || :",
      );
    }
  });

  test("a script that hangs, ignoring TERM and with children, is gone from the device soon after its deadline", async () => {
    const session = sessionTo(node.connection);
    const error = await failure(
      session.run("trap '' TERM; sleep 4711 & while :; do sleep 4712; done", { timeoutMs: 1000 }),
    );
    expect(error.kind).toBe("timedOut");
    expect(error.message).toMatch(
      /did not end within 1 s and was ended on the device; something on the device hangs or is overloaded; its journal may tell what$/,
    );
    await vi.waitFor(async () => expect((await node.exec("pgrep -f 'sleep 471[12]'")).stdout).toBe(""), 5000);
  });

  test("a login shell that refuses commands: `denied`", async () => {
    await node.must("usermod -s /usr/sbin/nologin edge");
    try {
      const error = await failure(look());
      expect(error.kind).toBe("denied");
      expect(error.message).toMatch(/the login user may not run commands/);
    } finally {
      await node.must("usermod -s /bin/bash edge");
    }
  });
});

describe("one sshd", () => {
  let fleet: Fleet;
  let node: FleetNode;
  beforeAll(async () => {
    fleet = await Fleet.start(1);
    node = fleet.first;
  });
  afterAll(() => fleet.stop());
  beforeEach(() => node.exec(`mkdir -p ${noteFolder}`));

  const sleepers = async (): Promise<readonly string[]> =>
    (await node.processes())
      .map(({ command }) => command)
      .filter((command) => /^sleep 47\d\d$/.test(command));

  test("a probe that hangs is named, ended on the device, and does not hold the connection", async () => {
    const hanging = looking("Hanging", "sleep 4713");
    const devices = devicesWith([whoami, hanging], { observeTimeoutMs: 1000 });
    const error = await failure(devices.get(node.connection).observe(whoami, {}));
    expect(error.kind).toBe("timedOut");
    expect(error.message).toMatch(
      /while it looked at 'edgeseal:test:Hanging look'; something on the device hangs or is overloaded; its journal may tell what$/,
    );
    await vi.waitFor(async () => expect(await sleepers()).toEqual([]));
    expect(
      await devices
        .get(node.connection)
        .observe(looking("Other", "echo on"), {})
        .catch((e: unknown) => e),
    ).toBeInstanceOf(DeviceError);
    expect((await sessionTo(node.connection).run("echo on", { timeoutMs: 5000 })).stdout).toContain("on\n");
  });

  test("a script whose client is gone still ends at its deadline", async () => {
    const session = sessionTo(node.connection);
    const { promise: here, resolve } = Promise.withResolvers<undefined>();
    const running = failure(
      session.run("echo here; sleep 4714", {
        timeoutMs: 2000,
        onStdout: (chunk) => (chunk.includes("here") ? resolve(undefined) : undefined),
      }),
    );
    await here;
    await vi.waitFor(async () => expect(await sleepers()).toEqual(["sleep 4714"]));
    await session.close();
    expect(await running).toMatchObject({
      kind: "cancelled",
      hint: "run the operation again to go on from here",
    });
    await vi.waitFor(async () => expect(await sleepers()).toEqual([]), 5000);
  });

  test("the device goes away in the middle: `unreachable`, nothing concluded, and the next call makes a new connection", async () => {
    const devices = devicesWith([looking("Slow", "echo half; sleep 1; echo whole")]);
    const device = devices.get(node.connection);
    const slow = looking("Slow", "echo half; sleep 1; echo whole");
    const running = failure(device.observe(slow, {}));
    await vi.waitFor(async () =>
      expect((await node.processes()).some(({ command }) => command === "sleep 1")).toBe(true),
    );
    await node.killSessions();
    const error = await running;
    expect(error.kind).toBe("unreachable");
    expect(error.message).toMatch(
      /went away before the command ended.*; nothing is known of the device's state now; run the operation again once it is reachable$/,
    );
    expect(await device.observe(slow, {})).toEqual({ outcome: "present", state: { said: "half\nwhole\n" } });
  });

  test("a script that is cut off on its way runs nothing, wherever it is cut", async () => {
    await using proxy = await LatencyProxy.start({ target: { host: "127.0.0.1", port: node.port } });
    const connection = { ...node.connection, port: proxy.port };
    const body = `touch ${noteFolder}/ran\n: '${"x".repeat(300_000)}'\ntouch ${noteFolder}/ran`;
    const script = renderScript(body, "0123456789abcdef");
    const connecting = sessionTo(connection);
    await connecting.connect();
    const handshake = proxy.counts.bytesUp;
    await connecting.run(script, { timeoutMs: 10_000 });
    const whole = proxy.counts.bytesUp;
    // The control: uncut, it runs.
    expect(await node.exec(`ls ${noteFolder}`)).toContain("ran");
    await node.exec(`rm ${noteFolder}/ran`);
    await connecting.close();
    for (const share of [0.05, 0.3, 0.6, 0.9, 0.99]) {
      proxy.endAfter(handshake + Math.round((whole - handshake) * share));
      const error = await failure(sessionTo(connection, { attempts: 1 }).run(script, { timeoutMs: 10_000 }));
      expect(error.kind).toBe("unreachable");
      await vi.waitFor(
        async () =>
          expect(
            (await node.processes()).filter(
              ({ command }) => /edgeseal|sshd.*: root/.test(command) && !command.includes("listener"),
            ),
          ).toEqual([]),
        5000,
      );
      expect(await node.exec(`ls ${noteFolder}`), `cut at ${share}`).not.toContain("ran");
    }
  });

  test("more than 1 MB of answer, in characters of several bytes", async () => {
    const big = looking(
      "Big",
      `i=0; while [ $i -lt 30000 ]; do printf '%s' 'Füße 🔐 über alles, und noch einmal: Füße 🔐 über alles. '; i=$((i+1)); done`,
    );
    const observed = await devicesWith([big]).get(node.connection).observe<{ said: string }>(big, {});
    expect(
      observed.outcome === "present" &&
        observed.state.said === "Füße 🔐 über alles, und noch einmal: Füße 🔐 über alles. ".repeat(30_000),
    ).toBe(true);
  });

  test("a probe that is killed leaves its own resource unknown, and the others known", async () => {
    const killed = looking("Killed", "echo half; sh -c 'kill -9 $PPID'");
    const device = devicesWith([killed, whoami]).get(node.connection);
    await expect(device.observe(killed, {})).rejects.toThrow(UnknownObservation);
    expect(await device.observe(whoami, {})).toMatchObject({ outcome: "present" });
  });

  test("a script that is ended by a signal is no answer: `unknown`", async () => {
    // The shell above all parts, as the kernel's out-of-memory killer would choose it.
    const shot = looking("Shot", "kill -9 $$");
    const error = await failure(devicesWith([shot]).get(node.connection).observe(shot, {}));
    expect(error.kind).toBe("unknown");
    expect(error.message).toMatch(
      /incomplete: the script ended .* in 'edgeseal:test:Shot look' \(no error output\); nothing was concluded from it; run the operation again$/,
    );
  });

  test("a connection that died while idle costs one new connection, and no error", async () => {
    await using proxy = await LatencyProxy.start({ target: { host: "127.0.0.1", port: node.port } });
    const transport = ssh2Transport({ keepaliveIntervalMs: 100, keepaliveCountMax: 1 });
    const devices = devicesWith([whoami], { transport, maxAgeMs: 0 });
    const device = devices.get({ ...node.connection, port: proxy.port });
    await device.observe(whoami, {});
    // Not noticed yet when the next exec is sent.
    proxy.blackhole();
    const second = device.observe(whoami, {});
    await vi.waitFor(() => expect(proxy.counts.bytesLost).toBeGreaterThan(0));
    proxy.restore();
    expect(await second).toMatchObject({ outcome: "present" });
    // Noticed before.
    proxy.cut();
    expect(await device.observe(whoami, {})).toMatchObject({ outcome: "present" });
    expect(proxy.counts.connections).toBe(3);
  });

  test("close ends a read under way within a second, as cancelled, and all after it", async () => {
    const slow = looking("Slower", "sleep 3");
    const devices = devicesWith([slow]);
    const device = devices.get(node.connection);
    const running = failure(device.observe(slow, {}));
    await vi.waitFor(async () =>
      expect((await node.processes()).some(({ command }) => command === "sleep 3")).toBe(true),
    );
    const begun = performance.now();
    await devices.close();
    expect((await running).kind).toBe("cancelled");
    expect(performance.now() - begun).toBeLessThan(1000);
    expect((await failure(device.observe(slow, {}))).kind).toBe("cancelled");
    expect(() => devices.get(node.connection)).toThrow(DeviceError);
  });

  test("a caller that leaves a shared read does not end it for the others", async () => {
    const slow = looking("Shared", "sleep 0.5; echo done");
    const device = devicesWith([slow]).get(node.connection);
    const leaving = new AbortController();
    const left = failure(device.observe(slow, {}, { signal: leaving.signal }));
    const stays = device.observe(slow, {});
    leaving.abort();
    expect((await left).kind).toBe("cancelled");
    expect(await stays).toMatchObject({ state: { said: "done\n" } });
  });
});

describe("several nodes", () => {
  test("one is unreachable: the others go on, and it fails fast for all its resources", async () => {
    await using fleet = await Fleet.start(3);
    const [gone] = fleet.nodes;
    await gone?.stop();
    const devices = devicesWith(kinds);
    const begun = performance.now();
    const outcomes = await Promise.all(
      fleet.nodes.flatMap((node) =>
        thirtyResources.map(async ({ kind, inputs }) => ({
          name: node.name,
          outcome: await devices
            .get(node.connection)
            .observe(kind, inputs)
            .then(
              ({ outcome }) => outcome,
              (error: unknown) => (error instanceof DeviceError ? error.kind : error),
            ),
        })),
      ),
    );
    expect(performance.now() - begun).toBeLessThan(5000);
    // A transport failure is never read as absence.
    for (const { name, outcome } of outcomes)
      expect(outcome).toBe(name === gone?.name ? "unreachable" : "absent");
  });

  test("sshd that drops connections while it is busy (MaxStartups) is tried again", async () => {
    await using fleet = await Fleet.start(1, { sshdConfig: ["MaxStartups 1"] });
    const node = fleet.first;
    const holder = connectTcp(node.port, "127.0.0.1").on("error", () => undefined);
    await once(holder, "data");
    const session = sessionTo(node.connection);
    const running = session.run("echo in", { timeoutMs: 5000 });
    await vi.waitFor(
      async () => expect(await node.log()).toMatch(/drop connection|beginning MaxStartups/),
      5000,
    );
    holder.destroy();
    expect((await running).stdout).toContain("in\n");
  });

  test("sshd with MaxSessions 1 serves one exec after the other", async () => {
    await using fleet = await Fleet.start(1, { sshdConfig: ["MaxSessions 1"] });
    const session = sessionTo(fleet.first.connection);
    const results = await Promise.all(
      [1, 2, 3].map((number) => session.run(`sleep 0.2; echo number ${number}`, { timeoutMs: 5000 })),
    );
    expect(results.map(({ stdout }) => stdout.trim().split("\n").at(-1))).toEqual([
      "number 1",
      "number 2",
      "number 3",
    ]);
    expect(session.counts.connections).toBe(1);
  });

  test("sshd with MaxSessions 0 is `denied`, and says what to change", async () => {
    await using fleet = await Fleet.start(1, { sshdConfig: ["MaxSessions 0"] });
    const error = await failure(sessionTo(fleet.first.connection).run("true", { timeoutMs: 5000 }));
    expect(error.kind).toBe("denied");
    expect(error.hint).toMatch(/MaxSessions/);
  });
});
