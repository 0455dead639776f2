import { describe, expect, test } from "vitest";
import { checklist } from "../../../policies/checklist.ts";
import {
  blockNames,
  blockTypes,
  unknownValue,
  type BlockName,
  type JudgedNode,
} from "../../../policies/node.ts";
import { NotAState, recordedResources } from "../../../policies/recorded-state.ts";
import { StackJudge } from "../../../policies/stack-judge.ts";
import {
  edgeNodeType,
  evaluateObserved,
  nodesOf,
  siteType,
  waiversOf,
  type StackResource,
} from "../../../policies/stack.ts";
import { goodInputs, resourcesOf, waiver } from "./cases.ts";

const now = new Date("2027-01-15T12:00:00Z");
const uncovered = checklist.filter(({ block }) => block === undefined);
const excused = (node: string) => uncovered.map(({ id }) => waiver({ control: id, node }));

function component(type: string, name: string, inputs: object, parent?: string): StackResource {
  return {
    urn: `urn:${type}::${name}`,
    type,
    parent,
    inputs: inputs as Record<string, unknown>,
    outputs: undefined,
  };
}

const siteOf = (nodes: object, waivers: object[] = []) => component(siteType, "site", { nodes, waivers });

/** A resource of a block; of one with several, that of the name. */
function device(
  block: BlockName,
  node: string,
  changes: Partial<Record<"inputs" | "outputs", object>> = {},
  copy = "",
) {
  return {
    urn: `urn:${blockTypes[block]}::${node}-${block}${copy}`,
    type: blockTypes[block],
    parent: `urn:${edgeNodeType}::${node}`,
    inputs: {
      ...resourcesOf(block)[0]?.inputs,
      connection: { node, address: "192.0.2.1" },
      ...changes.inputs,
    },
    outputs: { ...resourcesOf(block)[0]?.outputs, ...changes.outputs },
  } as StackResource;
}

const devices = (node: string) =>
  blockNames.flatMap((block) =>
    resourcesOf(block).map((resource, index) =>
      device(block, node, resource, index === 0 ? "" : String(index)),
    ),
  );

describe("nodes of a stack", () => {
  test("a node that is declared and has no resource is there, with nothing on it", () => {
    expect(nodesOf([siteOf([{ name: "pi-1", blocks: goodInputs }])], "observed")).toEqual([
      { name: "pi-1", basis: "observed", blocks: {}, asked: goodInputs },
    ]);
  });

  test("what is asked of a node is what its component says, else its resource", () => {
    const pinned = (digest: string) => ({ ...goodInputs.tpm, endorsementKeySha256: digest.repeat(64) });
    const resource = device("tpm", "pi-1", { inputs: pinned("b") });
    const asked = (resources: readonly StackResource[]) => nodesOf(resources, "observed")[0]?.asked?.tpm;
    expect(asked([resource])).toMatchObject(pinned("b"));
    expect(asked([siteOf([{ name: "pi-1", blocks: {} }]), resource])).toMatchObject(pinned("b"));
    expect(asked([siteOf([{ name: "pi-1", blocks: { tpm: pinned("a") } }]), resource])).toEqual(pinned("a"));
    expect(asked([{ ...resource, inputs: { connection: { node: "pi-1" } } }])).not.toHaveProperty(
      "endorsementKeySha256",
    );
    expect(nodesOf([resource], "declared")[0]).not.toHaveProperty("asked");
  });

  test("a node that only resources know of is there, too", () => {
    expect(nodesOf([device("swap", "pi-9")], "declared").map(({ name }) => name)).toEqual(["pi-9"]);
  });

  test("a second resource of a kind does not hide behind the first", () => {
    const nodes = nodesOf(
      [device("swap", "pi-1"), device("swap", "pi-1", { inputs: { mode: "keep" } }, "2")],
      "declared",
    );
    expect(nodes.map(({ blocks }) => (blocks.swap as { mode: string }).mode)).toEqual(["off", "keep"]);
  });

  describe("of two containers each is judged with its own profiles", () => {
    const called = (name: string, block: BlockName, outputs: object = {}) =>
      device(block, "pi-1", { inputs: { name }, outputs }, `-${name}`);
    const pairs = (resources: readonly StackResource[]) =>
      nodesOf(resources, "declared").map(({ blocks }) =>
        (["inference", "seccompProfile", "appArmorProfile"] as const).map((block) => {
          const found = blocks[block];
          return typeof found === "object" ? (found as { name: string }).name : found;
        }),
      );
    const a = called("a", "inference");
    const b = called("b", "inference");

    test("in whatever order they come", () => {
      const profiles = ["b", "a"].flatMap((name) => [
        called(name, "seccompProfile"),
        called(name, "appArmorProfile"),
      ]);
      expect(pairs([a, ...profiles, b])).toEqual([
        ["a", "a", "a"],
        ["b", "b", "b"],
      ]);
    });

    test("another service's is none", () => {
      const profiles = [called("a", "seccompProfile"), called("a", "appArmorProfile")];
      expect(pairs([a, b, ...profiles])).toEqual([
        ["a", "a", "a"],
        ["b", undefined, undefined],
      ]);
      const nodes = nodesOf([a, b, ...profiles], "observed");
      for (const [id, type] of [
        ["4.seccomp", "SeccompProfile"],
        ["4.apparmor", "AppArmorProfile"],
      ])
        expect(checklist.find((each) => each.id === id)?.evaluate(nodes[1] as JudgedNode)).toEqual({
          outcome: "violation",
          evidence: `the state has no edgeseal:security:${type} beside the container`,
        });
    });

    test("of two for one service it is not known which is in force", () => {
      const twice = [
        called("a", "seccompProfile"),
        device("seccompProfile", "pi-1", { inputs: { name: "a" } }),
      ];
      expect(pairs([a, ...twice])).toEqual([
        ["a", unknownValue, undefined],
        ["a", unknownValue, undefined],
      ]);
    });

    test("a component's container says nothing of the limits of another", () => {
      const site = siteOf([
        { name: "pi-1", blocks: { ...goodInputs, inference: { ...goodInputs.inference, name: "a" } } },
      ]);
      const wider = device("inference", "pi-1", { inputs: { name: "b", memoryMaxMiB: 2048 } }, "-b");
      const asked = nodesOf([site, a, wider], "observed").map((node) => node.asked?.inference);
      expect(asked).toMatchObject([
        { name: "a", memoryMaxMiB: 1024 },
        { name: "b", memoryMaxMiB: 2048 },
      ]);
    });
  });

  test("a node list that is not known keeps the gate shut", () => {
    const [node] = nodesOf([siteOf(unknownValue as unknown as object)], "declared");
    expect(node?.name).toBe("(unknown)");
  });

  test("waivers reach the nodes of their own component only, and incomplete ones nobody", () => {
    const waivers = waiversOf([
      siteOf([{ name: "pi-1", blocks: {} }], [waiver({ node: "*" }), { ...waiver(), reason: undefined }]),
      component(edgeNodeType, "pi-2", {
        node: { name: "pi-2", blocks: {} },
        waivers: [waiver({ node: "pi-1", control: "1.tpm" })],
      }),
    ]);
    expect(waivers).toEqual([waiver({ node: "pi-1" })]);
  });
});

describe("observed", () => {
  const site = siteOf([{ name: "pi-1", blocks: goodInputs }], excused("*"));

  test("a stack in its state passes, waivers counted in", () => {
    const findings = evaluateObserved([site, ...devices("pi-1")], checklist, now);
    expect(new Set(findings.map(({ outcome }) => outcome))).toEqual(new Set(["pass", "waived"]));
  });

  test("what was read back counts, not what was asked for", () => {
    const drifted = devices("pi-1").map((each) =>
      each.type === blockTypes.swap
        ? device("swap", "pi-1", { outputs: { activeAreas: ["/swapfile"] } })
        : each,
    );
    const failing = evaluateObserved([site, ...drifted], checklist, now).filter(
      ({ outcome }) => outcome === "violation",
    );
    expect(failing.map(({ control, evidence }) => [control, evidence])).toEqual([
      ["3.swap-off", "/swapfile in use"],
    ]);
  });

  test("a TPM that is not the one that the site pins is a violation, though nothing else is wrong with it", () => {
    const another = devices("pi-1").map((each) =>
      each.type === blockTypes.tpm
        ? device("tpm", "pi-1", { outputs: { endorsementKeySha256: "0f".repeat(32) } })
        : each,
    );
    const failing = evaluateObserved([site, ...another], checklist, now).filter(
      ({ outcome }) => outcome === "violation",
    );
    expect(failing.map(({ control, evidence }) => [control, evidence])).toEqual([
      ["1.tpm", `digest ${"0f".repeat(8)}..., pinned is ${"e1".repeat(8)}...`],
    ]);
  });
});

describe("the pack's judge", () => {
  const control = (id: string) => {
    const found = checklist.find((each) => each.id === id);
    if (found === undefined) throw new Error(`no control ${id}`);
    return found;
  };
  const run = (resources: readonly StackResource[]) => {
    const judge = new StackJudge(() => now);
    const single = resources.flatMap((resource) => {
      judge.note(resource);
      return checklist.flatMap((each) => judge.resource(each, resource));
    });
    const whole = checklist.flatMap((each) =>
      judge.stack(
        each,
        resources.map((resource) => ({ ...resource, inputs: undefined })),
      ),
    );
    const text = ({ node, control: id, evidence }: (typeof single)[number]) => `${node} ${id}: ${evidence}`;
    return { single: single.map(text), whole: whole.map(text) };
  };
  const site = (waivers: object[] = excused("*")) => siteOf([{ name: "pi-1", blocks: goodInputs }], waivers);
  const node = component(
    edgeNodeType,
    "pi-1",
    { node: { name: "pi-1", blocks: goodInputs }, waivers: excused("pi-1") },
    site().urn,
  );

  test("a whole site that is as it should be has nothing to report", () => {
    expect(run([site(), node, ...devices("pi-1")])).toEqual({ single: [], whole: [] });
  });

  test("a Site is judged node by node, before any of its resources is there", () => {
    const bad = siteOf(
      [{ name: "pi-1", blocks: { ...goodInputs, swap: { mode: "keep", leftoverFiles: "remove" } } }],
      excused("*"),
    );
    expect(run([bad]).single).toEqual(['pi-1 3.swap-off: swap.mode is "keep"']);
  });

  test("a node that the program declares and does not build is found in the whole", () => {
    expect(run([site(), node, ...devices("pi-1").slice(0, 2)])).toEqual({
      single: [],
      whole: [
        "pi-1 1.verified-boot: the node has no `boot` block (edgeseal:boot:VerifiedBoot)",
        "pi-1 1.measured-boot: the node has no `measuredBoot` block (edgeseal:boot:MeasuredBoot)",
        "pi-1 1.tpm: the node has no `tpm` block (edgeseal:tpm:Ownership)",
        "pi-1 2.sealed-volumes: the node has no `volumes` block (edgeseal:storage:SealedVolume)",
        "pi-1 2.unsealing-capped: the node has no `volumes` block (edgeseal:storage:SealedVolume)",
        "pi-1 3.memory-locked: the node has no `inference` block (edgeseal:inference:InferenceContainer)",
        "pi-1 3.scratch-in-memory: the node has no `scratch` block (edgeseal:memory:Scratch)",
        ...["4.rootless-container", "4.limits", "4.seccomp", "4.apparmor"].map(
          (id) => `pi-1 ${id}: the node has no \`inference\` block (edgeseal:inference:InferenceContainer)`,
        ),
        "pi-1 5.default-deny: the node has no `firewall` block (edgeseal:network:Firewall)",
        "pi-1 5.egress-allowlist: the node has no `firewall` block (edgeseal:network:Firewall)",
        "pi-1 6.signed-images: the node has no `imagePolicy` block (edgeseal:container:ImagePolicy)",
        "pi-1 6.pinned-image: the node has no `inference` block (edgeseal:inference:InferenceContainer)",
        "pi-1 6.signed-model: the node has no `model` block (edgeseal:inference:Model), which `inference` in a site file brings",
      ],
    });
  });

  test("a resource that was changed after the Site was judged is judged by its own inputs", () => {
    const changed = devices("pi-1").map((each) =>
      each.type === blockTypes.swap ? device("swap", "pi-1", { inputs: { mode: "keep" } }) : each,
    );
    expect(run([site(), node, ...changed])).toEqual({
      single: ['pi-1 3.swap-off: swap.mode is "keep"'],
      whole: [],
    });
  });

  test("a resource is under the waivers of the components it is in", () => {
    const waived = component(
      edgeNodeType,
      "pi-1",
      { node: { name: "pi-1", blocks: goodInputs }, waivers: [...excused("pi-1"), waiver()] },
      site().urn,
    );
    const changed = devices("pi-1").map((each) =>
      each.type === blockTypes.swap ? device("swap", "pi-1", { inputs: { mode: "keep" } }) : each,
    );
    expect(run([site(), waived, ...changed])).toEqual({ single: [], whole: [] });
  });

  test("an EdgeNode without a Site is judged by itself; a resource without either, on its own control and then on all", () => {
    const alone = component(edgeNodeType, "pi-1", {
      node: { name: "pi-1", blocks: { swap: goodInputs.swap } },
      waivers: excused("pi-1"),
    });
    expect(run([alone]).single).toEqual([
      "pi-1 1.verified-boot: the node has no `boot` block (edgeseal:boot:VerifiedBoot)",
      "pi-1 1.measured-boot: the node has no `measuredBoot` block (edgeseal:boot:MeasuredBoot)",
      "pi-1 1.tpm: the node has no `tpm` block (edgeseal:tpm:Ownership)",
      "pi-1 2.sealed-volumes: the node has no `volumes` block (edgeseal:storage:SealedVolume)",
      "pi-1 2.unsealing-capped: the node has no `volumes` block (edgeseal:storage:SealedVolume)",
      "pi-1 3.core-dumps-off: the node has no `coreDumps` block (edgeseal:memory:CoreDumps)",
      "pi-1 3.memory-locked: the node has no `inference` block (edgeseal:inference:InferenceContainer)",
      "pi-1 3.scratch-in-memory: the node has no `scratch` block (edgeseal:memory:Scratch)",
      ...["4.rootless-container", "4.limits", "4.seccomp", "4.apparmor"].map(
        (id) => `pi-1 ${id}: the node has no \`inference\` block (edgeseal:inference:InferenceContainer)`,
      ),
      "pi-1 5.default-deny: the node has no `firewall` block (edgeseal:network:Firewall)",
      "pi-1 5.egress-allowlist: the node has no `firewall` block (edgeseal:network:Firewall)",
      "pi-1 6.signed-images: the node has no `imagePolicy` block (edgeseal:container:ImagePolicy)",
      "pi-1 6.pinned-image: the node has no `inference` block (edgeseal:inference:InferenceContainer)",
      "pi-1 6.signed-model: the node has no `model` block (edgeseal:inference:Model), which `inference` in a site file brings",
    ]);
    const raw = run([{ ...device("swap", "pi-1", { inputs: { mode: "keep" } }), parent: undefined }]);
    expect(raw.single).toEqual(['pi-1 3.swap-off: swap.mode is "keep"']);
    expect(raw.whole).toHaveLength(checklist.length - 1);
  });

  test("a volume is judged by itself as it is registered, and the whole node by all of them", () => {
    const only = devices("pi-1").filter(({ inputs }) => inputs?.name !== "logs");
    expect(run([site(), node, ...only])).toEqual({
      single: [],
      whole: ["pi-1 2.sealed-volumes: the node has no `volumes.logs` (edgeseal:storage:SealedVolume)"],
    });
  });

  test("two volumes of one name are both judged", () => {
    const locked = device("volumes", "pi-1", { outputs: { open: false, lockedReason: "header" } }, "-again");
    expect(run([site(), node, ...devices("pi-1"), locked]).whole).toEqual([
      expect.stringMatching(/^pi-1 2\.sealed-volumes: models \(urn:.*-again\): locked: header$/),
    ]);
  });

  test("what is read across blocks waits until all of them are known", () => {
    const planned = devices("pi-1").map((each) =>
      each.type === blockTypes.volumes ? { ...each, outputs: { open: unknownValue } } : each,
    );
    expect(run([site(), node, ...planned]).whole).toEqual([]);
  });

  test("an input that a preview can't know is a failure", () => {
    const judge = new StackJudge(() => now);
    const resource = device("swap", "pi-1", { inputs: { mode: unknownValue } });
    judge.note(resource);
    expect(judge.resource(control("3.swap-off"), resource)).toMatchObject([
      { outcome: "unknown", evidence: "swap.mode is not known at this time" },
    ]);
  });

  test("outputs that a preview can't know are not held against a node whose inputs were judged", () => {
    const planned = devices("pi-1").map((each) => ({ ...each, outputs: { activeAreas: unknownValue } }));
    expect(run([site(), node, ...planned]).whole).toEqual([]);
  });

  test("outputs that are recorded and bad are", () => {
    const drifted = devices("pi-1").map((each) =>
      each.type === blockTypes.firewall
        ? device("firewall", "pi-1", { outputs: { outputPolicy: "accept" } })
        : each,
    );
    expect(run([site(), node, ...drifted])).toEqual({
      single: [],
      whole: ["pi-1 5.egress-allowlist: output policy accept"],
    });
  });

  test("a waiver that has expired lets nothing through", () => {
    const expired = excused("*").map((each) => ({ ...each, expires: "2027-01-14" }));
    expect(run([site(expired)]).single).toHaveLength(uncovered.length);
  });
});

describe("nodes that can't be told apart", () => {
  const clashes = (resources: readonly StackResource[]) => {
    const judge = new StackJudge(() => now);
    return resources.flatMap((resource) => {
      judge.note(resource);
      return judge.clashes(resource);
    });
  };
  const at = (node: string, connection: object) => {
    const inputs = { connection: { node, address: "192.0.2.1", port: 22, ...connection } };
    return [device("swap", node, { inputs }), device("boot", node, { inputs })];
  };
  const edgeNode = (name: string, parent: string) => ({
    ...component(edgeNodeType, name, { node: { name, blocks: goodInputs }, waivers: [] }, parent),
    urn: `urn:${parent}$${edgeNodeType}::${name}`,
  });

  test("two nodes at one address and port are both named, once for all their resources", () => {
    expect(clashes([...at("pi-1", {}), ...at("pi-2", { address: "::ffff:192.0.2.1" })])).toEqual([
      "pi-1 and pi-2 are both at 192.0.2.1:22: two nodes are two devices; give each an address and port of its own",
    ]);
  });

  test.each([
    ["at two ports", { port: 2222 }],
    ["at an address that is not known yet", { address: unknownValue }],
    ["at a port that is not known yet", { port: unknownValue }],
  ])("two nodes %s are two", (_, connection) => {
    expect(clashes([...at("pi-1", {}), ...at("pi-2", connection)])).toEqual([]);
  });

  test("two nodes with one TPM are both named: side by side, and in a Site", () => {
    const owned = (node: string, digest?: string) => [
      device("tpm", node, {
        inputs: { connection: { node, address: `${node}.lan` }, endorsementKeySha256: digest },
      }),
    ];
    const key = "ab".repeat(32);
    expect(clashes([...owned("pi-1", key), ...owned("pi-2", key)])).toEqual([
      `pi-1 and pi-2 both have the endorsement key ${"ab".repeat(8)}... pinned: two nodes are two devices; a TPM is in one of them`,
    ]);
    expect(clashes([...owned("pi-1", key), ...owned("pi-2", "cd".repeat(32))])).toEqual([]);
    expect(clashes([...owned("pi-1"), ...owned("pi-2")])).toEqual([]);
    const node = (name: string) => ({ name, blocks: { tpm: { endorsementKeySha256: key } } });
    expect(clashes([siteOf([node("pi-1"), node("pi-2")])])).toEqual([
      `nodes[1].tpm.endorsementKeySha256: expected a TPM of its own, got ${"ab".repeat(8)}..., which is pinned for nodes[0] (pi-1): two nodes are two devices`,
    ]);
  });

  test("two EdgeNodes with one name are both named", () => {
    expect(clashes([edgeNode("pi-1", "a"), edgeNode("pi-1", "b"), edgeNode("pi-2", "b")])).toEqual([
      `urn:a$${edgeNodeType}::pi-1 and urn:b$${edgeNodeType}::pi-1 are both named pi-1: give each a name of its own`,
    ]);
  });

  test("a Site and the EdgeNode it makes are one; a Site with a name twice is told", () => {
    const nodes = (...names: string[]) => siteOf(names.map((name) => ({ name, blocks: {} })));
    expect(clashes([nodes("pi-1"), edgeNode("pi-1", "site"), ...at("pi-1", {})])).toEqual([]);
    expect(clashes([nodes("pi-1", "pi-2", "pi-1")])).toEqual([
      'nodes[2].name: expected a name of its own, got "pi-1", which is the name of nodes[0]',
    ]);
  });
});

describe("a recorded state", () => {
  const exported = (resources: object[]) => JSON.stringify({ version: 3, deployment: { resources } });

  test("gives its resources; secrets are not known, and what waits for deletion is left out", () => {
    const secret = {
      "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
      ciphertext: "v1:x",
    };
    expect(
      recordedResources(
        exported([
          { urn: "u1", type: "t", parent: "p", inputs: { a: [secret, 1] }, outputs: { b: null } },
          { urn: "u2", type: "t", delete: true },
        ]),
      ),
    ).toEqual([
      { urn: "u1", type: "t", parent: "p", inputs: { a: [unknownValue, 1] }, outputs: { b: null } },
    ]);
  });

  test("of a stack without resources is empty", () => {
    expect(recordedResources('{"version":3,"deployment":{"manifest":{}}}')).toEqual([]);
  });

  test.each([
    ["no JSON", "{", "not JSON"],
    ["another version", '{"version":2}', "not an exported state of version 3"],
    ["something else", "[]", "not an exported state of version 3"],
    ["no list", '{"version":3,"deployment":{"resources":{}}}', "its resources are no list"],
  ])("%s is refused", (_, text, message) => {
    expect(() => recordedResources(text)).toThrow(new NotAState(message));
  });
});
