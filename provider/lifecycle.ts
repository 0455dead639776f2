import type { Static, TObject } from "typebox";
import { connectionFromUrl, instanceFromUrl } from "./connection-url.ts";
import type { Connection } from "./connection.ts";
import { inputSchema } from "./check/input-schema.ts";
import { inputValidator } from "./check/input-validator.ts";
import type { ApplyResult, Device, Devices } from "./device/device.ts";
import { DeviceError, type DeviceErrorKind } from "./device/errors.ts";
import { parseHostKeyPin } from "./device/host-key.ts";
import { UnknownObservation } from "./device/probe.ts";
import type { Step } from "./device/step.ts";
import { diffState, type Difference } from "./diff.ts";
import { CallFailed, InitializationFailed, InvalidRequest } from "./host/errors.ts";
import type { Call, Change, CheckFailure, Handler, ReadResult } from "./host/handler.ts";
import { annotatedSecrets } from "./host/secrets.ts";
import { isProperties, Unknown, unknownPaths, type Properties, type Value } from "./host/values.ts";
import { PlanRefused, type Observed, type ResourceKind } from "./resource.ts";

/**
 * Makes a resource of a kind: what Pulumi asks of it, said in terms of the kind's pure functions and of the device.
 *
 * - The state is what was observed, and what a kind keeps of the state before (`keeps`): neither inputs nor the connection.
 * - The id is `NODE/module:Kind`, e.g. `pi-1/memory:Swap`; where a node may have several, `NODE/module:Kind/INSTANCE`. It is a label: nothing is looked up by it.
 * - `connection` is never a difference, and never replaces anything. Nor is a node's new name: the machine and its protections are the same, and a
 *   replacement would take them down and up again. The id follows at the next refresh.
 * - Nothing replaces a resource: every resource can be led from any state to any other. Where a node may have several, another instance is refused: it
 *   would leave the former one in force, and a replacement would too, with `onDelete: keep`, after two of them had run at once.
 */
export function lifecycle(kind: ResourceKind, devices: () => Promise<Devices>): Handler {
  return new Lifecycle(kind, devices);
}

type State = Properties;

/** A kind's own inputs, and what was observed of it, as its pure functions take them. */
type Own = Static<TObject>;
type Seen = Observed<Static<TObject>>;

/** Inputs, split into those of the kind and those that every resource has. */
interface Split {
  /** Typed as checked; may hold `Unknown` in a preview, and no pure function sees it then. */
  readonly own: Own;
  /** As checked; may hold `Unknown` in a preview. */
  readonly connection: Properties;
  readonly onDelete: Value | undefined;
}

/** More than a screenful is not read; the state has the rest. */
const mostReasons = 20;

/** Errors of `apply` after which the device is certainly as it was before. */
const nothingDone: ReadonlySet<DeviceErrorKind> = new Set(["denied", "hostKeyMismatch", "locked", "refused"]);

class Lifecycle implements Handler {
  readonly token: string;
  readonly description: string;
  readonly inputs: Handler["inputs"];
  readonly state: Handler["state"];
  readonly #kind: ResourceKind;
  readonly #devices: () => Promise<Devices>;
  readonly #validator: ReturnType<typeof inputValidator>;
  /** What each resource of the program looks after, by its URN: the part of a node, by its probe, since a kind whose probe needs inputs may be there several times. In the order in which they came. */
  readonly #lookedAfter = new Map<string, { readonly part: string; readonly connection: Properties }>();

  constructor(kind: ResourceKind, devices: () => Promise<Devices>) {
    this.token = kind.token;
    this.description = kind.description;
    this.inputs = inputSchema(kind);
    this.state = kind.state;
    this.#kind = kind;
    this.#devices = devices;
    this.#validator = inputValidator(this.inputs);
  }

  check: Handler["check"] = ({ inputs: given, secrets }, call) => {
    const { inputs, problems } = this.#validator.validate(given, secrets);
    const failures = problems.map(({ path, message }) => ({ property: path, reason: message }));
    const { own, connection } = split(inputs);
    // The kind's own check may rely on what its schema says, so it needs inputs without a fault and without gaps.
    const judged = !problems.some(({ path }) => !/^(connection|onDelete)\b/.test(path)) && isKnown(own);
    const more = judged ? (this.#kind.check?.(own) ?? []) : [];
    failures.push(...more.map(({ path, message }) => ({ property: path, reason: message })));
    if (judged) {
      this.#noteOwner(own, connection, call);
      failures.push(...this.#rivals(own, connection, call));
    }
    return Promise.resolve({ inputs, failures });
  };

  /**
   * What must hold against what was observed, property by property. On a refresh the engine asks with the refreshed state as the old one and the
   * recorded inputs as the new ones: the same question, and its answer is the drift.
   */
  diff: Handler["diff"] = ({ oldInputs, oldState, newInputs }) => {
    const before = split(this.#withDefaults(oldInputs));
    const after = split(this.#withDefaults(newInputs));
    const changes: Change[] = [];
    // What depends on an input that is not known yet can't be compared; the others are, with the old value standing in.
    const own: Record<string, unknown> = { ...after.own };
    for (const [key, value] of Object.entries(after.own)) {
      if (isKnown(value)) continue;
      changes.push({ path: key, kind: key in before.own ? "update" : "add", input: true });
      const old = before.own[key];
      if (old === undefined) return Promise.resolve(changes);
      own[key] = old;
    }
    for (const { path, kind } of diffState(this.#kind.desired(own), oldState))
      changes.push({ path, kind, input: false });
    // Where all else is alike, the new inputs would be recorded without a word, and the former instance forgotten with the old ones: `update` is to refuse it.
    const other = this.#otherInstance(before.own, after.own);
    if (other !== undefined) changes.push({ path: other.key, kind: "update", input: true });
    if (after.onDelete !== before.onDelete) changes.push({ path: "onDelete", kind: "update", input: true });
    return Promise.resolve(changes);
  };

  create: Handler["create"] = async ({ inputs, preview }, call) => {
    const { own, connection } = split(inputs);
    if (preview) return { id: "", state: await this.#foreseen(own, connection) };
    const id = this.#id(own, connection);
    return { id, state: await this.#bring(id, own, connection, call) };
  };

  update: Handler["update"] = async ({ id, oldInputs, oldState, newInputs, preview }, call) => {
    const { own, connection } = split(newInputs);
    this.#requireSameInstance(split(this.#withDefaults(oldInputs)).own, own, connection);
    if (preview) return { state: await this.#foreseen(own, connection) };
    return { state: await this.#bring(id, own, connection, call, oldState) };
  };

  /**
   * Looks at the device, always. What can't be reached or told is an error, so that it is never taken for deleted.
   *
   * On import only the id is known; `connectionFromUrl` says what it looks like. The inputs are then the connection, the defaults, and what was
   * observed under the names of inputs, so that as far as possible nothing differs right after. A kind with required inputs that no node tells is refused.
   */
  read: Handler["read"] = async ({ id, inputs, state }, call) => {
    const { recorded, imported } = this.#readInputs(id, inputs, state);
    const { own, connection } = split(recorded);
    const observed = await this.#naming(connection, async () => {
      const device = await this.#device(connection);
      return await device.observe<Static<TObject>>(this.#kind, own, { signal: call.signal });
    }).catch((error: unknown) => {
      throw imported ? error : withHint(error);
    });
    if (observed.outcome === "absent") return undefined;
    const result: ReadResult = {
      id: this.#id(own, connection),
      state: this.#stateOf(observed, state),
      inputs: undefined,
    };
    return imported ? { ...result, inputs: this.#adopted(recorded, result.state) } : result;
  };

  delete: Handler["delete"] = async ({ inputs }, call) => {
    const { own, connection, onDelete } = split(this.#withDefaults(inputs));
    const node = nodeOf(connection);
    if (onDelete !== "revert") {
      (await this.#device(connection)).forget(this.#kind, own);
      call.log.info(
        `${this.#label} stays in force on ${node} (onDelete: keep); Pulumi no longer looks after it`,
      );
      return;
    }
    const heir = this.#heirOf(own, connection, call);
    if (heir !== undefined) {
      call.log.info(`${this.#label} stays in force on ${node}: another resource looks after it now, ${heir}`);
      return;
    }
    await this.#naming(connection, async () => {
      const device = await this.#device(connection);
      const observed = await device.observe<Static<TObject>>(this.#kind, own, { signal: call.signal });
      if (observed.outcome === "absent") return;
      const steps = this.#kind.revert(own, observed);
      device.forget(this.#kind, own);
      if (steps.length === 0) return;
      const result = await this.#apply(device, own, steps, call);
      if (result.failure !== undefined) throw result.failure;
    });
  };

  #noteOwner(own: Own, connection: Properties, call: Call): void {
    this.#lookedAfter.set(call.urn, { part: this.#kind.observe(own).id, connection });
  }

  /**
   * The resource of the program that looks after what another one, which is to be deleted, is recorded to look after: under another name or parent, or on a node that has another name now. It may have
   * been made by an earlier update; the engine has each resource of the program checked in every one, and never one that it is about to delete.
   */
  #heirOf(own: Own, connection: Properties, call: Call): string | undefined {
    return this.#ownerOf(own, (other, urn) => urn !== call.urn && isSameDevice(other, connection));
  }

  /** The first resource of the program that looks after this part of a node that is meant. */
  #ownerOf(own: Own, isMeant: (connection: Properties, urn: string) => boolean): string | undefined {
    const part = this.#kind.observe(own).id;
    return [...this.#lookedAfter].find(
      ([urn, other]) => other.part === part && isMeant(other.connection, urn),
    )?.[0];
  }

  /**
   * A second resource for one place on a node. Each would lead the node to its own inputs, and undo the other's with every other update: the engine
   * updates only the one that differs just then, so the two never meet in `update`. They do meet here: the engine has each resource of the program
   * checked, and never one that it is about to delete, as the former name of a renamed one.
   */
  #rivals(own: Own, connection: Properties, call: Call): CheckFailure[] {
    if (typeof connection["node"] !== "string") return [];
    const first = this.#ownerOf(own, (other) => other["node"] === connection["node"]);
    if (first === undefined || first === call.urn) return [];
    const instance = this.#instanceOf(own);
    const which =
      instance === undefined ? "a node has one of each kind" : `'${instance}' names one of a node`;
    const reason = `${connection["node"]} has its ${this.#label} already, ${first}: ${which}; remove one of the two, or say which other node this one is for`;
    return [{ property: "connection.node", reason }];
  }

  /** `memory:Swap` of `edgeseal:memory:Swap`. */
  get #label(): string {
    return this.token.slice(this.token.indexOf(":") + 1);
  }

  #id(own: Own, connection: Properties): string {
    const instance = this.#instanceOf(own);
    return `${nodeOf(connection)}/${this.#label}${instance === undefined ? "" : `/${instance}`}`;
  }

  /** The instance that the inputs name now, where they named another before. */
  #otherInstance(
    before: Own,
    after: Own,
  ): { readonly key: string; readonly from: string; readonly to: string } | undefined {
    const [key, from, to] = [this.#kind.instanceKey, this.#instanceOf(before), this.#instanceOf(after)];
    const isOther = key !== undefined && from !== undefined && to !== undefined && from !== to;
    return isOther ? { key, from, to } : undefined;
  }

  #requireSameInstance(before: Own, after: Own, connection: Properties): void {
    const other = this.#otherInstance(before, after);
    if (other === undefined) return;
    const { key, from, to } = other;
    const way = `take '${from}' away first (\`pulumi state unprotect\` where it is protected, \`onDelete: revert\` and \`pulumi up\`, then \`pulumi up\` without it), and add '${to}' then`;
    throw new CallFailed(
      "failedPrecondition",
      `${nodeOf(connection)}: ${this.#label} '${from}' can't become '${to}': '${from}' would stay in force, and nothing would look after it; leave \`${key}\` as it was, or ${way}`,
    );
  }

  #instanceOf(own: Own): string | undefined {
    const value =
      this.#kind.instanceKey === undefined ? undefined : (own as Properties)[this.#kind.instanceKey];
    return typeof value === "string" ? value : undefined;
  }

  /** Recorded inputs as a version with fewer inputs wrote them still get the defaults of this one. */
  #withDefaults(inputs: Properties): Properties {
    return this.#validator.validate(inputs, []).inputs;
  }

  async #device(connection: Properties): Promise<Device> {
    return (await this.#devices()).get(connection as Connection);
  }

  /** What a preview can tell: what must hold is known, what is only reported is not. Contacts nothing. */
  async #foreseen(own: Own, connection: Properties): Promise<State> {
    const keys = Object.keys(this.#kind.state.properties);
    const open: State = Object.fromEntries(keys.map((key): [string, Value] => [key, Unknown]));
    if (!isKnown(own)) return open;
    if (this.#kind.refusals !== undefined && isKnown(connection)) {
      const route = (await this.#device(connection)).knownRoute();
      const refusals = route === undefined ? [] : this.#kind.refusals(own, route);
      if (refusals.length > 0) {
        const text = refusals.map(({ path, message }) => `${path}: ${message}`).join("\n");
        throw new CallFailed("failedPrecondition", `${nodeOf(connection)}: refused: ${text}`);
      }
    }
    return { ...open, ...(this.#kind.desired(own) as State) };
  }

  /**
   * Leads the device to the desired state, and returns the state that was read back.
   * @throws CallFailed when nothing was done; InitializationFailed, with what was observed, when something was, or may have been.
   */
  async #bring(
    id: string,
    own: Own,
    connection: Properties,
    call: Call,
    recorded: State = {},
  ): Promise<State> {
    const node = nodeOf(connection);
    this.#noteOwner(own, connection, call);
    const { device, observed, steps } = await this.#naming(connection, async () => {
      const device = await this.#device(connection);
      const observed = await device.observe<Static<TObject>>(this.#kind, own, { signal: call.signal });
      const route = await device.route({ signal: call.signal });
      return { device, observed, steps: this.#kind.plan(own, observed, route) };
    });
    const before = this.#stateOf(observed, recorded);
    if (steps.length === 0) return this.#verified(id, own, observed, node, recorded);
    let result: ApplyResult<Static<TObject>>;
    try {
      result = await this.#apply(device, own, steps, call);
    } catch (error) {
      const harmless = error instanceof DeviceError && nothingDone.has(error.kind);
      if (harmless || error instanceof PlanRefused) throw told(error, node, this.#label);
      const reasons = [
        told(error, node, this.#label).message,
        `${node}: ${this.#label} may have been changed; recorded is what was observed before, the next \`pulumi up\` looks again`,
      ];
      throw new InitializationFailed(id, before, reasons, { cause: error });
    }
    if (result.failure === undefined) return this.#verified(id, own, result.observed, node, recorded);
    const { message } = told(result.failure, node, this.#label);
    const done = result.steps.filter(({ outcome }) => outcome === "done");
    if (done.length === 0) throw new CallFailed("failedPrecondition", message, { cause: result.failure });
    const reasons = [
      message,
      `${node}: done before that: ${done.map(({ title }) => title).join(", ")}; recorded as observed, the next \`pulumi up\` goes on from there`,
    ];
    const state = this.#stateOf(result.observed, recorded);
    throw new InitializationFailed(id, state, reasons, { cause: result.failure });
  }

  /** What was observed, with what the kind keeps of the recorded state. */
  #stateOf(observed: Seen, recorded: State): State {
    const state = observed.outcome === "present" ? (observed.state as State) : {};
    const kept = (this.#kind.keeps ?? []).flatMap((key): [string, Value][] => {
      const [now, before] = [state[key], recorded[key]];
      if (now === "" && typeof before === "string") return [[key, before]];
      return isProperties(now) && isProperties(before) ? [[key, { ...before, ...now }]] : [];
    });
    return { ...state, ...Object.fromEntries(kept) };
  }

  /** The observed state when everything that must hold does; success of the steps is no evidence. */
  #verified(id: string, own: Own, observed: Seen, node: string, recorded: State): State {
    const state = this.#stateOf(observed, recorded);
    const differences = diffState(this.#kind.desired(own), state);
    if (observed.outcome === "present" && differences.length === 0) return state;
    const secret = new Set(annotatedSecrets(this.#kind.state, state).map(([first]) => first));
    const reasons = differences.slice(0, mostReasons).map((difference) => {
      const hidden = secret.has(difference.path.replace(/[.[].*$/s, ""));
      return `${node}: ${difference.path} did not take effect${hidden ? "" : comparison(difference)}`;
    });
    if (differences.length > mostReasons)
      reasons.push(`${node}: ${differences.length - mostReasons} more did not`);
    if (reasons.length === 0) reasons.push(`${node}: ${this.#label} is not there after it was applied`);
    reasons.push(
      `${node}: no step failed, so something else on the node has the last word there; find it, and run \`pulumi up\` again`,
    );
    throw new InitializationFailed(id, state, reasons);
  }

  async #apply(
    device: Device,
    own: Own,
    steps: readonly Step[],
    call: Call,
  ): Promise<ApplyResult<Static<TObject>>> {
    const result = await device.apply<Static<TObject>>(this.#kind, own, steps, {
      signal: call.signal,
      onProgress: (message) => call.log.status(message),
      onWarning: (message) => call.log.warn(message),
    });
    for (const { title, outcome } of result.steps) call.log.debug(`${title}: ${outcome}`);
    return result;
  }

  /** Errors of the work say which node and what of it, and reach the engine as failures rather than as bugs. */
  async #naming<T>(connection: Properties, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw told(error, nodeOf(connection), this.#label);
    }
  }

  #readInputs(
    id: string,
    inputs: Properties | undefined,
    state: State,
  ): { readonly recorded: Properties; readonly imported: boolean } {
    if (inputs !== undefined && Object.keys(inputs).length > 0) {
      return { recorded: this.#withDefaults(inputs), imported: false };
    }
    // `Swap.get(name, id, { connection })` gives what it knows as the state.
    const isGot = isProperties(state["connection"]);
    const known = isGot ? state : this.#inputsFromUrl(id);
    const { inputs: recorded, problems } = this.#validator.validate(known, []);
    const fault = problems.find(({ path }) => path.startsWith("connection"));
    if (fault !== undefined) throw new InvalidRequest(fault.message, fault.path);
    // Before anything is observed: a probe may need what is missing.
    const untold = problems.map(({ path }) => path).filter((path) => !(path in this.#kind.state.properties));
    if (!isGot && untold.length > 0) {
      throw new InvalidRequest(
        `${this.#label} can't be imported: no node tells its ${untold.join(", ")}; declare it instead, and \`pulumi up\` takes over what is there`,
      );
    }
    return { recorded, imported: true };
  }

  #inputsFromUrl(id: string): Properties {
    const connection = connectionFromUrl(id);
    const key = this.#kind.instanceKey;
    return key === undefined ? { connection } : { connection, [key]: instanceFromUrl(id) };
  }

  /** Inputs for a resource that was found rather than made. */
  #adopted(inputs: Properties, state: State): Properties {
    const names = Object.keys(this.#kind.inputs.properties).filter((key) => key in state);
    const observed: Properties = Object.fromEntries(
      names.map((key): [string, Value] => [key, state[key] ?? null]),
    );
    const { problems } = this.#validator.validate({ ...inputs, ...observed }, []);
    const unfit = new Set(problems.map(({ path }) => path.replace(/[.[].*$/s, "")));
    const fit = Object.entries(observed).filter(([key]) => !unfit.has(key));
    return { ...inputs, ...Object.fromEntries(fit) };
  }
}

function split(inputs: Properties): Split {
  const { connection, onDelete, ...own } = inputs;
  return { own: own, connection: isProperties(connection) ? connection : {}, onDelete };
}

const isKnown = (value: unknown): boolean => unknownPaths(value as Value).length === 0;

/** Whether two connections lead to one device: by the host key, which is one device's alone, or by where it is. The name is only what a program calls it. */
function isSameDevice(a: Properties, b: Properties): boolean {
  const keyOf = ({ hostKey }: Properties): string | undefined =>
    typeof hostKey === "string" ? parseHostKeyPin(hostKey)?.fingerprint : undefined;
  const placeOf = ({ address, port }: Properties): string | undefined =>
    typeof address === "string" ? `${address.toLowerCase()} ${JSON.stringify(port)}` : undefined;
  const isEqual = (of: (each: Properties) => string | undefined): boolean =>
    of(a) !== undefined && of(a) === of(b);
  return isEqual(keyOf) || isEqual(placeOf);
}

const nodeOf = (connection: Properties): string =>
  typeof connection["node"] === "string" ? connection["node"] : "(node not known)";

/** The error as the user is told it: what, where, and the mend. Errors that are none of the device's or the plan's stay as they are: bugs. */
function told(error: unknown, node: string, label: string): Error {
  if (error instanceof DeviceError) {
    const reason =
      error.kind === "timedOut" || error.kind === "cancelled" ? error.kind : "failedPrecondition";
    return new CallFailed(reason, error.message, { cause: error });
  }
  if (error instanceof UnknownObservation) {
    const mend = "nothing was changed; look at the node, it must be known before it can be judged";
    const text = `${node}: the state of ${label} can't be told: ${error.message}; ${mend}`;
    return new CallFailed("failedPrecondition", text, { cause: error });
  }
  if (error instanceof PlanRefused) {
    return new CallFailed("failedPrecondition", `${node}: ${label} refused: ${error.message}`, {
      cause: error,
    });
  }
  return error instanceof Error ? error : new Error(String(error), { cause: error });
}

/** Ways in which a connection fails that the program may have put right by now: the key, its command, the pinned host key. */
const noWayIn = new Set<DeviceErrorKind>(["unreachable", "refused", "denied", "hostKeyMismatch"]);

/**
 * A refresh goes by the recorded connection, which is not what the program says when the node has moved, or is reached otherwise. And the engine changes nothing at all when one
 * read fails: whoever wants the other nodes mended meanwhile has to leave this one out: its EdgeNode has its name, and whatever is of it depends on that. A pattern of their names would leave out those of a node
 * whose name begins with this one's, too.
 */
function withHint(error: unknown): unknown {
  const cause = error instanceof CallFailed && error.cause instanceof DeviceError ? error.cause : undefined;
  if (!(error instanceof CallFailed) || cause === undefined || !noWayIn.has(cause.kind)) return error;
  const hint = `its recorded state is untouched; to go on with the other nodes: \`pulumi up --exclude '**::${cause.node}' --exclude-dependents\`; if the program says by now how it is reached, \`pulumi up --refresh=false\` records that`;
  return new CallFailed(error.reason, `${error.message}; ${hint}`, { cause });
}

function comparison({ observed, desired }: Difference): string {
  const show = (value: unknown): string => {
    const text = value === undefined ? "nothing" : JSON.stringify(value);
    return text.length > 200 ? `${text.slice(0, 200)}...` : text;
  };
  return `: expected ${show(desired)}, observed ${show(observed)}`;
}
