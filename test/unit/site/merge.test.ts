import { describe, expect, test } from "vitest";
import { mergePatch } from "../../../components/site-file/merge.ts";
import { faults, hostKey, parse, siteText } from "./site-text.ts";

// The test cases of RFC 7386, appendix A, as far as YAML has their values.
test.each([
  [{ a: "b" }, { a: "c" }, { a: "c" }],
  [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
  [{ a: "b" }, { a: null }, {}],
  [{ a: "b", b: "c" }, { a: null }, { b: "c" }],
  [{ a: ["b"] }, { a: "c" }, { a: "c" }],
  [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
  [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
  [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
  [
    ["a", "b"],
    ["c", "d"],
    ["c", "d"],
  ],
  [{ a: "b" }, ["c"], ["c"]],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }],
  [[1, 2], { a: "b", c: null }, { a: "b" }],
  [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
])("%j patched with %j is %j", (target, patch, result) => {
  expect(mergePatch(target, patch)).toEqual(result);
});

test("the target is left as it was", () => {
  const target = { a: { b: 1 } };
  mergePatch(target, { a: { c: 2 } });
  expect(target).toEqual({ a: { b: 1 } });
});

describe("a site", () => {
  const text = `site: test
defaults:
  user: pi
  identityFile: ~/.ssh/fleet
  identityCommand: pass edge
  firewall:
    management: [192.0.2.0/24]
    dns: [192.0.2.53]
    allow: [{ name: store, to: 203.0.113.5, ports: [443] }]
nodes:
  - name: pi-1
    address: 192.0.2.1
    hostKey: ${hostKey}
  - name: pi-2
    address: 192.0.2.2
    hostKey: ${hostKey}
    user: admin
    identityFile: null
    identityCommand: null
    swap: { leftoverFiles: keep }
    firewall: { allow: [], dns: null, egress: open }
`;
  const [first, second] = parse(text).nodes;

  test("what a node leaves out comes from defaults, else from the kinds", () => {
    expect(first).toEqual({
      name: "pi-1",
      address: "192.0.2.1",
      hostKey,
      user: "pi",
      identityFile: "~/.ssh/fleet",
      identityCommand: "pass edge",
      statements: {},
      blocks: {
        swap: { mode: "off", leftoverFiles: "remove" },
        coreDumps: { mode: "off", storedDumps: "remove" },
        firewall: {
          management: ["192.0.2.0/24"],
          dns: ["192.0.2.53"],
          ntp: [],
          allow: [{ name: "store", to: "203.0.113.5", protocol: "tcp", ports: [443] }],
          egress: "allowlist",
          forward: "drop",
          logPerMinute: 10,
          confirmSeconds: 30,
          sshPort: 22,
        },
        boot: { require: "signed-boot-locked" },
      },
    });
  });

  test("objects merge, lists and values replace, null removes", () => {
    expect(second).toMatchObject({ user: "admin", blocks: { swap: { mode: "off", leftoverFiles: "keep" } } });
    expect(second).not.toHaveProperty("identityFile");
    expect(second).not.toHaveProperty("identityCommand");
    expect(second?.blocks.firewall).toMatchObject({
      management: ["192.0.2.0/24"],
      allow: [],
      dns: [],
      egress: "open",
    });
  });

  test("a firewall has no default: without management there is none, and the gate will say so", () => {
    const [node] = parse(siteText("", "    firewall: null\n")).nodes;
    expect(node?.blocks).not.toHaveProperty("firewall");
  });

  test("a firewall that is begun and lacks its management is a fault, at the block that lacks it", () => {
    const found = faults(siteText("", "    firewall: { egress: open }\n").replace(/defaults:\n.*\n/, ""));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(
      /^stacks\/test\.yaml:6:5: nodes\[0\]\.firewall\.management: required, but not given/,
    );
  });

  test("a fault in defaults is told once, in defaults, however many nodes inherit it", () => {
    const found = faults(text.replace("203.0.113.5", "203.0.113.0"));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(/^stacks\/test\.yaml:9:28: defaults\.firewall\.allow\[0\]\.to: /);
  });

  test("statements go to the nodes they name", () => {
    const statements = `statements:
  - { control: 9.incident-response, node: "*", statement: runbook 7 }
  - { control: 6.supply-chain-checks, node: pi-2, statement: by hand }
`;
    expect(parse(text + statements).nodes.map((node) => node.statements)).toEqual([
      { "9.incident-response": "runbook 7" },
      { "9.incident-response": "runbook 7", "6.supply-chain-checks": "by hand" },
    ]);
  });
});
