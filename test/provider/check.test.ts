import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  asset,
  connection,
  noteInputs,
  noteToken,
  sealToken,
  secret,
  startProvider,
  unknownString,
} from "./fixture/provider-client.ts";

type Provider = Awaited<ReturnType<typeof startProvider>>;
let provider: Provider;
beforeEach(async () => void (provider = await startProvider()));
afterEach(async () => await provider[Symbol.asyncDispose]());

const { port: _port, user: _user, ...shortConnection } = connection;

test("fills in the defaults, at every depth", async () => {
  const { inputs, failures } = await provider.check({ text: "hello", connection: shortConnection });
  expect(failures).toEqual([]);
  expect(inputs).toEqual(noteInputs({ allow: [] }));
});

test("reports all problems at once: where, what was expected, what was given, a hint", async () => {
  const { failures } = await provider.check({
    conection: 1,
    level: "high",
    mode: "stict",
    allow: [{ to: "example.org", port: 1 }, { to: "10.0.0.1", prot: 22 }, "10.0.0.1"],
    onDelete: "revrt",
    connection: { ...connection, prot: 22, port: 70000, hostKey: "none" },
  });
  expect(Object.fromEntries(failures.map(({ property, reason }) => [property, reason]))).toMatchObject({
    text: "required, but not given; expected a string (What the note says)",
    conection: expect.stringMatching(/^unknown field; did you mean 'connection'\? \(known: text, /) as string,
    level: 'expected an integer, got the string "high"',
    mode: `expected one of "strict", "relaxed", got the string "stict"; did you mean 'strict'?`,
    "allow[0].to":
      'expected a string that matches ^[0-9.]+(/[0-9]+)?$, got the string "example.org" (Address or CIDR)',
    "allow[1].port": "required, but not given; expected an integer",
    "allow[1].prot": "unknown field; did you mean 'port'? (known: to, port)",
    "allow[2]": 'expected an object, got the string "10.0.0.1"',
    onDelete: expect.stringContaining(`got the string "revrt"; did you mean 'revert'?`) as string,
    "connection.prot": expect.stringContaining("did you mean 'port'?") as string,
    "connection.port": expect.stringContaining("must be <= 65535, got 70000") as string,
    "connection.hostKey": expect.stringContaining("there is no trust on first use") as string,
  });
  expect(failures).toHaveLength(12);
});

test("without a connection says so", async () => {
  const { failures } = await provider.check({ text: "hello" });
  expect(failures).toEqual([
    {
      property: "connection",
      reason: "required, but not given; expected an object (How the node is reached over SSH)",
    },
  ]);
});

test("runs the kind's own check on inputs that fit the schema, also when the connection does not", async () => {
  const allow = [
    { to: "10.0.0.1", port: 1 },
    { to: "10.0.0.1", port: 2 },
  ];
  const { failures } = await provider.check(noteInputs({ allow, connection: { ...connection, port: 0 } }));
  expect(failures.map(({ property }) => property)).toEqual(["connection.port", "allow[1].to"]);
});

test("does not judge what is not known yet, judges the rest, and gives it back as it came", async () => {
  const allow = [{ to: unknownString, port: unknownString }, unknownString];
  const { inputs, failures } = await provider.check(
    noteInputs({ text: unknownString, mode: unknownString, level: 11, allow, connection: unknownString }),
  );
  expect(failures.map(({ property }) => property)).toEqual(["level"]);
  expect(inputs).toMatchObject({
    text: unknownString,
    mode: unknownString,
    allow,
    connection: unknownString,
  });
});

test("refuses an asset, naming the property", async () => {
  const { failures } = await provider.check(noteInputs({ text: asset }));
  expect(failures).toEqual([
    { property: "text", reason: "expected plain data, got an asset; give the value itself" },
  ]);
});

const pem = `-----BEGIN OPENSSH PRIVATE KEY-----\n${"c2VjcmV0".repeat(8)}\n-----END OPENSSH PRIVATE KEY-----\n`;

test("never quotes a private key that was put into the wrong field", async () => {
  const { failures } = await provider.check(
    noteInputs({ mode: pem, connection: { ...connection, hostKey: pem, port: pem, privatekey: pem } }),
  );
  expect(failures.map(({ property }) => property).sort()).toEqual([
    "connection.hostKey",
    "connection.port",
    "connection.privatekey",
    "mode",
  ]);
  expect(failures.map(({ reason }) => reason).join()).not.toMatch(/c2VjcmV0|PRIVATE KEY/);
  expect(failures.find(({ property }) => property === "mode")?.reason).toContain(
    `a string of ${pem.length} characters`,
  );
});

test("never quotes a secret, however short, and whatever is wrong with it", async () => {
  const { failures } = await provider.check(
    noteInputs({ level: secret("abc"), connection: { ...connection, privateKey: 7, user: secret("") } }),
  );
  expect(failures.map(({ property, reason }) => `${property}: ${reason}`)).toEqual([
    "level: expected an integer, got a secret value",
    expect.stringMatching(/^connection\.user: expected at least 1 character, got a secret value/),
    expect.stringMatching(/^connection\.privateKey: expected a string, got a secret value/),
  ]);
});

test("takes a secret out of what a kind's own check says", async () => {
  const to = "10.123.123.123";
  const { failures } = await provider.check(
    noteInputs({
      allow: secret([
        { to, port: 1 },
        { to, port: 2 },
      ]),
    }),
  );
  expect(failures).toEqual([{ property: "allow[1].to", reason: "[secret] is listed twice" }]);
});

describe("a second resource of a kind on a node", () => {
  beforeEach(async () => {
    expect((await provider.check(noteInputs(), noteToken, "first")).failures).toEqual([]);
  });
  const second = async (change: object = {}, token = noteToken, name = "second") =>
    (await provider.check({ ...noteInputs({ level: 4 }), ...change }, token, name)).failures;

  test("is refused, naming the first and the mend", async () => {
    expect(await second()).toEqual([
      {
        property: "connection.node",
        reason:
          "pi-1 has its test:Note already, urn:pulumi:dev::site::edgeseal:index:Site$edgeseal:test:Note::first: " +
          "a node has one of each kind; remove one of the two, or say which other node this one is for",
      },
    ]);
  });

  test.each([
    ["the same resource, checked again", () => second({}, noteToken, "first")],
    ["one on another node", () => second({ connection: { ...connection, node: "pi-2" } })],
    [
      "one on a node that is not known yet",
      () => second({ connection: { ...connection, node: unknownString } }),
    ],
    ["one on a node at an unknown place", () => second({ connection: unknownString })],
  ])("is not: %s", async (_, failures) => {
    expect(await failures()).toEqual([]);
  });

  test("is not: one of another kind", async () => {
    expect((await provider.check({ connection, onDelete: "keep" }, sealToken, "seal")).failures).toEqual([]);
  });
});
