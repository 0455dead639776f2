import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import ssh2, { type Client, type ClientChannel } from "ssh2";

/** How one command in the node ended. */
export interface ExecResult {
  /** Exit code; -1 when a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecOptions {
  readonly stdin?: string | Buffer;
  /** @default 120 000: emulation is slow, but nothing in a test should take longer */
  readonly timeoutMs?: number;
}

export interface GuestAddress {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly identityFile: string;
  /** `ssh-ed25519 AAAA...`; any other key ends the connection before anything is sent. */
  readonly hostKey: string;
}

/**
 * The tests' own way into a node: real ssh as the admin user, over one connection that is kept until the node goes
 * away and made again when it is needed. It has a key of its own, so that sshd's journal tells it from the product.
 */
export class GuestShell {
  readonly #address: GuestAddress;
  #client: Promise<Client> | undefined;

  constructor(address: GuestAddress) {
    this.#address = address;
  }

  /** @throws Error when the node can't be reached, goes away, or the time is over; never for a non-zero exit code. */
  async exec(command: string, options: ExecOptions = {}): Promise<ExecResult> {
    const timeoutMs = options.timeoutMs ?? 120_000;
    const client = await this.#connect();
    const channel = await new Promise<ClientChannel>((resolve, reject) => {
      const closed = (): void => {
        reject(new Error(`the connection closed before it could run: ${command}`));
      };
      client.once("close", closed);
      client.exec(command, (error, stream) => {
        client.off("close", closed);
        if (error) reject(error);
        else resolve(stream);
      });
    });
    return collect(channel, command, options.stdin, timeoutMs);
  }

  /** Ends the connection, and waits until the socket is closed. */
  async close(): Promise<void> {
    const client = await this.#client?.catch(() => undefined);
    this.#client = undefined;
    if (!client) return;
    const closed = once(client, "close");
    client.end();
    await closed;
  }

  #connect(): Promise<Client> {
    this.#client ??= dial(this.#address).then(
      (client) => {
        client.once("close", () => {
          this.#client = undefined;
        });
        return client;
      },
      (error: unknown) => {
        // A failure is not remembered: the next call tries again.
        this.#client = undefined;
        throw error;
      },
    );
    return this.#client;
  }
}

async function dial(address: GuestAddress): Promise<Client> {
  const privateKey = await readFile(address.identityFile);
  const expected = Buffer.from(address.hostKey.split(" ")[1] ?? "", "base64");
  const socket = connect({ host: address.host, port: address.port });
  // Before the handshake: with Nagle's algorithm its small packets wait for each other's acknowledgement.
  socket.setNoDelay(true);
  const client = new ssh2.Client();
  // A second error after the one that ends the attempt, or a connection that is lost later, which shows in the running exec, would be thrown at the process.
  client.on("error", () => undefined);
  await new Promise<void>((resolve, reject) => {
    client.once("ready", resolve);
    client.once("error", reject);
    client.once("close", () => {
      reject(new Error(`${address.host}:${String(address.port)} closed the connection during the handshake`));
    });
    client.connect({
      sock: socket,
      username: address.user,
      privateKey,
      // The one exchange that is cheap under emulation: OpenSSH's default costs seconds there.
      algorithms: { kex: ["curve25519-sha256"], serverHostKey: ["ssh-ed25519"] },
      hostVerifier: (key: Buffer) => key.equals(expected),
      readyTimeout: 60_000,
      // A node that goes away closes the connection, with its emulator. One that is only slow to open a session, on a busy machine, answers late.
      keepaliveInterval: 10_000,
      keepaliveCountMax: 30,
    });
  });
  return client;
}

function collect(
  channel: ClientChannel,
  command: string,
  stdin: string | Buffer | undefined,
  timeoutMs: number,
): Promise<ExecResult> {
  return new Promise((resolve, reject) => {
    let stdout = "";
    let stderr = "";
    let code: number | undefined;
    const timer = setTimeout(() => {
      channel.close();
      reject(
        new Error(
          `no end of \`${command}\` within ${String(timeoutMs / 1000)} s; so far:\n${stdout}${stderr}`,
        ),
      );
    }, timeoutMs);
    channel.setEncoding("utf8").on("data", (chunk: string) => {
      stdout += chunk;
    });
    channel.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      stderr += chunk;
    });
    channel.on("exit", (exitCode: number | null) => {
      code = exitCode ?? -1;
    });
    channel.on("close", () => {
      clearTimeout(timer);
      if (code === undefined) reject(new Error(`the node went away while running: ${command}`));
      else resolve({ code, stdout, stderr });
    });
    channel.end(stdin);
  });
}
