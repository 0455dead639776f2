import type { Static, TObject } from "typebox";
import type { Probe } from "./device/probe.ts";
import type { Step } from "./device/step.ts";

/**
 * What a probe found of one resource. `drifted` is not an outcome of looking but of comparing (`diffState`); `unreachable` and `unknown` are
 * errors (`DeviceError`, `UnknownObservation`), so that no code path can mistake them for `absent`.
 */
export type Observed<S> = { readonly outcome: "present"; readonly state: S } | { readonly outcome: "absent" };

/** Facts about the way in, which a plan must not cut. */
export interface Route {
  /** Our address and port as the device sees them, and the device's own address and port (from SSH_CONNECTION); `undefined` when unknown. */
  readonly clientAddress: string | undefined;
  readonly clientPort: number | undefined;
  readonly serverAddress: string | undefined;
  readonly serverPort: number | undefined;
}

/** One fault of the inputs, found by `check`. */
export interface InputProblem {
  /** Property path, e.g. `allow[2].to`. */
  readonly path: string;
  /** What was expected, what was given, and the mend. */
  readonly message: string;
}

/**
 * A kind of resource: schemas and pure functions. Only `provider/device/` talks to a device.
 *
 * The comparison is generic: `desired(inputs)` is the part of the state that must hold, property by property; what it leaves out is reported
 * but not enforced. The law that tests hold every kind to: `plan` is `[]` exactly when nothing differs.
 */
export interface ResourceKind<I extends TObject = TObject, S extends TObject = TObject> {
  /** Pulumi type token, e.g. `edgeseal:memory:Swap`. */
  readonly token: `edgeseal:${string}:${string}`;
  /** One paragraph for the Pulumi schema and the docs. */
  readonly description: string;
  /** Inputs without `connection` and `onDelete`, which every kind has. Every default is the secure one. */
  readonly inputs: I;
  /**
   * The input, a string, that tells apart several resources of this kind on one node, e.g. `name` of a volume. Its value is a part of the resource's id.
   * Default: there is one on a node.
   */
  readonly instanceKey?: string & keyof Static<I>;
  /** What is read back. Every property is observed on the device. */
  readonly state: S;
  /**
   * Properties of the state, texts or records of texts, that are a copy of what must not be lost with the node. What the node has no more of them stays in the state as it was recorded; that it is gone,
   * another property tells.
   */
  readonly keeps?: readonly (string & keyof Static<S>)[];
  /** Faults that a JSON schema can't express; all of them, not only the first. */
  readonly check?: (inputs: Static<I>) => readonly InputProblem[];
  /**
   * The probe. A kind whose probe needs no inputs declares `() => ...`: every first read of a node then carries it (`observe.length === 0`).
   * One whose probe needs inputs gets them; they are recorded in the node's manifest, so that one second batch serves all of them.
   */
  readonly observe: (inputs: Static<I>) => Probe<Observed<Static<S>>>;
  /** The state that must hold, as far as the inputs say. */
  readonly desired: (inputs: Static<I>) => Partial<Static<S>>;
  /**
   * Steps that lead from the observed to the desired state.
   * @throws PlanRefused when what was observed can't be mended, or the change would lock us out.
   */
  readonly plan: (inputs: Static<I>, observed: Observed<Static<S>>, route: Route) => readonly Step[];
  /** Refusals that are already known at preview (e.g. the way in would be cut). All of them. */
  readonly refusals?: (inputs: Static<I>, route: Route) => readonly InputProblem[];
  /** Steps that take the protection back, for `onDelete: revert`. */
  readonly revert: (inputs: Static<I>, observed: Observed<Static<S>>) => readonly Step[];
}

/** The change can't or must not be made; `hint` says the mend. */
export class PlanRefused extends Error {
  override readonly name = "PlanRefused";
  readonly hint: string;
  constructor(message: string, hint: string) {
    super(`${message}; ${hint}`);
    this.hint = hint;
  }
}

/** Types a kind from its schemas; returns it as it is. */
export function defineResource<I extends TObject, S extends TObject>(
  kind: ResourceKind<I, S>,
): ResourceKind<I, S> {
  return kind;
}
