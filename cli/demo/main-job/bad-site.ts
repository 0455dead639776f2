import { join } from "node:path";
import { readSite } from "../../pulumi.ts";
import { refusedByGate, refusedByPack, type Violated } from "../refusal.ts";
import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { demoSite } from "../site.ts";

/** What of the bad site has to be named. */
const violated: readonly Violated[] = [
  { control: "3.swap-off", node: "pi-demo" },
  { control: "5.egress-allowlist", node: "pi-demo" },
  { control: "1.verified-boot", node: "pi-second" },
  { control: "5.default-deny", node: "pi-second" },
  { control: "5.egress-allowlist", node: "pi-second" },
];

export const badSite: DemoStep = {
  title: "A bad site is refused",
  proves:
    "the Site itself and the policy pack each refuse it, naming every violated point with its mend, before any node is contacted",
  async run(context) {
    const before = await connectionsSeen(context);
    // Else a log that shows no connection at all would say the same before and after.
    holds(
      context,
      before > 0,
      `sshd's log on the node shows connections: ${before}, the testbed's own`,
      String(before),
    );
    await context.pulumi.site("bad", await makeBad(context));

    const gate = await context.pulumi.run(["up", "--yes", "--skip-preview", "--stack", "bad"], {
      signal: context.signal,
    });
    refusedByGate(context, gate, "pulumi up --skip-preview (the Site's own gate)", violated);

    const pack = await context.pulumi.run(["preview", "--policy-pack", "policies", "--stack", "bad"], {
      signal: context.signal,
    });
    refusedByGate(context, pack, "pulumi preview --policy-pack policies", violated);
    refusedByPack(context, pack, violated);

    const after = await connectionsSeen(context);
    holds(
      context,
      after === before,
      "sshd on the node logged no connection since",
      `connections since: ${after - before}`,
    );
  },
};

/** Swap left on, open egress, and a second node without a firewall block. */
async function makeBad(context: DemoContext): Promise<object> {
  const site = demoSite(await readSite(join(context.checkout, "stacks/demo.yaml")), context.pi);
  const [node] = site.nodes;
  const firewall = { ...node?.firewall, egress: "open" };
  return {
    ...site,
    nodes: [
      { ...node, swap: { mode: "keep" }, firewall },
      { ...node, name: "pi-second", address: "192.0.2.7", firewall: undefined },
    ],
  };
}

/**
 * Connections in sshd's own log. The question itself travels on the one connection that the testbed keeps.
 * @throws NotAsItShouldBe when the log can't be read
 */
async function connectionsSeen(context: DemoContext): Promise<number> {
  // Synced: what sshd has handed over is in the log. Counted here: a pipe on the node would hide that the log could not be read.
  const log = await onNode(
    context,
    "journalctl --sync && journalctl -q -b -o cat -t sshd -t sshd-session --no-pager",
  );
  return log.match(/^Connection from /gm)?.length ?? 0;
}
