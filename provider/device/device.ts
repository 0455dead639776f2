import type { Connection } from "../connection.ts";
import type { Observed, ResourceKind, Route } from "../resource.ts";
import type { Step } from "./step.ts";

/** How far a plan came on the device. */
export interface StepReport {
  readonly title: string;
  readonly outcome: "done" | "failed";
}

export interface ApplyResult<S> {
  readonly steps: readonly StepReport[];
  /** What was read back in the same exec (after a confirmation: over the new connection). */
  readonly observed: Observed<S>;
  /** Set when the plan did not run to its end; `observed` still tells what the device looks like now. */
  readonly failure: Error | undefined;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Told what a plan is at, by the titles of its steps. */
  readonly onProgress?: (message: string) => void;
  /** Told what the user has to know of the node, and that nothing is stopped by. */
  readonly onWarning?: (message: string) => void;
}

/** One device as the resources see it: observed in batches, changed by plans. One instance per node and provider process. */
export interface Device {
  /**
   * What the device says of one resource. Served from the current observation when there is one; else one batch asks for every kind.
   * @throws DeviceError, UnknownObservation.
   */
  observe<S>(kind: ResourceKind, inputs: object, options?: CallOptions): Promise<Observed<S>>;
  /** The way in, when a connection was made in this process and its observation still stands. Makes no connection. */
  knownRoute(): Route | undefined;
  /** The way in as the device sees it; observes when needed. */
  route(options?: CallOptions): Promise<Route>;
  /** Runs the steps and reads back, in one exec; a commit-confirmed plan makes one new connection with one exec more. */
  apply<S>(
    kind: ResourceKind,
    inputs: object,
    steps: readonly Step[],
    options?: CallOptions,
  ): Promise<ApplyResult<S>>;
  /** Takes a resource that is managed no more out of the node's manifest, along with the next plan. Makes no connection. */
  forget(kind: ResourceKind, inputs: object): void;
  close(): Promise<void>;
}

/** The devices of one provider process. */
export interface Devices {
  /** The device behind a connection: the same instance for the same user, address, port, key and host key. */
  get(connection: Connection): Device;
  /** Closes every connection; later calls fail with `cancelled`. */
  close(): Promise<void>;
}
