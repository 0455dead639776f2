import { execFile } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diffState } from "../../provider/diff.ts";
import type { FirewallInputs } from "../../provider/resources/firewall-inputs.ts";
import { readTable } from "../../provider/resources/firewall-listing.ts";
import { fallbackRuleset, rulesetOf, type Ruleset } from "../../provider/resources/firewall-rules.ts";
import { renderRuleset } from "../../provider/resources/firewall-ruleset.ts";
import { firewall } from "../../provider/resources/firewall.ts";
import { addresses, LittleInternet, Peer, whyNoNamespaces } from "./firewall-network.ts";

const hindrance = await whyNoNamespaces();

/** The article's two destinations, its IPv6 twin, and what a node needs besides. */
const inputs: FirewallInputs = {
  management: [`${addresses.operator}/32`, `${addresses.operatorV6}/128`],
  sshPort: 22,
  dns: ["9.9.9.9"],
  ntp: ["192.0.2.123"],
  egress: "allowlist",
  forward: "drop",
  logPerMinute: 10,
  confirmSeconds: 30,
  allow: [
    { name: "lan", to: "10.0.0.0/8", protocol: "any" },
    { name: "api", to: "203.0.113.5", protocol: "tcp", ports: [443] },
    { name: "api-ipv6", to: "2001:db8:5::5", protocol: "tcp", ports: [443] },
    { name: "mtls", from: `${addresses.stranger}/32`, protocol: "tcp", ports: [8443] },
  ],
};

/** Long enough for a packet on a busy machine; a rejection comes at once, so only true silence takes this long. */
const timeoutMs = 3000;
/** Where silence is what is expected: much longer than an answer takes. */
const silenceMs = 800;
/**
 * TCP over IPv6 fails at the first retransmission, after a second: the error arrives while connect(2) holds the socket (always for a local rejection,
 * and on a cable without latency), and Linux keeps such an error until then. A dropped packet would take two minutes.
 */
const rejectedWithinMs = 2500;

describe.skipIf(hindrance !== undefined)(
  `real packets${hindrance === undefined ? "" : ` (not here: ${hindrance})`}`,
  () => {
    let net: LittleInternet;

    beforeAll(async () => {
      net = await LittleInternet.start();
      await net.node.call("serve", { tcp: [22, 443, 8443], udp: [5000] });
      await net.router.call("serve", { tcp: [], udp: [67] });
      await net.router.call("serve", { tcp: [], udp: [547], udpGroup: "ff02::1:2%near" });
      await net.far.call("serve", {
        tcp: [22, 53, 80, 443],
        udp: [53, 123, 443],
        udpAddresses: addresses.far,
      });
    });

    afterAll(async () => {
      await net[Symbol.asyncDispose]();
    });

    const load = (ruleset: Ruleset): Promise<string> =>
      net.node.sh("nft -f -", renderRuleset(ruleset, "test"));
    const unload = (): Promise<string> =>
      net.node.sh("nft -f -", "table inet edgeseal\ndelete table inet edgeseal\n");
    const without = (ruleset: Ruleset, pattern: RegExp): Ruleset => ({
      ...ruleset,
      rules: ruleset.rules.filter(({ name }) => !pattern.test(name)),
    });

    const out =
      (host: string, port: number) =>
      (ms = timeoutMs) =>
        net.node.call("tcp", { host, port, timeoutMs: ms });
    const outUdp =
      (host: string, port: number) =>
      (ms = timeoutMs) =>
        net.node.call("udp", { host, port, timeoutMs: ms });
    const into =
      (from: string, port: number) =>
      (ms = timeoutMs) =>
        net.router.call("tcp", {
          from,
          host: from.includes(":") ? addresses.nodeV6 : addresses.node,
          port,
          timeoutMs: ms,
        });

    interface Attempt {
      readonly what: string;
      readonly send: (timeoutMs?: number) => Promise<string>;
    }

    const allowed: readonly Attempt[] = [
      { what: "egress to 10.0.0.0/8", send: out("10.1.2.3", 80) },
      { what: "egress to 203.0.113.5 port 443", send: out("203.0.113.5", 443) },
      { what: "egress to the IPv6 API", send: out("2001:db8:5::5", 443) },
      { what: "DNS by UDP to the listed server", send: outUdp("9.9.9.9", 53) },
      { what: "DNS by TCP to the listed server", send: out("9.9.9.9", 53) },
      { what: "NTP to the listed server", send: outUdp("192.0.2.123", 123) },
      { what: "loopback", send: out("127.0.0.1", 443) },
      { what: "IPv6 loopback", send: out("::1", 443) },
      { what: "the node's own address", send: out(addresses.node, 443) },
      { what: "SSH from management", send: into(addresses.operator, 22) },
      { what: "SSH from management by IPv6", send: into(addresses.operatorV6, 22) },
      { what: "the listed service from its listed source", send: into(addresses.stranger, 8443) },
    ];

    const refused: readonly Attempt[] = [
      { what: "egress to 203.0.113.5, another port", send: out("203.0.113.5", 80) },
      { what: "egress to its neighbour 203.0.113.6", send: out("203.0.113.6", 443) },
      { what: "egress by UDP where TCP is listed", send: outUdp("203.0.113.5", 443) },
      { what: "egress to another IPv6 address", send: out("2001:db8:5::6", 443) },
      { what: "DNS to a server that is not listed", send: outUdp("8.8.8.8", 53) },
      { what: "NTP to a server that is not listed", send: outUdp("9.9.9.9", 123) },
      { what: "SSH from a stranger", send: into(addresses.stranger, 22) },
      { what: "SSH from a stranger by IPv6", send: into(addresses.strangerV6, 22) },
      { what: "a service that is not listed, from management", send: into(addresses.operator, 443) },
      { what: "the listed service from another source", send: into(addresses.operator, 8443) },
      {
        what: "UDP from a stranger",
        send: () => net.router.call("udp", { host: addresses.node, port: 5000, timeoutMs }),
      },
    ];

    const through = /^(connected|answered)$/;

    describe("without the table: the twins", () => {
      beforeAll(unload);

      test.each([...allowed, ...refused])("$what gets through", async ({ send }) => {
        expect(await send()).toMatch(through);
      });
    });

    describe("with the table", () => {
      beforeAll(() => load(rulesetOf(inputs)));

      test.each(allowed)("$what gets through", async ({ send }) => {
        expect(await send()).toMatch(through);
      });

      test.each(refused)(
        "$what is rejected, at once and as administratively prohibited",
        async ({ send }) => {
          const start = performance.now();
          // ICMP's "administratively prohibited" is EHOSTUNREACH for IPv4 and EACCES for IPv6 (Linux's icmp_err_convert tables); a datagram is refused in sendmsg.
          expect(await send()).toMatch(/^(EHOSTUNREACH|EACCES|EPERM)$/);
          expect(performance.now() - start).toBeLessThan(rejectedWithinMs);
        },
      );

      test("the kernel's own rejection leaves by the rule for ICMP errors, and only by it", async () => {
        await load(without(rulesetOf(inputs), /output-icmp-errors|^allow:lan/));
        expect(await into(addresses.stranger, 22)(silenceMs)).toBe("silence");
        await load(without(rulesetOf(inputs), /^allow:lan/));
        expect(await into(addresses.stranger, 22)()).toBe("EHOSTUNREACH");
      });

      test("what is refused is counted", async () => {
        await load(rulesetOf(inputs));
        await into(addresses.stranger, 22)();
        const listing = await net.node.sh("nft list chain inet edgeseal input");
        expect(listing).toMatch(/counter packets [1-9][0-9]* bytes [0-9]+ reject .*base:input-reject/);
      });
    });

    describe("the fallback of a failed boot", () => {
      beforeAll(() => load(fallbackRuleset(inputs)));

      test.each([into(addresses.operator, 22), into(addresses.operatorV6, 22)])(
        "lets management in (%#)",
        async (send) => {
          expect(await send()).toBe("connected");
        },
      );

      test.each([
        { what: "SSH from a stranger", send: into(addresses.stranger, 22) },
        { what: "the listed service", send: into(addresses.stranger, 8443) },
        { what: "egress to a listed destination", send: out("203.0.113.5", 443) },
        { what: "DNS", send: outUdp("9.9.9.9", 53) },
      ])("lets nothing else through: $what", async ({ send }) => {
        expect(await send(silenceMs)).not.toMatch(through);
      });
    });

    describe("what a node dies without, hours later", () => {
      const dhcpBroadcast = (ms = timeoutMs) =>
        net.node.call("udp", {
          host: "255.255.255.255",
          port: 67,
          localPort: 68,
          broadcast: true,
          timeoutMs: ms,
        });
      const dhcpRenewal = (ms = timeoutMs) =>
        net.node.call("udp", { host: addresses.operator, port: 67, localPort: 68, timeoutMs: ms });
      const dhcpV6 = (ms = timeoutMs) =>
        net.node.call("udp", { host: "ff02::1:2%eth0", port: 547, localPort: 546, timeoutMs: ms });
      // Without the LAN in the allowlist, or that would let a renewal to 10.99.0.1 through.
      const narrow = rulesetOf({ ...inputs, allow: inputs.allow.filter(({ name }) => name !== "lan") });

      test.each([
        { what: "a DHCP request by broadcast", send: dhcpBroadcast },
        { what: "a DHCP renewal", send: dhcpRenewal },
        { what: "a DHCPv6 request", send: dhcpV6 },
      ])("$what is answered, and only by its rules", async ({ send }) => {
        await load(narrow);
        expect(await send()).toBe("answered");
        await load(without(narrow, /dhcp/));
        expect(await send(silenceMs)).not.toBe("answered");
      });

      const forget = async (): Promise<void> => {
        for (const [peer, device] of [
          [net.node, "eth0"],
          [net.router, "near"],
        ] as const)
          await peer.sh(`ip -6 neigh flush dev ${device}`);
      };

      test.each([
        { what: "the node finds a neighbour", send: out("2001:db8:5::5", 443) },
        { what: "a neighbour finds the node", send: into(addresses.operatorV6, 22) },
      ])("$what anew, and only by the neighbour rules", async ({ send }) => {
        await load(narrow);
        await forget();
        expect(await send()).toBe("connected");
        await load(without(narrow, /neighbours/));
        await forget();
        expect(await send(silenceMs)).not.toBe("connected");
        await forget();
      });

      test("a router's advertisement gives an address, and only by the neighbour rules", async () => {
        await load(without(narrow, /neighbours/));
        await advertise("2001:db8:aaaa");
        // Same cable, later packet: when this one is through, the advertisement has been seen.
        expect(await into(addresses.operator, 22)()).toBe("connected");
        expect(await net.node.sh("ip -6 address show dev eth0")).not.toContain("2001:db8:aaaa:");

        await load(narrow);
        const monitor = execFile("nsenter", [
          "--target",
          String(net.node.pid),
          "--net",
          "ip",
          "-6",
          "monitor",
          "address",
        ]);
        try {
          const lines = createInterface({ input: monitor.stdout ?? process.stdin });
          await once(monitor, "spawn");
          const got = (async () => {
            for await (const line of lines) if (line.includes("2001:db8:bbbb:")) return line;
            throw new Error("the monitor ended");
          })();
          // The monitor tells nothing when it is ready: a further advertisement after each second covers that.
          const again = setInterval(() => void advertise("2001:db8:bbbb"), 1000);
          await advertise("2001:db8:bbbb");
          await expect(got).resolves.toContain("2001:db8:bbbb:");
          clearInterval(again);
        } finally {
          monitor.kill();
          // Addresses that nobody has a route back to.
          await net.node.sh("ip -6 address flush dev eth0 scope global dynamic");
        }
      });

      /** Sends a router advertisement (RFC 4861 4.2) with one prefix, hop limit 255. Perl is on every Debian; node has no raw sockets. */
      const advertise = (prefix: string): Promise<string> =>
        net.router.sh(`perl -MSocket=:all -e '
        socket(my $s, AF_INET6, SOCK_RAW, 58) or die $!;
        setsockopt($s, IPPROTO_IPV6, 18, pack("i", 255)) or die $!;
        setsockopt($s, IPPROTO_IPV6, 17, pack("I", $ARGV[0])) or die $!;
        my $ra = pack("CCnCCnNN", 134, 0, 0, 64, 0, 0, 0, 0);
        my $option = pack("CCCCNNN", 3, 4, 64, 0xC0, 3600, 1800, 0) . inet_pton(AF_INET6, "${prefix}::");
        send($s, $ra . $option, 0, pack_sockaddr_in6(0, inet_pton(AF_INET6, "ff02::1"), $ARGV[0], 0)) or die $!;
      ' "$(cat /sys/class/net/near/ifindex 2>/dev/null || ip -o link show near | cut -d: -f1)"`);

      test.each([
        {
          what: "IPv4",
          host: "203.0.113.5",
          flush: "ip route flush cache",
          route: "ip route get 203.0.113.5",
        },
        {
          what: "IPv6",
          host: "2001:db8:5::5",
          flush: "ip -6 route flush cache",
          route: "ip -6 route get 2001:db8:5::5",
        },
      ])(
        "large packets learn the path's smaller MTU ($what), and only by the ICMP rules",
        async ({ host, flush, route }) => {
          const upload = (ms = timeoutMs) =>
            net.node.call("tcp", { host, port: 443, bytes: 60_000, timeoutMs: ms });
          await load(without(narrow, /icmp-errors|pmtu/));
          await net.node.sh(flush);
          expect(await upload(silenceMs)).toBe("silence");
          for (const rules of [narrow, without(narrow, /icmp-errors/), without(narrow, /pmtu/)]) {
            await load(rules);
            await net.node.sh(flush);
            expect(await upload()).toBe("connected");
            expect(await net.node.sh(route)).toContain("mtu 1300");
          }
        },
      );
    });

    describe("loading", () => {
      const ssh = { host: addresses.node, port: 22, from: addresses.operator, timeoutMs };

      test.each([
        {
          what: "is heard with the rule for answers",
          rules: without(rulesetOf(inputs), /^allow:lan/),
          heard: "heard",
        },
        {
          what: "would not be without",
          rules: without(rulesetOf(inputs), /ssh-answers|^allow:lan/),
          heard: "silence",
        },
      ])(
        "the first load, over the very connection it filters, when the node speaks first: $what",
        async ({ rules, heard }) => {
          await unload();
          expect(await net.router.call("open", ssh)).toBe("connected");
          const hearing = net.router.call("hear", { timeoutMs: silenceMs });
          await load(rules);
          await net.node.call("speak");
          expect(await hearing).toBe(heard);
        },
      );

      test("taking an entry away ends the connections that it allowed", async () => {
        await load(rulesetOf(inputs));
        expect(await net.node.call("open", { host: "203.0.113.5", port: 443, timeoutMs })).toBe("connected");
        expect(await net.node.call("ask", { timeoutMs })).toBe("heard");
        await load(rulesetOf({ ...inputs, allow: [] }));
        expect(await net.node.call("ask", { timeoutMs: 700 })).toBe("silence");
      });

      test("reloading under load lets nothing through, and a reload with a gap would be seen", async () => {
        const stranger = { host: addresses.node, port: 22, from: addresses.stranger, timeoutMs: 200 };
        const text = renderRuleset(rulesetOf(inputs), "test");
        await load(rulesetOf(inputs));
        await net.router.call("hammer", stranger);
        for (let reload = 0; reload < 25; reload++)
          await net.node.sh(
            'cat > /dev/null; i=0; while [ $i -lt 8 ]; do echo "$RULES" | nft -f -; i=$((i+1)); done'.replace(
              '"$RULES"',
              `'${text.replaceAll("'", "'\\''")}'`,
            ),
          );
        const { attempts, connected } = await net.router.call("stop");
        expect(connected).toBe(0);
        expect(attempts).toBeGreaterThan(200);

        await net.router.call("hammer", stranger);
        await unload();
        await net.router.call("through", { connected: 1 });
        await load(rulesetOf(inputs));
        expect((await net.router.call("stop")).connected).toBeGreaterThan(0);
      });
    });
  },
);

describe.skipIf(hindrance !== undefined)(
  `this machine's nft${hindrance === undefined ? "" : ` (not here: ${hindrance})`}`,
  () => {
    let peer: Peer;
    beforeAll(async () => {
      peer = await Peer.start();
    });
    afterAll(() => peer[Symbol.asyncDispose]());

    // A fixed generator, so that a failing case fails again.
    const cases = Array.from({ length: 40 }, (_, seed) => generated(seed));

    test("lists what was loaded with the meaning that was asked for, for generated inputs", async () => {
      for (const generatedInputs of cases) {
        expect(firewall.check?.(generatedInputs)).toEqual([]);
        await peer.sh("nft -f -", renderRuleset(rulesetOf(generatedInputs), "test"));
        const { rules, policies, chains, order } = readTable(
          await peer.sh("nft -j list table inet edgeseal"),
        );
        const desired = firewall.desired(generatedInputs);
        expect(
          diffState({ rules: desired.rules, chains: desired.chains, order: [] }, { rules, chains, order }),
        ).toEqual([]);
        expect(policies.output).toBe(desired.outputPolicy);
      }
    });

    test("lists a table turned off as such", async () => {
      await peer.sh("nft -f -", renderRuleset(rulesetOf(inputs), "test"));
      expect(readTable(await peer.sh("nft -j list table inet edgeseal")).dormant).toBe(false);
      await peer.sh("nft 'add table inet edgeseal { flags dormant; }'");
      expect(readTable(await peer.sh("nft -j list table inet edgeseal")).dormant).toBe(true);
    });
  },
);

/** Inputs of one seed: adjacent and overlapping networks, ranges of ports, either family. */
function generated(seed: number): FirewallInputs {
  let state = seed * 2654435761 + 1;
  const below = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  const cidr = (): string => {
    const length = 8 + below(25);
    const value = ((below(2 ** 31) >>> 0) >>> (32 - length)) << (32 - length);
    const bytes = [24, 16, 8, 0].map((shift) => (value >>> shift) & 255);
    return `${bytes.join(".")}/${length}`;
  };
  const cidr6 = (): string => `2001:db8:${(below(65535) + 1).toString(16)}::/48`;
  const unique = (make: () => string, count: number): string[] => [
    ...new Set(Array.from({ length: count }, make)),
  ];
  const base = 1 + below(60000);
  const ports = [[base], [base, base + 1], [`${base}-${base + 100}`, base + 101], [base, base + 7]];
  return {
    ...inputs,
    management: [...unique(cidr, 1 + below(3)), ...unique(cidr6, below(3)), "192.0.2.0/31", "192.0.2.2/32"],
    sshPort: base,
    dns: ["192.0.2.52", "192.0.2.53", "fd00::53"].slice(0, below(4)),
    ntp: below(2) === 0 ? [] : ["192.0.2.54", "192.0.2.55"],
    egress: below(5) === 0 ? "open" : "allowlist",
    forward: below(3) === 0 ? "leave" : "drop",
    logPerMinute: below(2) * 30,
    allow: unique(below(2) === 0 ? cidr : cidr6, 3).map((to, i) => ({
      name: `entry-${i}`,
      to,
      protocol: (["tcp", "udp"] as const)[below(2)] ?? "tcp",
      ...(below(4) === 0 ? {} : { ports: ports[below(ports.length)] ?? [base] }),
    })),
  };
}
