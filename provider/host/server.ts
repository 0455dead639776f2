import type { handleUnaryCall, Server, ServerUnaryCall } from "@grpc/grpc-js";
import type { Struct } from "google-protobuf/google/protobuf/struct_pb.js";
import type * as messages from "@pulumi/pulumi/proto/provider_pb.js";
import type { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import type { PluginAttach, PluginInfo } from "@pulumi/pulumi/proto/plugin_pb.js";
import { Calls } from "./calls.ts";
import { createEngineLog, logFor, type EngineLog } from "./engine-log.ts";
import { InvalidRequest } from "./errors.ts";
import type { Call, Change, Handler } from "./handler.ts";
import { empty, grpc, plugin, provider, providerService } from "./proto.ts";
import { annotatedSecrets, inheritedSecrets, Redactor, secretTexts } from "./secrets.ts";
import { toServiceError } from "./status.ts";
import type { Path, Properties } from "./values.ts";
import { decodeStruct, encodeStruct, type Decoded } from "./wire.ts";

export interface ServerOptions {
  /** Package name, e.g. `edgeseal`. */
  readonly name: string;
  /** Semantic version of the package. */
  readonly version: string;
  /** By token. Asked for once, at the first call that is about a resource. */
  readonly handlers: () => Promise<ReadonlyMap<string, Handler>>;
  /** The package schema as JSON. */
  readonly packageSchema: () => Promise<string>;
  /** Called once when the engine cancels or the server stops, after the calls in progress have ended. */
  readonly close: () => Promise<void>;
  /** Address of the engine's log, when it came on the command line. The handshake gives it, too. */
  readonly engineAddress?: string | undefined;
  /** How long a cancelled call may take to report what it had changed, in milliseconds. Default 4000: the engine kills after 5 s. */
  readonly graceMs?: number;
}

export interface RunningServer {
  readonly port: number;
  /** What the engine's Cancel does: ends all calls and closes what is open. Idempotent. */
  cancel(): Promise<void>;
  /** The text without the secrets that were seen so far. */
  scrub(text: string): string;
  /** Cancels, answers what is left to answer, and closes the port. */
  stop(): Promise<void>;
}

/** Keys that the engine itself puts among a provider's inputs. */
const engineConfigKeys: ReadonlySet<string> = new Set(["version", "pluginDownloadURL", "pluginChecksums"]);

/** Serves the resource-provider protocol on a loopback port. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const service = new ProviderService(options);
  const server: Server = new grpc.Server({ "grpc.max_receive_message_length": 400 * 1024 * 1024 });
  server.addService(providerService.ResourceProviderService, service.implementation());
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  return {
    port,
    cancel: () => service.cancel(),
    scrub: (text) => service.scrub(text),
    async stop() {
      await service.cancel();
      service.log.close();
      await new Promise<void>((resolve) => {
        // Every call has been answered; what is left open are idle connections, which would hold a graceful shutdown up.
        server.tryShutdown(() => resolve());
        setImmediate(() => {
          server.forceShutdown();
          resolve();
        });
      });
    },
  };
}

type AboutResource = { getUrn(): string; getType(): string };

class ProviderService {
  readonly log: EngineLog;
  readonly #options: ServerOptions;
  readonly #redactor = new Redactor();
  readonly #calls: Calls;
  #handlers: Promise<ReadonlyMap<string, Handler>> | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#calls = new Calls(options.graceMs);
    this.log = createEngineLog((text) => this.#redactor.scrub(text));
    if (options.engineAddress !== undefined) this.log.connect(options.engineAddress);
  }

  scrub(text: string): string {
    return this.#redactor.scrub(text);
  }

  cancel(): Promise<void> {
    this.#closing ??= this.#calls.cancel().then(() => this.#options.close());
    return this.#closing;
  }

  /** What is not here (Invoke, Call, Construct, List, Parameterize, mappings) is answered with UNIMPLEMENTED, as the engine expects. */
  implementation() {
    return {
      handshake: this.#plain((request: messages.ProviderHandshakeRequest) => this.#handshake(request)),
      attach: this.#plain((request: PluginAttach) => this.#attach(request)),
      getPluginInfo: this.#plain((_: Empty): PluginInfo =>
        new plugin.PluginInfo().setVersion(this.#options.version),
      ),
      getSchema: this.#plain((request: messages.GetSchemaRequest) => this.#getSchema(request)),
      checkConfig: this.#plain((request: messages.CheckRequest) => checkConfig(request, this.#options.name)),
      diffConfig: this.#plain((_: messages.DiffRequest) =>
        new provider.DiffResponse().setChanges(provider.DiffResponse.DiffChanges.DIFF_NONE),
      ),
      configure: this.#plain((_: messages.ConfigureRequest) =>
        new provider.ConfigureResponse().setAcceptsecrets(true).setSupportspreview(true),
      ),
      cancel: this.#plain((_: Empty) => {
        // Not awaited: the engine wants to know that it was heard, and goes on waiting for the calls themselves.
        void this.cancel();
        return new empty.Empty();
      }),
      check: this.#about((request: messages.CheckRequest, call, handler) =>
        this.#check(request, call, handler),
      ),
      diff: this.#about((request: messages.DiffRequest, call, handler) => this.#diff(request, call, handler)),
      create: this.#about((request: messages.CreateRequest, call, handler) =>
        this.#create(request, call, handler),
      ),
      read: this.#about((request: messages.ReadRequest, call, handler) => this.#read(request, call, handler)),
      update: this.#about((request: messages.UpdateRequest, call, handler) =>
        this.#update(request, call, handler),
      ),
      delete: this.#about((request: messages.DeleteRequest, call, handler) =>
        this.#delete(request, call, handler),
      ),
    };
  }

  #handshake(request: messages.ProviderHandshakeRequest): messages.ProviderHandshakeResponse {
    if (request.getEngineAddress() !== "") this.log.connect(request.getEngineAddress());
    // Outputs and resource references are not asked for: the engine then sends what they hold, which is all that is of use here.
    return new provider.ProviderHandshakeResponse().setAcceptSecrets(true);
  }

  #attach(request: PluginAttach): Empty {
    this.log.connect(request.getAddress());
    return new empty.Empty();
  }

  async #getSchema(request: messages.GetSchemaRequest): Promise<messages.GetSchemaResponse> {
    if (request.getVersion() !== 0)
      throw new InvalidRequest(`schema version ${request.getVersion()} is not known; 0 is`);
    return new provider.GetSchemaResponse().setSchema(await this.#options.packageSchema());
  }

  async #check(
    request: messages.CheckRequest,
    call: Call,
    handler: Handler,
  ): Promise<messages.CheckResponse> {
    const response = new provider.CheckResponse();
    let given: KnownInputs;
    try {
      given = this.#inputs(request.getNews(), handler);
    } catch (error) {
      if (!(error instanceof InvalidRequest) || error.property === undefined) throw error;
      return response.setInputs(request.getNews()).setFailuresList([failure(error.property, error.message)]);
    }
    const result = await handler.check({ inputs: given.properties, secrets: given.secrets }, call);
    const secrets = [...given.secrets, ...annotatedSecrets(handler.inputs, result.inputs)];
    response.setInputs(encodeStruct(result.inputs, secrets));
    response.setFailuresList(
      result.failures.map(({ property, reason }) => failure(property, this.#redactor.scrub(reason))),
    );
    return response;
  }

  async #diff(request: messages.DiffRequest, call: Call, handler: Handler): Promise<messages.DiffResponse> {
    const oldState = this.#state(request.getOlds(), handler);
    const newInputs = this.#inputs(request.getNews(), handler);
    // Engines before 3.70 did not send the old inputs; the new ones then stand in, and only the observed state is compared.
    const oldInputs = request.hasOldInputs() ? this.#inputs(request.getOldInputs(), handler) : newInputs;
    const changes = await handler.diff(
      {
        id: request.getId(),
        oldInputs: oldInputs.properties,
        oldState: oldState.properties,
        newInputs: newInputs.properties,
      },
      call,
    );
    return diffResponse(changes.map((change) => ({ ...change, path: this.#safePath(change.path) })));
  }

  async #create(
    request: messages.CreateRequest,
    call: Call,
    handler: Handler,
  ): Promise<messages.CreateResponse> {
    const inputs = this.#inputs(request.getProperties(), handler);
    const preview = request.getPreview();
    const { id, state } = await handler.create({ inputs: inputs.properties, preview }, call);
    return new provider.CreateResponse()
      .setId(id)
      .setProperties(encodeStruct(state, stateSecrets(handler, state, inputs)));
  }

  async #read(request: messages.ReadRequest, call: Call, handler: Handler): Promise<messages.ReadResponse> {
    const inputs = request.hasInputs() ? this.#inputs(request.getInputs(), handler) : undefined;
    const state = this.#state(request.getProperties(), handler);
    const result = await handler.read(
      { id: request.getId(), inputs: inputs?.properties, state: state.properties },
      call,
    );
    const response = new provider.ReadResponse();
    // A blank id tells the engine that the resource is gone.
    if (result === undefined) return response;
    response.setId(result.id);
    const secrets = stateSecrets(handler, result.state, inputs ?? nothing);
    response.setProperties(encodeStruct(result.state, [...secrets, ...state.secrets]));
    if (result.inputs !== undefined) {
      const inputSecrets = [...(inputs?.secrets ?? []), ...annotatedSecrets(handler.inputs, result.inputs)];
      response.setInputs(encodeStruct(result.inputs, inputSecrets));
    }
    return response;
  }

  async #update(
    request: messages.UpdateRequest,
    call: Call,
    handler: Handler,
  ): Promise<messages.UpdateResponse> {
    const oldState = this.#state(request.getOlds(), handler);
    const newInputs = this.#inputs(request.getNews(), handler);
    const oldInputs = request.hasOldInputs() ? this.#inputs(request.getOldInputs(), handler) : newInputs;
    const { state } = await handler.update(
      {
        id: request.getId(),
        oldInputs: oldInputs.properties,
        oldState: oldState.properties,
        newInputs: newInputs.properties,
        preview: request.getPreview(),
      },
      call,
    );
    const secrets = [...stateSecrets(handler, state, newInputs), ...oldState.secrets];
    return new provider.UpdateResponse().setProperties(encodeStruct(state, secrets));
  }

  async #delete(request: messages.DeleteRequest, call: Call, handler: Handler): Promise<Empty> {
    const inputs = this.#inputs(request.getOldInputs(), handler);
    const state = this.#state(request.getProperties(), handler);
    await handler.delete({ id: request.getId(), inputs: inputs.properties, state: state.properties }, call);
    return new empty.Empty();
  }

  /** Inputs with all their secrets known, so that none of them can get into a message from here on. */
  #inputs(struct: Struct | undefined, handler: Handler): KnownInputs {
    const { properties, secrets } = decodeStruct(struct);
    const all = [...secrets, ...annotatedSecrets(handler.inputs, properties)];
    this.#redactor.learn(secretTexts(properties, all));
    return { properties, secrets: all };
  }

  #state(struct: Struct | undefined, handler: Handler): Decoded {
    const decoded = decodeStruct(struct);
    const all = [...decoded.secrets, ...annotatedSecrets(handler.state, decoded.properties)];
    this.#redactor.learn(secretTexts(decoded.properties, all));
    return decoded;
  }

  /** Paths are shown to the user; one that a secret got into is cut down to the property that it is in. */
  #safePath(path: string): string {
    return this.#redactor.scrub(path) === path ? path : path.replace(/[.[].*$/s, "");
  }

  async #handlerFor(request: AboutResource): Promise<Handler> {
    this.#handlers ??= this.#options.handlers();
    // The type is in the URN for engines that don't send it by itself: urn:pulumi:STACK::PROJECT::PARENT$TYPE::NAME.
    const type = request.getType() || (request.getUrn().split("::")[2] ?? "").replace(/^.*\$/, "");
    const handler = (await this.#handlers).get(type);
    if (handler === undefined) {
      const known = [...(await this.#handlers).keys()].join(", ");
      throw new InvalidRequest(`${this.#options.name} has no resource type '${type}'; it has ${known}`);
    }
    return handler;
  }

  #plain<Q, A>(work: (request: Q) => A | Promise<A>): handleUnaryCall<Q, A> {
    return (call, answer) => {
      const done = async (): Promise<A> => await work(call.request);
      done().then(
        (response) => answer(null, response),
        (error: unknown) => answer(this.#report(error, "", undefined, nothing)),
      );
    };
  }

  #about<Q extends AboutResource, A>(
    work: (request: Q, call: Call, handler: Handler) => Promise<A>,
  ): handleUnaryCall<Q, A> {
    return (call, answer) => {
      const urn = call.request.getUrn();
      let handler: Handler | undefined;
      this.#calls
        .run({ given: givenUp(call), timeoutSeconds: timeoutOf(call.request) }, async (signal) => {
          handler = await this.#handlerFor(call.request);
          return await work(call.request, { urn, signal, log: logFor(this.log, urn) }, handler);
        })
        .then(
          (response) => answer(null, response),
          (error: unknown) =>
            answer(this.#report(error, urn, handler, this.#newInputs(call.request, handler))),
        );
    };
  }

  #newInputs(request: object, handler: Handler | undefined): KnownInputs {
    const struct =
      request instanceof provider.CreateRequest
        ? request.getProperties()
        : request instanceof provider.UpdateRequest
          ? request.getNews()
          : undefined;
    return handler === undefined || struct === undefined ? nothing : this.#inputs(struct, handler);
  }

  #report(error: unknown, urn: string, handler: Handler | undefined, inputs: KnownInputs) {
    const response = toServiceError(error, {
      scrub: (text) => this.#redactor.scrub(text),
      stateSecrets: ({ state }) => (handler === undefined ? [] : stateSecrets(handler, state, inputs)),
    });
    if (response.code === grpc.status.INTERNAL && error instanceof Error) {
      this.log.send("DEBUG", error.stack ?? error.message, urn);
    }
    return response;
  }
}

interface KnownInputs {
  readonly properties: Properties;
  readonly secrets: readonly Path[];
}

const nothing: KnownInputs = { properties: {}, secrets: [] };

function stateSecrets(handler: Handler, state: Properties, inputs: KnownInputs): Path[] {
  return [
    ...annotatedSecrets(handler.state, state),
    ...inheritedSecrets(state, inputs.properties, inputs.secrets),
  ];
}

const failure = (property: string, reason: string): messages.CheckFailure =>
  new provider.CheckFailure().setProperty(property).setReason(reason);

/**
 * The package has no configuration. An explicit provider that is given some is told so. The default provider gets whatever stands in the stack's
 * configuration under the package's name, which may well be the project's name, too: that is not meant for us, and dropped, so that no secret of
 * the project is recorded with the provider.
 */
function checkConfig(request: messages.CheckRequest, name: string): messages.CheckResponse {
  const { properties } = decodeStruct(request.getNews());
  const kept = Object.entries(properties).filter(
    ([key]) => engineConfigKeys.has(key) || key.startsWith("__"),
  );
  const response = new provider.CheckResponse().setInputs(encodeStruct(Object.fromEntries(kept), []));
  const explicit = !/^default(_|$)/.test(request.getUrn().split("::").at(-1) ?? "");
  if (!explicit) return response;
  const others = Object.keys(properties).filter((key) => !kept.some(([known]) => known === key));
  return response.setFailuresList(
    others.map((key) =>
      failure(
        key,
        `unknown field; the ${name} provider has no configuration: nodes are reached as each resource's 'connection' says`,
      ),
    ),
  );
}

function diffResponse(changes: readonly Change[]): messages.DiffResponse {
  const response = new provider.DiffResponse();
  const { DIFF_SOME, DIFF_NONE } = provider.DiffResponse.DiffChanges;
  response.setChanges(changes.length > 0 ? DIFF_SOME : DIFF_NONE);
  response.setHasdetaileddiff(true);
  response.setDiffsList([...new Set(changes.map(({ path }) => path.replace(/[.[].*$/s, "")))]);
  const { ADD, DELETE, UPDATE } = provider.PropertyDiff.Kind;
  const kinds = { add: ADD, delete: DELETE, update: UPDATE };
  for (const { path, kind, input } of changes) {
    response
      .getDetaileddiffMap()
      .set(path, new provider.PropertyDiff().setKind(kinds[kind]).setInputdiff(input));
  }
  return response;
}

function givenUp(call: ServerUnaryCall<unknown, unknown>): AbortSignal {
  const controller = new AbortController();
  call.on("cancelled", () => controller.abort());
  return controller.signal;
}

/** `customTimeouts` of the operation in seconds, for those that have one. */
const timeoutOf = (request: AboutResource & { getTimeout?(): number }): number => request.getTimeout?.() ?? 0;
