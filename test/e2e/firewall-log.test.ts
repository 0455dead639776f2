import { afterAll, beforeAll, expect, test } from "vitest";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kindOf, onPi, type Declared } from "./provider-on-pi.ts";

/*
 * What the firewall writes to the kernel's log. A namespace has none of its own: the kernel logs the packets of its first network only (net.netfilter.nf_log_all_netns).
 */

const refused = 200;
/** The burst of the log rule's limit, in packets. */
const burst = 5;
const perMinute = 60;

const firewall = (logPerMinute: number): Declared => ({
  kind: kindOf("edgeseal:network:Firewall"),
  inputs: {
    // From where QEMU lets us in.
    management: ["10.0.2.0/24", "10.0.3.0/24"],
    sshPort: 22,
    dns: ["10.0.2.3"],
    ntp: ["10.0.2.2"],
    allow: [],
    egress: "allowlist",
    forward: "drop",
    logPerMinute,
    confirmSeconds: 120,
  },
});

let pi: VirtualPi;
beforeAll(async () => {
  pi = await VirtualPi.start();
});
// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

interface Seen {
  /** Packets that the last rule of the chain refused, by its own counter. */
  readonly refused: number;
  /** Lines about them in the kernel's log, and in the journal. */
  readonly lines: readonly string[];
  readonly inJournal: number;
  /** From before the first packet until after the last, by the device's clock. */
  readonly seconds: number;
}

/**
 * Has packets that no entry allows sent, from one process and as fast as it goes, and looks at what was logged. A refusal may come back as the error of the next write, which
 * then sends nothing: there are more writes than packets. The journal takes its time to hear of the kernel's lines.
 */
async function send(count: number): Promise<Seen> {
  const output = await onPi(
    pi,
    `refusals() { nft list chain inet edgeseal output | sed -n 's/.*counter packets \\([0-9]*\\) .*comment "base:output-reject".*/\\1/p'; }
now() { cut -d' ' -f1 /proc/uptime; }
ip route replace 198.51.100.9 dev eth0
before=$(refusals)
began=$(now)
mark="lines of packets follow, $began"
echo "$mark" >/dev/kmsg
bash -c 'exec 3>/dev/udp/198.51.100.9/9; for i in {1..${2 * count}}; do echo x >&3; done' 2>/dev/null || :
ended=$(now)
after=$(refusals)
dmesg | sed "1,/$mark/d" | grep 'edgeseal output: ' >/run/lines || :
lines=$(wc -l </run/lines)
journal() { journalctl -k -b -o cat | sed "1,/$mark/d" | grep -c 'edgeseal output: '; }
while [ "$(journal)" -lt "$lines" ]; do sleep 0.2; done
echo "$((after - before)) $(journal) $began $ended"
cat /run/lines`,
  );
  const [head = "", ...lines] = output.trim().split("\n");
  const [packets, inJournal, began, ended] = head.split(" ").map(Number);
  const seconds = (ended ?? Number.NaN) - (began ?? Number.NaN);
  return { refused: packets ?? Number.NaN, inJournal: inJournal ?? Number.NaN, lines, seconds };
}

test("of many refused packets the log has some, with where they went, and no more than the limit lets through", async () => {
  await bringUp(pi, firewall(perMinute));
  const seen = await send(refused);
  expect(seen.refused).toBeGreaterThanOrEqual(refused);
  expect(seen.lines.length).toBeGreaterThanOrEqual(1);
  expect(seen.lines.some((line) => /DST=198\.51\.100\.9 .*PROTO=UDP .*DPT=9\b/.test(line))).toBe(true);
  // Since a second may have begun before the first packet and not ended with the last, one line more.
  expect(seen.lines.length).toBeLessThanOrEqual(burst + Math.ceil((seen.seconds * perMinute) / 60) + 1);
  expect(seen.inJournal).toBeGreaterThanOrEqual(seen.lines.length);
  // The limit was put to the test.
  expect(seen.lines.length).toBeLessThan(seen.refused / 2);
});

test("with logPerMinute 0 as many are refused, and none is logged", async () => {
  await bringUp(pi, firewall(0));
  const seen = await send(refused);
  expect(seen.refused).toBeGreaterThanOrEqual(refused);
  expect(seen.lines).toEqual([]);
});
