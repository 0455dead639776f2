import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type * as messages from "@pulumi/pulumi/proto/provider_pb.js";
import type { PluginInfo } from "@pulumi/pulumi/proto/plugin_pb.js";
import type { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import { empty, plugin, provider as proto } from "../../provider/host/proto.ts";
import {
  connection,
  failureOf,
  noteInputs,
  secret,
  startProvider,
  toStruct,
  unary,
} from "./fixture/provider-client.ts";

type Provider = Awaited<ReturnType<typeof startProvider>>;
let provider: Provider;
beforeEach(async () => void (provider = await startProvider()));
afterEach(async () => await provider[Symbol.asyncDispose]());

test("the handshake asks for secrets, and for neither outputs nor references", async () => {
  const request = new proto.ProviderHandshakeRequest().setEngineAddress("127.0.0.1:1");
  const response = await unary<messages.ProviderHandshakeResponse>((done) =>
    provider.raw.handshake(request, done),
  );
  expect(response.toObject()).toMatchObject({
    acceptSecrets: true,
    acceptResources: false,
    acceptOutputs: false,
  });
});

test("configuring says that previews and secrets are supported", async () => {
  const response = await unary<messages.ConfigureResponse>((done) =>
    provider.raw.configure(new proto.ConfigureRequest(), done),
  );
  expect(response.toObject()).toMatchObject({
    acceptsecrets: true,
    supportspreview: true,
    acceptresources: false,
  });
});

test("the plugin says its version", async () => {
  const response = await unary<PluginInfo>((done) => provider.raw.getPluginInfo(new empty.Empty(), done));
  expect(response.getVersion()).toBe("1.2.3");
});

test("attaching sends the log to the engine that attached", async () => {
  const other = await startProvider();
  try {
    const request = new plugin.PluginAttach().setAddress(provider.engineAddress);
    await unary<Empty>((done) => other.raw.attach(request, done));
    await other.remove(noteInputs());
    expect(await provider.logged("stays in force")).toContain("pi-1");
  } finally {
    await other[Symbol.asyncDispose]();
  }
});

describe("the provider's own configuration", () => {
  const checkConfig = async (name: string, news: object) => {
    const request = new proto.CheckRequest()
      .setUrn(`urn:pulumi:dev::site::pulumi:providers:edgeseal::${name}`)
      .setNews(toStruct(news));
    const response = await unary<messages.CheckResponse>((done) => provider.raw.checkConfig(request, done));
    return {
      inputs: response.getInputs()?.toJavaScript(),
      failures: response.getFailuresList().map((one) => one.getProperty()),
    };
  };

  test("of a project by the same name is not ours, and not recorded", async () => {
    const news = { version: "1.2.3", sshKey: "the project's own secret" };
    expect(await checkConfig("default_1_2_3", news)).toEqual({ inputs: { version: "1.2.3" }, failures: [] });
  });

  test("on an explicit provider is refused: there is none", async () => {
    expect((await checkConfig("mine", { host: "10.0.0.1" })).failures).toEqual(["host"]);
  });

  test("never differs", async () => {
    const request = new proto.DiffRequest().setOlds(toStruct({ a: 1 })).setNews(toStruct({ a: 2 }));
    const response = await unary<messages.DiffResponse>((done) => provider.raw.diffConfig(request, done));
    expect(response.getChanges()).toBe(1);
  });
});

test.each([
  ["invoke", new proto.InvokeRequest()],
  ["construct", new proto.ConstructRequest()],
  ["call", new proto.CallRequest()],
  ["parameterize", new proto.ParameterizeRequest()],
  ["getMapping", new proto.GetMappingRequest()],
  ["getMappings", new proto.GetMappingsRequest()],
] as const)("%s is not implemented, and says so", async (method, request) => {
  const call = unary((done) =>
    (provider.raw[method] as (q: unknown, d: typeof done) => unknown).call(provider.raw, request, done),
  );
  expect((await failureOf(call)).code).toBe(12);
});

test("a type that does not exist is refused with those that do", async () => {
  const { code, message } = await failureOf(provider.create(noteInputs(), { token: "edgeseal:test:Nope" }));
  expect(code).toBe(3);
  expect(message).toBe(
    "edgeseal has no resource type 'edgeseal:test:Nope'; it has edgeseal:test:Note, edgeseal:test:Seal, edgeseal:test:Label",
  );
});

describe("cancelling", () => {
  const hangs = (deaf = false) => {
    const begun = Promise.withResolvers<undefined>();
    Object.assign(provider.nodes.node(connection.address), { hangs: begun, deaf });
    return begun.promise;
  };

  test("ends an observation that hangs, then closes the devices", async () => {
    const begun = hangs();
    const failed = failureOf(provider.create(noteInputs()));
    await begun;
    await provider.cancel();
    expect(await failed).toMatchObject({
      code: 1,
      message: "pi-1: cancelled; run the operation again to go on from here",
      init: undefined,
    });
    await provider.server.cancel();
    expect(provider.devices.events.at(-1)).toBe("closed");
  });

  test("refuses later calls", async () => {
    await provider.cancel();
    const { code, message } = await failureOf(provider.create(noteInputs()));
    expect({ code, message }).toEqual({
      code: 1,
      message: "the provider is shutting down; run the operation again",
    });
  });

  test("twice is once", async () => {
    await provider.create(noteInputs());
    await Promise.all([provider.cancel(), provider.cancel()]);
    await provider.server.cancel();
    expect(provider.devices.events.filter((event) => event === "closed")).toHaveLength(1);
  });

  test("answers for a call that does not listen, once its grace is over", async () => {
    await provider[Symbol.asyncDispose]();
    provider = await startProvider({ graceMs: 20 });
    const begun = hangs(true);
    const failed = failureOf(provider.create(noteInputs()));
    await begun;
    await provider.cancel();
    expect(await failed).toMatchObject({
      code: 1,
      message: "cancelled; run `pulumi refresh` to record what was done until then",
    });
  });

  test("by the caller of one call ends that call alone", async () => {
    const begun = hangs();
    const request = new proto.CreateRequest()
      .setUrn("urn:pulumi:dev::site::edgeseal:test:Note::it")
      .setProperties(toStruct(noteInputs()));
    const failed = failureOf(
      unary((done) => {
        const call = provider.raw.create(request, done);
        void begun.then(() => call.cancel());
      }),
    );
    expect((await failed).code).toBe(1);
    delete provider.nodes.node(connection.address).hangs;
    expect((await provider.create(noteInputs())).id).toBe("pi-1/test:Note");
  });

  test("customTimeouts end a call, and say so", async () => {
    void hangs();
    const { code, message } = await failureOf(provider.create(noteInputs(), { timeout: 0.05 }));
    expect({ code, message }).toEqual({
      code: 4,
      message:
        "not done within 0.05 s (customTimeouts); give it more time, or see what keeps the node busy, and run `pulumi refresh` to record what was done until then",
    });
  });
});

describe("the package schema", () => {
  interface Spec {
    readonly $ref?: string;
    readonly secret?: boolean;
    readonly default?: unknown;
    readonly description?: string;
  }
  interface Schema {
    readonly version: string;
    readonly types: Record<
      string,
      { properties?: Record<string, Spec>; required?: string[]; enum?: { value: unknown }[] }
    >;
    readonly resources: Record<
      string,
      {
        description: string;
        inputProperties: Record<string, Spec>;
        requiredInputs: string[];
        properties: Record<string, Spec>;
        required: string[];
      }
    >;
  }
  const schemaOf = async (): Promise<{ text: string; schema: Schema }> => {
    const response = await unary<messages.GetSchemaResponse>((done) =>
      provider.raw.getSchema(new proto.GetSchemaRequest(), done),
    );
    return { text: response.getSchema(), schema: JSON.parse(response.getSchema()) as Schema };
  };

  test("has every kind, with inputs, what of them is required, and state", async () => {
    const { schema } = await schemaOf();
    expect(schema.version).toBe("1.2.3");
    expect(Object.keys(schema.resources)).toEqual([
      "edgeseal:test:Note",
      "edgeseal:test:Seal",
      "edgeseal:test:Label",
    ]);
    const note = schema.resources["edgeseal:test:Note"];
    expect(Object.keys(note?.inputProperties ?? {})).toEqual([
      "text",
      "level",
      "mode",
      "allow",
      "password",
      "connection",
      "onDelete",
    ]);
    expect(note?.requiredInputs).toEqual(["text", "connection"]);
    expect(note?.inputProperties).toMatchObject({
      text: { type: "string", description: "What the note says." },
      level: { type: "integer", default: 3 },
      mode: { $ref: "#/types/edgeseal:test:NoteMode", default: "strict" },
      allow: { type: "array", items: { $ref: "#/types/edgeseal:test:NoteAllowItem" } },
      password: { type: "string", secret: true },
      connection: { $ref: "#/types/edgeseal:index:Connection" },
      onDelete: { $ref: "#/types/edgeseal:index:OnDelete", default: "keep" },
    });
    expect(note?.properties).toMatchObject({
      rules: { type: "object", additionalProperties: { $ref: "#/types/edgeseal:test:NoteStateRule" } },
      password: { type: "string", secret: true },
    });
    expect(note?.required).toEqual(["text", "level", "mode", "rules", "kernel"]);
  });

  test("shares the connection among all resources, with its key secret and its defaults", async () => {
    const { schema } = await schemaOf();
    expect(schema.types["edgeseal:index:Connection"]).toMatchObject({
      required: ["node", "address", "hostKey"],
      properties: { privateKey: { type: "string", secret: true }, port: { type: "integer", default: 22 } },
    });
    expect(schema.types["edgeseal:index:OnDelete"]?.enum?.map(({ value }) => value)).toEqual([
      "keep",
      "revert",
    ]);
    expect(Object.keys(schema.types).filter((token) => token.includes("Connection"))).toHaveLength(1);
  });

  test("refers to nothing that is not there", async () => {
    const { text, schema } = await schemaOf();
    const refs = [...text.matchAll(/"#\/types\/([^"]+)"/g)].map(([, token]) => token ?? "");
    expect(refs.length).toBeGreaterThan(5);
    expect(refs.filter((token) => !(token in schema.types))).toEqual([]);
  });

  test("of another version is not known", async () => {
    const call = unary<messages.GetSchemaResponse>((done) =>
      provider.raw.getSchema(new proto.GetSchemaRequest().setVersion(1), done),
    );
    expect((await failureOf(call)).code).toBe(3);
  });
});

test("an engine that sends no type by itself, and no old inputs, is served by the URN and the new inputs", async () => {
  const request = new proto.DiffRequest()
    .setUrn("urn:pulumi:dev::site::edgeseal:index:Site$edgeseal:test:Note::it")
    .setOlds(
      toStruct({ text: secret("other"), level: 3, mode: "strict", rules: { "10.0.0.1": { port: 443 } } }),
    )
    .setNews(toStruct(noteInputs()));
  const response = await unary<messages.DiffResponse>((done) => provider.raw.diff(request, done));
  expect(response.getDiffsList()).toEqual(["text"]);
});
