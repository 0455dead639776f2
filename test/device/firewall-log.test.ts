import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { FirewallInputs } from "../../provider/resources/firewall-inputs.ts";
import { rulesetOf } from "../../provider/resources/firewall-rules.ts";
import { renderRuleset } from "../../provider/resources/firewall-ruleset.ts";
import { addresses, LittleInternet, whyNoNamespaces } from "./firewall-network.ts";

/*
 * Which of many refused packets get as far as the log. The kernel logs packets of its first network only (net.netfilter.nf_log_all_netns), so no namespace has such a log to
 * read; what it does have is the kernel's trace of each packet through the rules, which names the log's rule where its limit let the packet through, and only there.
 */

const hindrance = await whyNoNamespaces();
const refused = 60;
/** Of the limit, in packets. */
const burst = 5;
const perMinute = 60;

const textWith = (logPerMinute: number): string => {
  const inputs: FirewallInputs = {
    management: [`${addresses.operator}/32`],
    sshPort: 22,
    dns: [],
    ntp: [],
    egress: "allowlist",
    forward: "drop",
    logPerMinute,
    confirmSeconds: 30,
    allow: [],
  };
  return renderRuleset(rulesetOf(inputs), "test");
};

interface Seen {
  /** Packets that the last rule of the chain refused, and those that the log's rule logged. */
  readonly refused: number;
  readonly logged: number;
  /** From before the first packet until after the last. */
  readonly seconds: number;
}

describe.skipIf(hindrance !== undefined)(
  `the firewall's log${hindrance === undefined ? "" : ` (not here: ${hindrance})`}`,
  () => {
    let net: LittleInternet;
    beforeAll(async () => {
      net = await LittleInternet.start();
    });
    afterAll(async () => {
      await net[Symbol.asyncDispose]();
    });

    /** Loads rules, so that their limit is fresh, and has packets sent that they refuse, as fast as one process can. */
    async function sendThrough(text: string): Promise<Seen> {
      const output = await net.node.sh(
        `nft -f -
nft -f - <<'END'
table inet tracing
delete table inet tracing
table inet tracing {
  chain output {
    type filter hook output priority -300
    udp dport { 9, 10, 11 } meta nftrace set 1
  }
}
END
trace=$(mktemp)
nft monitor trace >"$trace" &
monitor=$!
trap 'kill $monitor 2>/dev/null || :; rm -f "$trace"' EXIT
# What goes to loopback is let through: a first one tells that the monitor listens, a last one that it is done.
until grep -q 'udp dport 10 ' "$trace"; do bash -c 'echo x >/dev/udp/127.0.0.1/10' 2>/dev/null || :; sleep 0.05; done
began=$(cut -d' ' -f1 /proc/uptime)
i=0; while [ $i -lt ${refused} ]; do bash -c 'echo x >/dev/udp/203.0.113.6/9' 2>/dev/null || :; i=$((i+1)); done
ended=$(cut -d' ' -f1 /proc/uptime)
bash -c 'echo x >/dev/udp/127.0.0.1/11' 2>/dev/null
until grep -q 'udp dport 11 ' "$trace"; do sleep 0.05; done
count() { grep -c "output rule .*comment \\"$1\\" (verdict" "$trace" || :; }
echo "$(count base:output-reject) $(count base:output-log) $began $ended"`,
        text,
      );
      const [packets, logged, began, ended] = output.trim().split(" ").map(Number);
      return {
        refused: packets ?? Number.NaN,
        logged: logged ?? Number.NaN,
        seconds: (ended ?? Number.NaN) - (began ?? Number.NaN),
      };
    }

    test("has some of many refused packets, and no more than its limit lets through", async () => {
      const seen = await sendThrough(textWith(perMinute));
      expect(seen.refused).toBe(refused);
      expect(seen.logged).toBeGreaterThanOrEqual(1);
      expect(seen.logged).toBeLessThanOrEqual(burst + Math.ceil((seen.seconds * perMinute) / 60));
      // The limit was put to the test.
      expect(seen.logged).toBeLessThan(refused / 2);
    });

    test("has none with logPerMinute 0", async () => {
      expect(await sendThrough(textWith(0))).toMatchObject({ refused, logged: 0 });
    });

    test("the control: the same rule without its limit logs every one", async () => {
      const unlimited = textWith(perMinute).replaceAll(/limit rate \S+ burst \d+ packets /g, "");
      expect(await sendThrough(unlimited)).toMatchObject({ refused, logged: refused });
    });
  },
);
