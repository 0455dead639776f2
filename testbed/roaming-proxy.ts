import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

/**
 * A way in that changes its source address between two connections, as behind a pool of NAT addresses: after `arm()` the first connection goes to one
 * port of the node, every later one to another, which the node sees as coming from another network. A first connection that was given up before there was another
 * (a handshake that took too long on a busy machine) was none: its next attempt comes from the same address.
 */
export class RoamingProxy implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #ports: { readonly first: number; readonly later: number };
  readonly #sockets = new Set<Socket>();
  #first: Socket | undefined;
  #roamed = false;

  private constructor(server: Server, ports: { readonly first: number; readonly later: number }) {
    this.#server = server;
    this.#ports = ports;
    this.port = (server.address() as AddressInfo).port;
    server.on("connection", (socket: Socket) => this.#forward(socket));
  }

  static async start(ports: { readonly first: number; readonly later: number }): Promise<RoamingProxy> {
    const server = createServer({ noDelay: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    return new RoamingProxy(server, ports);
  }

  /** The next connection is a first one again. */
  arm(): void {
    this.#first = undefined;
    this.#roamed = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    const closed = once(this.#server, "close");
    this.#server.close();
    await closed;
  }

  #forward(incoming: Socket): void {
    this.#roamed ||= this.#first?.destroyed === false;
    if (!this.#roamed) this.#first = incoming;
    const port = this.#roamed ? this.#ports.later : this.#ports.first;
    const outgoing = connect({ host: "127.0.0.1", port, noDelay: true });
    for (const [socket, other] of [
      [incoming, outgoing],
      [outgoing, incoming],
    ] as const) {
      this.#sockets.add(socket);
      socket.pipe(other);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
  }
}
