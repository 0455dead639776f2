import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { Connection } from "../../provider/connection.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import { fingerprint } from "../../provider/device/host-key.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import type { Link } from "../../provider/device/transport.ts";
import { Fleet, type FleetNode } from "../../testbed/fleet.ts";
import { LatencyProxy } from "../../testbed/latency-proxy.ts";

const run = promisify(execFile);

let fleet: Fleet;
let node: FleetNode;
beforeAll(async () => {
  fleet = await Fleet.start(1);
  node = fleet.first;
});
afterAll(() => fleet.stop());

const links: Link[] = [];
async function connect(
  changes: Partial<Connection> = {},
  transport = ssh2Transport(),
  timeoutMs = 10_000,
): Promise<Link> {
  const link = await transport.connect({ ...node.connection, ...changes }, { timeoutMs });
  links.push(link);
  return link;
}
afterEach(async () => {
  await Promise.all(links.splice(0).map((link) => link.close()));
});

async function failure(promise: Promise<unknown>): Promise<DeviceError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof DeviceError) return error;
    throw error;
  }
  throw new Error("it succeeded");
}

/** What sshd logged while `action` ran. */
async function loggedDuring(action: () => Promise<unknown>): Promise<string> {
  const before = (await node.log()).length;
  await action();
  return (await node.log()).slice(before);
}

const fingerprintOf = (key: string): string => fingerprint(Buffer.from(key.split(" ")[1] ?? "", "base64"));
const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxOJZ0vJH8pR2fNrhhtHdPm0nMlyCgHxxdbXfEVPYpR";
const authentication = /userauth|Accepted|Failed|authenticat(ed|ing)/;

describe("the host key", () => {
  test("of each type is accepted when pinned, from a device that has several, in full and as a fingerprint", async () => {
    for (const key of [node.hostKeys.ed25519, node.hostKeys.ecdsa]) {
      for (const hostKey of [key, fingerprintOf(key)]) {
        const link = await connect({ hostKey });
        expect((await link.exec("echo in", { timeoutMs: 5000 })).stdout).toBe("in\n");
      }
    }
  });

  test("the type behind a fingerprint is found once, and remembered", async () => {
    const transport = ssh2Transport();
    const hostKey = fingerprintOf(node.hostKeys.ecdsa);
    await connect({ hostKey }, transport);
    const log = await loggedDuring(() => connect({ hostKey }, transport));
    expect(log.match(/^Connection from /gm)).toHaveLength(1);
  });

  test.each([
    ["another key of the same type", otherKey],
    ["the fingerprint of another key", fingerprintOf(otherKey)],
    ["a key of a type that the device does not have", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQM="],
  ])("when %s is pinned, nothing is sent", async (_what, hostKey) => {
    let error: DeviceError | undefined;
    const log = await loggedDuring(async () => {
      error = await failure(connect({ hostKey }));
    });
    expect(error?.kind).toBe("hostKeyMismatch");
    expect(error?.message).toContain("nothing was sent");
    expect(log).toContain("Connection from");
    expect(log).not.toMatch(authentication);
    // The control: a login does leave such lines.
    expect(await loggedDuring(() => connect())).toMatch(authentication);
  });

  test("a mismatch names both keys, so that a person can compare", async () => {
    const error = await failure(connect({ hostKey: otherKey }));
    expect(error.message).toContain(fingerprintOf(otherKey));
    expect(error.message).toContain(fingerprintOf(node.hostKeys.ed25519));
  });

  test.each([
    ["missing", undefined, /no host key is pinned, so no connection is made/],
    ["empty", "", /no host key is pinned, so no connection is made/],
    ["unreadable", "ssh-ed25519 AAAA", /its pinned host key can't be read/],
  ])("that is %s: not even a connection is made", async (_how, hostKey, message) => {
    const log = await loggedDuring(async () => {
      const error = await failure(connect({ hostKey } as Partial<Connection>));
      expect(error.kind).toBe("refused");
      expect(error.message).toMatch(message);
    });
    // The end of an earlier connection may still be logged.
    expect(log).not.toContain("Connection from");
  });
});

describe("the handshake", () => {
  test("takes curve25519 and AES-GCM, and asks for no authentication but with the key", async () => {
    const log = await loggedDuring(() => connect());
    expect(log).toMatch(/kex: algorithm: curve25519-sha256/);
    expect(log).toMatch(/kex: client->server cipher: aes128-gcm@openssh\.com/);
    expect(log).not.toMatch(/method none/);
    expect(log).toMatch(/Accepted publickey/);
  });

  test("and one command take 9 round trips at most, TCP included", async () => {
    await using proxy = await LatencyProxy.start({
      target: { host: "127.0.0.1", port: node.port },
      rttMs: 40,
    });
    const link = await connect({ port: proxy.port });
    await link.exec("true", { timeoutMs: 5000, stdin: "x" });
    expect(proxy.counts.roundTrips).toBeLessThanOrEqual(9);
    proxy.resetCounts();
    await link.exec("true", { timeoutMs: 5000, stdin: "x" });
    expect(proxy.counts.roundTrips).toBeLessThanOrEqual(4);
  });

  test("with a key that the device does not know is denied, and says for whom", async () => {
    const identityFile = join(await mkdtemp(join(tmpdir(), "edgeseal-stranger-")), "key");
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", identityFile]);
    const error = await failure(connect({ identityFile }));
    await rm(dirname(identityFile), { recursive: true });
    expect(error.kind).toBe("denied");
    expect(error.message).toMatch(
      /login as 'root' was refused with the key from identityFile .*authorized_keys/,
    );
  });
});

describe("an ssh agent", () => {
  test("logs in; without the key it is denied; one that is gone is named", async () => {
    const { stdout } = await run("ssh-agent", ["-s"]);
    const agent = /SSH_AUTH_SOCK=([^;]+)/.exec(stdout)?.[1] ?? "";
    const pid = Number(/SSH_AGENT_PID=(\d+)/.exec(stdout)?.[1]);
    const { identityFile, ...connection } = node.connection;
    try {
      const transport = ssh2Transport();
      const byAgent = (): Promise<Link> => transport.connect({ ...connection, agent }, { timeoutMs: 10_000 });
      expect((await failure(byAgent())).kind).toBe("denied");
      await run("ssh-add", ["-q", identityFile ?? ""], { env: { ...process.env, SSH_AUTH_SOCK: agent } });
      const link = await byAgent();
      links.push(link);
      expect((await link.exec("echo in", { timeoutMs: 5000 })).stdout).toBe("in\n");
    } finally {
      process.kill(pid);
    }
    await vi.waitFor(async () => {
      const error = await failure(ssh2Transport().connect({ ...connection, agent }, { timeoutMs: 10_000 }));
      expect(error.kind).toBe("denied");
      expect(error.message).toContain(`the ssh agent at ${agent} does not answer`);
    });
  });
});

describe("a private key given as text", () => {
  test("logs in", async () => {
    const { identityFile, ...connection } = node.connection;
    const link = await ssh2Transport().connect(
      { ...connection, privateKey: await readFile(identityFile ?? "", "utf8") },
      { timeoutMs: 10_000 },
    );
    links.push(link);
    expect(link.open).toBe(true);
  });
});

describe("an exec", () => {
  const quick = { timeoutMs: 10_000 };

  test("gives exit status, both outputs, and takes standard input", async () => {
    const link = await connect();
    expect(await link.exec("cat; echo err >&2; exit 7", { ...quick, stdin: "in\n" })).toEqual({
      code: 7,
      stdout: "in\n",
      stderr: "err\n",
    });
    expect(await link.exec("cat", quick)).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("ended by a signal is told from one that exited", async () => {
    const link = await connect();
    expect(await link.exec("kill -TERM $$", quick)).toEqual({
      code: undefined,
      signal: "TERM",
      stdout: "",
      stderr: "",
    });
    expect(await link.exec("exit 143", quick)).toMatchObject({ code: 143 });
  });

  test("carries megabytes both ways, byte for byte, in characters of four bytes", async () => {
    const link = await connect();
    const text = "🔐äx".repeat(400_000);
    const heard: string[] = [];
    const result = await link.exec("cat", { ...quick, stdin: text, onStdout: (chunk) => heard.push(chunk) });
    expect(result.stdout === text).toBe(true);
    expect(heard.length).toBeGreaterThan(1);
    expect(heard.join("") === text).toBe(true);
  });

  test("that does not read its standard input ends all the same", async () => {
    const link = await connect();
    expect(await link.exec("exit 3", { ...quick, stdin: "x".repeat(8_000_000) })).toMatchObject({ code: 3 });
  });

  test("past its deadline is `timedOut`, and the connection goes on", async () => {
    const link = await connect();
    const error = await failure(link.exec("sleep 30", { timeoutMs: 300 }));
    expect(error.kind).toBe("timedOut");
    expect((await link.exec("echo on", quick)).stdout).toBe("on\n");
  });

  test("aborted is `cancelled`, at once", async () => {
    const link = await connect();
    const abort = new AbortController();
    const begun = performance.now();
    const running = failure(
      link.exec("echo here; sleep 30", {
        timeoutMs: 60_000,
        signal: abort.signal,
        onStdout: () => abort.abort(),
      }),
    );
    expect((await running).kind).toBe("cancelled");
    expect(performance.now() - begun).toBeLessThan(2000);
  });

  test("whose connection is killed on the device is `unreachable`, and so is the next", async () => {
    const link = await connect();
    const running = failure(
      link.exec("echo here; sleep 30", { timeoutMs: 60_000, onStdout: () => void node.killSessions() }),
    );
    expect((await running).kind).toBe("unreachable");
    expect(link.open).toBe(false);
    expect((await failure(link.exec("true", quick))).kind).toBe("unreachable");
  });

  test("on a path that went silent is `unreachable` by keepalive, long before its deadline", async () => {
    await using proxy = await LatencyProxy.start({ target: { host: "127.0.0.1", port: node.port } });
    const link = await connect(
      { port: proxy.port },
      ssh2Transport({ keepaliveIntervalMs: 50, keepaliveCountMax: 2 }),
    );
    const running = failure(
      link.exec("echo here; sleep 30", { timeoutMs: 60_000, onStdout: () => proxy.blackhole() }),
    );
    const error = await running;
    expect(error.kind).toBe("unreachable");
    expect(error.message).toContain("Keepalive timeout");
  });

  test("more sessions than sshd allows are refused by type, and the connection goes on", async () => {
    await using strict = await Fleet.start(1, { sshdConfig: ["MaxSessions 1"] });
    const link = await connect(strict.first.connection);
    const { promise: begun, resolve } = Promise.withResolvers<undefined>();
    const holding = link.exec("echo here; sleep 1; echo done", {
      ...quick,
      onStdout: () => resolve(undefined),
    });
    await begun;
    const error = await failure(link.exec("true", quick));
    expect(error.name).toBe("DeviceError");
    expect(error.message).toMatch(/opens no further session.*MaxSessions/);
    expect((await holding).stdout).toBe("here\ndone\n");
  });
});

describe("closing", () => {
  test("ends what runs and is over within a second, on a silent path too", async () => {
    await using proxy = await LatencyProxy.start({ target: { host: "127.0.0.1", port: node.port } });
    const link = await connect({ port: proxy.port });
    const { promise: here, resolve } = Promise.withResolvers<undefined>();
    const running = failure(
      link.exec("echo here; sleep 30", { timeoutMs: 60_000, onStdout: () => resolve(undefined) }),
    );
    await here;
    proxy.blackhole();
    const begun = performance.now();
    await link.close();
    await link.close();
    expect((await running).kind).toBe("unreachable");
    expect(performance.now() - begun).toBeLessThan(1000);
  });

  test("leaves nothing behind that keeps the process alive", async () => {
    const transport = join(import.meta.dirname, "../../provider/device/ssh2-transport.ts");
    const program = `
      const { ssh2Transport } = await import(${JSON.stringify(transport)});
      const link = await ssh2Transport().connect(${JSON.stringify(node.connection)}, { timeoutMs: 10000 });
      const running = link.exec("echo here; sleep 60", { timeoutMs: 60000, onStdout: () => void link.close() });
      await running.catch((error) => console.log(error.kind));
    `;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const exited = once(child, "exit");
    let said = "";
    for await (const chunk of child.stdout) said += String(chunk);
    expect(await exited).toEqual([0, null]);
    expect(said).toBe("unreachable\n");
  });
});

describe("what does not answer as sshd does", () => {
  const sockets = new Set<Socket>();
  async function serve(
    onConnection: (socket: Socket) => void,
  ): Promise<AsyncDisposable & { readonly port: number }> {
    const server: Server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => undefined);
      onConnection(socket);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return {
      port: (server.address() as AddressInfo).port,
      [Symbol.asyncDispose]: async () => {
        for (const socket of sockets) socket.destroy();
        server.close();
        await once(server, "close");
      },
    };
  }

  test("nothing listens: `unreachable`", async () => {
    const server = await serve(() => undefined);
    const { port } = server;
    await server[Symbol.asyncDispose]();
    const error = await failure(connect({ port }));
    expect(error.kind).toBe("unreachable");
    expect(error.message).toMatch(/no connection to 127\.0\.0\.1:\d+ \(.*ECONNREFUSED.*\); .*check the port/);
  });

  test("it accepts and says nothing: `timedOut`", async () => {
    await using server = await serve(() => undefined);
    const error = await failure(connect({ port: server.port }, ssh2Transport(), 300));
    expect(error.kind).toBe("timedOut");
    expect(error.message).toMatch(/no SSH login at 127\.0\.0\.1:\d+ within 0\.3 s/);
  });

  test.each([
    ["closes at once", (socket: Socket) => socket.end()],
    ["resets", (socket: Socket) => socket.resetAndDestroy()],
    ["speaks HTTP", (socket: Socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n")],
    ["stops after its banner", (socket: Socket) => socket.end("SSH-2.0-Nothing\r\n")],
    ["says that it is busy", (socket: Socket) => socket.end("Exceeded MaxStartups\r\n")],
    [
      "sends noise after its banner",
      (socket: Socket) => socket.end(`SSH-2.0-Noise\r\n${"\u0001".repeat(5000)}`),
    ],
  ])("it %s: `unreachable`", async (_how, behave) => {
    await using server = await serve(behave);
    expect((await failure(connect({ port: server.port }))).kind).toBe("unreachable");
  });

  test("a name that does not resolve: `unreachable`", async () => {
    const error = await failure(connect({ address: "no-such-node.invalid" }));
    expect(error.kind).toBe("unreachable");
    expect(error.hint).toMatch(/name/);
  });

  test("cancelled while connecting: `cancelled`, at once", async () => {
    await using server = await serve(() => undefined);
    const abort = new AbortController();
    const connecting = failure(
      ssh2Transport().connect(
        { ...node.connection, port: server.port },
        { timeoutMs: 60_000, signal: abort.signal },
      ),
    );
    await vi.waitFor(() => expect(sockets.size).toBeGreaterThan(0));
    abort.abort();
    expect((await connecting).kind).toBe("cancelled");
    expect(
      (await failure(ssh2Transport().connect(node.connection, { timeoutMs: 60_000, signal: abort.signal })))
        .kind,
    ).toBe("cancelled");
  });
});
