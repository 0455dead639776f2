import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

export interface LatencyProxyOptions {
  readonly target: { readonly host: string; readonly port: number };
  /** Round-trip time to add, in milliseconds: half of it each way, and one and a half of it before a new connection gets through. Default 0. */
  readonly rttMs?: number;
  /** Port on 127.0.0.1. Default: a free one. */
  readonly port?: number;
}

/** What passed through since the start, or since `resetCounts`. */
export interface ProxyCounts {
  readonly connections: number;
  /** The TCP handshake, and each time that the target answered what the client had said: what a distant client would wait for. */
  readonly roundTrips: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
  /** What went into the black hole. */
  readonly bytesLost: number;
}

/** Bytes on their way in one direction at which its source is paused. */
const inFlightLimit = 8 * 1024 * 1024;

/** Data that has not arrived yet. */
interface Pair {
  readonly client: Socket;
  target: Socket | undefined;
  spokeLast: "client" | "target" | undefined;
  /** Bytes of the client's that still pass; `undefined` for all. */
  bytesToGo: number | undefined;
}

/**
 * A TCP proxy on loopback that stands for distance and for a bad line: it delays, goes silent and cuts on command. The host kernel has no netem,
 * so latency is made here; what it can't make is loss and reordering.
 */
export class LatencyProxy implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #options: LatencyProxyOptions;
  readonly #pairs = new Set<Pair>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #silent = false;
  #bytesToGo: number | undefined;
  #counts = { connections: 0, roundTrips: 0, bytesUp: 0, bytesDown: 0, bytesLost: 0 };

  private constructor(server: Server, options: LatencyProxyOptions) {
    this.#server = server;
    this.#options = options;
    this.port = (server.address() as AddressInfo).port;
    server.on("connection", (client) => this.#accept(client));
  }

  static async start(options: LatencyProxyOptions): Promise<LatencyProxy> {
    const server = createServer({ noDelay: true });
    server.listen(options.port ?? 0, "127.0.0.1");
    await once(server, "listening");
    return new LatencyProxy(server, options);
  }

  get counts(): ProxyCounts {
    return { ...this.#counts };
  }

  resetCounts(): void {
    this.#counts = { connections: 0, roundTrips: 0, bytesUp: 0, bytesDown: 0, bytesLost: 0 };
  }

  /** From now on nothing passes, and nothing is closed: a router that lost its mind. New connections are accepted and left alone. */
  blackhole(): void {
    this.#silent = true;
  }

  /** New connections pass again. Those that lost data stay silent. */
  restore(): void {
    this.#silent = false;
  }

  /** The next connection ends right after this many bytes of the client's have reached the target, as when the client loses power in mid-sentence. */
  endAfter(bytesUp: number): void {
    this.#bytesToGo = bytesUp;
  }

  /** Every connection is reset, now. New ones pass. */
  cut(): void {
    for (const pair of this.#pairs) {
      pair.client.resetAndDestroy();
      pair.target?.resetAndDestroy();
    }
    this.#pairs.clear();
  }

  async stop(): Promise<void> {
    this.cut();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#server.close();
    await once(this.#server, "close");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #later(ms: number, action: () => void): void {
    if (ms === 0) {
      action();
      return;
    }
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, ms);
    this.#timers.add(timer);
  }

  #accept(client: Socket): void {
    const pair: Pair = { client, target: undefined, spokeLast: undefined, bytesToGo: this.#bytesToGo };
    this.#bytesToGo = undefined;
    this.#pairs.add(pair);
    this.#counts.connections += 1;
    this.#counts.roundTrips += 1;
    const gone = (): void => {
      this.#pairs.delete(pair);
      client.destroy();
      pair.target?.destroy();
    };
    client.on("error", gone);
    if (this.#silent) {
      client.resume();
      return;
    }
    const { rttMs = 0, target } = this.#options;
    // SYN, SYN-ACK and ACK take one and a half round trips to the moment when the target knows of the connection.
    this.#later(rttMs * 1.5, () => {
      if (client.destroyed) return;
      const far = connect({ ...target, noDelay: true });
      pair.target = far;
      far.on("error", gone);
      // What the client said meanwhile had been half a round trip on its way already.
      this.#relay(pair, client, far, "client");
      this.#relay(pair, far, client, "target");
    });
  }

  #relay(pair: Pair, from: Socket, to: Socket, speaker: "client" | "target"): void {
    const halfMs = (this.#options.rttMs ?? 0) / 2;
    let inFlight = 0;
    let lost = false;
    from.on("data", (whole: Buffer) => {
      lost ||= this.#silent;
      if (lost) {
        this.#counts.bytesLost += whole.length;
        return;
      }
      let chunk = whole;
      if (speaker === "client" && pair.bytesToGo !== undefined) {
        chunk = whole.subarray(0, pair.bytesToGo);
        pair.bytesToGo -= chunk.length;
        if (pair.bytesToGo === 0) {
          lost = true;
          to.end(chunk);
          from.destroy();
          return;
        }
      }
      if (speaker === "client") {
        this.#counts.bytesUp += chunk.length;
      } else {
        this.#counts.bytesDown += chunk.length;
        if (pair.spokeLast === "client") this.#counts.roundTrips += 1;
      }
      pair.spokeLast = speaker;
      inFlight += chunk.length;
      if (inFlight > inFlightLimit) from.pause();
      this.#later(halfMs, () => {
        inFlight -= chunk.length;
        if (from.isPaused() && inFlight <= inFlightLimit) from.resume();
        if (this.#silent) {
          lost = true;
          this.#counts.bytesLost += chunk.length;
        } else if (to.writable) {
          to.write(chunk);
        }
      });
    });
    from.on("end", () => {
      if (!lost && !this.#silent) this.#later(halfMs, () => to.end());
    });
    from.on("close", () => {
      if (!lost && !this.#silent) this.#later(halfMs, () => to.destroy());
      this.#pairs.delete(pair);
    });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { rtt: { type: "string", default: "100" }, port: { type: "string", default: "0" } },
  });
  const [host, port] = (positionals[0] ?? "").split(":");
  if (host === undefined || host === "" || port === undefined) {
    process.stderr.write(
      "usage: node testbed/latency-proxy.ts HOST:PORT [--rtt MS] [--port PORT]\nOn standard input: blackhole, restore, cut, counts.\n",
    );
    process.exit(2);
  }
  const proxy = await LatencyProxy.start({
    target: { host, port: Number(port) },
    rttMs: Number(values.rtt),
    port: Number(values.port),
  });
  process.stdout.write(`127.0.0.1:${proxy.port} is ${host}:${port}, ${values.rtt} ms away\n`);
  process.stdin.on("data", (line: Buffer) => {
    const word = line.toString().trim();
    if (word === "blackhole") proxy.blackhole();
    else if (word === "restore") proxy.restore();
    else if (word === "cut") proxy.cut();
    else if (word === "counts") process.stdout.write(`${JSON.stringify(proxy.counts)}\n`);
    else process.stdout.write("blackhole, restore, cut or counts\n");
  });
}
