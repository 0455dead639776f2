import type { Connection } from "../../provider/connection.ts";
import { ask, type Question } from "../../provider/device/ask.ts";
import { outputOf, UnknownObservation, type PartOutput } from "../../provider/device/probe.ts";
import { createSession, type Session } from "../../provider/device/session.ts";
import { quote } from "../../provider/device/shell-quote.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import { kinds } from "../../provider/registry.ts";
import type { Observed } from "../../provider/resource.ts";
import type { VerifiedBootState } from "../../provider/resources/verified-boot-properties.ts";
import { blockOfType, unknownValue, type JudgedNode } from "../../policies/node.ts";
import { consoleScript } from "./console-script.ts";
import { disksScript, parseDisks, type DeviceDisk } from "./device-disks.ts";

/** What the device says of its own identity. */
export interface DeviceIdentity {
  /** Fingerprint of the host key that the files of its sshd have; `undefined` when it could not be read. */
  readonly fingerprint: string | undefined;
  readonly tpm: "2.0" | "none" | "other";
  /** Digest of the TPM's endorsement key; `none` without a TPM that can be used; `undefined` when it could not be read. */
  readonly endorsementKey: string | undefined;
  /** Why it could not be read. */
  readonly trouble: string | undefined;
}

export interface DeviceSystem {
  readonly hostName: string;
  /** e.g. `Debian GNU/Linux 13 (trixie)`. */
  readonly operatingSystem: string;
  /** Of the packages, e.g. `arm64`; else of the kernel, e.g. `aarch64`. */
  readonly architecture: string;
  readonly kernel: string;
  readonly memoryMiB: number;
}

/** All that is read of a device at first contact. Nothing of it is believed for having been said. */
export interface DeviceReading {
  readonly identity: DeviceIdentity;
  readonly system: DeviceSystem;
  readonly disks: readonly DeviceDisk[];
  /** What its firmware says: model of the board, and signed boot. `undefined` when it could not be told. */
  readonly firmware: VerifiedBootState | undefined;
  /** Every kind of resource that can be observed without inputs, as the controls judge it. */
  readonly blocks: JudgedNode["blocks"];
  /** What could not be observed, and why, by block or part. */
  readonly unknown: Readonly<Record<string, string>>;
}

/** Some TPMs take half a minute to derive a key, and a slow card its time to be looked at. */
const timeoutMs = 180_000;

const systemScript = `sed 's/^/os /' /etc/os-release
printf 'kernel %s\\nmachine %s\\nhost %s\\n' "$(uname -r)" "$(uname -m)" "$(cat /proc/sys/kernel/hostname)"
awk '$1 == "MemTotal:" { print "memory " $2 }' /proc/meminfo
if command -v dpkg >/dev/null; then printf 'architecture %s\\n' "$(dpkg --print-architecture)"; fi`;

const contact: Question = {
  id: "first-contact",
  // The arguments of the script that this is a part of are not for it.
  parts: {
    identity: `set --; eval ${quote(consoleScript)}`,
    system: systemScript,
    disks: disksScript,
  },
};

/** Kinds that can be asked for before anything is declared. */
const observable = kinds.filter(({ observe }) => observe.length === 0);

/**
 * Reads a device. One connection, one exec, one `sudo`; nothing is changed on it.
 * @param options.session Only for tests.
 * @throws DeviceError, `denied` when `sudo` asks for a password.
 */
export async function readDevice(
  connection: Connection,
  options: { readonly session?: Session; readonly signal?: AbortSignal } = {},
): Promise<DeviceReading> {
  const session = options.session ?? createSession({ connection, transport: ssh2Transport(), attempts: 1 });
  const probes = observable.map((kind) => ({ kind, probe: kind.observe({}) }));
  try {
    const answers = await ask(session, [contact, ...probes.map(({ probe }) => probe)], {
      timeoutMs,
      readOnly: true,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    const said = answers(contact);
    const unknown: Record<string, string> = {};
    const known = <T>(what: string, read: () => T): T | undefined => {
      try {
        return read();
      } catch (error) {
        if (!(error instanceof UnknownObservation)) throw error;
        unknown[what] = error.message;
        return undefined;
      }
    };
    const blocks: Record<string, object | typeof unknownValue> = {};
    for (const { kind, probe } of probes) {
      const block = blockOfType(kind.token);
      if (block === undefined) continue;
      const observed = known(block, () => probe.parse(answers(probe)));
      const state = stateOf(observed);
      if (state !== undefined) blocks[block] = state;
    }
    const { boot } = blocks as JudgedNode["blocks"];
    return {
      identity: parseIdentity(said["identity"]),
      system: known("system", () => parseSystem(outputOf(said, "system"))) ?? unknownSystem,
      disks: known("disks", () => parseDisks(outputOf(said, "disks"))) ?? [],
      firmware: boot === undefined || boot === unknownValue ? undefined : (boot as VerifiedBootState),
      blocks,
      unknown,
    };
  } finally {
    await session.close();
  }
}

const stateOf = (observed: Observed<object> | undefined): object | typeof unknownValue | undefined =>
  observed === undefined ? unknownValue : observed.outcome === "present" ? observed.state : undefined;

function parseIdentity(part: PartOutput | undefined): DeviceIdentity {
  const said = (what: string): string | undefined =>
    new RegExp(`^${what} +(.+)$`, "m").exec(part?.stdout ?? "")?.[1];
  const tpm = said("TPM") ?? "";
  const digest = said("EK digest") ?? "";
  const isTwo = tpm === "2.0";
  const isDigest = /^[0-9a-f]{64}$/.test(digest);
  const fingerprint = said("fingerprint");
  return {
    fingerprint: fingerprint?.startsWith("SHA256:") === true ? fingerprint : undefined,
    tpm: isTwo ? "2.0" : tpm.startsWith("none") ? "none" : "other",
    endorsementKey: isDigest ? digest : tpm.startsWith("none") ? "none" : undefined,
    trouble:
      isDigest || tpm.startsWith("none")
        ? undefined
        : isTwo
          ? digest.replace(/^not read: /, "") || "the device did not say why"
          : `TPM ${tpm}`,
  };
}

const unknownSystem: DeviceSystem = {
  hostName: "",
  operatingSystem: "unknown",
  architecture: "unknown",
  kernel: "unknown",
  memoryMiB: 0,
};

function parseSystem(output: string): DeviceSystem {
  const value = (key: string): string => new RegExp(`^${key} (.*)$`, "m").exec(output)?.[1]?.trim() ?? "";
  const release = /^os PRETTY_NAME=(["']?)(.*)\1$/m.exec(output)?.[2] ?? "";
  return {
    hostName: value("host"),
    operatingSystem: release === "" ? "unknown" : release,
    architecture: value("architecture") || value("machine") || "unknown",
    kernel: value("kernel"),
    memoryMiB: Math.round(Number(value("memory")) / 1024) || 0,
  };
}
