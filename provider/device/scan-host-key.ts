import { connect as connectTcp } from "node:net";
import ssh2 from "ssh2";
import type { Connection } from "../connection.ts";
import { cancelled, DeviceError } from "./errors.ts";
import { hostKeyAlgorithms, typeInBlob, type HostKeyType } from "./host-key.ts";
import { printable } from "./privileged-shell.ts";
import { algorithms, socketHints, where } from "./ssh2-transport.ts";

/** A host key as sshd shows it to anybody. */
export interface ShownHostKey {
  readonly type: string;
  /** As sent (RFC 4253, 6.6). */
  readonly blob: Buffer;
}

export type ScannedPlace = Pick<Connection, "node" | "address" | "port">;

export interface ScanOptions {
  /** Deadline of the connection and the key exchange together, in milliseconds. Default 20 000, that of a login. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/**
 * Asks sshd for its host key, and hangs up: no authentication is begun, no user is named, nothing is sent that tells who asks. What is shown proves nothing yet, not even
 * that the other side has the private half; that is for a connection which has this key pinned, after somebody compared it.
 * @param types What to ask for, best first; sshd shows the first of them that it has (RFC 4253, 7.1).
 * @returns undefined when it has none of these types
 * @throws DeviceError `unreachable`, `timedOut`, `denied` (no algorithm in common), `unknown` (it is no SSH server), `cancelled`.
 */
export async function scanHostKey(
  place: ScannedPlace,
  types: readonly HostKeyType[],
  options: ScanOptions = {},
): Promise<ShownHostKey | undefined> {
  const { timeoutMs = 20_000, signal: given } = options;
  const deadline = AbortSignal.timeout(timeoutMs);
  const signal = given === undefined ? deadline : AbortSignal.any([given, deadline]);
  const heard = { text: "" };
  try {
    return await exchangeKeys(place, types, signal, heard);
  } catch (error) {
    if (given?.aborted === true) throw cancelled(place.node, "while asking for the host key");
    throw explain(place, error as Fault, heard.text, deadline.aborted ? timeoutMs : undefined);
  }
}

type Fault = Error & { readonly code?: unknown };

function exchangeKeys(
  { address, port }: ScannedPlace,
  types: readonly HostKeyType[],
  signal: AbortSignal,
  heard: { text: string },
): Promise<ShownHostKey | undefined> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = connectTcp({ host: address, port, noDelay: true });
    const client = new ssh2.Client();
    const end = (outcome: () => void): void => {
      signal.removeEventListener("abort", onAbort);
      outcome();
      client.end();
      socket.destroy();
    };
    const fail = (error: Error): void =>
      end(() => (/no matching host key/i.test(error.message) ? resolve(undefined) : reject(error)));
    const onAbort = (): void => end(() => reject(signal.reason as Error));
    signal.addEventListener("abort", onAbort, { once: true });
    socket.once("error", fail);
    socket.on("data", (chunk: Buffer) => {
      if (heard.text.length < 1024) heard.text += chunk.toString("latin1");
    });
    // Errors of the ending come after the outcome, and are none.
    client.on("error", fail);
    client.once("close", () => fail(new Error("the connection was closed before a host key was shown")));
    socket.once("connect", () => {
      client.connect({
        sock: socket,
        // ssh2 asks for one; it would be sent after the key exchange, which is never finished.
        username: "nobody",
        authHandler: [],
        hostVerifier: (blob: Buffer) => {
          end(() => resolve({ type: typeInBlob(blob) ?? "unknown", blob }));
          return false;
        },
        algorithms: {
          kex: [...algorithms.kex],
          cipher: [...algorithms.cipher],
          hmac: [...algorithms.hmac],
          compress: [...algorithms.compress],
          serverHostKey: types.flatMap(hostKeyAlgorithms),
        },
        readyTimeout: 0,
      });
    });
  });
}

function explain(
  place: ScannedPlace,
  fault: Fault,
  heard: string,
  timedOutMs: number | undefined,
): DeviceError {
  const details = { originalMessage: fault.message, cause: fault };
  const isSsh = /^SSH-/m.test(heard);
  if (heard !== "" && !isSsh) {
    return new DeviceError("unknown", place.node, `what answers at ${where(place)} is no SSH server`, {
      originalMessage: `it says ${JSON.stringify(printable(heard).slice(0, 60))}`,
      hint: "give sshd's port with --port",
    });
  }
  if (timedOutMs !== undefined) {
    return new DeviceError(
      "timedOut",
      place.node,
      `no host key from ${where(place)} within ${timedOutMs / 1000} s`,
      {
        hint: isSsh
          ? "sshd is there, and hangs or is overloaded: try again"
          : "check that the device is on, that address and port are right, that sshd listens there, and any firewall between",
      },
    );
  }
  if (/no matching/i.test(fault.message)) {
    return new DeviceError("denied", place.node, `sshd at ${where(place)} shares no algorithm with us`, {
      ...details,
      hint: `it has to allow one of ${algorithms.kex.join(", ")}, and one of ${algorithms.cipher.join(", ")}`,
    });
  }
  const code = typeof fault.code === "string" ? fault.code : "";
  return new DeviceError("unreachable", place.node, `no connection to ${where(place)}`, {
    ...details,
    hint:
      socketHints[code] ??
      (isSsh
        ? "sshd closed the connection: it may be overloaded (MaxStartups), or penalize this address (PerSourcePenalties)"
        : "what listens there closed the connection without a word of SSH: check the port"),
  });
}
