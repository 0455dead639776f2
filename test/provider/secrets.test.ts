import { afterEach, beforeEach, expect, test } from "vitest";
import { formsIn, formsOf } from "../secret-forms.ts";
import { notePath } from "./fixture/kinds.ts";
import { connection, failureOf, noteInputs, secret, startProvider } from "./fixture/provider-client.ts";

type Provider = Awaited<ReturnType<typeof startProvider>>;
let provider: Provider;
beforeEach(async () => void (provider = await startProvider()));
afterEach(async () => await provider[Symbol.asyncDispose]());

const canary = "kEyCaNaRy7f3a9c1e5b";
const pem = `-----BEGIN OPENSSH PRIVATE KEY-----\n${canary}AAAA\n-----END OPENSSH PRIVATE KEY-----`;
const withKey = (more: object = {}) =>
  noteInputs({ connection: { ...connection, privateKey: secret(pem) }, ...more });
const node = () => provider.nodes.node(connection.address);

test("inputs that came secret, and those that the schema says are, come back wrapped", async () => {
  const plain = noteInputs({ password: "in the clear", connection: { ...connection, privateKey: pem } });
  expect((await provider.check(plain)).inputs).toMatchObject({
    password: secret("in the clear"),
    connection: { privateKey: secret(pem) },
  });
  const marked = noteInputs({ text: secret("hidden"), allow: [{ to: secret("10.0.0.1"), port: 443 }] });
  expect((await provider.check(marked)).inputs).toMatchObject({
    text: secret("hidden"),
    allow: [{ to: secret("10.0.0.1"), port: 443 }],
  });
});

test("a whole object that came secret comes back secret, once", async () => {
  const { inputs, failures } = await provider.check(
    noteInputs({ connection: secret({ ...connection, privateKey: pem }) }),
  );
  expect(failures).toEqual([]);
  expect(inputs).toMatchObject({ connection: secret({ ...connection, privateKey: pem }) });
});

test("the handler sees through the wrapping, the state does not hold the key", async () => {
  const { state } = await provider.create(withKey({ password: secret("correct horse") }));
  expect(state).toMatchObject({ text: "hello", password: secret("correct horse") });
  expect(node().files[notePath]).toContain("correct horse");
  expect(JSON.stringify(state)).not.toContain(canary);
});

test("outputs are wrapped where a secret input of that name was, and wherever its text turns up", async () => {
  const to = "10.77.66.55";
  const inputs = withKey({ text: secret("hidden text"), allow: [{ to: secret(to), port: 443 }] });
  const { state } = await provider.create(inputs);
  expect(state).toMatchObject({ text: secret("hidden text"), rules: secret({ [to]: { port: 443 } }) });
  const read = await provider.read("pi-1/test:Note", inputs, state);
  expect(read.state).toEqual(state);
});

test("outputs that were recorded as secret stay so", async () => {
  await provider.create(noteInputs());
  const { state } = await provider.read("pi-1/test:Note", noteInputs(), { text: secret("hello") });
  expect(state).toMatchObject({ text: secret("hello") });
});

test("a path of a diff that a secret got into ends before it", async () => {
  const inputs = noteInputs({ allow: [{ to: secret("10.77.66.55"), port: 443 }] });
  const { detailed } = await provider.diff(
    inputs,
    { text: "hello", level: 3, mode: "strict", rules: {} },
    inputs,
  );
  expect(detailed).toEqual({ rules: "ADD" });
});

test("errors and logs do not show a secret that the device's own words contain", async () => {
  const leaky = await startProvider({
    devices: () =>
      Promise.resolve({
        get: () => {
          throw new Error(
            `could not parse ${pem} nor ${Buffer.from(pem).toString("base64")} nor ${canary}AAAA`,
          );
        },
        close: () => Promise.resolve(),
      }),
  });
  try {
    const { code, message } = await failureOf(leaky.create(withKey()));
    expect(code).toBe(13);
    expect(message).toBe(
      "this is a bug in the provider, please report it: could not parse [secret] nor [secret] nor [secret]",
    );
    expect(await leaky.logged("could not parse")).not.toContain(canary);
  } finally {
    await leaky[Symbol.asyncDispose]();
  }
});

test("a canary in the key is in nothing that the provider says", async () => {
  const said: unknown[] = [];
  const inputs = withKey();
  said.push(
    (await provider.check({ ...inputs, connection: { ...connection, privateKey: secret(pem), port: pem } }))
      .failures,
  );
  const { state } = await provider.create(inputs);
  said.push(
    state,
    await provider.diff(inputs, state, withKey({ level: 5 })),
    await provider.update(inputs, { oldState: state }),
  );
  const read = await provider.read("pi-1/test:Note", inputs, state);
  said.push(read.state);
  node().broken = [notePath];
  said.push(await failureOf(provider.update(withKey({ level: 6 }), { oldState: state })));
  node().unreachable = true;
  said.push(await failureOf(provider.read("pi-1/test:Note", inputs, state)));
  await provider.remove(inputs, state);
  await provider.logged("stays in force");
  said.push(provider.logs);
  const text = JSON.stringify(said);
  const forms = formsOf("canary", canary);
  expect(formsIn(text, forms)).toEqual([]);
  // The control: what is searched for would be found.
  expect(formsIn(JSON.stringify([inputs, Object.values(forms)]), forms)).toEqual(Object.keys(forms));
});
