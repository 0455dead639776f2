import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { comparedUnit, comparingUnit, guardUnit } from "../../../cli/bench/comparison.ts";
import { inputSchema } from "../../../provider/check/input-schema.ts";
import { inputValidator } from "../../../provider/check/input-validator.ts";
import { windowUnit } from "../../../provider/device/commit-confirm.ts";
import { outerName } from "../../../provider/resources/apparmor-profile-rules.ts";
import { serviceName } from "../../../provider/resources/container-process.ts";
import { allUnits } from "../../../provider/resources/inference-container-files.ts";
import { inferenceContainer } from "../../../provider/resources/inference-container.ts";
import {
  parseImage,
  type InferenceContainerInputs,
} from "../../../provider/resources/inference-container-inputs.ts";
import { example } from "./inference-container-example.ts";

const problems = (inputs: InferenceContainerInputs) => inferenceContainer.check?.(inputs) ?? [];
const hex = "a".repeat(64);

test("what has to be given is little, and every default is the strict one", () => {
  const { name, image, model, modelDirectory, storage, memoryMaxMiB } = example;
  const given = { image, model, modelDirectory, storage, memoryMaxMiB };
  const { problems: faults, inputs } = inputValidator(inputSchema(inferenceContainer)).validate(given, []);
  expect(faults.filter(({ path }) => !path.startsWith("connection"))).toEqual([]);
  expect(inputs).toMatchObject({ ...example, name });
  expect(inputs).toMatchObject({
    confinement: {
      seccomp: "profile",
      appArmor: "profile",
      readOnlyRoot: true,
      noNewPrivileges: true,
      memoryLock: true,
      network: "none",
      capabilities: [],
      devices: [],
    },
  });
});

/** Texts of all that goes to nodes, and of what runs there by hand. */
const sources = ["provider", "cli"].flatMap((folder) => {
  const root = new URL(`../../../${folder}/`, import.meta.url);
  const entries = readdirSync(root, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => ({
      name: entry.name,
      text: readFileSync(join(entry.parentPath, entry.name), "utf8"),
    }));
});
const matchesIn = (pattern: RegExp): ReadonlySet<string> =>
  new Set(
    sources.flatMap(({ name, text }) =>
      [...`${name}\n${text}`.matchAll(pattern)].map(([, found = ""]) => found),
    ),
  );

describe("a service may not have the name of something else of edgeseal's", () => {
  const faultOf = (name: string): string | undefined =>
    problems({ ...example, name }).find(({ path }) => path === "name")?.message;
  const isName = (name: string): boolean => new RegExp(serviceName).test(name);

  test("as each unit that is named in what edgeseal writes", () => {
    const units = [...matchesIn(/\bedgeseal-([a-z0-9-]+)\.(?:service|socket|timer|path|mount|target)\b/g)];
    // The services' own, by the name that a service has by default.
    const others = units.filter((each) => !each.startsWith("inference"));
    expect(others).toEqual(
      expect.arrayContaining(["cap-pcr15", "firewall", "trial-end", "update", "volumes"]),
    );
    for (const name of others) expect(faultOf(name), name).toMatch(/is a unit of edgeseal's own already/);
    // Longer than a service's name may be.
    expect(isName(windowUnit("0".repeat(64)).slice("edgeseal-".length))).toBe(false);
  });

  test("or as what another service has beside its own", () => {
    const purposes = [...matchesIn(/\basService\([^"]*?, "([a-z]+)",/g)];
    expect(purposes).toEqual(expect.arrayContaining(["pull", "tag"]));
    const units = [...allUnits("chat"), comparingUnit("chat"), guardUnit("chat"), comparedUnit("chat")];
    const beside = [
      ...units.map((unit) => unit.slice("edgeseal-".length).replace(/\.[a-z]+$/, "")),
      ...purposes.map((purpose) => `chat-${purpose}`),
      outerName("chat").slice("edgeseal-".length),
    ];
    for (const name of beside.filter((each) => each !== "chat"))
      expect(faultOf(name), name).toMatch(/^names that end with -/);
    expect(faultOf("chat")).toBeUndefined();
  });
});

describe("inputs that are refused, with what, where and the mend", () => {
  test.each<[string, Partial<InferenceContainerInputs>, string, RegExp]>([
    ["a unit of edgeseal's own", { name: "volumes" }, "name", /edgeseal-volumes is a unit of edgeseal's own/],
    ["a name that is that of another service's port", { name: "chat-port" }, "name", /end with -port/],
    [
      "a tag",
      { image: "registry.example/edge/llama:1" },
      "image",
      /without a digest: a tag is whatever image it leads to/,
    ],
    ["a transport", { image: `docker://a.example/b@sha256:${hex}` }, "image", /with a transport before it/],
    ["a short digest", { image: "a.example/b@sha256:abc" }, "image", /with 64 hexadecimal digits/],
    ["capitals in a digest", { image: `a.example/b@sha256:${hex.toUpperCase()}` }, "image", /in lower case/],
    ["a short name", { image: `llama@sha256:${hex}` }, "image", /whose host or repository can't be one/],
    ["a relative archive", { archive: "llama.tar" }, "archive", /expected an absolute path/],
    ["a relative folder", { modelDirectory: "models" }, "modelDirectory", /expected an absolute path/],
    ["a way up", { storage: "/srv/../etc/x" }, "storage", /without '\.', '\.\.'/],
    ["a space", { storage: "/srv/a b" }, "storage", /got '\/srv\/a b'/],
    ["what is gone with a boot", { storage: "/run/images" }, "storage", /\/run is no place for it/],
    ["a home", { modelDirectory: "/home/pi/models" }, "modelDirectory", /\/home is no place for it/],
    ["/var/tmp", { storage: "/var/tmp/x" }, "storage", /\/var\/tmp is no place/],
    ["folders in one another", { storage: "/srv/models/models/containers" }, "storage", /lie in one another/],
    ["the same folder", { storage: "/srv/models/models" }, "storage", /lie in one another/],
    ["too few tasks", { tasksMax: 47, threads: 3 }, "tasksMax", /at least 48, got 47/],
    ["more threads than time", { threads: 4 }, "cpuQuotaPercent", /4 threads compute in 400 % .*, got 350/],
    ["a /tmp that eats the memory", { tmpMiB: 600 }, "tmpMiB", /600 MiB of the 1024/],
    [
      "an accelerator that is none",
      { variant: "hailo" },
      "confinement.devices",
      /expected \["\/dev\/hailo0"\]/,
    ],
  ])("%s", (_, change, path, message) => {
    const found = problems({ ...example, ...change });
    expect(found.map((each) => each.path)).toEqual([path]);
    expect(found[0]?.message).toMatch(message);
  });

  test("all faults at once", () => {
    const found = problems({ ...example, name: "update", image: "x", storage: "y", tmpMiB: 1000 });
    expect(found.map(({ path }) => path)).toEqual(["name", "image", "storage", "tmpMiB"]);
  });

  test.each<Partial<InferenceContainerInputs>>([
    { image: `registry.example:5000/a/b_c--d.e:1.0@sha256:${hex}` },
    { image: `localhost/llama@sha256:${hex}` },
    { archive: "/srv/images/llama.tar", port: 8080, cpuQuotaPercent: 300 },
    { variant: "hailo", confinement: { ...example.confinement, devices: ["/dev/hailo0"] } },
    { storage: "/srv/models/containers", modelDirectory: "/srv/models/containers2" },
  ])("the control: %j", (change) => {
    expect(problems({ ...example, ...change })).toEqual([]);
  });
});

test("a tag beside a digest says nothing more", () => {
  expect(parseImage(`a.example:5000/b/c:1@sha256:${hex}`)).toEqual({
    repository: "a.example:5000/b/c",
    digest: `sha256:${hex}`,
    reference: `a.example:5000/b/c@sha256:${hex}`,
  });
});
