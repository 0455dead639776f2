import type { Properties } from "./values.ts";

/** Why a call failed, as far as the engine has to know. */
export type FailureReason = "failedPrecondition" | "timedOut" | "cancelled";

/** A call failed for a reason that the user can do something about. Nothing is recorded by the engine. */
export class CallFailed extends Error {
  override readonly name = "CallFailed";
  readonly reason: FailureReason;
  constructor(reason: FailureReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/** The request itself is not acceptable. `property` is the path of what is wrong, where there is one. */
export class InvalidRequest extends Error {
  override readonly name = "InvalidRequest";
  readonly property: string | undefined;
  constructor(message: string, property?: string) {
    super(message);
    this.property = property;
  }
}

/**
 * The resource exists, but is not as it must be. The engine records `state` (and the new inputs), fails the operation with `reasons`, and tries
 * an update the next time.
 */
export class InitializationFailed extends Error {
  override readonly name = "InitializationFailed";
  readonly id: string;
  readonly state: Properties;
  readonly reasons: readonly string[];
  constructor(id: string, state: Properties, reasons: readonly string[], options?: ErrorOptions) {
    super(reasons.join("; "), options);
    this.id = id;
    this.state = state;
    this.reasons = reasons;
  }
}
