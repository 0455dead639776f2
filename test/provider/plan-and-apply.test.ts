import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { fingerprint } from "../../provider/device/host-key.ts";
import { labelPath, notePath, sealPath } from "./fixture/kinds.ts";
import {
  connection,
  failureOf,
  noteInputs,
  labelToken,
  sealToken,
  secret,
  startProvider,
  unknownString,
} from "./fixture/provider-client.ts";

type Provider = Awaited<ReturnType<typeof startProvider>>;
let provider: Provider;
beforeEach(async () => void (provider = await startProvider()));
afterEach(async () => await provider[Symbol.asyncDispose]());

const node = () => provider.nodes.node(connection.address);
const onNode = (content: object) => void (node().files[notePath] = JSON.stringify(content));
const seen = { text: "hello", level: 3, mode: "strict", rules: { "10.0.0.1": { port: 443 } } };

describe("create", () => {
  test("records what was read back, under an id that names the node and the kind", async () => {
    const { id, state } = await provider.create(noteInputs());
    expect(id).toBe("pi-1/test:Note");
    expect(state).toEqual({ ...seen, kernel: "Linux 6.12" });
    expect(JSON.parse(node().files[notePath] ?? "")).toEqual(seen);
  });

  test("changes nothing on a node that is as it must be", async () => {
    onNode(seen);
    await provider.create(noteInputs());
    expect(provider.devices.events).toEqual(["observe pi-1 edgeseal:test:Note"]);
  });

  test("in a preview knows what must hold, not what is only reported, and contacts nothing", async () => {
    const { state } = await provider.create(noteInputs(), { preview: true });
    expect(state).toMatchObject({ ...seen, kernel: unknownString });
    expect(provider.devices.events).toEqual([]);
  });

  test("in a preview with inputs that are not known yet knows nothing", async () => {
    const { state } = await provider.create(noteInputs({ text: unknownString }), { preview: true });
    expect(state).toMatchObject({ text: unknownString, level: unknownString, rules: unknownString });
  });

  test("in a preview reports refusals when the way in is known, and then only", async () => {
    const cut = noteInputs({ allow: [] });
    await provider.create(cut, { preview: true });
    await provider.create(noteInputs());
    const { message, init } = await failureOf(provider.create(cut, { preview: true }));
    expect(message).toBe("pi-1: refused: allow: does not list 10.0.0.1, which is the way in");
    expect(init).toBeUndefined();
  });

  test("of a node that can't be reached records nothing", async () => {
    node().unreachable = true;
    const { code, message, init } = await failureOf(provider.create(noteInputs()));
    expect(init).toBeUndefined();
    expect(message).toBe("pi-1: can't be reached (connection refused); check its power and network");
    // After Internal or Unknown the engine would leave a pending operation behind.
    expect([2, 13, 15]).not.toContain(code);
  });

  test("that the plan refuses says what, where and the mend", async () => {
    const { message, init } = await failureOf(provider.create(noteInputs({ text: "unmendable" })));
    expect(message).toBe("pi-1: test:Note refused: this can't be mended; say something else");
    expect(init).toBeUndefined();
  });

  test("that can't tell the state says so and that nothing was changed", async () => {
    node().files[notePath] = "null";
    const { message } = await failureOf(provider.create(noteInputs()));
    expect(message).toMatch(
      /^pi-1: the state of test:Note can't be told: the note is not readable; nothing was changed; look at the node, it must be known before it can be judged$/,
    );
  });
});

describe("initialization failure", () => {
  const old = { ...seen, text: "old" };
  beforeEach(() => onNode(old));

  test("of a step after the first: observed state, the failure, and what was done", async () => {
    node().broken = [notePath];
    const { code, init } = await failureOf(provider.create(noteInputs()));
    expect(code).toBe(2);
    expect(init).toEqual({
      type: "type.googleapis.com/pulumirpc.ErrorResourceInitFailed",
      id: "pi-1/test:Note",
      state: { ...old, kernel: "Linux 6.12" },
      reasons: [
        "pi-1: step 'write the note' failed (No space left on device); free some space",
        "pi-1: done before that: write the draft; recorded as observed, the next `pulumi up` goes on from there",
      ],
    });
  });

  test("not of the first step: nothing was done, nothing is recorded", async () => {
    node().broken = ["/etc/note.draft"];
    expect((await failureOf(provider.create(noteInputs()))).init).toBeUndefined();
  });

  test("of steps that succeed and change nothing: names each property that did not take effect", async () => {
    node().ignored = [notePath];
    const { init } = await failureOf(provider.update(noteInputs({ level: 4 }), { oldState: old }));
    expect(init?.state).toEqual({ ...old, kernel: "Linux 6.12" });
    expect(init?.reasons).toEqual([
      'pi-1: text did not take effect: expected "hello", observed "old"',
      "pi-1: level did not take effect: expected 4, observed 3",
      "pi-1: no step failed, so something else on the node has the last word there; find it, and run `pulumi up` again",
    ]);
  });

  test("of a node that goes away in the middle: the last observation", async () => {
    node().vanishes = true;
    const { init } = await failureOf(provider.update(noteInputs(), { oldState: old }));
    expect(init?.state).toEqual({ ...old, kernel: "Linux 6.12" });
    expect(init?.reasons[0]).toContain("can't be reached (the connection was lost)");
    expect(init?.reasons[1]).toContain("may have been changed");
  });

  // Node's own client takes no more than 64 KiB of trailers; the engine takes 16 MiB (engine.test.ts).
  test("carries a state of many properties, and names the first of those that differ", async () => {
    const many = Array.from({ length: 500 }, (_, i) => ({ to: `10.1.${i >> 8}.${i & 255}`, port: 443 }));
    onNode({ ...old, rules: Object.fromEntries(many.map(({ to, port }) => [to, { port }])) });
    node().ignored = [notePath];
    const { init } = await failureOf(provider.create(noteInputs()));
    expect(Object.keys((init?.state as { rules: object } | undefined)?.rules ?? {})).toHaveLength(500);
    expect(init?.reasons).toHaveLength(22);
    expect(init?.reasons.at(-2)).toBe("pi-1: 482 more did not");
  });

  test("keeps secrets wrapped", async () => {
    node().ignored = [notePath];
    onNode({ ...old, password: "observed-password" });
    const { init } = await failureOf(provider.create(noteInputs({ password: secret("wanted-password") })));
    expect(init?.state).toMatchObject({ password: secret("observed-password") });
    expect(init?.reasons.join()).toContain("password did not take effect");
    expect(init?.reasons.join()).not.toMatch(/observed-password|wanted-password/);
  });
});

describe("update", () => {
  test("leads from what is there, not from what was recorded", async () => {
    onNode({ ...seen, text: "changed behind our back" });
    expect(await provider.update(noteInputs(), { oldState: seen })).toEqual({
      ...seen,
      kernel: "Linux 6.12",
    });
  });

  test("of nothing but onDelete changes nothing on the node", async () => {
    onNode(seen);
    await provider.update(noteInputs({ onDelete: "revert" }), { oldInputs: noteInputs(), oldState: seen });
    expect(provider.devices.events).toEqual(["observe pi-1 edgeseal:test:Note"]);
  });

  test("in a preview contacts nothing", async () => {
    await provider.update(noteInputs(), { oldState: seen, preview: true });
    expect(provider.devices.events).toEqual([]);
  });
});

describe("diff", () => {
  const state = { ...seen, kernel: "Linux 6.12" };

  test("names drift property by property, and nothing else", async () => {
    const drifted = { ...state, text: "other", kernel: "Linux 6.13", rules: { "10.0.0.9": { port: 22 } } };
    expect(await provider.diff(noteInputs(), drifted, noteInputs())).toEqual({
      changes: 2,
      replaces: [],
      diffs: ["text", "rules"],
      detailed: { text: "UPDATE", 'rules["10.0.0.1"]': "ADD", 'rules["10.0.0.9"]': "DELETE" },
    });
  });

  test("has none where what must hold, holds", async () => {
    expect(await provider.diff(noteInputs(), state, noteInputs())).toMatchObject({
      changes: 1,
      detailed: {},
    });
  });

  test.each([
    ["address", { address: "10.9.9.9" }],
    ["name of the node", { node: "pi-2" }],
    ["private key", { privateKey: secret("another key, quite long") }],
    ["address that is not known yet", { address: unknownString }],
  ])("has none for another %s", async (_, change) => {
    const moved = noteInputs({ connection: { ...connection, ...change } });
    expect(await provider.diff(noteInputs(), state, moved)).toEqual({
      changes: 1,
      replaces: [],
      diffs: [],
      detailed: {},
    });
  });

  test("of onDelete is an update, of input to input", async () => {
    const { changes, detailed } = await provider.diff(
      noteInputs(),
      state,
      noteInputs({ onDelete: "revert" }),
    );
    expect({ changes, detailed }).toEqual({ changes: 2, detailed: { onDelete: "UPDATE of input" } });
  });

  test("takes an input that is not known yet for an update, and still compares the others", async () => {
    const news = noteInputs({ allow: [{ to: unknownString, port: 443 }], level: 5 });
    const { detailed } = await provider.diff(noteInputs(), state, news);
    expect(detailed).toEqual({ allow: "UPDATE of input", level: "UPDATE" });
  });

  test("fills in defaults that inputs recorded by an older version lack", async () => {
    const { level: _, ...older } = noteInputs();
    expect(await provider.diff(older, state, older)).toMatchObject({ changes: 1 });
  });
});

describe("read", () => {
  test("gives what is there now, and leaves the recorded inputs alone", async () => {
    onNode({ ...seen, level: 9 });
    const { id, state, inputs } = await provider.read("pi-1/test:Note", noteInputs(), seen);
    expect({ id, inputs }).toEqual({ id: "pi-1/test:Note", inputs: undefined });
    expect(state).toEqual({ ...seen, level: 9, kernel: "Linux 6.12" });
  });

  test("of what is known to be absent gives a blank id", async () => {
    expect((await provider.read("pi-1/test:Note", noteInputs(), seen)).id).toBe("");
  });

  test("of a node that can't be reached is an error, never an absence", async () => {
    node().unreachable = true;
    const { message } = await failureOf(provider.read("pi-1/test:Note", noteInputs(), seen));
    expect(message).toBe(
      "pi-1: can't be reached (connection refused); check its power and network; its recorded state is untouched; " +
        "to go on with the other nodes: `pulumi up --exclude '**::pi-1' --exclude-dependents`; if the program says by now how it is reached, `pulumi up --refresh=false` records that",
    );
  });

  test("of what can't be told is an error, never an absence", async () => {
    node().files[notePath] = "null";
    expect((await failureOf(provider.read("pi-1/test:Note", noteInputs(), seen))).message).toContain(
      "can't be told",
    );
  });
});

describe("import", () => {
  const hostKey = encodeURIComponent(connection.hostKey);
  const url = `ssh://edgeseal@10.0.0.2:22/pi-1?hostKey=${hostKey}`;

  test("reads by a URL, and gives inputs with which nothing differs that names allow", async () => {
    onNode({ ...seen, level: 7, rules: {} });
    const { id, state, inputs } = await provider.read(url);
    expect(id).toBe("pi-1/test:Note");
    expect(inputs).toEqual({
      text: "hello",
      level: 7,
      mode: "strict",
      allow: [],
      connection,
      onDelete: "keep",
    });
    expect(await provider.diff(inputs ?? {}, state ?? {}, inputs ?? {})).toMatchObject({ changes: 1 });
  });

  test("takes an IPv6 address, a file with the key, and the plus of base64", async () => {
    onNode(seen);
    provider.nodes.node("2001:db8::2").files = node().files;
    const key = "ssh-ed25519 AAAAC3Nz+/==";
    const { inputs } = await provider.read(
      `ssh://[2001:db8::2]/pi-1?hostKey=${key.replace(" ", "%20")}&identityFile=~/.ssh/id_ed25519`,
    );
    expect(inputs).toMatchObject({
      connection: {
        address: "2001:db8::2",
        port: 22,
        user: "edgeseal",
        hostKey: key,
        identityFile: "~/.ssh/id_ed25519",
      },
    });
  });

  test.each([
    ["pi-1/test:Note", "is not an ssh:// URL"],
    ["ssh://10.0.0.2/pi-1", "has no hostKey: there is no trust on first use"],
    [`ssh://10.0.0.2/?hostKey=${hostKey}`, "does not name the node"],
    [`ssh://u:hunter22@10.0.0.2/pi-1?hostKey=${hostKey}`, "has a password in it"],
    [`${url}&key=x`, "has an unknown part 'key'"],
    ["ssh://10.0.0.2/pi-1?hostKey=%ZZ", "is not percent-encoded as it should be"],
  ])("refuses %s", async (id, why) => {
    const { code, message } = await failureOf(provider.read(id));
    expect(code).toBe(3);
    expect(message).toContain(`the import id ${why}; expected ssh://USER@HOST:PORT/NODE?hostKey=KEY`);
    expect(message).not.toContain("hunter22");
  });

  test("judges what the URL says like any other connection", async () => {
    const { message } = await failureOf(provider.read("ssh://10.0.0.2/Pi_1?hostKey=SHA256:short"));
    expect(message).toMatch(/^connection\.node: expected a string that matches/);
  });
});

describe("delete", () => {
  beforeEach(() => onNode(seen));

  test("keeps the protection and contacts nothing, and says so", async () => {
    node().unreachable = true;
    await provider.remove(noteInputs(), seen);
    expect(provider.devices.events).toEqual([]);
    expect(await provider.logged("stays in force")).toBe(
      "INFO test:Note stays in force on pi-1 (onDelete: keep); Pulumi no longer looks after it",
    );
  });

  test("takes it back with onDelete: revert", async () => {
    await provider.remove(noteInputs({ onDelete: "revert" }), seen);
    expect(node().files[notePath]).toBeUndefined();
  });

  test("takes it back with onDelete: revert after an update of the same resource, too", async () => {
    await provider.update(noteInputs({ onDelete: "revert" }), { oldState: seen });
    await provider.remove(noteInputs({ onDelete: "revert" }), seen);
    expect(node().files[notePath]).toBeUndefined();
  });

  test("with onDelete: revert takes nothing back that another resource of this update looks after", async () => {
    await provider.create(noteInputs({ onDelete: "revert" }));
    await provider.remove(noteInputs({ onDelete: "revert" }), seen, { name: "its-former-name" });
    expect(node().files[notePath]).toBeDefined();
    expect(await provider.logged("stays in force")).toBe(
      "INFO test:Note stays in force on pi-1: another resource looks after it now, urn:pulumi:dev::site::edgeseal:index:Site$edgeseal:test:Note::it",
    );
  });

  const former = { name: "its-former-name" };
  const blob = Buffer.concat([Buffer.from([0, 0, 0, 11]), Buffer.from("ssh-ed25519"), Buffer.alloc(36, 7)]);
  const keys = { line: `ssh-ed25519 ${blob.toString("base64")} root@pi-1`, fingerprint: fingerprint(blob) };

  test("nor what one looks after that was made by an update before", async () => {
    await provider.check(noteInputs({ onDelete: "revert" }));
    await provider.remove(noteInputs({ onDelete: "revert" }), seen, former);
    expect(node().files[notePath]).toBeDefined();
  });

  test.each<[string, { readonly address?: string; readonly hostKey?: string; readonly before?: string }]>([
    ["at the same address", {}],
    ["that moved, by its host key", { address: "10.0.0.9" }],
    ["whose host key was written out", { address: "10.0.0.9", hostKey: keys.line, before: keys.fingerprint }],
    ["whose system was set up anew, by where it is", { hostKey: keys.fingerprint }],
  ])("nor of a node that has another name now, %s", async (_, { before = connection.hostKey, ...now }) => {
    await provider.check(noteInputs({ connection: { ...connection, node: "gate-1", ...now } }));
    const old = { ...connection, hostKey: before };
    await provider.remove(noteInputs({ onDelete: "revert", connection: old }), seen, former);
    expect(node().files[notePath]).toBeDefined();
  });

  test("takes it back where another resource of the kind looks after another device", async () => {
    const other = { ...connection, node: "pi-2", address: "10.0.0.3", hostKey: keys.fingerprint };
    await provider.check(noteInputs({ connection: other }));
    await provider.remove(noteInputs({ onDelete: "revert" }), seen, former);
    expect(node().files[notePath]).toBeUndefined();
  });

  test("with onDelete: revert fails when the node can't be reached, so that it stays recorded", async () => {
    node().unreachable = true;
    const { message } = await failureOf(provider.remove(noteInputs({ onDelete: "revert" }), seen));
    expect(message).toContain("can't be reached");
    expect(node().files[notePath]).toBeDefined();
  });

  test("with onDelete: revert fails when a step does", async () => {
    node().broken = [notePath];
    const { message } = await failureOf(provider.remove(noteInputs({ onDelete: "revert" }), seen));
    expect(message).toContain("step 'remove the note' failed");
  });

  test("with onDelete: revert of what is gone already does nothing", async () => {
    node().files = { "/proc/version": "Linux" };
    await provider.remove(noteInputs({ onDelete: "revert" }), seen);
    expect(provider.devices.events).toEqual(["observe pi-1 edgeseal:test:Note"]);
  });
});

describe("a kind of which a node has several", () => {
  const labelled = (name: string, text: string) => ({ connection, onDelete: "keep", name, text });
  const hostKey = encodeURIComponent(connection.hostKey);
  const url = `ssh://edgeseal@10.0.0.2:22/pi-1?hostKey=${hostKey}`;

  test("says in the id which of them it is", async () => {
    const { id } = await provider.create(labelled("one", "1"), { token: labelToken });
    expect(id).toBe("pi-1/test:Label/one");
    expect((await provider.read(id, labelled("one", "1"), { text: "1" }, labelToken)).id).toBe(id);
  });

  test("is not made into another, which would leave the first in force with nobody looking after it", async () => {
    await provider.create(labelled("one", "1"), { token: labelToken });
    const renamed = labelled("two", "1");
    const options = { oldInputs: labelled("one", "1"), oldState: { text: "1" }, token: labelToken };
    expect(await provider.diff(options.oldInputs, options.oldState, renamed, labelToken)).toMatchObject({
      replaces: [],
      detailed: { name: "UPDATE of input" },
    });
    for (const preview of [true, false]) {
      const { message, init } = await failureOf(provider.update(renamed, { ...options, preview }));
      expect(message).toMatch(/^pi-1: test:Label 'one' can't become 'two': .*`onDelete: revert`.*add 'two'/);
      expect(init).toBeUndefined();
    }
    expect(node().files[labelPath("two")]).toBeUndefined();
    // One that is not known yet is judged when it is.
    await provider.update(labelled(unknownString, "1"), { ...options, preview: true });
    expect(await provider.update(labelled("one", "2"), options)).toEqual({ text: "2" });
  });

  test("takes one for each name, and two of one name for a mistake", async () => {
    const check = async (name: string, as: string) =>
      (await provider.check(labelled(name, ""), labelToken, as)).failures.map(({ reason }) => reason);
    expect(await check("one", "first")).toEqual([]);
    expect(await check("two", "second")).toEqual([]);
    expect((await check("one", "third")).join()).toMatch(
      /^pi-1 has its test:Label already, urn:\S+::first: 'one' names one of a node; remove one of the two/,
    );
  });

  test("is imported by the fragment of the URL", async () => {
    onNode({});
    node().files[labelPath("two")] = "second";
    const { id, inputs } = await provider.read(`${url}#two`, undefined, undefined, labelToken);
    expect(id).toBe("pi-1/test:Label/two");
    expect(inputs).toEqual(labelled("two", "second"));
    const { message } = await failureOf(provider.read(url, undefined, undefined, labelToken));
    expect(message).toMatch(/does not say which one of the node's; expected ssh:.*#NAME/);
  });
});

test("two resources on one node go through one device", async () => {
  await Promise.all([
    provider.create(noteInputs()),
    provider.create({ connection, onDelete: "keep" }, { token: sealToken }),
  ]);
  expect(Object.keys(node().files).sort()).toEqual(["/etc/note.draft", notePath, sealPath, "/proc/version"]);
  expect(provider.devices.made).toBe(1);
});
