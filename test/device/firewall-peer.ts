/**
 * One machine of the packet tests: a process in a network namespace of its own, which opens sockets there when told to. The namespace goes away with it.
 */
import { createSocket } from "node:dgram";
import { connect, createServer, type Socket } from "node:net";

export interface TcpAttempt {
  readonly host: string;
  readonly port: number;
  readonly from?: string;
  readonly timeoutMs: number;
  /** Sent once connected; the outcome is `connected` only when the peer said that it has all of it. */
  readonly bytes?: number;
}

export interface UdpAttempt {
  readonly host: string;
  readonly port: number;
  readonly localPort?: number;
  readonly broadcast?: boolean;
  readonly timeoutMs: number;
}

export interface PeerCalls {
  /**
   * Listens on TCP ports of every address and on UDP ports of the given ones (a socket of any address would answer from
   * another one than was asked); each TCP connection and datagram is answered.
   */
  serve(ports: {
    tcp: readonly number[];
    udp: readonly number[];
    udpAddresses?: readonly string[];
    udpGroup?: string;
  }): true;
  tcp(attempt: TcpAttempt): string;
  udp(attempt: UdpAttempt): string;
  /** Opens a connection and keeps it. */
  open(attempt: TcpAttempt): string;
  /** Says something on the kept connection and waits for an answer. */
  ask(wait: { timeoutMs: number }): string;
  /** Has the server speak first on every connection it has. */
  speak(): true;
  /** Waits until the other side of the kept connection speaks. */
  hear(wait: { timeoutMs: number }): string;
  /** As many connection attempts as fit while `stop` is not called; how many there were and how many came through. */
  hammer(attempt: TcpAttempt): true;
  stop(): { attempts: number; connected: number };
  /** Waits until so many hammer attempts came through. */
  through(wait: { connected: number }): true;
}

const accepted = new Set<Socket>();
let kept: Socket | undefined;

const within = <T>(timeoutMs: number, start: (done: (value: T) => void) => () => void, late: T): Promise<T> =>
  new Promise((resolve) => {
    const timer = setTimeout(() => finish(late), timeoutMs);
    const finish = (value: T): void => {
      clearTimeout(timer);
      cleanUp();
      resolve(value);
    };
    const cleanUp = start(finish);
  });

const codeOf = (error: Error): string =>
  "code" in error && typeof error.code === "string" ? error.code : error.message;

/** A service that says how many bytes it has got, as a line per chunk. */
function serveTcp(port: number): Promise<void> {
  const server = createServer((socket) => {
    let got = 0;
    accepted.add(socket);
    socket.on("data", (chunk) => {
      got += chunk.length;
      socket.write(`${got}\n`);
    });
    socket.on("error", () => undefined);
    socket.on("close", () => accepted.delete(socket));
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, host: "::" }, resolve);
  });
}

function serveUdp(port: number, group: string | undefined, address?: string): Promise<void> {
  const socket = createSocket({
    type: group === undefined ? "udp4" : "udp6",
    ipv6Only: group !== undefined,
    reuseAddr: true,
  });
  socket.on("message", (_, from) => {
    // A DHCP server answers a client that has no address by broadcast (RFC 2131 4.1).
    const to = port === 67 && from.address !== "10.99.0.2" ? "255.255.255.255" : from.address;
    socket.send("answer", from.port, to);
  });
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.bind({ port, ...(address === undefined ? {} : { address }) }, () => {
      if (group === undefined) socket.setBroadcast(true);
      else socket.addMembership(group.replace(/%.*/, ""), `::${group.replace(/.*%/, "%")}`);
      resolve();
    });
  });
}

function dial(attempt: TcpAttempt): { socket: Socket; outcome: Promise<string> } {
  const { host, port, from, timeoutMs, bytes = 1 } = attempt;
  const socket = connect({ host, port, ...(from === undefined ? {} : { localAddress: from }) });
  const outcome = within<string>(
    timeoutMs,
    (done) => {
      let heard = "";
      socket.on("connect", () => socket.write(Buffer.alloc(bytes)));
      socket.on("data", (chunk: Buffer) => {
        heard += chunk.toString();
        if (heard.split("\n").includes(`${bytes}`)) done("connected");
      });
      socket.on("error", (error) => done(codeOf(error)));
      return () => undefined;
    },
    "silence",
  );
  return { socket, outcome };
}

let hammering:
  | { attempts: number; connected: number; running: boolean; done: Promise<void>; onConnected: () => void }
  | undefined;

async function hammerOn(attempt: TcpAttempt, state: NonNullable<typeof hammering>): Promise<void> {
  while (state.running) {
    const { socket, outcome } = dial(attempt);
    state.attempts++;
    if ((await outcome) === "connected") {
      state.connected++;
      state.onConnected();
    }
    socket.destroy();
  }
}

const calls: {
  [K in keyof PeerCalls]: (...args: Parameters<PeerCalls[K]>) => Promise<ReturnType<PeerCalls[K]>>;
} = {
  async serve({ tcp, udp, udpAddresses = [undefined], udpGroup }) {
    const sockets = udp.flatMap((port) => udpAddresses.map((address) => serveUdp(port, udpGroup, address)));
    await Promise.all([...tcp.map(serveTcp), ...sockets]);
    return true;
  },
  async tcp(attempt) {
    const { socket, outcome } = dial(attempt);
    const result = await outcome;
    socket.destroy();
    return result;
  },
  async udp({ host, port, localPort = 0, broadcast = false, timeoutMs }) {
    const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
    const bound = new Promise((resolve) => socket.bind(localPort, () => resolve(true)));
    await bound;
    const result = await within<string>(
      timeoutMs,
      (done) => {
        socket.on("message", () => done("answered"));
        socket.on("error", (error) => done(codeOf(error)));
        if (broadcast || host.startsWith("ff") || localPort !== 0) {
          if (broadcast) socket.setBroadcast(true);
          socket.send("question", port, host, (error) => {
            if (error) done(codeOf(error));
          });
        } else {
          // Connected, so that an ICMP error about the datagram reaches this socket.
          socket.connect(port, host, () =>
            socket.send("question", (error) => {
              if (error) done(codeOf(error));
            }),
          );
        }
        return () => undefined;
      },
      "silence",
    );
    socket.close();
    return result;
  },
  open(attempt) {
    const { socket, outcome } = dial(attempt);
    kept = socket;
    return outcome;
  },
  async ask({ timeoutMs }) {
    kept?.write("?");
    return await calls.hear({ timeoutMs });
  },
  speak() {
    for (const socket of accepted) socket.write("spoken\n");
    return Promise.resolve(true);
  },
  hear({ timeoutMs }) {
    const socket = kept;
    if (socket === undefined) throw new Error("no connection is kept");
    return within<string>(
      timeoutMs,
      (done) => {
        const heard = (): void => done("heard");
        socket.once("data", heard);
        return () => socket.off("data", heard);
      },
      "silence",
    );
  },
  hammer(attempt) {
    const state = {
      attempts: 0,
      connected: 0,
      running: true,
      done: Promise.resolve(),
      onConnected: (): void => undefined,
    };
    state.done = hammerOn(attempt, state);
    hammering = state;
    return Promise.resolve(true);
  },
  async stop() {
    const state = hammering;
    if (state === undefined) throw new Error("nothing is being hammered");
    state.running = false;
    await state.done;
    return { attempts: state.attempts, connected: state.connected };
  },
  through({ connected }) {
    const state = hammering;
    if (state === undefined) throw new Error("nothing is being hammered");
    return new Promise((resolve) => {
      state.onConnected = () => {
        if (state.connected >= connected) resolve(true);
      };
      state.onConnected();
    });
  },
};

process.on("message", (message: { id: number; call: keyof PeerCalls; args: never[] }) => {
  const run = calls[message.call] as (...args: unknown[]) => Promise<unknown>;
  run(...message.args).then(
    (value) => process.send?.({ id: message.id, value }),
    (error: unknown) => process.send?.({ id: message.id, error: String(error) }),
  );
});
process.on("disconnect", () => process.exit(0));
process.send?.({ id: 0, value: true });
