/**
 * What can go wrong between the provider and a device, as facts that callers branch on.
 *
 * - `unreachable`: no authenticated connection could be made, or it went away. Says nothing about the state of anything.
 * - `timedOut`: a deadline passed (connection, exec, or a step on the device).
 * - `denied`: the device answered and refused: authentication, or `sudo` wanting a password.
 * - `hostKeyMismatch`: the host key is not the pinned one. Nothing was sent.
 * - `locked`: somebody else holds the node lock, or another change waits for its confirmation.
 * - `fenced`: our node lock expired and somebody else took it; nothing was done after that point.
 * - `stepFailed`: a step of a plan failed on the device; the observation after it is attached by the caller.
 * - `preconditionFailed`: the device was no longer as the plan assumed; nothing destructive was done.
 * - `rolledBack`: a commit-confirmed change was not confirmed and the device went back to its former state.
 * - `refused`: the plan can't be made from what was observed, or must not be (it would lock us out).
 * - `unknown`: the device answered, but the answer can't be interpreted. Gates fail closed on it.
 * - `cancelled`: the engine asked to stop.
 */
export type DeviceErrorKind =
  | "unreachable"
  | "timedOut"
  | "denied"
  | "hostKeyMismatch"
  | "locked"
  | "fenced"
  | "stepFailed"
  | "preconditionFailed"
  | "rolledBack"
  | "refused"
  | "unknown"
  | "cancelled";

export interface DeviceErrorDetails {
  /** The mend: what the reader can do about it, one sentence. Required, so that no error without one compiles. */
  readonly hint: string;
  /** The low-level message (of ssh2, sudo, nft, ...), already free of secrets. */
  readonly originalMessage?: string;
  readonly cause?: unknown;
}

/** An error about one device. `message` is `node: shortMessage (originalMessage); hint`. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
  readonly kind: DeviceErrorKind;
  /** The node's name in the site. */
  readonly node: string;
  readonly shortMessage: string;
  readonly originalMessage: string | undefined;
  readonly hint: string;

  constructor(kind: DeviceErrorKind, node: string, shortMessage: string, details: DeviceErrorDetails) {
    const original = details.originalMessage === undefined ? "" : ` (${details.originalMessage})`;
    super(`${node}: ${shortMessage}${original}; ${details.hint}`, { cause: details.cause });
    this.kind = kind;
    this.node = node;
    this.shortMessage = shortMessage;
    this.originalMessage = details.originalMessage;
    this.hint = details.hint;
  }
}

/**
 * The engine asked to stop.
 * @param during what was under way, to follow "cancelled", e.g. `while connecting`
 */
export function cancelled(node: string, during?: string): DeviceError {
  return new DeviceError("cancelled", node, during === undefined ? "cancelled" : `cancelled ${during}`, {
    hint: "run the operation again to go on from here",
  });
}
