import { createServer, type Server, type Socket } from "node:net";

/** An event that QEMU sent on its own, such as SHUTDOWN or MIGRATION (QEMU QMP reference manual). */
export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** QEMU does not answer any more: it ended, or is about to. */
export class QemuGone extends Error {
  override readonly name = "QemuGone";
}

interface Reply {
  readonly QMP?: unknown;
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

/**
 * QEMU's control channel. We listen and QEMU connects (`-qmp unix:PATH`, no `server`): so there is no moment at
 * which one has to poll for a socket, and a QEMU that is started after our death finds nobody and ends.
 */
export class Qmp {
  readonly #server: Server;
  readonly #connected: Promise<void>;
  readonly #pending = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  #socket: Socket | undefined;
  #nextId = 1;
  #closed = false;

  private constructor(server: Server) {
    this.#server = server;
    this.#connected = new Promise((resolve, reject) => {
      server.once("connection", (socket) => {
        this.#attach(socket, resolve);
      });
      server.once("close", () => {
        reject(new Error("QEMU's control channel was closed before QEMU connected to it"));
      });
    });
    // The rejection belongs to whoever calls `ready`; if nobody does, it is not an unhandled one.
    this.#connected.catch(() => undefined);
  }

  static async listen(path: string): Promise<Qmp> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, resolve);
    });
    return new Qmp(server);
  }

  /** Waits for QEMU's greeting and leaves the negotiation mode. */
  async ready(): Promise<void> {
    await this.#connected;
    await this.execute("qmp_capabilities");
  }

  /** @throws Error with QEMU's own words when it refuses the command or goes away. */
  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    const socket = this.#socket;
    if (!socket || this.#closed) return Promise.reject(new QemuGone(`QEMU is gone: ${command} not sent`));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      socket.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }), id })}\n`);
    });
  }

  on(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#server.close();
    this.#socket?.destroy();
    this.#gone();
  }

  #attach(socket: Socket, greeted: () => void): void {
    this.#socket = socket;
    let rest = "";
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line.trim() === "") continue;
        const reply = JSON.parse(line) as Reply;
        if (reply.QMP !== undefined) greeted();
        else this.#receive(reply);
      }
    });
    socket.on("error", () => {
      this.#gone();
    });
    socket.on("close", () => {
      this.#gone();
    });
  }

  #receive(reply: Reply): void {
    if (reply.event !== undefined) {
      const event = { event: reply.event, ...(reply.data && { data: reply.data }) };
      for (const listener of this.#listeners) listener(event);
      return;
    }
    if (reply.id === undefined) return;
    const pending = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    if (reply.error) pending?.reject(new Error(`QEMU: ${reply.error.desc}`));
    else pending?.resolve(reply.return);
  }

  #gone(): void {
    this.#closed = true;
    for (const pending of this.#pending.values()) pending.reject(new QemuGone("QEMU is gone"));
    this.#pending.clear();
  }
}
