import type { Connection } from "../provider/connection.ts";
import {
  newNonce,
  parseProbes,
  renderProbes,
  renderScript,
  requireComplete,
} from "../provider/device/batch.ts";
import type { PartOutput } from "../provider/device/probe.ts";
import { createSession, type Session } from "../provider/device/session.ts";
import { ssh2Transport } from "../provider/device/ssh2-transport.ts";

export interface AskOptions {
  /** Only for tests. */
  readonly session?: Session;
  readonly signal?: AbortSignal;
}

/** A boot partition of some hundred megabytes is hashed, on a card. */
const timeoutMs = 180_000;

/**
 * Asks a node in one connection and one exec; nothing is changed.
 * @param parts Shell for each answer, by its name.
 * @throws DeviceError when it can't be asked, or its answer does not come whole
 */
export async function askNode(
  connection: Connection,
  parts: Readonly<Record<string, string>>,
  options: AskOptions = {},
): Promise<Readonly<Record<string, PartOutput>>> {
  const session = options.session ?? createSession({ connection, transport: ssh2Transport() });
  const nonce = newNonce();
  const probe = { id: "node", parts, parse: () => undefined };
  try {
    const result = await session.run(renderScript(renderProbes([probe], nonce), nonce), {
      timeoutMs,
      readOnly: true,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    requireComplete(connection.node, result, nonce);
    return parseProbes(result.stdout, result.stderr, nonce).get(probe.id) ?? {};
  } finally {
    await session.close();
  }
}
