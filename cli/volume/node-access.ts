import { hostname, userInfo } from "node:os";
import type { Connection } from "../../provider/connection.ts";
import { ask } from "../../provider/device/ask.ts";
import type { ApplyResult } from "../../provider/device/device.ts";
import { oneConnection } from "../../provider/device/one-connection.ts";
import type { Probe } from "../../provider/device/probe.ts";
import { createSession } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { SshDevice } from "../../provider/device/ssh-device.ts";
import type { Step } from "../../provider/device/step.ts";
import { sealedVolume } from "../../provider/resources/sealed-volume.ts";
import type { SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import {
  challengeTpm,
  type AnsweredChallenge,
  type ChallengeOptions,
} from "../../provider/resources/tpm-challenge.ts";

/** A node, as what changes its volumes sees it. One connection, from the first look to the last step. */
export interface NodeAccess {
  /** The volumes as they are, in the order of the inputs. */
  observe(volumes: readonly SealedVolumeInputs[], signal: AbortSignal): Promise<readonly SealedVolumeState[]>;
  /** A question to the node that changes nothing. */
  ask<T>(probe: Probe<T>, signal: AbortSignal): Promise<T>;
  challenge(options: ChallengeOptions & { readonly signal: AbortSignal }): Promise<AnsweredChallenge>;
  /** Does the steps and reads back. */
  apply(
    volume: SealedVolumeInputs,
    steps: readonly Step[],
    options: { readonly signal: AbortSignal; readonly onProgress: (title: string) => void },
  ): Promise<ApplyResult<SealedVolumeState>>;
  close(): Promise<void>;
}

/** A whole header is read past the page cache for each volume, on a card. */
const observeTimeoutMs = 180_000;
/** Somebody is asked in between, and what is destructive checks itself on the device. */
const maxAgeMs = 600_000;

/** Opens a node over ssh; makes no connection yet. */
export function openNode(connection: Connection): NodeAccess {
  const session = createSession({ connection, transport: oneConnection(ssh2Transport()) });
  const device = new SshDevice(session, {
    kinds: [sealedVolume],
    owner: `${userInfo().username}@${hostname()} (edgeseal volume, process ${process.pid})`,
    maxAgeMs,
    observeTimeoutMs,
    breakpoint: undefined,
  });
  return {
    observe: (volumes, signal) =>
      Promise.all(
        volumes.map(async (inputs) => {
          const observed = await device.observe<SealedVolumeState>(sealedVolume, inputs, { signal });
          if (observed.outcome === "absent") throw new TypeError("a sealed volume is never absent");
          return observed.state;
        }),
      ),
    ask: async (probe, signal) => {
      const answers = await ask(session, [probe], { timeoutMs: observeTimeoutMs, readOnly: true, signal });
      return probe.parse(answers(probe));
    },
    challenge: (options) => challengeTpm(session, options),
    apply: (inputs, steps, options) => device.apply(sealedVolume, inputs, steps, options),
    close: () => device.close(),
  };
}
