import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testKey } from "../trust/keys.ts";
import { faults, hostKey, parse, siteText } from "./site-text.ts";

test("a site that is right has none", () => {
  expect(faults(siteText())).toEqual([]);
});

test.each([
  [
    "a mount point within another one",
    "      logs: { device: /dev/disk/by-id/a, mountPoint: /srv/models/logs }\n      models: { device: /dev/disk/by-id/b, mountPoint: /srv/models }\n",
    "stacks/test.yaml:9:42: nodes[0].volumes.logs.mountPoint: expected a directory of its own, got '/srv/models/logs', which is below '/srv/models', the mount point of the volume models: one would hide the other, or not be mounted; name one beside it, such as /srv/logs",
  ],
  [
    "a device that another one has",
    "      logs: { device: /dev/disk/by-id/a, mountPoint: /srv/logs }\n      models: { device: { disk: /dev/disk/by-id/a, sizeMiB: 500 }, mountPoint: /srv/models }\n",
    "stacks/test.yaml:10:17: nodes[0].volumes.models.device: expected a device of its own, got '/dev/disk/by-id/a', which the volume logs has: name another disk or partition, or have partitions made for both, device: { disk, sizeMiB }",
  ],
])("of the volumes of a node, %s is told", (_name, volumes, said) => {
  expect(faults(siteText("", `    volumes:\n${volumes}`)).slice(1)).toEqual([said]);
});

describe("each fault is told with its line and column, its path, what was expected, what was given, and the mend", () => {
  test.each([
    [
      "unknown field",
      siteText("", "    firewal: {}\n"),
      /^stacks\/test\.yaml:8:5: nodes\[0\]\.firewal: unknown field; did you mean 'firewall'\? \(known: name, address, /,
    ],
    [
      "unknown field, deep",
      siteText("", "    firewall:\n      egres: open\n"),
      /^stacks\/test\.yaml:9:7: nodes\[0\]\.firewall\.egres: unknown field; did you mean 'egress'\?/,
    ],
    [
      "unknown field in a list",
      siteText("", "    firewall:\n      allow:\n        - { name: a, too: 192.0.2.9 }\n"),
      /^stacks\/test\.yaml:10:22: nodes\[0\]\.firewall\.allow\[0\]\.too: unknown field; did you mean 'to'\?/,
    ],
    [
      "wrong type",
      siteText("", '    port: "22"\n'),
      /^stacks\/test\.yaml:8:5: nodes\[0\]\.port: expected an integer, got the string "22"/,
    ],
    [
      "out of range",
      siteText("", "    port: 70000\n"),
      /^stacks\/test\.yaml:8:5: nodes\[0\]\.port: must be <= 65535, got 70000/,
    ],
    [
      "a value that is none of the choices",
      siteText("", "    swap: { mode: of }\n"),
      /^stacks\/test\.yaml:8:13: nodes\[0\]\.swap\.mode: expected one of "off", "keep", got the string "of"; did you mean 'off'\?/,
    ],
    [
      "a CIDR without a mask",
      siteText("", "    firewall: { management: [192.0.2.7] }\n"),
      /^stacks\/test\.yaml:8:30: nodes\[0\]\.firewall\.management\[0\]: .*no mask; did you mean "192\.0\.2\.7\/32"\?/,
    ],
    [
      "a host name in the allowlist",
      siteText("", "    firewall: { allow: [{ name: a, to: example.com }] }\n"),
      /^stacks\/test\.yaml:8:36: nodes\[0\]\.firewall\.allow\[0\]\.to: .*'example\.com' is a host name/,
    ],
    [
      "a block where a list belongs",
      "site: x\nnodes: { name: pi-1 }\n",
      /^stacks\/test\.yaml:2:1: nodes: expected an array, got an object/,
    ],
    [
      "no nodes",
      "site: x\nnodes: []\n",
      /^stacks\/test\.yaml:2:1: nodes: expected at least 1 item, got a list of 0/,
    ],
    ["no text", "", /^stacks\/test\.yaml:1:1: expected the fields of a site/],
    ["only a word", "demo\n", /^stacks\/test\.yaml:1:1: expected the fields of a site/],
    [
      "a name that is no DNS label",
      siteText().replace("pi-1", "Pi_1"),
      /^stacks\/test\.yaml:5:5: nodes\[0\]\.name: .*"Pi_1" \(The node's name in its site: lower-case letters/,
    ],
  ])("%s", (_, text, message) => {
    const found = faults(text);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(message);
  });
});

describe("YAML", () => {
  test.each([
    [
      "a key given twice",
      siteText("", "    address: 192.0.2.2\n"),
      "stacks/test.yaml:8:5: this key is given twice in one block; keep one of them",
    ],
    [
      "a second document",
      siteText("---\nsite: other\n"),
      "stacks/test.yaml:8:1: a second YAML document starts here; a site is one document: remove the `---`",
    ],
    [
      "an alias without its anchor",
      siteText("waivers: *nowhere\n"),
      "stacks/test.yaml:8:10: waivers: there is no anchor &nowhere before this",
    ],
    [
      "a tag that means nothing here",
      siteText("", "    user: !secret x\n"),
      "stacks/test.yaml:8:11: a tag (`!...`) means nothing in a site file: remove it",
    ],
    [
      "an open bracket",
      siteText("", "    firewall: { management: [192.0.2.0/24\n"),
      "stacks/test.yaml:9:1: not valid YAML: Flow sequence",
    ],
  ])("%s", (_, text, start) => {
    expect(faults(text)[0]?.startsWith(start), faults(text).join("\n")).toBe(true);
  });

  test("anchors and merge keys count as what they stand for, and a fault in one is told at its place", () => {
    const text = `site: test
nodes:
  - &one
    name: pi-1
    address: 192.0.2.1
    hostKey: ${hostKey}
    firewall: { management: [192.0.2.0/24], egress: opn }
  - <<: *one
    name: pi-2
    address: 192.0.2.2
`;
    const places = faults(text).map((line) => line.split(": ").slice(0, 2));
    expect(places).toEqual([
      ["stacks/test.yaml:7:45", "nodes[0].firewall.egress"],
      ["stacks/test.yaml:7:45", "nodes[1].firewall.egress"],
    ]);
  });

  test("aliases that would grow without bound are refused", () => {
    const levels = Array.from({ length: 12 }, (_, i) =>
      i === 0
        ? "a0: &a0 [x, x, x, x, x, x, x, x, x]"
        : `a${i}: &a${i} [${Array(9)
            .fill(`*a${i - 1}`)
            .join(", ")}]`,
    );
    expect(faults(`${levels.join("\n")}\n`)[0]).toContain("not usable: Excessive alias count");
  });

  test("off is a word, not a truth value", () => {
    expect(faults(siteText("", "    swap: { mode: off }\n"))).toEqual([]);
  });
});

describe("a private key", () => {
  const key = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0LWNhbmFyeQ==\n-----END OPENSSH PRIVATE KEY-----";
  const block = key.split("\n").join("\n      ");

  test.each([
    ["in place of the reference", `    privateKey: |\n      ${block}\n`, "nodes[0].privateKey"],
    ["as a file name", `    identityFile: |\n      ${block}\n`, "nodes[0].identityFile"],
    ["under a name that does not exist", `    privatekey: |\n      ${block}\n`, "nodes[0].privatekey"],
    ["on one line", `    privateKey: "${key.replaceAll("\n", "\\n")}"\n`, "nodes[0].privateKey"],
  ])("%s is refused with the mend, and not shown", (_, node, path) => {
    const found = faults(siteText("", node)).join("\n");
    expect(found).toContain(`${path}: a private key in plain text (not shown); take it out of the file`);
    expect(found).toContain("pulumi config set --secret sshKey");
    expect(found).not.toContain("c2VjcmV0");
  });

  test("in the file's first level has no line lost to it", () => {
    expect(faults(`site: x\nkey: |\n  ${key.split("\n").join("\n  ")}\n`)[0]).toMatch(
      /^stacks\/test\.yaml:2:6: key: a private key/,
    );
  });

  test("with broken indentation is not quoted by the YAML parser", () => {
    const found = faults(siteText("", `    privateKey: "${key}\n`)).join("\n");
    expect(found).not.toBe("");
    expect(found).not.toContain("c2VjcmV0");
  });

  test.each(["secret-canary", "5", "[secret-canary]"])(
    "any literal (%s) in its place is refused and not shown",
    (value) => {
      const found = faults(siteText("", `    privateKey: ${value}\n`)).join("\n");
      expect(found).toMatch(
        /^stacks\/test\.yaml:8:5: nodes\[0\]\.privateKey: expected an object, got a secret value/,
      );
      expect(found).toContain("write `privateKey: { config: sshKey }`");
      expect(found).not.toContain("canary");
    },
  );
});

describe("host keys", () => {
  const withKey = (key: string) => siteText().replace(`hostKey: ${hostKey}`, `hostKey: ${key}`);

  test("one is required: there is no trust on first use", () => {
    const found = faults(siteText().replace(`    hostKey: ${hostKey}\n`, ""));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(/^stacks\/test\.yaml:5:5: nodes\[0\]\.hostKey: required, but not given/);
    expect(found[0]).toContain("read it at the console of the node: cat /etc/ssh/ssh_host_ed25519_key.pub");
  });

  test.each([
    ["no key", "nonsense", 'got the string "nonsense"'],
    ["cut short", hostKey.slice(0, -8), "the key is cut short or damaged; copy the whole line"],
    [
      "of another type than it says",
      hostKey.replace("ssh-ed25519", "ssh-rsa"),
      'says "ssh-rsa", but holds a key of another type',
    ],
    ["without its body", "ssh-ed25519 AAAA", "the key is cut short or damaged"],
  ])("%s", (_, key, message) => {
    expect(faults(withKey(key)).join("\n")).toContain(message);
  });

  test("a fingerprint will do", () => {
    expect(faults(withKey(`SHA256:${"A".repeat(43)}`))).toEqual([]);
  });
});

describe("what no schema can express", () => {
  const second = (lines: string) =>
    `  - name: pi-2\n    address: 192.0.2.2\n    hostKey: ${hostKey}\n${lines}`;

  test("two nodes with one name", () => {
    expect(faults(siteText(second("").replace("pi-2", "pi-1")))).toEqual([
      'stacks/test.yaml:8:5: nodes[1].name: expected a name of its own, got "pi-1", which is the name of nodes[0]',
    ]);
  });

  test.each([
    ["the same", "192.0.2.1", "192.0.2.1:22"],
    ["IPv6, written in another way", "2001:DB8:0::1", "[2001:db8::1]:22"],
    ["a name in other letters", "PI.example.", "pi.example:22"],
  ])("two nodes with one address: %s", (_, address, shown) => {
    const first = { "192.0.2.1": "192.0.2.1", "2001:DB8:0::1": "2001:db8::1", "PI.example.": "pi.example" }[
      address
    ];
    const text = siteText(second("").replace("192.0.2.2", `"${address}"`)).replace(
      "address: 192.0.2.1",
      `address: "${first ?? ""}"`,
    );
    expect(faults(text)).toEqual([
      `stacks/test.yaml:9:5: nodes[1].address: expected an address and port of its own, got ${shown}, where nodes[0] (pi-1) is: two nodes are two devices`,
    ]);
  });

  test("one address with two ports is two devices", () => {
    expect(faults(siteText(second("    port: 2222\n").replace("192.0.2.2", "192.0.2.1")))).toEqual([]);
  });

  const waiver = (changes: string) =>
    siteText(
      `waivers:\n  - { control: 3.swap-off, node: pi-1, reason: x, owner: y, expires: 2027-01-31${changes} }\n`,
    );

  test("a waiver of a control that does not exist", () => {
    expect(faults(waiver("").replace("3.swap-off", "3.swap-of"))).toEqual([
      'stacks/test.yaml:9:7: waivers[0].control: there is no control "3.swap-of"; did you mean "3.swap-off"?',
    ]);
  });

  test("a waiver for a node that does not exist", () => {
    expect(faults(waiver("").replace("node: pi-1", "node: pie-1"))).toEqual([
      'stacks/test.yaml:9:28: waivers[0].node: there is no node "pie-1" in this site; did you mean "pi-1"?',
    ]);
  });

  test("a waiver until a day that does not exist", () => {
    expect(faults(waiver("").replace("2027-01-31", "2027-02-30"))).toEqual([
      'stacks/test.yaml:9:61: waivers[0].expires: expected a day that exists, as YYYY-MM-DD, got "2027-02-30", which counts as expired',
    ]);
  });

  test("a waiver that is not complete", () => {
    expect(faults(waiver("").replace("owner: y, ", ""))[0]).toContain(
      "waivers[0].owner: required, but not given",
    );
  });

  test("a statement about a control that is judged on evidence", () => {
    expect(
      faults(siteText("statements:\n  - { control: 3.swap-off, node: '*', statement: it is off }\n")),
    ).toEqual([
      "stacks/test.yaml:9:7: statements[0].control: 3.swap-off is judged on the `swap` block, so a statement says nothing; remove it",
    ]);
  });
});

describe("a TPM", () => {
  const digest = "ab".repeat(32);
  let folder: string;
  beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "edgeseal-tpm-"))));
  afterEach(() => rmSync(folder, { recursive: true }));

  /** The site's keys; of another purpose where they are mixed up. */
  const trust = (recovery: "policy" | "recovery" = "recovery"): string => {
    writeFileSync(join(folder, "policy.pem"), testKey("policy").publicKeyPem);
    writeFileSync(join(folder, "recovery.pem"), testKey(recovery).publicKeyPem);
    return `trust: { policyKey: ${folder}/policy.pem, recoveryKey: ${folder}/recovery.pem }\n`;
  };
  const second = (tpm: string): string =>
    `  - name: pi-2\n    address: 192.0.2.2\n    hostKey: ${hostKey}\n${tpm}`;
  const inDefaults = (tpm: string): string => siteText().replace("nodes:\n", `  tpm: ${tpm}\nnodes:\n`);

  test("is asked for by defaults for all, pinned by each node, and left alone where nobody asks", () => {
    const text = `${inDefaults("{ maxTries: 10 }")}    tpm: { endorsementKeySha256: ${digest} }\n${second("    tpm: null\n")}${trust()}`;
    const [first, other] = parse(text).nodes;
    expect(first?.blocks.tpm).toEqual({
      node: "pi-1",
      recoveryPublicKey: readFileSync(join(folder, "recovery.pem"), "utf8"),
      endorsementKeySha256: digest,
      maxTries: 10,
      recoveryTime: 600,
      lockoutRecovery: 86_400,
    });
    expect(other?.blocks).not.toHaveProperty("tpm");
    expect(parse(siteText()).nodes[0]?.blocks).not.toHaveProperty("tpm");
  });

  test("that defaults pin is refused once, there: it would be that of every node", () => {
    const text = `${inDefaults(`{ endorsementKeySha256: ${digest} }`)}${second("")}${trust()}`;
    expect(faults(text)).toEqual([
      "stacks/test.yaml:4:10: defaults.tpm.endorsementKeySha256: one TPM can't be that of every node; move it to the `tpm` block of the node whose endorsement key it is",
    ]);
  });

  test("that two nodes pin is refused at the second, however it came there", () => {
    const pinned = siteText("", `    tpm: &tpm { endorsementKeySha256: ${digest} }\n`);
    expect(faults(`${pinned}${second("    tpm: { <<: *tpm, maxTries: 10 }\n")}${trust()}`)).toEqual([
      `stacks/test.yaml:8:17: nodes[1].tpm.endorsementKeySha256: expected a TPM of its own, got ${"ab".repeat(8)}..., which is pinned for nodes[0] (pi-1): two nodes are two devices`,
    ]);
  });

  test("without the site's keys is refused with the mend, where it is asked for", () => {
    const mend =
      "to own the TPM takes the site's keys: `edgeseal keys new` makes them, and `trust:` names their public halves (docs/trust.md)";
    expect(faults(siteText("", "    tpm: {}\n"))).toEqual([`stacks/test.yaml:8:5: nodes[0].tpm: ${mend}`]);
    expect(faults(inDefaults("{}"))).toEqual([`stacks/test.yaml:4:3: defaults.tpm: ${mend}`]);
  });

  test("with a recovery key that is none is a fault of the trust block", () => {
    const [fault = "", ...others] = faults(siteText(trust("policy"), "    tpm: {}\n"));
    expect(others).toEqual([]);
    expect(fault).toMatch(/^stacks\/test\.yaml:9:\d+: trust\.recoveryKey: /);
  });

  test("takes neither the node's name nor a key: both are said elsewhere", () => {
    const found = faults(siteText(trust(), "    tpm: { node: pi-9, recoveryPublicKey: x }\n"));
    expect(found.map((line) => line.split(": ").slice(1, 3).join(" "))).toEqual([
      expect.stringMatching(/^nodes\[0\]\.tpm\.node unknown field/),
      expect.stringMatching(/^nodes\[0\]\.tpm\.recoveryPublicKey unknown field/),
    ]);
  });

  test("whose digest is none is told in words", () => {
    expect(
      faults(siteText(trust(), `    tpm: { endorsementKeySha256: ${digest.toUpperCase()} }\n`))[0],
    ).toMatch(/^stacks\/test\.yaml:8:12: nodes\[0\]\.tpm\.endorsementKeySha256: /);
  });
});

test("all faults at once, of every kind, in the order of the file", () => {
  const text = `site: Test
defaults:
  prot: 22
  firewall: { management: [192.0.2.0/24], egress: opn }
nodes:
  - name: pi-1
    address: 192.0.2.1
    hostKey: ssh-ed25519 AAAA
    port: "22"
  - name: pi-1
    address: 192.0.2.1
waivers:
  - { control: 3.swap, node: pi-7, reason: "", owner: y, expires: soon }
`;
  expect(faults(text).map((line) => line.split(": ").slice(0, 2).join(" "))).toEqual([
    "stacks/test.yaml:1:1 site",
    "stacks/test.yaml:3:3 defaults.prot",
    "stacks/test.yaml:4:43 defaults.firewall.egress",
    "stacks/test.yaml:8:5 nodes[0].hostKey",
    "stacks/test.yaml:9:5 nodes[0].port",
    "stacks/test.yaml:10:5 nodes[1].hostKey",
    "stacks/test.yaml:10:5 nodes[1].name",
    "stacks/test.yaml:11:5 nodes[1].address",
    "stacks/test.yaml:13:7 waivers[0].control",
    "stacks/test.yaml:13:24 waivers[0].node",
    "stacks/test.yaml:13:36 waivers[0].reason",
    "stacks/test.yaml:13:58 waivers[0].expires",
  ]);
});
