import type { Connection } from "../provider/connection.ts";
import { ask, type Parts } from "../provider/device/ask.ts";
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
): Promise<Parts> {
  const session = options.session ?? createSession({ connection, transport: ssh2Transport() });
  const question = { id: "node", parts };
  try {
    const answers = await ask(session, [question], {
      timeoutMs,
      readOnly: true,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    return answers(question);
  } finally {
    await session.close();
  }
}
