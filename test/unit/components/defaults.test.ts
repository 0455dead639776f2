import { expect, test } from "vitest";
import {
  blockDefaults,
  withDefaults,
  type BlockArgs,
  type VolumeArgs,
} from "../../../components/block-args.ts";
import { blockKinds } from "../../../components/site-file/schema.ts";
import { blockSchema } from "../../../components/site-file/schema-parts.ts";
import { blockNames, blockTypes, type BlockName } from "../../../policies/node.ts";
import { inputValidator } from "../../../provider/check/input-validator.ts";

test.each(blockNames)("%s has the defaults of its kind", (name) => {
  const properties = blockSchema(blockKinds[name]).properties as Record<
    string,
    { readonly default?: unknown }
  >;
  const defaults = Object.entries(properties).flatMap(([key, schema]) =>
    schema.default === undefined ? [] : [[key, schema.default]],
  );
  expect(blockDefaults[name]).toEqual(Object.fromEntries(defaults));
});

test.each(blockNames)("%s stands for the type of its kind", (name) => {
  expect(blockTypes[name]).toBe(blockKinds[name].token);
});

const digest = `sha256:${"a".repeat(64)}`;
const places = { modelDirectory: "/srv/models/models", storage: "/srv/models/containers/inference" };

test("what is filled in is what the provider would have filled in", () => {
  const args: BlockArgs = {
    swap: { leftoverFiles: "keep" },
    firewall: {
      management: ["192.0.2.0/24"],
      allow: [
        { name: "a", to: "203.0.113.5" },
        { name: "b", from: "192.0.2.9", protocol: "udp" },
      ],
    },
    firmware: { commandLine: { absent: ["quiet"] }, reboot: "ifNeeded" },
    measuredBoot: { reboot: "window", rebootWindow: "Sun 02:00-04:00" },
    tpm: { endorsementKeySha256: "ab".repeat(32), maxTries: 10 },
    imagePolicy: { keys: { site: "(PEM)" } },
    scratch: { journal: { directory: "/srv/logs/journal" }, tmpMiB: 64 },
    model: {
      name: "inference",
      digest,
      mountPoint: "/srv/models",
      directory: places.modelDirectory,
      statement: "(envelope)",
      keys: { site: "(PEM)" },
    },
    seccompProfile: { variant: "ollama" },
    appArmorProfile: places,
    inference: {
      ...places,
      image: `registry.example/edge/llama@${digest}`,
      model: digest,
      memoryMaxMiB: 1024,
      confinement: { memoryLock: false },
    },
  };
  const facts = {
    node: "pi-1",
    trust: { policyKey: "(PEM)", recoveryKey: "(PEM)", generation: 2 },
    approval: "{}",
  };
  const models: VolumeArgs = { device: "/dev/disk/by-id/nvme-a", mountPoint: "/srv/models", readOnly: true };
  const blocks = withDefaults({ ...args, volumes: { models } }, facts);
  const filledIn = (name: BlockName, given: object): unknown => {
    const { inputs, problems } = inputValidator(blockSchema(blockKinds[name])).validate(
      structuredClone(given) as never,
      [],
    );
    expect(problems).toEqual([]);
    return inputs;
  };
  const shipped = { node: "pi-1", policyKey: "(PEM)", generation: 2, approval: "{}" };
  const fromElsewhere: Partial<Record<BlockName, object>> = {
    firmware: shipped,
    measuredBoot: shipped,
    scratch: shipped,
    tpm: { node: "pi-1", recoveryPublicKey: "(PEM)" },
  };
  for (const name of blockNames) {
    if (name === "volumes") continue;
    expect(blocks[name]).toEqual(filledIn(name, { ...args[name], ...fromElsewhere[name] }));
  }
  const { trust, approval, node } = facts;
  expect(blocks.volumes).toEqual({
    models: filledIn("volumes", { ...models, ...trust, approval, node, name: "models" }),
  });
});

test("volumes without the site's keys are refused", () => {
  const volumes = { models: { device: "/dev/disk/by-id/nvme-a", mountPoint: "/srv/models" } };
  expect(() => withDefaults({ volumes }, { node: "pi-1" })).toThrow(/pi-1 has volumes and no `trust`/);
});

test("a TPM without the site's keys is refused", () => {
  expect(() => withDefaults({ tpm: {} }, { node: "pi-1" })).toThrow(/pi-1 has a `tpm` block and no `trust`/);
});
