import { join } from "node:path";
import { readSite, type PulumiResult } from "../../pulumi.ts";
import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { demoSite } from "../site.ts";

/** What the bad site violates, by control. */
const violated = ["3.swap-off", "5.default-deny", "5.egress-allowlist"];

export const badSite: DemoStep = {
  title: "A bad site is refused",
  proves:
    "the Site itself and the policy pack each refuse it, naming every violated point with its mend, before any node is contacted",
  async run(context) {
    const before = await connectionsSeen(context);
    await context.pulumi.site("bad", await makeBad(context));

    const gate = await context.pulumi.run(["up", "--yes", "--skip-preview", "--stack", "bad"], {
      signal: context.signal,
    });
    refused(context, gate, "pulumi up --skip-preview (the Site's own gate)");

    const pack = await context.pulumi.run(["preview", "--policy-pack", "policies", "--stack", "bad"], {
      signal: context.signal,
    });
    refused(context, pack, "pulumi preview --policy-pack policies");
    for (const control of violated) {
      const verdict = new RegExp(`\\[mandatory\\]\\s+${control.replaceAll(".", "\\.")}`);
      holds(
        context,
        verdict.test(pack.stdout),
        `the pack, by itself, holds ${control} against the site`,
        pack.stdout + pack.stderr,
      );
    }

    const after = await connectionsSeen(context);
    holds(
      context,
      after === before,
      "sshd on the node logged no connection but our own",
      `${after - before} connections more`,
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

function refused(context: DemoContext, result: PulumiResult, what: string): void {
  const said = result.stdout + result.stderr;
  holds(
    context,
    result.code !== 0,
    `${what} fails (exit status ${result.code}, ${(result.milliseconds / 1000).toFixed(1)} s)`,
    said,
  );
  for (const control of violated) holds(context, said.includes(control), `it names ${control}`, said);
  holds(context, said.includes("pi-second"), "it names the node without a firewall", said);
}

/** Connections in sshd's own log. The question itself travels on the one connection that the testbed keeps. */
async function connectionsSeen(context: DemoContext): Promise<number> {
  const log = await onNode(
    context,
    "journalctl -q -b -o cat -t sshd -t sshd-session --grep '^Connection from' | wc -l",
  );
  return Number(log.trim());
}
