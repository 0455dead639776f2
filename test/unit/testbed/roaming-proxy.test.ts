import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { RoamingProxy } from "../../../testbed/roaming-proxy.ts";

const servers: Server[] = [];
const clients: Socket[] = [];
let proxy: RoamingProxy;

/** A server that says its name and hangs up on whoever hangs up. */
async function saying(name: string): Promise<number> {
  const server = createServer((socket) => socket.on("error", () => undefined).write(name)).listen(
    0,
    "127.0.0.1",
  );
  servers.push(server);
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

beforeAll(async () => {
  proxy = await RoamingProxy.start({ first: await saying("first"), later: await saying("later") });
});
afterAll(async () => {
  await proxy[Symbol.asyncDispose]();
  for (const server of servers) server.close();
});
afterEach(() => {
  for (const client of clients.splice(0)) client.destroy();
});

/** Connects. @returns which way that went, and the connection, which stays open */
async function come(): Promise<{ readonly by: string; readonly socket: Socket }> {
  const socket = connect(proxy.port, "127.0.0.1");
  clients.push(socket);
  const [said] = (await once(socket, "data")) as [Buffer];
  return { by: said.toString(), socket };
}

/** Hangs up, and returns once the other end has noticed. */
async function leave(socket: Socket): Promise<void> {
  const gone = text(socket);
  socket.end();
  await gone;
}

test("the first connection goes one way, every later one the other, also once the first has ended", async () => {
  proxy.arm();
  const first = await come();
  expect([first.by, (await come()).by]).toEqual(["first", "later"]);
  await leave(first.socket);
  expect((await come()).by).toBe("later");
  proxy.arm();
  expect((await come()).by).toBe("first");
});

test("one that was given up before there was another does not count", async () => {
  proxy.arm();
  await leave((await come()).socket);
  expect([(await come()).by, (await come()).by]).toEqual(["first", "later"]);
});
