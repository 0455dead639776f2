import { expect, test } from "vitest";
import { readFileSync } from "node:fs";
import { nodeFacts } from "../../../../cli/bench/node-facts.ts";
import {
  comparable,
  plainProcess,
  readServedUnit,
  socketOf,
  UnitUnknown,
  withModelIn,
  withoutAppArmor,
  withoutHardening,
  withoutLimits,
  withoutSeccompProfile,
} from "../../../../cli/bench/served-unit.ts";
import { layersTakenAway } from "../../../../cli/bench/variants.ts";
import { serviceUnit } from "../../../../provider/resources/inference-container-unit.ts";
import { example } from "../../resources/inference-container-example.ts";

/* Layers are taken from the text that the renderer wrote: where it has an input for it, the text is the one that it would have written. */

const inputs = { ...example, cpuQuotaPercent: 200 };
const text = serviceUnit(inputs);
const unit = readServedUnit(inputs.name, text);

const loosened = (confinement: Partial<(typeof inputs)["confinement"]>): string =>
  serviceUnit({ ...inputs, confinement: { ...inputs.confinement, ...confinement } });
const withoutComments = (unitText: string): string => unitText.replaceAll(/^#.*\n/gm, "");

test("what a unit serves is read from its text", () => {
  expect(unit).toMatchObject({
    storage: inputs.storage,
    modelFolder: `${inputs.modelDirectory}/${inputs.model.slice("sha256:".length)}`,
    socketFolder: `/run/edgeseal-${inputs.name}/http`,
  });
  expect(unit.image).toMatch(/^[^ ]+@sha256:[0-9a-f]{64}$/);
  expect(unit.serverArguments).toMatch(/^--model \/models\/model\.gguf --host \/run\/inference\/http\.sock /);
  expect(socketOf(unit)).toBe(`/run/edgeseal-${inputs.name}/http/http.sock`);
});

test("a unit that does not run llama-server can't be compared", () => {
  expect(() => readServedUnit("inference", serviceUnit({ ...inputs, variant: "ollama" }))).toThrow(
    UnitUnknown,
  );
  expect(() => readServedUnit("inference", "[Service]\nExecStart=/bin/true\n")).toThrow(UnitUnknown);
});

test("without AppArmor, and without seccomp, it is what the renderer makes of a loosened confinement", () => {
  expect(withoutComments(withoutAppArmor(text))).toBe(withoutComments(loosened({ appArmor: "unconfined" })));
  expect(withoutSeccompProfile(text)).toBe(loosened({ seccomp: "unconfined" }));
});

test("a comparable unit starts once, beside nothing, and confines all the same", () => {
  const compared = comparable(unit);
  expect(compared).toContain(`Conflicts=edgeseal-${inputs.name}.service\n`);
  expect(compared).not.toMatch(/^(Restart|ExecCondition|\[Install\])/m);
  const kept = (each: string): string[] =>
    each
      .split("\n")
      .filter((line) => /^(ExecStart|AppArmor|SystemCall|Protect|Private|Memory|Tasks)/.test(line));
  expect(kept(compared)).toEqual(kept(text));
  expect(kept(compared).length).toBeGreaterThan(10);
});

test("each layer that is taken away takes its lines, and leaves the others", () => {
  for (const limit of [
    /^MemoryMax=/m,
    /^MemorySwapMax=/m,
    /^TasksMax=/m,
    /^CPUQuota=200%$/m,
    / --pids-limit /,
  ]) {
    expect(text).toMatch(limit);
    expect(withoutLimits(text)).not.toMatch(limit);
  }
  expect(withoutLimits(text)).toContain("SystemCallFilter=");
  const bare = withoutHardening(text);
  expect(bare).not.toMatch(
    /^(SystemCall|Protect|Private|Restrict|NoNewPrivileges|CapabilityBoundingSet|ReadWritePaths|UMask)/m,
  );
  expect(bare).toMatch(/^AppArmorProfile=/m);
  expect(bare).toMatch(/^MemoryMax=/m);
  expect(bare).toMatch(/^User=/m);
  expect(withModelIn(text, "/dev/shm/x")).toContain(" --volume /dev/shm/x:/models:ro ");
});

test("the plain process is the same program with the same arguments as the same user, and no container", () => {
  const plain = plainProcess(unit, "/srv/root");
  expect(plain).toContain(`ExecStart=/usr/bin/llama-server ${unit.serverArguments}\n`);
  expect(plain).toContain(`User=edgeseal-${inputs.name}\n`);
  expect(plain).toContain("RootDirectory=/srv/root\n");
  // Below its root, which is on a volume without exec.
  expect(plain).toContain("ExecPaths=+/usr\n");
  expect(plain).not.toMatch(/podman|seccomp|AppArmor|SystemCall|MemoryMax/);
});

test("layers go one after the other; what is not there is no line", () => {
  const all = layersTakenAway(unit, { modelInMemory: "/dev/shm/m", imageRoot: "/srv/root" });
  expect(all.map(({ name }) => name)).toEqual([
    "as served",
    "with the model in memory, not on its volume",
    "and without AppArmor",
    "and without the seccomp profile",
    "and without the unit's hardening",
    "and without limits",
    "plain process",
  ]);
  expect(all.at(-1)?.unit).toContain("BindReadOnlyPaths=/dev/shm/m:/models\n");
  const unconfined = readServedUnit(inputs.name, loosened({ appArmor: "unconfined" }));
  expect(
    layersTakenAway(unconfined, { modelInMemory: undefined, imageRoot: undefined }).map(({ name }) => name),
  ).toEqual([
    "as served",
    "and without the seccomp profile",
    "and without the unit's hardening",
    "and without limits",
  ]);
});

const layer = "ab".repeat(32);
const manifest = (...layers: string[]): string =>
  JSON.stringify({ layers: layers.map((hex) => ({ digest: `sha256:${hex}` })) }, undefined, 2);

test("an image of one layer that podman keeps as it came has its files in that layer's folder", () => {
  const at = (printed: string): string | undefined => nodeFacts(unit, "", printed).imageRoot;
  expect(at(`${manifest(layer)}\nl\n${layer}\n`)).toBe(`${inputs.storage}/overlay/${layer}/diff`);
  expect(at(`${manifest(layer, "cd".repeat(32))}\n${layer}\n`)).toBeUndefined();
  expect(at(`${manifest(layer)}\nl\n`)).toBeUndefined();
  expect(at("\nl\n")).toBeUndefined();
});

test("a virtual machine is told from a real one", () => {
  const facts = `active active
virtual qemu
board Raspberry Pi 5 Model B Rev 1.0
kernel 6.12.0
architecture aarch64
processors 4
model 253113024
available 900000000
shm 500000000
on /dev/mapper/edgeseal-models  ext4
`;
  expect(nodeFacts(unit, facts, "")).toMatchObject({
    active: true,
    virtualBy: "qemu",
    memoryFreeBytes: 500_000_000,
    modelOn: "/dev/mapper/edgeseal-models ext4",
  });
  expect(nodeFacts(unit, facts.replace("virtual qemu", "virtual none"), "").virtualBy).toBeUndefined();
});

test("the program for the node is in Perl of perl-base alone", () => {
  const program = readFileSync(new URL("../../../../cli/bench/on-device/compare", import.meta.url), "utf8");
  const used = [...program.matchAll(/^use ([\w:]+)/gm)].map(([, module]) => module).sort();
  expect(used).toEqual(["IO::Select", "IO::Socket::INET", "IO::Socket::UNIX", "POSIX", "strict", "warnings"]);
});
