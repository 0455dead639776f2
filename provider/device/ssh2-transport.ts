import { connect as connectTcp, type Socket } from "node:net";
import ssh2, { type AgentAuthMethod, type PublicKeyAuthMethod } from "ssh2";
import type { Connection } from "../connection.ts";
import { cancelled, DeviceError } from "./errors.ts";
import {
  fingerprint,
  hostKeyAlgorithms,
  parseHostKeyPin,
  type HostKeyPin,
  type HostKeyType,
} from "./host-key.ts";
import { createIdentities, type Identity } from "./identity.ts";
import { Ssh2Link } from "./ssh2-link.ts";
import type { Link, Transport } from "./transport.ts";

export interface Ssh2Options {
  /** Time between keepalive messages on an idle connection, in milliseconds. Default 5000: a dead path is noticed within 20 s. */
  readonly keepaliveIntervalMs?: number;
  /** Keepalive messages that may go unanswered. Default 3. */
  readonly keepaliveCountMax?: number;
}

/*
 * Fixed lists, best first, so that what is negotiated does not depend on whether ssh2's optional native code loads (it is built for one Node ABI
 * and falls back silently). AES-GCM comes from Node's own OpenSSL either way. curve25519 first: DH group exchange stalls in large fleets.
 */
export const algorithms = {
  kex: [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
  ],
  cipher: ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr"],
  hmac: ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"],
  compress: ["none"],
} as const;

/** A key was shown that is not the pinned one, but the pin does not tell its type: another type may fit. */
class OtherKeyShown extends Error {
  readonly shown: string;
  constructor(shown: string) {
    super(`the device showed ${shown}`);
    this.shown = shown;
  }
}

type Failure = Error & { readonly level?: string; readonly code?: string | number };

const seconds = (ms: number): string => `${ms / 1000} s`;

/** One attempt to connect; everything that it needs to say what went wrong. */
interface Attempt {
  readonly connection: Connection;
  readonly pin: HostKeyPin;
  readonly keyType: HostKeyType;
  readonly identity: Identity;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

function noPin(connection: Connection): DeviceError {
  const given = typeof connection.hostKey === "string" && connection.hostKey !== "";
  return new DeviceError(
    "refused",
    connection.node,
    given ? "its pinned host key can't be read" : "no host key is pinned, so no connection is made",
    {
      hint: "put into `hostKey` what `cat /etc/ssh/ssh_host_ed25519_key.pub` shows on the device's console, or its `SHA256:` fingerprint",
    },
  );
}

function mismatch(attempt: Attempt, shown: string): DeviceError {
  return new DeviceError(
    "hostKeyMismatch",
    attempt.connection.node,
    `the host key at ${where(attempt.connection)} is not the pinned one`,
    {
      originalMessage: `pinned ${attempt.pin.text}, shown ${shown}`,
      hint: "nothing was sent; if the device was reinstalled, compare its key on the console and correct `hostKey`; else somebody is in between",
    },
  );
}

/** Address and port as a person writes them. */
export function where(connection: Pick<Connection, "address" | "port">): string {
  const address = connection.address.includes(":") ? `[${connection.address}]` : connection.address;
  return `${address}:${connection.port}`;
}

function timedOut(attempt: Attempt, doing: string): DeviceError {
  return new DeviceError(
    "timedOut",
    attempt.connection.node,
    `no ${doing} at ${where(attempt.connection)} within ${seconds(attempt.timeoutMs)}`,
    {
      hint: "check that the device is on, and that address, port and any firewall between are right",
    },
  );
}

/** What to do about a fault of the socket, by its code. */
export const socketHints: Readonly<Record<string, string>> = {
  ECONNREFUSED: "the device answers, but nothing listens there: check the port, and that sshd runs",
  EHOSTUNREACH: "there is no route to it: check the address, and that the device is on",
  ENETUNREACH: "there is no route to its network from here",
  ENOTFOUND: "the host name does not resolve: check `address`",
  EAI_AGAIN: "the host name can't be resolved now: check the name server",
  ECONNRESET: "the device or something between cut the connection",
};

/** What ssh2 or the socket says, as one of our facts. */
function explain(attempt: Attempt, failure: Failure): DeviceError {
  const { connection, identity } = attempt;
  const details = { originalMessage: failure.message, cause: failure };
  if (
    failure.level === "client-authentication" ||
    failure.level === "agent" ||
    /authentication/i.test(failure.message)
  ) {
    const agentGone = failure.level === "agent";
    return new DeviceError(
      "denied",
      connection.node,
      agentGone
        ? `${identity.from} does not answer`
        : `login as '${connection.user}' was refused with the key from ${identity.from}`,
      {
        ...details,
        hint: agentGone
          ? "start the agent, or give `identityFile`, `identityCommand` or `privateKey`"
          : `check that the public key is in ~${connection.user}/.ssh/authorized_keys on the device, and that sshd allows this user`,
      },
    );
  }
  if (/no matching host key/i.test(failure.message)) {
    return new DeviceError(
      "hostKeyMismatch",
      connection.node,
      `${where(connection)} has no host key of the pinned type ${attempt.keyType}`,
      {
        ...details,
        hint: "nothing was sent; pin a key that the device has (cat /etc/ssh/ssh_host_*_key.pub on its console)",
      },
    );
  }
  if (/no matching/i.test(failure.message)) {
    return new DeviceError(
      "denied",
      connection.node,
      `sshd at ${where(connection)} shares no algorithm with us`,
      {
        ...details,
        hint: `it has to allow one of ${algorithms.kex.join(", ")}, and one of ${algorithms.cipher.join(", ")}`,
      },
    );
  }
  const code = typeof failure.code === "string" ? failure.code : "";
  return new DeviceError("unreachable", connection.node, `no connection to ${where(connection)}`, {
    ...details,
    hint:
      socketHints[code] ??
      "sshd closed the connection before login: it may be starting or overloaded (MaxStartups), or penalize this address (PerSourcePenalties)",
  });
}

/** A TCP connection with Nagle's algorithm off from the start: later is too late, it costs 40 ms for each step of the handshake. */
function openSocket(attempt: Attempt): Promise<Socket> {
  const { connection, signal } = attempt;
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host: connection.address, port: connection.port, noDelay: true });
    const onAbort = (): void => {
      socket.destroy();
      reject(signal.reason as Error);
    };
    const onError = (error: Error): void => {
      signal.removeEventListener("abort", onAbort);
      reject(error);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    socket.once("error", onError).once("connect", () => {
      signal.removeEventListener("abort", onAbort);
      socket.off("error", onError);
      resolve(socket);
    });
  });
}

function authMethod(user: string, identity: Identity): AgentAuthMethod | PublicKeyAuthMethod {
  return identity.type === "agent"
    ? { type: "agent", username: user, agent: identity.agent }
    : { type: "publickey", username: user, key: identity.key };
}

/** The SSH handshake and login on an open socket. */
function logIn(attempt: Attempt, socket: Socket, options: Ssh2Options): Promise<Link> {
  const { connection, pin, signal, identity } = attempt;
  return new Promise((resolve, reject) => {
    const client = new ssh2.Client();
    let shown: string | undefined;
    const fail = (error: Error): void => {
      signal.removeEventListener("abort", onAbort);
      socket.destroy();
      reject(shown === undefined ? error : new OtherKeyShown(shown));
    };
    const onAbort = (): void => fail(signal.reason as Error);
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener("abort", onAbort, { once: true });
    client.on("error", fail);
    client.once("close", () => fail(new Error("the connection was closed before login")));
    client.once("ready", () => {
      signal.removeEventListener("abort", onAbort);
      client.off("error", fail);
      resolve(new Ssh2Link(client, socket, connection.node));
    });
    client.connect({
      sock: socket,
      username: connection.user,
      hostVerifier: (blob: Buffer) => {
        if (pin.matches(blob)) return true;
        shown = `${attempt.keyType} ${fingerprint(blob)}`;
        return false;
      },
      // One method, once: ssh2 would ask with `none` first, which is a round trip for nothing.
      authHandler: [authMethod(connection.user, identity)],
      algorithms: {
        ...algorithms,
        kex: [...algorithms.kex],
        cipher: [...algorithms.cipher],
        hmac: [...algorithms.hmac],
        compress: [...algorithms.compress],
        serverHostKey: hostKeyAlgorithms(attempt.keyType),
      },
      // The deadline is ours, over TCP, handshake and login together.
      readyTimeout: 0,
      keepaliveInterval: options.keepaliveIntervalMs ?? 5_000,
      keepaliveCountMax: options.keepaliveCountMax ?? 3,
    });
  });
}

async function connectOnce(attempt: Attempt, options: Ssh2Options): Promise<Link> {
  const { connection, signal } = attempt;
  let doing = "answer to a TCP connection";
  try {
    signal.throwIfAborted();
    const socket = await openSocket(attempt);
    doing = "SSH login";
    return await logIn(attempt, socket, options);
  } catch (error) {
    if (error instanceof OtherKeyShown) throw error;
    if (signal.aborted) {
      throw (signal.reason as Error).name === "TimeoutError"
        ? timedOut(attempt, doing)
        : cancelled(connection.node, "while connecting");
    }
    throw explain(attempt, error as Failure);
  }
}

/** SSH by the `ssh2` library. */
export function ssh2Transport(options: Ssh2Options = {}): Transport {
  // A fingerprint does not tell its key's type. Which one fitted is remembered, so that later connections ask for it at once.
  const fitting = new Map<string, HostKeyType>();
  const identities = createIdentities();
  return {
    async connect(connection, { timeoutMs, signal }) {
      const pin = typeof connection.hostKey === "string" ? parseHostKeyPin(connection.hostKey) : undefined;
      if (pin === undefined) throw noPin(connection);
      const identity = await identities.of(connection, signal);
      const deadline = AbortSignal.timeout(timeoutMs);
      const known = fitting.get(pin.text);
      const shown: string[] = [];
      let last: Attempt | undefined;
      for (const keyType of known === undefined ? pin.types : [known]) {
        const attempt: Attempt = {
          connection,
          pin,
          keyType,
          identity,
          timeoutMs,
          signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
        };
        last = attempt;
        try {
          const link = await connectOnce(attempt, options);
          fitting.set(pin.text, keyType);
          return link;
        } catch (error) {
          if (error instanceof OtherKeyShown) {
            shown.push(error.shown);
          } else if (!(
            error instanceof DeviceError &&
            error.kind === "hostKeyMismatch" &&
            pin.types.length > 1
          )) {
            throw error;
          }
        }
      }
      throw mismatch(last as Attempt, shown.join(", ") || "none of its kind");
    },
  };
}
