import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import * as pulumi from "@pulumi/pulumi";
import { Ajv } from "ajv";
import { beforeEach, describe, expect, test } from "vitest";
import { afterApply, commandVersion, type HookArgs, type Hooks } from "../../../components/hooks.ts";
import { EdgeNode } from "../../../components/edge-node.ts";
import { CoreDumps, Swap } from "../../../components/resources.ts";
import { hookFaults, hooksArgs, hooksSchema } from "../../../components/site-file/hooks-schema.ts";
import { checklist } from "../../../policies/checklist.ts";
import { goodStates } from "../policies/cases.ts";
import { recorder, type Registered } from "./recorder.ts";

/** As much of RegisterResourceRequest as is looked at. */
interface Request {
  getName(): string;
  getVersion(): string;
  getCustomtimeouts(): { getCreate(): string; getUpdate(): string } | undefined;
  getReplaceonchangesList(): string[];
  getAdditionalsecretoutputsList(): string[];
}

/** Pulumi's mark of a secret. */
const signature = "4dabf18193072939515e22adb298388d";
const isSecret = (value: unknown): value is { readonly value: unknown } =>
  typeof value === "object" && value !== null && signature in value;
const open = (value: unknown): unknown => (isSecret(value) ? value.value : value);

const hostKey = `ssh-ed25519 ${"A".repeat(68)}`;
const connection = { address: "192.0.2.1", hostKey, port: 2222, agent: "/run/agent" };
const smoke: HookArgs = { on: "node", command: "echo $EDGESEAL_NODE; exit 3" };

const requests = new Map<string, Request>();
let run: Awaited<ReturnType<typeof recorder>>;

async function startRecording(states: Readonly<Record<string, object>> = {}): Promise<void> {
  run = await recorder({}, [], states);
  requests.clear();
  const monitor = pulumi.runtime.getMonitor() as unknown as {
    registerResource: (...all: unknown[]) => unknown;
  };
  const register = monitor.registerResource.bind(monitor);
  Object.assign(monitor, {
    registerResource: (request: Request, ...rest: unknown[]) => {
      requests.set(request.getName(), request);
      return register(request, ...rest);
    },
  });
}
beforeEach(() => startRecording());

/** A node with two resources and these hooks. */
async function registered(hooks: Hooks, of: object = connection): Promise<readonly Registered[]> {
  const parent = new pulumi.ComponentResource("test:index:Node", "pi-1");
  const device = { connection: { ...connection, ...of, node: "pi-1" } };
  const child = { parent };
  const resources: unknown[] = [
    new Swap("pi-1-swap", device, child),
    new CoreDumps("pi-1-core-dumps", device, child),
  ];
  afterApply(
    "pi-1",
    hooks,
    { connection: { ...connection, ...of }, resources: resources as pulumi.CustomResource[] },
    parent,
  );
  await run.settled();
  return run.registered.filter(({ type }) => type.startsWith("command:"));
}

const only = (all: readonly Registered[]): Registered => {
  const [first, ...more] = all;
  if (first === undefined || more.length > 0) throw new Error(`${all.length} hooks, and one was expected`);
  return first;
};

describe("a hook on the node", () => {
  test("is connected to as the node is: pinned host key, its user and port, the agent", async () => {
    const hook = only(await registered({ smoke }));
    expect(hook).toMatchObject({ type: "command:remote:Command", name: "pi-1-hook-smoke" });
    expect(hook.inputs.connection).toEqual({
      host: "192.0.2.1",
      port: 2222,
      user: "edgeseal",
      hostKey,
      agentSocketPath: "/run/agent",
      perDialTimeout: 15,
      dialErrorLimit: 3,
    });
  });

  test("takes a host key as it is in its .pub file, with a comment of any words after it", async () => {
    const { inputs } = only(await registered({ smoke }, { hostKey: `${hostKey} root@pi 1, the new one` }));
    expect(inputs.connection).toMatchObject({ hostKey });
  });

  test("comes after every resource of the node", async () => {
    expect([...only(await registered({ smoke })).after].sort()).toEqual(["pi-1-core-dumps", "pi-1-swap"]);
  });

  test("has a private key as a secret, whatever it came as", async () => {
    const { inputs } = only(await registered({ smoke }, { privateKey: "PRIVATE", identityFile: "~/.ssh/x" }));
    expect(isSecret(inputs.connection)).toBe(true);
    expect(open(inputs.connection)).toMatchObject({ privateKey: "PRIVATE", hostKey });
  });

  test("has its command on standard input, and not in its command line", async () => {
    const { inputs } = only(await registered({ smoke: { ...smoke, command: "look here" } }));
    expect(inputs.create).toBe(`timeout --kill-after=5 60 sh -c 'eval "$(cat)"'`);
    expect(open(inputs.stdin)).toContain("look here");
    expect(JSON.stringify({ ...inputs, stdin: undefined })).not.toContain("look here");
    expect(inputs).not.toHaveProperty("environment");
    expect(inputs.logging).toBe("none");
  });

  test("does what it says, with the node's name and the exit status, and no input of its own", async () => {
    const command = 'printf "%s|" "$EDGESEAL_NODE"; cat; exit 3';
    const { inputs } = only(await registered({ smoke: { ...smoke, command } }));
    const { status, stdout } = spawnSync("sh", ["-c", String(inputs.create)], {
      input: String(open(inputs.stdin)),
      encoding: "utf8",
    });
    expect({ status, stdout }).toEqual({ status: 3, stdout: "pi-1|" });
  });

  test("is ended when it takes too long", async () => {
    const { inputs } = only(
      await registered({ smoke: { ...smoke, command: "sleep 30", timeoutSeconds: 1 } }),
    );
    const { status } = spawnSync("sh", ["-c", String(inputs.create)], { input: String(open(inputs.stdin)) });
    expect(status).toBe(124);
    const timeouts = requests.get("pi-1-hook-smoke")?.getCustomtimeouts();
    expect([timeouts?.getCreate(), timeouts?.getUpdate()]).toEqual(["61s", "61s"]);
  });

  test("with secrets is refused: nothing asks the node's TPM before they are sent", async () => {
    const environment = { TOKEN: { config: "smokeToken" } };
    const secret: Hooks = { smoke: { ...smoke, environment: { TOKEN: "s3cr3t" } } };
    await expect(registered(secret)).rejects.toThrow(/^pi-1: hook smoke: its `environment` would go/);
    await run.settled();
    expect(run.registered.filter(({ type }) => type.startsWith("command:"))).toEqual([]);
    const faults = (on: string): readonly string[] =>
      hookFaults({
        ...connection,
        hooks: { afterApply: { smoke: { on, command: "true", environment } } },
      }).map(({ message }) => message);
    expect(faults("node")).toEqual([expect.stringContaining("is not asked before a hook")]);
    expect(faults("here")).toEqual([]);
  });

  test.each([
    ["a fingerprint is no key that it compares", { hostKey: `SHA256:${"A".repeat(43)}` }, "whole host key"],
    [
      "so would one that a command prints",
      { identityCommand: "pass edge", agent: undefined },
      "into Pulumi's state",
    ],
    [
      "a key in a file would come into the state",
      { identityFile: "~/.ssh/x", agent: undefined },
      "into Pulumi's state",
    ],
  ])("is refused: %s", async (_name, of, message) => {
    await expect(registered({ smoke }, of)).rejects.toThrow(message);
    await run.settled();
    expect(run.registered.filter(({ type }) => type.startsWith("command:"))).toEqual([]);
    const faults = hookFaults({
      ...connection,
      ...of,
      hooks: { afterApply: { smoke: { on: "node", command: "true" } } },
    });
    expect(faults.map(({ hook }) => hook)).toEqual(["smoke"]);
    expect(faults[0]?.message).toContain(message);
    expect(
      hookFaults({ ...connection, ...of, hooks: { afterApply: { smoke: { on: "here", command: "true" } } } }),
    ).toEqual([]);
  });
});

test("a hook here is run by the machine that runs Pulumi, with its variables as secrets", async () => {
  const hook = only(
    await registered({ tell: { on: "here", command: "notify", environment: { TOKEN: "secret" } } }),
  );
  expect(hook).toMatchObject({
    type: "command:local:Command",
    name: "pi-1-hook-tell",
    inputs: { create: "notify", logging: "none" },
  });
  expect(isSecret(hook.inputs.environment)).toBe(true);
  expect(open(hook.inputs.environment)).toEqual({ TOKEN: "secret", EDGESEAL_NODE: "pi-1" });
  expect(hook.inputs).not.toHaveProperty("connection");
  expect(requests.get(hook.name)?.getCustomtimeouts()?.getCreate()).toBe("60s");
});

test("what a hook prints and is given is secret in the state, and a new trigger replaces it", async () => {
  await registered({ smoke });
  const request = requests.get("pi-1-hook-smoke");
  expect(request?.getVersion()).toBe(commandVersion);
  expect(request?.getReplaceonchangesList()).toEqual(["triggers[*]"]);
  expect(request?.getAdditionalsecretoutputsList()).toEqual(
    expect.arrayContaining(["connection", "stdin", "environment", "stdout", "stderr"]),
  );
});

describe("the trigger", () => {
  const triggerWith = async (swap: object, of: object = connection): Promise<unknown> => {
    await startRecording({
      "edgeseal:memory:Swap": { ...goodStates.swap, ...swap },
      "edgeseal:memory:CoreDumps": goodStates.coreDumps,
    });
    return open(only(await registered({ smoke }, of)).inputs.triggers);
  };

  test("is the observed state: another one for another state, the same one for the same", async () => {
    const first = await triggerWith({});
    expect(first).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/)]);
    expect(await triggerWith({})).toEqual(first);
    expect(await triggerWith({ activeAreas: ["/swapfile"] })).not.toEqual(first);
  });

  test("says nothing of the way to the node", async () => {
    expect(await triggerWith({}, { address: "192.0.2.9", privateKey: "PRIVATE" })).toEqual(
      await triggerWith({}),
    );
  });
});

describe("the plugin", () => {
  test("is needed by no site without hooks", async () => {
    expect(await registered({})).toEqual([]);
  });

  test("is named by no package that is installed, which would have Pulumi look for it on every machine", () => {
    expect(existsSync(new URL("../../../node_modules/@pulumi/command", import.meta.url))).toBe(false);
  });
});

test("a site file refers to secrets in Pulumi configuration, and can't say them", () => {
  const args = hooksArgs(
    {
      afterApply: {
        smoke: { on: "node", command: "true", environment: { TOKEN: { config: "smokeToken" } } },
      },
    },
    (key) => pulumi.secret(`value of ${key}`),
  );
  expect(Object.keys(args.smoke?.environment ?? {})).toEqual(["TOKEN"]);
  expect(hooksArgs({}, () => pulumi.secret(""))).toEqual({});
  const validate = new Ajv().compile(hooksSchema);
  const withToken = (token: unknown): object => ({
    afterApply: { smoke: { on: "node", command: "true", environment: { TOKEN: token } } },
  });
  expect(validate(withToken({ config: "smokeToken" }))).toBe(true);
  expect(validate(withToken("literal"))).toBe(false);
});

test("a node's hooks come after all of it, what is optional included", async () => {
  const waivers = checklist.map(({ id }) => ({
    control: id,
    reason: "x",
    owner: "x",
    expires: "2999-12-31",
  }));
  new EdgeNode("pi-1", {
    connection,
    waivers,
    firewall: { management: ["192.0.2.0/24"] },
    firmware: {},
    scratch: {},
    hooks: { afterApply: { smoke } },
  });
  await run.settled();
  const hook = only(run.registered.filter(({ type }) => type.startsWith("command:")));
  const all = run.registered.filter(({ type }) => /^edgeseal:(?!index)/.test(type)).map(({ name }) => name);
  expect([...hook.after].sort()).toEqual([...all].sort());
  expect(all).toContain("pi-1-scratch");
});
