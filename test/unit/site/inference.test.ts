import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { siteArgs } from "../../../components/site-file/site-args.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { otherKey, siteKey, statementOn } from "../resources/model-example.ts";
import { testKey } from "../trust/keys.ts";
import { faults, hostKey, parse } from "./site-text.ts";

const content = Buffer.alloc(300_000, "model");
const digest = `sha256:${sha256Hex(content)}`;
const image = `registry.example/edge/llama@sha256:${"a".repeat(64)}`;

let folder: string;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-inference-"));
  mkdirSync(join(folder, "models"));
  writeFileSync(join(folder, "models/m.dsse.json"), await statementOn(content));
  writeFileSync(join(folder, "models/other.dsse.json"), await statementOn(Buffer.from("another")));
  for (const purpose of ["policy", "recovery"] as const)
    writeFileSync(join(folder, `${purpose}.pub.pem`), testKey(purpose).publicKeyPem);
});
afterEach(() => rmSync(folder, { recursive: true }));

const file = () => join(folder, "plant.yaml");

type Lines = Readonly<Record<string, string | undefined>>;

/** Lines of a block in YAML, one a key; `undefined` leaves one out. */
const yaml = (lines: Lines, spaces: number): string =>
  Object.entries(lines)
    .flatMap(([key, value]) => (value === undefined ? [] : [`${" ".repeat(spaces)}${key}: ${value}\n`]))
    .join("");

const pem = (key: { readonly pem: string }): string => JSON.stringify(key.pem);

/** A node that serves; `inference` is line 9, what is said in it follows from line 10 on, the image first, the model last. */
function site(changes: Lines = {}, model: Lines = {}, more: { volumes?: string; tpm?: string } = {}) {
  const { volumes = "models: { device: /dev/disk/by-id/nvme-a, mountPoint: /srv/models }", tpm } = more;
  const given = { image, memoryMaxMiB: "1024", nodeMemoryMiB: "2048", ...changes };
  const served = {
    digest,
    statement: "models/m.dsse.json",
    keys: `{ site: ${pem(siteKey)} }`,
    ...model,
  };
  return `site: plant
trust: { policyKey: policy.pub.pem, recoveryKey: recovery.pub.pem }
nodes:
  - name: pi-1
    address: 192.0.2.1
    hostKey: ${hostKey}
    firewall: { management: [192.0.2.0/24] }
    volumes: { ${volumes} }
    inference:
${yaml(given, 6)}      model:
${yaml(served, 8)}${yaml({ tpm }, 4)}`;
}

/** A TPM that is pinned. */
const tpm = `{ endorsementKeySha256: ${"e1".repeat(32)} }`;

/** The faults, without the name of the file. */
const told = (text: string): string[] =>
  faults(text, file()).map((line) => line.replace(`${file()}:`, "").replaceAll(folder, "FOLDER"));

describe("the `inference` block of a node", () => {
  test("stands for four, of what is said once", () => {
    const [node] = parse(
      site(
        { archive: "images/llama.tar", port: "8080", additionalSyscalls: "[getpriority]" },
        { file: "models/m.gguf" },
      ),
      file(),
    ).nodes;
    expect(node?.blocks).toMatchObject({
      model: {
        name: "inference",
        digest,
        mountPoint: "/srv/models",
        directory: "/srv/models/models",
        keys: { site: siteKey.pem },
        keep: 1,
      },
      seccompProfile: { name: "inference", variant: "llama-server", additionalSyscalls: ["getpriority"] },
      appArmorProfile: {
        name: "inference",
        modelDirectory: "/srv/models/models",
        storage: "/srv/models/containers/inference",
      },
      inference: {
        name: "inference",
        image,
        model: digest,
        modelDirectory: "/srv/models/models",
        storage: "/srv/models/containers/inference",
        port: 8080,
        threads: 3,
        confinement: { seccomp: "profile", network: "none", memoryLock: true },
      },
    });
  });

  test("has the password of its registry from Pulumi configuration, and no secret before that", () => {
    const spec = parse(
      site({ registryAuth: "{ username: puller, password: { config: pull } }" }, {}, { tpm }),
      file(),
    );
    expect(spec.nodes[0]?.blocks.inference).not.toHaveProperty("registryAuth");
    const asked: string[] = [];
    const [node] = siteArgs(spec, (key) => {
      asked.push(key);
      return "from the configuration" as never;
    }).nodes;
    expect(asked).toEqual(["pull"]);
    expect(node?.inference).toMatchObject({
      image,
      registryAuth: { username: "puller", password: "from the configuration" },
    });
    expect(
      siteArgs(parse(site(), file()), () => expect.fail("nothing is secret")).nodes[0]?.inference,
    ).not.toHaveProperty("registryAuth");
  });

  test("has its statement read and its paths resolved, all from the folder of the site file on", async () => {
    const [node] = parse(
      site({ archive: "images/llama.tar" }, { file: "../m.gguf", statement: "models/m.dsse.json" }),
      file(),
    ).nodes;
    expect(node?.blocks.model?.statement).toMatch(/"payloadType": ?"application\/vnd\.in-toto\+json"/);
    expect(node?.blocks.model?.file).toBe(join(folder, "../m.gguf"));
    expect(node?.blocks.inference?.archive).toBe(join(folder, "images/llama.tar"));
    const elsewhere = join(folder, "models/elsewhere.dsse.json");
    writeFileSync(elsewhere, await statementOn(content));
    expect(told(site({}, { statement: elsewhere }))).toEqual([]);
  });

  test("has the files of its model by its digest where they are named so: going back is one change", async () => {
    const former = Buffer.from("another");
    const files = { statement: "models/{sha256}.dsse.json", file: "models/{sha256}.gguf" };
    for (const each of [content, former])
      writeFileSync(join(folder, `models/${sha256Hex(each)}.dsse.json`), await statementOn(each));
    for (const each of [content, former]) {
      const given = site({}, { ...files, digest: `sha256:${sha256Hex(each)}` });
      expect(parse(given, file()).nodes[0]?.blocks.model).toMatchObject({
        digest: `sha256:${sha256Hex(each)}`,
        statement: await statementOn(each),
        file: join(folder, `models/${sha256Hex(each)}.gguf`),
      });
    }
    // What it is named is no proof: the statement has to be of that digest.
    writeFileSync(join(folder, `models/${sha256Hex(former)}.dsse.json`), await statementOn(content));
    expect(told(site({}, { ...files, digest: `sha256:${sha256Hex(former)}` }))).toEqual([
      expect.stringMatching(/^15:9: .*\.statement: it is for babble-1m with sha256:/),
    ]);
  });

  test("names the service, its variant and the volume for all four", () => {
    const [node] = parse(
      site(
        { name: "chat", variant: "ollama", volume: "data" },
        {},
        {
          volumes: "data: { device: /dev/disk/by-id/nvme-a, mountPoint: /data }",
        },
      ),
      file(),
    ).nodes;
    const { model, seccompProfile, appArmorProfile, inference } = node?.blocks ?? {};
    for (const block of [model, seccompProfile, appArmorProfile, inference])
      expect(block).toHaveProperty("name", "chat");
    for (const block of [seccompProfile, appArmorProfile, inference])
      expect(block).toHaveProperty("variant", "ollama");
    expect(model?.directory).toBe("/data/models");
    expect(inference?.storage).toBe("/data/containers/chat");
  });

  test("merges with `defaults`, key by key; null takes it away", () => {
    const shared = site().replace(/nodes:\n[^]*/, "");
    const block = site({ threads: "2" }).slice(site().indexOf("    inference:"));
    const connection = (name: string, more: string): string =>
      `  - { name: ${name}, address: 192.0.2.${name.slice(-1)}, hostKey: "${hostKey}", ${more} }\n`;
    const text = `${shared}defaults:
  firewall: { management: [192.0.2.0/24] }
  volumes: { models: { device: /dev/disk/by-id/nvme-a, mountPoint: /srv/models } }
${block.replaceAll(/^ {2}/gm, "")}nodes:
${connection("pi-1", "inference: { port: 8081, model: { keep: 3 } }")}${connection("pi-2", "inference: null")}${connection("pi-3", "user: pi")}`;
    const [first, second, third] = parse(text, file()).nodes;
    expect(first?.blocks.inference).toMatchObject({ port: 8081, threads: 2 });
    expect(first?.blocks.model).toMatchObject({ keep: 3, digest });
    for (const block of ["model", "seccompProfile", "appArmorProfile", "inference"])
      expect(second?.blocks).not.toHaveProperty(block);
    expect(third?.blocks.inference).not.toHaveProperty("port");
    // A fault in `defaults` is one fault, at its place there.
    const wrong = told(text.replace("threads: 2", "threads: 200"));
    expect(wrong).toEqual([
      expect.stringMatching(/^10:5: defaults\.inference\.threads: must be <= 64, got 200/),
    ]);
  });
});

describe("its faults are told once each, at the line and column where they are said", () => {
  test.each<[string, () => string, readonly RegExp[]]>([
    [
      "a word in its place",
      () => site().replace(/ inference:\n[^]*/, " inference: true\n"),
      [/^9:5: nodes\[0\]\.inference: expected an object, got true/],
    ],
    [
      "no model",
      () => site().replace(/ {6}model:\n[^]*/, ""),
      [
        /^9:5: nodes\[0\]\.inference\.model: missing; say which model is served: its `digest`, the `statement`/,
      ],
    ],
    [
      "a model that is a word",
      () => site().replace(/model:\n[^]*/, `model: ${digest}\n`),
      [/^13:7: nodes\[0\]\.inference\.model: expected an object, got the string/],
    ],
    [
      "nothing in it",
      () => site().replace(/inference:\n[^]*/, "inference: {}\n"),
      [/^9:5: .*inference\.model: missing/],
    ],
    [
      "an unknown field",
      () => site({ imag: image }),
      [/^13:7: nodes\[0\]\.inference\.imag: unknown field; did you mean 'image'\? \(known: name, image, /],
    ],
    [
      "an unknown field of the model",
      () => site({}, { mountPoint: "/srv/models" }),
      [/^17:9: nodes\[0\]\.inference\.model\.mountPoint: unknown field/],
    ],
    [
      "an unknown field of the confinement",
      () => site({ confinement: "{ sekkomp: profile }" }),
      [/^13:22: nodes\[0\]\.inference\.confinement\.sekkomp: unknown field; did you mean 'seccomp'\?/],
    ],
    [
      "no image",
      () => site({ image: undefined }),
      [/^9:5: nodes\[0\]\.inference\.image: required, but not given/],
    ],
    [
      "an image by a tag",
      () => site({ image: "registry.example/edge/llama:latest" }),
      [/^10:7: nodes\[0\]\.inference\.image: expected HOST\/REPOSITORY@sha256:DIGEST, .* without a digest/],
    ],
    [
      "a digest that is none, which two kinds judge",
      () => site({}, { digest: "sha256:abc" }),
      [/^14:9: nodes\[0\]\.inference\.model\.digest: expected a string that matches/],
    ],
    [
      "no digest, which two kinds need",
      () => site({}, { digest: undefined }),
      [/^13:7: nodes\[0\]\.inference\.model\.digest: required, but not given/],
    ],
    [
      "a name that is none, which four kinds judge",
      () => site({ name: "Chat/1" }),
      [/^13:7: nodes\[0\]\.inference\.name: expected a string that matches/],
    ],
    [
      "a name that is a number",
      () => site({ name: "7" }),
      [/^13:7: nodes\[0\]\.inference\.name: expected a string, got 7/],
    ],
    [
      "a name that another unit has",
      () => site({ name: "firewall" }),
      [/^13:7: nodes\[0\]\.inference\.name: edgeseal-firewall is a unit of edgeseal's own already/],
    ],
    [
      "a variant that there is not, which three kinds judge",
      () => site({ variant: "vllm" }),
      [/^13:7: nodes\[0\]\.inference\.variant: expected one of "llama-server", "ollama", "hailo"/],
    ],
    [
      "a system call that there is not",
      () => site({ additionalSyscalls: "[read, ptrase]" }),
      [
        /^13:34: nodes\[0\]\.inference\.additionalSyscalls\[1\]: there is no system call "ptrase"; did you mean "ptrace"\?/,
      ],
    ],
    [
      "no statement",
      () => site({}, { statement: undefined }),
      [/^13:7: nodes\[0\]\.inference\.model\.statement: required, but not given/],
    ],
    [
      "a statement that is not there",
      () => site({}, { statement: "models/none.dsse.json" }),
      [
        /^15:9: nodes\[0\]\.inference\.model\.statement: models\/none\.dsse\.json can't be read: ENOENT.*; `edgeseal model sign` writes it$/,
      ],
    ],
    [
      "a digest of which there is no statement",
      () => site({}, { statement: "models/{sha256}.dsse.json" }),
      [/^15:9: .*\.statement: models\/[0-9a-f]{64}\.dsse\.json can't be read: ENOENT/],
    ],
    [
      "a statement on another model",
      () => site({}, { statement: "models/other.dsse.json" }),
      [
        /^15:9: nodes\[0\]\.inference\.model\.statement: it is for babble-1m with sha256:[0-9a-f]{64}, and `digest` is sha256:/,
      ],
    ],
    [
      "a statement that no key has signed",
      () => site({}, { keys: `{ site: ${pem(otherKey)} }` }),
      [/^15:9: nodes\[0\]\.inference\.model\.statement: /],
    ],
    [
      "a file that is no statement",
      () => site({}, { statement: "policy.pub.pem" }),
      [/^15:9: nodes\[0\]\.inference\.model\.statement: /],
    ],
    [
      "a key that is none",
      () => site({}, { keys: "{ site: abc }" }),
      [/^16:17: nodes\[0\]\.inference\.model\.keys\.site: /],
    ],
    [
      "a volume that the node does not have",
      () => site({ volume: "data" }),
      [/^13:7: nodes\[0\]\.inference\.volume: the node has no volume "data" with a mount point/],
    ],
    [
      "no volume of the name that it has by default",
      () => site({}, {}, { volumes: "logs: { device: /dev/disk/by-id/nvme-a, mountPoint: /srv/logs }" }),
      [
        /^9:5: nodes\[0\]\.inference\.volume: the node has no volume "models" with a mount point.*give the node `volumes\.models`/,
      ],
    ],
    [
      "a mount point that three kinds refuse, which are not the volume's own",
      () => site({}, {}, { volumes: "models: { device: /dev/disk/by-id/nvme-a, mountPoint: /home/models }" }),
      [/^8:58: nodes\[0\]\.volumes\.models\.mountPoint: /],
    ],
    [
      "a mount point that is no path",
      () => site({}, {}, { volumes: "models: { device: /dev/disk/by-id/nvme-a, mountPoint: srv }" }),
      [/^8:58: nodes\[0\]\.volumes\.models\.mountPoint: /],
    ],
    [
      "no memory of the node",
      () => site({ nodeMemoryMiB: undefined }),
      [
        /^9:5: nodes\[0\]\.inference\.nodeMemoryMiB: missing; say how much memory the node has, in MiB, e\.g\. 8192/,
      ],
    ],
    [
      "no limit of its memory",
      () => site({ memoryMaxMiB: undefined }),
      [/^9:5: nodes\[0\]\.inference\.memoryMaxMiB: required, but not given/],
    ],
    [
      "a model that does not fit its limit, and a limit that does not fit the node",
      () => site({ memoryMaxMiB: "600", nodeMemoryMiB: "900" }),
      [
        /^11:7: nodes\[0\]\.inference\.memoryMaxMiB: the service may use 600 MiB and needs model 1 \+ context 512 \(4096 tokens\) \+ server 160 \+ \/tmp 16 = 689 MiB/,
        /^12:7: nodes\[0\]\.inference\.nodeMemoryMiB: the node has 900 MiB and no swap: the service may use 600, the system keeps 384; lower/,
      ],
    ],
    [
      "a password in plain text, which is not shown",
      () => site({ registryAuth: "{ username: puller, password: canary }" }, {}, { tpm }),
      [
        /^13:41: nodes\[0\]\.inference\.registryAuth\.password: expected an object, got a secret value .*; store it with `pulumi config set --secret registryPassword` and write `password: \{ config: registryPassword \}`$/,
      ],
    ],
    [
      "a name that would end at its colon",
      () =>
        site({ registryAuth: "{ username: 'a:b', password: { config: registryPassword } }" }, {}, { tpm }),
      [/^13:23: nodes\[0\]\.inference\.registryAuth\.username: /],
    ],
    [
      "a login beside an archive",
      () => site({ archive: "a.tar", registryAuth: "{ username: a, password: { config: b } }" }),
      [/^14:7: nodes\[0\]\.inference\.registryAuth: with an `archive` nothing is pulled/],
    ],
    [
      "a login for a node whose TPM is not pinned",
      () => site({ registryAuth: "{ username: a, password: { config: b } }" }),
      [/^13:7: nodes\[0\]\.inference\.registryAuth: the node's TPM is not pinned, .*; pin it/],
    ],
    [
      "the same, where it is owned and not pinned",
      () => site({ registryAuth: "{ username: a, password: { config: b } }" }, {}, { tpm: "{}" }),
      [/^13:7: nodes\[0\]\.inference\.registryAuth: the node's TPM is not pinned/],
    ],
    [
      "memory that is no number, which the schema tells of",
      () => site({ memoryMaxMiB: "much" }),
      [/^11:7: nodes\[0\]\.inference\.memoryMaxMiB: expected an integer, got the string "much"/],
    ],
    [
      "several at once",
      () => site({ threads: "0", volume: "data", nodeMemoryMiB: undefined }, { statement: "none" }),
      [
        /inference\.nodeMemoryMiB: missing/,
        /inference\.threads: /,
        /inference\.volume: /,
        /inference\.model\.statement: /,
      ],
    ],
  ])("%s", (_, text, expected) => {
    expect(told(text())).toEqual(expected.map((each) => expect.stringMatching(each) as string));
  });

  test("what fits by a context that is known to take less is none", () => {
    expect(told(site({ memoryMaxMiB: "600" }, { contextBytesPerToken: "18432" }))).toEqual([]);
    expect(told(site({ memoryMaxMiB: "600", contextTokens: "2048" }))).toEqual([]);
  });

  test("the node's scratch space takes of its memory, at the sizes that it has by itself and at those that it is given", () => {
    const withScratch = (scratch: string, nodeMemoryMiB: number) =>
      told(
        site({ nodeMemoryMiB: String(nodeMemoryMiB) }).replace(
          "    inference:",
          `    scratch: ${scratch}\n    inference:`,
        ),
      );
    // 1024 for the service, 384 for the system.
    expect(withScratch("{}", 1408 + 768)).toEqual([]);
    expect(withScratch("{}", 1408 + 767)).toEqual([
      expect.stringMatching(
        /^13:7: nodes\[0\]\.inference\.nodeMemoryMiB: .* its scratch space in memory \(`scratch`\) up to 768; lower `memoryMaxMiB` to 1023/,
      ),
    ]);
    expect(withScratch("{ tmpMiB: 64 }", 1408 + 576)).toEqual([]);
    expect(withScratch("{ tmpMiB: 64 }", 1408 + 575)).toHaveLength(1);
    // What is no number the kind tells of, alone.
    expect(withScratch("{ tmpMiB: much }", 1408)).toEqual([
      expect.stringMatching(/scratch\.tmpMiB: expected an integer/),
    ]);
  });

  test("an archive needs a rule of the image policy for the folder that it is unpacked to", () => {
    const signed = (allow: string): string[] =>
      told(
        site({ archive: "images/llama.tar" }).replace(
          "    inference:",
          `    imagePolicy: { keys: { site: ${pem(siteKey)} }, allow: [${allow}] }\n    inference:`,
        ),
      );
    const rule = (repository: string, folder?: string): string =>
      `{ image: ${repository}, ${folder === undefined ? "" : `folder: ${folder}, `}signedBy: [site] }`;
    const llama = "registry.example/edge/llama";
    for (const fitting of ["/var/lib/edgeseal/images", "/var/lib/edgeseal"])
      expect(signed(rule(llama, fitting))).toEqual([]);
    for (const other of [
      rule(llama),
      rule(llama, "/srv/images"),
      rule(llama, "/var/lib/edgeseal/image"),
      rule("registry.example/edge/other", "/var/lib/edgeseal/images"),
    ])
      expect(signed(other)).toEqual([
        expect.stringMatching(
          /^14:7: nodes\[0\]\.inference\.archive: the image policy takes nothing that is for registry\.example\/edge\/llama from \/var\/lib\/edgeseal\/images, .*folder: \/var\/lib\/edgeseal\/images/,
        ),
      ]);
  });

  test("what the checklist asks for besides is the gate's", () => {
    expect(told(site({ confinement: "{ seccomp: unconfined, network: host }" }))).toEqual([]);
  });
});
