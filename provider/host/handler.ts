import type { TObject } from "typebox";
import type { Path, Properties } from "./values.ts";

/** What a handler may tell the user while it works. Secrets are taken out of every message. */
export interface Log {
  /** Shown with `--debug` only. */
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  /** Shown beside the resource while it is worked on, and gone afterwards. */
  status(message: string): void;
}

/** The call that a handler serves. */
export interface Call {
  readonly urn: string;
  /** Fires when the engine cancels, when it gives this call up, or when the user's time-out for the operation is over. */
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface CheckFailure {
  /** Property path, e.g. `allow[2].to`. */
  readonly property: string;
  readonly reason: string;
}

export interface Change {
  /** Property path. It is looked up in the state, or in the inputs when `input` is set; that is what the user is shown. */
  readonly path: string;
  readonly kind: "add" | "delete" | "update";
  /** Whether the change is one of inputs to inputs, rather than of what was observed to what must hold. */
  readonly input: boolean;
}

export interface CheckRequest {
  readonly inputs: Properties;
  /** Paths of the inputs that are secret, by mark or by schema. */
  readonly secrets: readonly Path[];
}

export interface DiffRequest {
  readonly id: string;
  readonly oldInputs: Properties;
  readonly oldState: Properties;
  readonly newInputs: Properties;
}

export interface CreateRequest {
  readonly inputs: Properties;
  readonly preview: boolean;
}

export interface ReadRequest {
  readonly id: string;
  /** The recorded inputs; `undefined` on import, when only the id is known. */
  readonly inputs: Properties | undefined;
  readonly state: Properties;
}

export interface ReadResult {
  readonly id: string;
  readonly state: Properties;
  /** The inputs to record; `undefined` keeps those recorded. */
  readonly inputs: Properties | undefined;
}

export interface UpdateRequest {
  readonly id: string;
  readonly oldInputs: Properties;
  readonly oldState: Properties;
  readonly newInputs: Properties;
  readonly preview: boolean;
}

export interface DeleteRequest {
  readonly id: string;
  readonly inputs: Properties;
  readonly state: Properties;
}

/**
 * One resource type, without a word of Pulumi's protocol. Properties come with secrets unwrapped, and with `Unknown` for what is not computed yet
 * (in previews only); those returned are wrapped again by the host.
 *
 * Every method may throw `CallFailed` (nothing is recorded); `create` and `update` also `InitializationFailed` (the state is recorded, the
 * operation fails). Anything else thrown counts as a bug, and is reported as one.
 */
export interface Handler {
  /** Type token, e.g. `edgeseal:memory:Swap`. */
  readonly token: string;
  readonly description: string;
  readonly inputs: TObject;
  readonly state: TObject;
  /** Fills defaults and judges; returns every failure, not only the first. */
  check(
    request: CheckRequest,
    call: Call,
  ): Promise<{ readonly inputs: Properties; readonly failures: readonly CheckFailure[] }>;
  diff(request: DiffRequest, call: Call): Promise<readonly Change[]>;
  /** In a preview the id may be left blank, and the state may hold `Unknown`. */
  create(request: CreateRequest, call: Call): Promise<{ readonly id: string; readonly state: Properties }>;
  /** `undefined` means: known to be absent. What could not be looked at is an error. */
  read(request: ReadRequest, call: Call): Promise<ReadResult | undefined>;
  update(request: UpdateRequest, call: Call): Promise<{ readonly state: Properties }>;
  delete(request: DeleteRequest, call: Call): Promise<void>;
}
