import { describe, expect, test } from "vitest";
import type { InputProblem, Route } from "../../../provider/resource.ts";
import type { FirewallInputs } from "../../../provider/resources/firewall-inputs.ts";
import { firewall } from "../../../provider/resources/firewall.ts";
import { example, noRoute } from "./firewall-example.ts";

const check = (change: Partial<FirewallInputs>): readonly InputProblem[] =>
  firewall.check?.({ ...example, ...change }) ?? [];
const entry = (change: Partial<FirewallInputs["allow"][number]>): Partial<FirewallInputs> => ({
  allow: [{ name: "it", protocol: "tcp", ports: [443], ...change }],
});

describe("check", () => {
  test("the example has no faults", () => expect(check({})).toEqual([]));

  test.each<[string, Partial<FirewallInputs>, string, string]>([
    [
      "a management source without a mask",
      { management: ["10.0.2.2"] },
      "management[0]",
      'did you mean "10.0.2.2/32"?',
    ],
    ["an IPv6 one", { management: ["fd00::1"] }, "management[0]", 'did you mean "fd00::1/128"?'],
    [
      "host bits",
      { management: ["10.1.2.3/8"] },
      "management[0]",
      'did you mean "10.0.0.0/8" (the network) or "10.1.2.3/32"',
    ],
    ["IPv6 host bits", entry({ to: "2001:db8::1/32" }), "allow[0].to", 'did you mean "2001:db8::/32"'],
    [
      "a network without its mask",
      entry({ to: "10.0.0.0" }),
      "allow[0].to",
      "a network's address without a mask",
    ],
    ["a mask that is too long", entry({ to: "10.0.0.0/33" }), "allow[0].to", "a whole number from 0 to 32"],
    ["a mask with a leading zero", entry({ to: "10.0.0.0/08" }), "allow[0].to", "the mask /08"],
    [
      "a host name",
      entry({ to: "api.example.com" }),
      "allow[0].to",
      "is a host name, and rules hold addresses",
    ],
    ["a host name for DNS", { dns: ["dns.example.net"] }, "dns[0]", "is a host name"],
    ["a network of DNS servers", { dns: ["9.9.9.9/32"] }, "dns[0]", 'did you mean "9.9.9.9"?'],
    ["octal notation", entry({ to: "010.0.0.1" }), "allow[0].to", "without leading zeros"],
    ["three parts", entry({ to: "10.0.1" }), "allow[0].to", "four decimal parts"],
    ["IPv4 in IPv6 form", entry({ to: "::ffff:10.0.0.1" }), "allow[0].to", 'did you mean "10.0.0.1"?'],
    ["a zone", entry({ from: "fe80::1%eth0" }), "allow[0].from", "has a zone"],
    ["two slashes", entry({ to: "10.0.0.0/8/8" }), "allow[0].to", "is not an address or CIDR"],
    ["no peer", entry({}), "allow[0]", "neither of `to` and `from`"],
    ["two peers", entry({ to: "10.0.0.1", from: "10.0.0.1" }), "allow[0]", "both of `to` and `from`"],
    ["all of IPv4", entry({ to: "0.0.0.0/0" }), "allow[0].to", "egress: open"],
    ["all of IPv6", entry({ to: "::/0" }), "allow[0].to", "egress: open"],
    [
      "ports without a protocol that has some",
      entry({ to: "10.0.0.1", protocol: "any" }),
      "allow[0].ports",
      "has no ports",
    ],
    [
      "a backward range",
      entry({ to: "10.0.0.1", ports: ["90-80"] }),
      "allow[0].ports[0]",
      'did you mean "80-90"?',
    ],
    ["a port out of range", entry({ to: "10.0.0.1", ports: ["1-70000"] }), "allow[0].ports[0]", "1 to 65535"],
    [
      "overlapping ports",
      entry({ to: "10.0.0.1", ports: [443, "400-500"] }),
      "allow[0].ports[1]",
      "overlaps allow[0].ports[0]",
    ],
    [
      "a second door to SSH",
      entry({ from: "10.9.0.0/16", ports: ["20-30"] }),
      "allow[0]",
      "would open SSH (TCP port 22)",
    ],
    [
      "one through any protocol",
      { allow: [{ name: "it", from: "10.9.0.0/16", protocol: "any" }] },
      "allow[0]",
      "would open SSH",
    ],
    [
      "the same source twice",
      { management: ["10.0.0.0/8", "10.0.0.0/8"] },
      "management[1]",
      "is management[0] again",
    ],
    ["the same server, spelled twice", { dns: ["fd00::1", "fd00:0::1"] }, "dns[1]", "is dns[0] again"],
    [
      "one name for two entries",
      {
        allow: [
          { name: "a", to: "10.0.0.1", protocol: "tcp" },
          { name: "a", to: "10.0.0.2", protocol: "tcp" },
        ],
      },
      "allow[1].name",
      "is the name of allow[0] too",
    ],
    [
      "two entries for one thing",
      {
        allow: [
          { name: "a", to: "10.0.0.1", protocol: "tcp", ports: [1, 2] },
          { name: "b", to: "10.0.0.1/32", protocol: "tcp", ports: [2, 1] },
        ],
      },
      "allow[1]",
      "allows the same as allow[0]",
    ],
  ])("refuses %s, with the mend", (_, change, path, message) => {
    expect(check(change)).toEqual([{ path, message: expect.stringContaining(message) as string }]);
  });

  test("names every fault, not only the first", () => {
    const problems = check({
      management: ["10.0.0.1"],
      ntp: ["pool.ntp.org"],
      ...entry({ to: "x.example", ports: ["9-1"] }),
    });
    expect(problems.map(({ path }) => path)).toEqual([
      "management[0]",
      "ntp[0]",
      "allow[0].to",
      "allow[0].ports[0]",
    ]);
  });

  test("lets management sources have other services on the SSH port's range", () => {
    expect(check(entry({ from: "10.0.2.7", ports: ["1-100"] }))).toEqual([]);
  });
});

describe("a change that would cut the connection in use", () => {
  const from = (clientAddress: string, serverPort = 22): Route => ({ ...noRoute, clientAddress, serverPort });

  test.each([
    ["a listed source", from("10.0.2.9"), []],
    ["a listed IPv4 source as a dual-stack sshd says it", from("::ffff:10.0.2.9"), []],
    ["a listed IPv6 source with its zone", from("fd00:1::9%eth0"), []],
    ["nothing known", noRoute, []],
    ["another source", from("10.0.3.9"), ["management"]],
    ["another port", from("10.0.2.9", 2222), ["sshPort"]],
    ["both", from("203.0.113.1", 2222), ["management", "sshPort"]],
  ])("%s", (_, route, paths) => {
    expect((firewall.refusals?.(example, route) ?? []).map(({ path }) => path)).toEqual(paths);
  });

  test("is refused by the plan too, where preview could not know", () => {
    expect(() => firewall.plan(example, { outcome: "absent" }, from("203.0.113.1"))).toThrow(
      /would lock us out; add a network/,
    );
  });
});
