import { beforeEach, describe, expect, test } from "vitest";
import * as pulumi from "@pulumi/pulumi";
import { EdgeNode } from "../../../components/edge-node.ts";
import { inferenceService, type InferenceArgs } from "../../../components/inference-service.ts";
import { checklist } from "../../../policies/checklist.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { siteKey, statementOn } from "../resources/model-example.ts";
import { recorder } from "./recorder.ts";

const content = Buffer.alloc(300_000, "model");
const digest = `sha256:${sha256Hex(content)}`;
const image = `registry.example/edge/llama@sha256:${"a".repeat(64)}`;

let args: InferenceArgs;
beforeEach(async () => {
  const model = { digest, statement: await statementOn(content), keys: { site: siteKey.pem } };
  args = { image, model, memoryMaxMiB: 1024, nodeMemoryMiB: 2048 };
});

describe("inferenceService", () => {
  test("makes four blocks of what is said once", () => {
    expect(inferenceService(args, "/srv/models")).toEqual({
      model: {
        ...args.model,
        name: "inference",
        directory: "/srv/models/models",
        mountPoint: "/srv/models",
      },
      seccompProfile: { name: "inference", variant: "llama-server", additionalSyscalls: [] },
      appArmorProfile: {
        name: "inference",
        variant: "llama-server",
        modelDirectory: "/srv/models/models",
        storage: "/srv/models/containers/inference",
      },
      inference: {
        name: "inference",
        variant: "llama-server",
        image,
        model: digest,
        modelDirectory: "/srv/models/models",
        storage: "/srv/models/containers/inference",
        memoryMaxMiB: 1024,
        nodeMemoryMiB: 2048,
      },
    });
  });

  test("hands on what it is told, each to those that it concerns", () => {
    const { model, seccompProfile, appArmorProfile, inference } = inferenceService(
      {
        ...args,
        name: "chat",
        variant: "ollama",
        model: { ...args.model, file: "/m.gguf", keep: 2, contextBytesPerToken: 1024 },
        additionalSyscalls: ["getpriority"],
        archive: "/image.tar",
        threads: 2,
        confinement: { memoryLock: false },
      },
      "/data",
    );
    expect(model).toMatchObject({ name: "chat", file: "/m.gguf", keep: 2, directory: "/data/models" });
    expect(model).not.toHaveProperty("contextBytesPerToken");
    expect(seccompProfile).toEqual({ name: "chat", variant: "ollama", additionalSyscalls: ["getpriority"] });
    expect(appArmorProfile).toMatchObject({ name: "chat", storage: "/data/containers/chat" });
    expect(inference).toMatchObject({
      name: "chat",
      archive: "/image.tar",
      threads: 2,
      confinement: { memoryLock: false },
      storage: "/data/containers/chat",
    });
    expect(inference.nodeMemoryMiB).toBe(2048);
    for (const key of ["volume", "additionalSyscalls"]) expect(inference).not.toHaveProperty(key);
  });

  test("refuses what does not fit the memory, with the sums, as one message without a stack", () => {
    const refusal = (changes: Partial<InferenceArgs>) => () =>
      inferenceService({ ...args, ...changes }, "/srv/models");
    expect(refusal({ memoryMaxMiB: 600 })).toThrow(
      new pulumi.RunError(
        'inference service "inference": memoryMaxMiB: the service may use 600 MiB and needs model 1 + context 512 (4096 tokens) + server 160 + /tmp 16 = 689 MiB; allow it that, or take a smaller model or context',
      ),
    );
    expect(refusal({ name: "chat", nodeMemoryMiB: 1024 })).toThrow(
      /^inference service "chat": nodeMemoryMiB: the node has 1024 MiB and no swap/,
    );
    // The control: with a context that is known to take less it fits.
    const model = { ...args.model, contextBytesPerToken: 18_432 };
    expect(refusal({ memoryMaxMiB: 600, model })).not.toThrow();
  });

  test("leaves a statement that is none to the model's kind, which says what is wrong", () => {
    const model = { ...args.model, statement: "{}" };
    expect(inferenceService({ ...args, model }, "/srv/models").model.statement).toBe("{}");
  });
});

/** Pulumi's mark of a secret. */
const signature = "4dabf18193072939515e22adb298388d";
const secretSignature = "1b47061264138c4ac30d75fd1eb44270";

describe("an EdgeNode with a service", () => {
  const volume = (name: string) => ({ device: `/dev/disk/by-id/nvme-${name}`, mountPoint: `/srv/${name}` });
  const waivers = checklist
    .filter(({ block }) => block === undefined)
    .map(({ id }) => ({ control: id, reason: "later", owner: "platform", expires: "2999-12-31" }));
  const node = () => ({
    connection: { address: "192.0.2.1", hostKey: `SHA256:${"A".repeat(43)}` },
    trust: { policyKey: "(policy PEM)", recoveryKey: "(recovery PEM)" },
    approval: "(approval)",
    firewall: { management: ["192.0.2.0/24"] },
    firmware: {},
    measuredBoot: {},
    tpm: {},
    volumes: { models: volume("models"), logs: volume("logs") },
    imagePolicy: {
      keys: { site: siteKey.pem },
      allow: [{ image: "registry.example/edge/llama", signedBy: ["site"] }],
    },
    scratch: {},
    ...inferenceService(
      { ...args, archive: "/home/me/image.tar", model: { ...args.model, file: "/home/me/model.gguf" } },
      "/srv/models",
    ),
    waivers,
  });

  test("passes the gate with no waiver but those of what nothing serves, and registers all of it", async () => {
    const run = await recorder();
    new EdgeNode("pi-1", node());
    await run.settled();
    const of = (part: string) => run.registered.find(({ name }) => name === `pi-1-${part}`);
    expect(of("model")).toMatchObject({
      type: "edgeseal:inference:Model",
      inputs: { digest, keep: 1, file: "/home/me/model.gguf", keys: { site: siteKey.pem } },
    });
    expect(of("seccomp-profile")?.inputs).toMatchObject({ name: "inference", additionalSyscalls: [] });
    expect(of("apparmor-profile")?.inputs).toMatchObject({ storage: "/srv/models/containers/inference" });
    expect(of("inference")?.inputs).toMatchObject({
      archive: "/home/me/image.tar",
      threads: 3,
      confinement: { seccomp: "profile", network: "none", memoryLock: true },
    });
    // It may reboot: what is to be approved goes with it.
    expect(of("scratch")?.inputs).toMatchObject({ node: "pi-1", approval: "(approval)", generation: 1 });
  });

  test("makes a secret of a registry's password, whatever it came as, and shows the login to no component", async () => {
    const run = await recorder();
    const { archive: _, ...pulled } = node().inference;
    new EdgeNode("pi-1", {
      ...node(),
      inference: { ...pulled, registryAuth: { username: "puller", password: "canary" } },
    });
    await run.settled();
    const service = run.registered.find(({ name }) => name === "pi-1-inference");
    // Without an engine, what holds a secret is shown as a secret as a whole.
    expect(service?.inputs.registryAuth).toMatchObject({ [signature]: secretSignature });
    const others = run.registered.filter((each) => each !== service);
    expect(JSON.stringify(others)).not.toMatch(/canary|puller/);
  });

  test("has the login for its pinned TPM only, whatever else was said; without a pin for what was said", async () => {
    const { archive: _, ...pulled } = node().inference;
    const [pinned, given] = ["e1".repeat(32), "e2".repeat(32)];
    const login = { username: "puller", password: "canary" };
    const registered = async (endorsementKeySha256: string | undefined, more: object = {}) => {
      const run = await recorder();
      new EdgeNode("pi-1", {
        ...node(),
        tpm: endorsementKeySha256 === undefined ? {} : { endorsementKeySha256 },
        inference: { ...pulled, registryAuth: { ...login, ...more } },
      });
      await run.settled();
      const service = run.registered.find(({ name }) => name === "pi-1-inference");
      return (service?.inputs.registryAuth as { value: unknown }).value;
    };
    expect(await registered(pinned)).toEqual({ ...login, endorsementKeySha256: pinned });
    expect(await registered(pinned, { endorsementKeySha256: given })).toEqual({
      ...login,
      endorsementKeySha256: pinned,
    });
    expect(await registered(undefined, { endorsementKeySha256: given })).toEqual({
      ...login,
      endorsementKeySha256: given,
    });
    // Which the provider refuses.
    expect(await registered(undefined)).toEqual(login);
  });

  test("has each after what it stands on, and after whatever may reboot the node", async () => {
    const run = await recorder();
    new EdgeNode("pi-1", node());
    await run.settled();
    const after = (part: string) =>
      run.registered
        .find(({ name }) => name === `pi-1-${part}`)
        ?.after.map((name) => name.replace("pi-1-", ""))
        .sort();
    const rebooting = ["firmware", "measured-boot", "tpm"];
    expect(after("scratch")).toEqual(rebooting);
    const all = [...rebooting, "scratch", "volume-logs", "volume-models"].sort();
    expect(after("volume-models")).toEqual([...rebooting, "scratch"].sort());
    for (const part of ["model", "seccomp-profile", "apparmor-profile"]) expect(after(part)).toEqual(all);
    expect(after("inference")).toEqual(
      [
        ...["apparmor-profile", "core-dumps", "firewall", "image-policy", "model", "scratch"],
        ...["seccomp-profile", "swap", "volume-logs", "volume-models"],
      ].sort(),
    );
  });

  test("has a journal on a volume after the volumes", async () => {
    const run = await recorder();
    new EdgeNode("pi-1", { ...node(), scratch: { journal: { directory: "/srv/logs/journal" } } });
    await run.settled();
    const scratch = run.registered.find(({ name }) => name === "pi-1-scratch");
    expect(scratch?.after).toEqual(["pi-1-volume-models", "pi-1-volume-logs"]);
    expect(run.registered.find(({ name }) => name === "pi-1-volume-logs")?.after).not.toContain(
      "pi-1-scratch",
    );
  });

  test("shows a component neither the statement nor a key, nor a path of the machine that runs Pulumi", async () => {
    const run = await recorder();
    new EdgeNode("pi-1", node());
    await run.settled();
    const shown = run.registered.find(({ name }) => name === "pi-1")?.inputs;
    expect(shown).toMatchObject({ node: { blocks: { model: { digest, keys: { site: "(public key)" } } } } });
    expect(JSON.stringify(shown)).not.toMatch(/PUBLIC KEY|\/home\/me|payloadType|\(approval\)/);
  });

  test("runs its hooks after all of it", async () => {
    const run = await recorder();
    new EdgeNode("pi-1", { ...node(), hooks: { afterApply: { tell: { on: "here", command: "notify" } } } });
    await run.settled();
    const hook = run.registered.find(({ type }) => type === "command:local:Command");
    const devices = run.registered.filter(({ type }) => /^edgeseal:(?!index:)/.test(type));
    expect(devices).toHaveLength(15);
    expect([...(hook?.after ?? [])].sort()).toEqual(devices.map(({ name }) => name).sort());
  });

  test.each([
    ["model", "6.signed-model (checklist point 6) on pi-1: violation: the node has no `model` block"],
    [
      "seccompProfile",
      "4.seccomp (checklist point 4) on pi-1: violation: the node has no edgeseal:security:SeccompProfile beside",
    ],
    [
      "appArmorProfile",
      "4.apparmor (checklist point 4) on pi-1: violation: the node has no edgeseal:security:AppArmorProfile beside",
    ],
    ["scratch", "3.scratch-in-memory (checklist point 3) on pi-1: violation: the node has no `scratch`"],
    ["imagePolicy", "6.pinned-image (checklist point 6) on pi-1: violation: the image policy takes nothing"],
  ])("without %s is refused", async (block, message) => {
    const run = await recorder();
    const { [block as "model"]: _, ...without } = node();
    expect(() => new EdgeNode("pi-1", without)).toThrow(message);
    // Registration goes on behind a constructor that has thrown.
    await run.settled();
  });
});
