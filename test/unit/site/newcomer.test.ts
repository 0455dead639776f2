import { describe, expect, test } from "vitest";
import { faults, hostKey, parse, siteText } from "./site-text.ts";

/* What people write in a first site file, and what they are told. */

const withAddress = (address: string): string =>
  siteText().replace("address: 192.0.2.1", `address: "${address}"`);

describe("the host key as its .pub file has it", () => {
  test.each(["root@pi-1", "root@pi-1 2026, second card"])("with the comment '%s' is taken", (comment) => {
    const [node] = parse(siteText().replace(hostKey, `${hostKey} ${comment}`)).nodes;
    expect(node?.hostKey).toBe(`${hostKey} ${comment}`);
  });

  test("with a second line is not", () => {
    const two = siteText().replace(`hostKey: ${hostKey}`, `hostKey: "${hostKey}\\nssh-rsa AAAA"`);
    expect(faults(two)).toHaveLength(1);
  });

  test("in no form that is known is told in words, not as a pattern", () => {
    expect(faults(siteText().replace(hostKey, "MD5:16:27"))).toEqual([
      'stacks/test.yaml:7:5: nodes[0].hostKey: not of the expected form, got the string "MD5:16:27" ' +
        "(The device's host key: `ssh-ed25519 AAAA...` as in its .pub file (a comment after it is ignored), or its fingerprint `SHA256:...`. Required: there is no trust on first use); " +
        "read it at the console of the node: cat /etc/ssh/ssh_host_ed25519_key.pub",
    ]);
  });

  test("not filled in yet is one fault, not two", () => {
    const found = faults(siteText().replace(hostKey, "ssh-ed25519 AAAA..."));
    expect(found).toHaveLength(1);
    expect(found[0]).toContain("read it at the console of the node: cat /etc/ssh/ssh_host_ed25519_key.pub");
  });
});

describe("an address", () => {
  test.each([
    "192.0.2.1",
    "2001:db8::1",
    "fe80::1%eth0",
    "pi-1.example.org",
    "pi-1.example.org.",
    "pi-1",
    "10-0-0-1.lan",
  ])("%s is one", (address) => {
    expect(faults(withAddress(address))).toEqual([]);
  });

  test.each([
    ["192.0.2.1:2222", '; write `address: "192.0.2.1"`, `port: 2222`'],
    ["pi@192.0.2.1", '; write `address: "192.0.2.1"`, `user: pi`'],
    ["ssh://pi@pi-1.lan:2222/", '; write `address: "pi-1.lan"`, `port: 2222`, `user: pi`'],
    ["[2001:db8::1]:22", '; write `address: "2001:db8::1"`, `port: 22`'],
    ["192.0.2", ""],
    ["192.0.2.300", ""],
    ["pi 1", ""],
    ["http://pi-1/login", ""],
    ["192.0.2.0/24", ""],
  ])("%s is none, and the mend is told", (address, mend) => {
    expect(faults(withAddress(address))).toEqual([
      `stacks/test.yaml:6:5: nodes[0].address: expected an IP address or a host name, got "${address}"${mend}`,
    ]);
  });
});

test.each(["swap", "coreDumps"])(
  "a word in place of the block %s is one fault, with the block to write",
  (block) => {
    expect(faults(siteText("", `    ${block}: off\n`))).toEqual([
      `stacks/test.yaml:8:5: nodes[0].${block}: expected an object, got the string "off"; to turn it off, write \`${block}: { mode: off }\`, which is the default`,
    ]);
  },
);

test.each(["[off]", "5", "true"])("%s in place of a block is one fault", (value) => {
  expect(faults(siteText("", `    firewall: ${value}\n`))).toHaveLength(1);
});

describe("a port that is none", () => {
  const expected =
    'stacks/test.yaml:8:63: nodes[0].firewall.allow[0].ports[1]: expected an integer from 1 to 65535 or a string (a range, e.g. "8000-8010"), got ';
  const mend = " (Ports go by number, not by the name of a service: `http` is 80)";

  test.each([
    ["http", `the string "http"${mend}`],
    ['"443"', `the string "443"; write the number without quotes${mend}`],
    ["8000:8010", `the string "8000:8010"${mend}`],
    ["0", `0${mend}`],
    ["65536", `65536${mend}`],
    ["44.3", `44.3${mend}`],
    ["[443]", `a list of 1${mend}`],
  ])("%s is one fault, with what a port is", (port, given) => {
    const entry = `{ name: a, to: 192.0.2.9, ports: [80, ${port}] }`;
    expect(faults(siteText("", `    firewall: { allow: [${entry}] }\n`))).toEqual([`${expected}${given}`]);
  });
});
