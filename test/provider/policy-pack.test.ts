import { mkdtempSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PulumiWorkspace, readSite, said, type RunResult } from "../../cli/pulumi.ts";
import { checklist } from "../../policies/checklist.ts";
import { blockTypes, type BlockName } from "../../policies/node.ts";
import { sha256Hex } from "../../provider/trust/digest.ts";
import { goodInputs, resourcesOf, waiver } from "../unit/policies/cases.ts";
import { siteKey, statementOn } from "../unit/resources/model-example.ts";
import { testKey } from "../unit/trust/keys.ts";

/*
 * The gate and the policy pack under the real engine. No device is reached: a preview of nodes that are new looks at none.
 */

const checkout = fileURLToPath(new URL("../../", import.meta.url));
let folder: string;
let pulumi: PulumiWorkspace;
let good: Record<string, unknown> & { readonly nodes: readonly [Record<string, unknown>] };

beforeAll(async () => {
  // The language host of a Pulumi distribution comes first, where there is one.
  process.env.PATH = `${process.env.PATH ?? ""}${delimiter}${join(checkout, "tools/language-host")}`;
  folder = mkdtempSync(join(tmpdir(), "edgeseal-pack-"));
  pulumi = await PulumiWorkspace.create(checkout, folder);
  const site = (await readSite(join(checkout, "stacks/demo.yaml"))) as typeof good & {
    readonly waivers: readonly object[];
  };
  good = { ...site, waivers: site.waivers.map((each) => ({ ...each, expires: "2999-12-31" })) };
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** What the pack reported, as `CONTROL on NODE, ...`, without what the program said itself. */
const reported = (result: RunResult): string[] =>
  [...said(result).matchAll(/^ +(\S+) \(checklist point \d\) on ([^:]+): .*; mend: ./gm)].map(
    ([, control = "", nodes = ""]) => `${control} on ${nodes}`,
  );

describe("a site that fails", () => {
  beforeAll(async () => {
    const [node] = good.nodes;
    const { firewall: _, ...bare } = node;
    await pulumi.site("bad", {
      ...good,
      nodes: [
        { ...node, swap: { mode: "keep" }, firewall: { ...(node.firewall as object), egress: "open" } },
        { ...bare, name: "pi-second", address: "192.0.2.7" },
      ],
    });
  });

  test("is refused by a plain up, with one message that names every control with its mend, and no node in the state", async () => {
    const result = await pulumi.run(["up", "--yes", "--skip-preview", "--stack", "bad"]);
    expect(result.code).not.toBe(0);
    const text = said(result);
    expect(text).toContain(
      'error: site "demo" does not meet the deployment checklist (5 findings); none of its resources was registered',
    );
    const lines = text.split("\n").map((line) => line.trim());
    for (const [line, control] of [
      ['3.swap-off (checklist point 3) on pi-demo: violation: swap.mode is "keep"', "3.swap-off"],
      [
        '5.egress-allowlist (checklist point 5) on pi-demo: violation: firewall.egress is "open"',
        "5.egress-allowlist",
      ],
      [
        "5.default-deny (checklist point 5) on pi-second: violation: the node has no `firewall` block (edgeseal:network:Firewall)",
        "5.default-deny",
      ],
    ] as const) {
      expect(lines).toContain(line);
      expect(lines[lines.indexOf(line) + 1]).toBe(
        `mend: ${checklist.find(({ id }) => id === control)?.mend}`,
      );
    }
    expect(text).not.toMatch(/^ +at /m);
    const types = [...(await pulumi.export("bad")).matchAll(/"type": "([^"]+:[^"]+)"/g)].map(
      ([, type]) => type,
    );
    expect(types).toEqual(["pulumi:pulumi:Stack", "edgeseal:index:Site"]);
  });

  test("is refused by a preview with the pack: the pack itself names every control, too", async () => {
    const result = await pulumi.run(["preview", "--policy-pack", "policies", "--stack", "bad"]);
    expect(result.code).not.toBe(0);
    expect(said(result)).toContain("edgeseal-checklist@v0.1.0");
    expect(reported(result).sort()).toEqual([
      "1.verified-boot on pi-second",
      "3.swap-off on pi-demo",
      "5.default-deny on pi-second",
      "5.egress-allowlist on pi-demo",
      "5.egress-allowlist on pi-second",
    ]);
  });
});

test("a site that passes is let through by both", async () => {
  await pulumi.site("good", good);
  const result = await pulumi.run(["preview", "--policy-pack", "policies", "--stack", "good"]);
  expect(result.code, said(result)).toBe(0);
  expect(reported(result)).toEqual([]);
});

test("a site that serves a model is let through by both, with waivers for nothing but what no resource serves", async () => {
  const content = Buffer.alloc(300_000, "model");
  const digest = `sha256:${sha256Hex(content)}`;
  const statement = join(folder, "model.dsse.json");
  writeFileSync(statement, await statementOn(content));
  for (const purpose of ["policy", "recovery"] as const)
    writeFileSync(join(folder, `${purpose}.pub.pem`), testKey(purpose).publicKeyPem);
  const [node] = good.nodes;
  const volume = (name: string) => ({ device: `/dev/disk/by-id/nvme-${name}`, mountPoint: `/srv/${name}` });
  const unserved = checklist.filter(({ block }) => block === undefined || block === "boot");
  await pulumi.site("serving", {
    site: "serving",
    trust: { policyKey: join(folder, "policy.pub.pem"), recoveryKey: join(folder, "recovery.pub.pem") },
    nodes: [
      {
        ...node,
        firmware: {},
        measuredBoot: {},
        tpm: {},
        volumes: { models: volume("models"), logs: volume("logs") },
        imagePolicy: {
          keys: { site: siteKey.pem },
          allow: [{ image: "registry.example/edge/llama", signedBy: ["site"] }],
        },
        scratch: { journal: { directory: "/srv/logs/journal" } },
        inference: {
          image: `registry.example/edge/llama@sha256:${"a".repeat(64)}`,
          model: { digest, statement, keys: { site: siteKey.pem } },
          memoryMaxMiB: 1024,
          nodeMemoryMiB: 4096,
        },
      },
    ],
    waivers: unserved.map(({ id }) => waiver({ control: id, node: "*", expires: "2999-12-31" })),
  });
  const result = await pulumi.run(["preview", "--policy-pack", "policies", "--stack", "serving"]);
  expect(result.code, said(result)).toBe(0);
  expect(reported(result)).toEqual([]);
  expect(said(result)).toContain("edgeseal:inference:InferenceContainer");
});

describe("a program that goes round the gate", () => {
  const program = (body: string): void => {
    const file = join(folder, "project/index.ts");
    unlinkSync(file);
    writeFileSync(
      file,
      `import { EdgeNode } from "${checkout}components/edge-node.ts";
import { Swap, VerifiedBoot } from "${checkout}components/resources.ts";
const connection = { node: "pi-1", address: "192.0.2.1", hostKey: "SHA256:${"A".repeat(43)}", privateKey: "canary-key" };
const args = { connection, firewall: { management: ["192.0.2.0/24"] }, waivers: ${JSON.stringify(
        checklist
          .filter(
            ({ block }) => block === undefined || !["swap", "coreDumps", "firewall", "boot"].includes(block),
          )
          .map(({ id }) => waiver({ control: id, expires: "2999-12-31" })),
      )} };
${body}
`,
    );
  };
  beforeAll(async () => {
    const made = await pulumi.run(["stack", "init", "program"]);
    expect(made.code, said(made)).toBe(0);
  });
  afterAll(() => {
    unlinkSync(join(folder, "project/index.ts"));
    symlinkSync(join(checkout, "index.ts"), join(folder, "project/index.ts"));
  });
  const preview = () => pulumi.run(["preview", "--policy-pack", "policies", "--stack", "program"]);

  test("by an EdgeNode alone: passes when the node does", async () => {
    program(`new EdgeNode("pi-1", args);`);
    const result = await preview();
    expect(result.code, said(result)).toBe(0);
    expect(said(result)).not.toContain("canary");
  });

  test("by a second EdgeNode for the same device: both are named", async () => {
    program(`new EdgeNode("pi-1", args);
new EdgeNode("pi-2", { ...args, connection: { ...connection, port: 22 } });`);
    const result = await preview();
    expect(result.code).not.toBe(0);
    expect(said(result)).toMatch(
      /(pi-1 and pi-2|pi-2 and pi-1) are both at 192\.0\.2\.1:22: two nodes are two devices/,
    );
    expect(reported(result)).toEqual([]);
  });

  test("by a resource of its own: it is judged by its own inputs", async () => {
    program(`const node = new EdgeNode("pi-1", args);
new Swap("second", { connection, mode: "keep" }, { parent: node });`);
    const result = await preview();
    expect(result.code).not.toBe(0);
    expect(reported(result)).toEqual(["3.swap-off on pi-1"]);
  });

  test("by a value that the preview can't know: that is a failure, not a note", async () => {
    program(`const node = new EdgeNode("pi-1", args);
new Swap("second", { connection, mode: node.boot.model.apply(() => "off" as const) }, { parent: node });`);
    const result = await preview();
    expect(result.code).not.toBe(0);
    expect(said(result)).toContain(
      "3.swap-off (checklist point 3) on pi-1: unknown: swap.mode is not known at this time",
    );
    expect(said(result)).not.toContain("can't run policy");
  });

  test("by resources without any component: what the node lacks is found in the stack as a whole", async () => {
    program(`new VerifiedBoot("boot", { connection, require: "signed-boot-locked" });`);
    const result = await preview();
    expect(result.code).not.toBe(0);
    expect(reported(result)).toEqual(
      expect.arrayContaining([
        "3.swap-off on pi-1",
        "5.default-deny on pi-1",
        "5.egress-allowlist on pi-1",
        "1.tpm on pi-1",
      ]),
    );
    expect(reported(result)).not.toContain("1.verified-boot on pi-1");
  });
});

describe("a recorded state, without a program and without a device", () => {
  const stack = "urn:pulumi:s::edgeseal::pulumi:pulumi:Stack::edgeseal-s";
  const provider = "urn:pulumi:s::edgeseal::pulumi:providers:edgeseal::default";

  function exported(states: Partial<Record<BlockName, object>>): string {
    const waivers = checklist
      .filter(({ block }) => block === undefined)
      .map(({ id }) => waiver({ control: id, node: "*", expires: "2999-12-31" }));
    const site = { nodes: [{ name: "pi-1", blocks: goodInputs }], waivers };
    const devices = (Object.keys(blockTypes) as BlockName[]).flatMap((block) =>
      resourcesOf(block).map(({ inputs, outputs }, index) => ({
        urn: `urn:pulumi:s::edgeseal::${blockTypes[block]}::pi-1-${block}-${index}`,
        custom: true,
        id: `pi-1/${block}/${index}`,
        type: blockTypes[block],
        inputs: { connection: { node: "pi-1" }, ...inputs },
        outputs: { ...outputs, ...states[block] },
        parent: stack,
        provider: `${provider}::0d0e1c4a-0000-4000-8000-000000000000`,
      })),
    );
    const resources = [
      { urn: stack, custom: false, type: "pulumi:pulumi:Stack" },
      {
        urn: provider,
        custom: true,
        id: "0d0e1c4a-0000-4000-8000-000000000000",
        type: "pulumi:providers:edgeseal",
      },
      {
        urn: "urn:pulumi:s::edgeseal::edgeseal:index:Site::plant",
        custom: false,
        type: "edgeseal:index:Site",
        inputs: site,
        outputs: {},
        parent: stack,
      },
      ...devices,
    ];
    const file = join(folder, "export.json");
    writeFileSync(
      file,
      JSON.stringify({
        version: 3,
        deployment: { manifest: { time: "2027-01-01T00:00:00Z", magic: "", version: "" }, resources },
      }),
    );
    return file;
  }
  const analyze = (file: string) =>
    pulumi.run(["policy", "analyze", "--policy-pack", "policies", "--file", file]);

  test("passes when what was read back is as it must be", async () => {
    const result = await analyze(exported({}));
    expect(result.code, said(result)).toBe(0);
  });

  test("fails on what was read back, whatever had been asked for", async () => {
    const result = await analyze(exported({ swap: { activeAreas: ["/swapfile"] } }));
    expect(result.code).not.toBe(0);
    expect(reported(result)).toEqual(["3.swap-off on pi-1"]);
    expect(said(result)).toContain("violation: /swapfile in use");
  });
});

test("the pack is loaded as the engine loads it, without a build", () => {
  expect(readFileSync(join(checkout, "policies/index.cjs"), "utf8")).toContain('import("./pack.ts")');
});
