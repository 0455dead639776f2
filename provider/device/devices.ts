import { createHash } from "node:crypto";
import { hostname, userInfo } from "node:os";
import type { Connection } from "../connection.ts";
import type { ResourceKind } from "../resource.ts";
import type { Device, Devices } from "./device.ts";
import { cancelled } from "./errors.ts";
import type { Breakpoint } from "./plan-points.ts";
import type { ChallengeTpm } from "./required-tpm.ts";
import { createSession, type SessionOptions } from "./session.ts";
import { SshDevice } from "./ssh-device.ts";
import { ssh2Transport } from "./ssh2-transport.ts";
import type { Transport } from "./transport.ts";

export interface DevicesOptions {
  /** Default: the `ssh2` library. */
  readonly transport?: Transport;
  /** Every kind that a first read of a node asks for. */
  readonly kinds: readonly ResourceKind[];
  /** Who holds a node's lock, for the other operator who finds it held. Default: user, host and process id. */
  readonly owner?: string;
  /** How long an observation answers before it is made anew, in milliseconds. Default 60 000. */
  readonly maxAgeMs?: number;
  /** Deadline for one batch of probes, in milliseconds. Default 60 000. */
  readonly observeTimeoutMs?: number;
  /** How a TPM is challenged before a plan with a secret for it is sent. Default: such a plan is not sent. */
  readonly challengeTpm?: ChallengeTpm;
  /** Where a plan stops and waits to be killed; for tests only. */
  readonly breakpoint?: Breakpoint;
  /** How connections are made; the defaults of `SessionOptions`. */
  readonly session?: Omit<SessionOptions, "connection" | "transport">;
}

/** One name for one way to log in to one device. A digest, since a private key is in it. */
function identityOf(connection: Connection): string {
  const { node, user, address, port, hostKey, privateKey, identityCommand, identityFile, agent } = connection;
  const parts = [node, user, address, port, hostKey, privateKey, identityCommand, identityFile, agent].map(
    (part) => part ?? null,
  );
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

/** The devices of one provider process, each with one session. */
export function createDevices(options: DevicesOptions): Devices {
  const devices = new Map<string, SshDevice>();
  const transport = options.transport ?? ssh2Transport();
  const owner = options.owner ?? `${userInfo().username}@${hostname()} (process ${process.pid})`;
  let closed = false;
  return {
    get(connection: Connection): Device {
      if (closed) throw cancelled(connection.node, "since the provider is closing");
      const identity = identityOf(connection);
      const known = devices.get(identity);
      if (known !== undefined) return known;
      const device = new SshDevice(createSession({ ...options.session, connection, transport }), {
        kinds: options.kinds,
        owner,
        maxAgeMs: options.maxAgeMs ?? 60_000,
        observeTimeoutMs: options.observeTimeoutMs ?? 60_000,
        challengeTpm: options.challengeTpm,
        breakpoint: options.breakpoint,
      });
      devices.set(identity, device);
      return device;
    },
    async close(): Promise<void> {
      closed = true;
      await Promise.all([...devices.values()].map((device) => device.close()));
    },
  };
}
