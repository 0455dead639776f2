import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Connection } from "../../provider/connection.ts";
import { createSession } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import type { UploadStep } from "../../provider/device/step.ts";
import type { Link, Transport } from "../../provider/device/transport.ts";
import { apply } from "./steps-on-node.ts";

/*
 * A provider process that is killed, for real, when it has handed on about a half of a file. Arguments: the connection and the step, as JSON.
 */

/** Runs this file as such a process, to its end. */
export async function processKilledAt(connection: Connection, step: UploadStep): Promise<void> {
  const child = spawn(
    process.execPath,
    [fileURLToPath(import.meta.url), JSON.stringify(connection), JSON.stringify(step)],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  const [, signal] = (await once(child, "exit")) as [number | null, string | null];
  if (signal !== "SIGKILL")
    throw new Error(`the provider was not killed but ended by itself (${String(signal)})`);
}

class Halfway implements Transport {
  readonly #ssh = ssh2Transport();
  readonly #bytes: number;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  async connect(...given: Parameters<Transport["connect"]>): Promise<Link> {
    const link = await this.#ssh.connect(...given);
    return {
      open: true,
      close: () => link.close(),
      exec: (command, options) => {
        const { content } = options;
        return link.exec(command, {
          ...options,
          ...(content === undefined ? {} : { content: () => this.#kill(content()) }),
        });
      },
    };
  }

  async *#kill(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    let sent = 0;
    for await (const piece of pieces) {
      yield piece;
      sent += piece.length;
      if (sent >= this.#bytes / 2) process.kill(process.pid, "SIGKILL");
    }
  }
}

if (import.meta.main) {
  const [connection, step] = process.argv.slice(2).map((argument): unknown => JSON.parse(argument));
  const { bytes } = step as UploadStep;
  const session = createSession({ connection: connection as Connection, transport: new Halfway(bytes) });
  await apply(session, [step as UploadStep]);
}
