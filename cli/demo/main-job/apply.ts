import { join } from "node:path";
import { readSite } from "../../pulumi.ts";
import { reportFindings } from "../../report-lines.ts";
import { judgeReport } from "../judged-report.ts";
import { demoSite } from "../site.ts";
import { crashTest } from "./fresh-node.ts";
import { holds, onNode, type DemoStep } from "../step.ts";

export const apply: DemoStep = {
  title: "The site is applied",
  proves:
    "pulumi up passes the gate, brings the node to its state, and each control is judged on what was read back",
  async run(context) {
    await context.pulumi.site(
      "demo",
      demoSite(await readSite(join(context.checkout, "stacks/demo.yaml")), context.pi),
    );
    const up = await context.pulumi.run(["up", "--yes", "--stack", "demo"], { signal: context.signal });
    holds(
      context,
      up.code === 0,
      `pulumi up succeeds (${(up.milliseconds / 1000).toFixed(1)} s)`,
      up.stdout + up.stderr,
    );
    await inForce(context);
    judgeReport(context, reportFindings(await context.pulumi.export("demo"), new Date()));
  },
};

/** The protections themselves, seen from outside the provider. */
export async function inForce(context: Parameters<DemoStep["run"]>[0]): Promise<void> {
  const swaps = await onNode(
    context,
    "tail -n +2 /proc/swaps | wc -l; ls /var/swap /swapfile 2>/dev/null | wc -l",
  );
  holds(context, /^0\s+0\s*$/.test(swaps), "no swap area is active, and no swap file is left", swaps);
  const dump = await onNode(context, crashTest(3));
  holds(context, dump.includes("dumps: 0"), "a crashing process leaves no dump", dump);
  const chains = await onNode(context, "nft list table inet edgeseal");
  holds(
    context,
    (chains.match(/policy drop/g) ?? []).length >= 2,
    "our table drops by default, in and out",
    chains,
  );
  const foreign = await onNode(context, "nft list tables");
  holds(context, foreign.includes("someone_else"), "somebody else's table was left alone", foreign);
}
