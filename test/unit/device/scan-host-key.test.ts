import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import ssh2 from "ssh2";
import { afterEach, describe, expect, test } from "vitest";
import { DeviceError } from "../../../provider/device/errors.ts";
import { hostKeyTypes } from "../../../provider/device/host-key.ts";
import { scanHostKey } from "../../../provider/device/scan-host-key.ts";

const ed25519 = ssh2.utils.generateKeyPairSync("ed25519");
const ecdsa = ssh2.utils.generateKeyPairSync("ecdsa", { bits: 256 });
const blobOf = (key: { readonly public: string }): string => key.public.split(" ")[1] ?? "";

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function listening(server: Server | ssh2.Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closing.push(() => void server.close());
  return (server.address() as AddressInfo).port;
}

/** An sshd in this process, and what it saw. */
async function sshd(
  keys: readonly { readonly private: string }[],
): Promise<{ port: number; seen: string[] }> {
  const seen: string[] = [];
  const server = new ssh2.Server({ hostKeys: keys.map((key) => key.private) }, (client) => {
    seen.push("connection");
    client.on("handshake", () => seen.push("key exchange"));
    client.on("authentication", (context) => {
      seen.push(`authentication as ${context.username}`);
      context.reject();
    });
    client.on("error", () => undefined);
    client.on("close", () => seen.push("closed"));
  });
  return { port: await listening(server), seen };
}

/** Something else that listens. */
async function answering(answer: (socket: Socket) => void): Promise<number> {
  const server = createServer((socket) => {
    closing.push(() => socket.destroy());
    socket.on("error", () => undefined);
    answer(socket);
  });
  return listening(server);
}

const place = (port: number) => ({ node: "pi-1", address: "127.0.0.1", port });
const failure = async (scan: Promise<unknown>): Promise<DeviceError> => {
  const error: unknown = await scan.then(
    () => new Error("it succeeded"),
    (thrown: unknown) => thrown,
  );
  if (error instanceof DeviceError) return error;
  throw error;
};

describe("a host key", () => {
  test("is shown without any authentication, ed25519 first", async () => {
    const { port, seen } = await sshd([ecdsa, ed25519]);
    const shown = await scanHostKey(place(port), hostKeyTypes);
    expect(shown?.type).toBe("ssh-ed25519");
    expect(shown?.blob.toString("base64")).toBe(blobOf(ed25519));
    await expect.poll(() => seen).toContain("closed");
    expect(seen.filter((what) => what.startsWith("authentication"))).toEqual([]);
  });

  test("of another type is shown when it is asked for, and none where there is none", async () => {
    const { port } = await sshd([ecdsa]);
    expect((await scanHostKey(place(port), hostKeyTypes))?.blob.toString("base64")).toBe(blobOf(ecdsa));
    expect(await scanHostKey(place(port), ["ssh-rsa"])).toBeUndefined();
  });
});

describe("what answers otherwise", () => {
  test("with another protocol is told, with what it said", async () => {
    const port = await answering((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    const error = await failure(scanHostKey(place(port), hostKeyTypes));
    expect(error.kind).toBe("unknown");
    expect(error.message).toMatch(
      /is no SSH server \(it says "HTTP\/1.1 400 Bad Request"\); give sshd's port/,
    );
  });

  test("with nothing, and hangs up, is told", async () => {
    const port = await answering((socket) => socket.end());
    const error = await failure(scanHostKey(place(port), hostKeyTypes));
    expect(error.kind).toBe("unreachable");
    expect(error.message).toMatch(/closed the connection without a word of SSH/);
  });

  test("with nothing at all is given up at the deadline", async () => {
    const port = await answering(() => undefined);
    const error = await failure(scanHostKey(place(port), hostKeyTypes, { timeoutMs: 200 }));
    expect(error.kind).toBe("timedOut");
    expect(error.message).toMatch(/no host key from 127.0.0.1:\d+ within 0.2 s; check that the device is on/);
  });

  test("where nothing listens is told", async () => {
    const server = createServer();
    const port = await listening(server);
    server.close();
    await once(server, "close");
    closing.pop();
    const error = await failure(scanHostKey(place(port), hostKeyTypes));
    expect(error.kind).toBe("unreachable");
    expect(error.message).toMatch(/nothing listens there/);
  });

  test("is left as soon as somebody wants to", async () => {
    const stop = new AbortController();
    const port = await answering(() => stop.abort());
    const error = await failure(scanHostKey(place(port), hostKeyTypes, { signal: stop.signal }));
    expect(error.kind).toBe("cancelled");
  });
});
