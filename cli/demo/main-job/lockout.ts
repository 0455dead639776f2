import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { RoamingProxy } from "../../../testbed/roaming-proxy.ts";
import { readSite, said, type RunResult } from "../../pulumi.ts";
import { demoSite } from "../site.ts";
import { holds, NotAsItShouldBe, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { firewallCameFirst } from "./power.ts";
import { inForce } from "./apply.ts";

export const lockout: DemoStep = {
  title: "It can't lock you out",
  proves:
    "a firewall that cuts the way in is refused where that is known, and else rolled back by the device itself, with the power cut or the provider killed inside the window too",
  async run(context) {
    const rules = await loadedRules(context);

    await changeSite(context, { management: ["203.0.113.0/24"] });
    const previewed = await context.pulumi.run(["preview", "--stack", "demo"], { signal: context.signal });
    for (const [refused, at] of [
      [previewed, "pulumi preview"],
      [await up(context), "pulumi up --skip-preview"],
    ] as const)
      holds(
        context,
        refused.code !== 0 && /the change would lock us out/.test(said(refused)),
        `a rule set that excludes the connection in use is refused at ${at}`,
        said(refused),
      );
    await rulesAre(context, rules, "the rules are as before");

    // What can't be known beforehand: the next connection comes from another address (a NAT pool, a second uplink, a new lease).
    await using roaming = await RoamingProxy.start({
      first: context.pi.ssh.port,
      later: context.pi.sshAlternate.port,
    });
    const narrow = { management: ["10.0.2.0/24"] };

    await changeSite(context, narrow, roaming.port);
    roaming.arm();
    const rolledBack = await up(context);
    holds(
      context,
      rolledBack.code !== 0 && /the device took it back/.test(said(rolledBack)),
      "pulumi up fails and says that the device rolled back",
      said(rolledBack),
    );
    await rulesAre(context, rules, "the old rules are in force");

    roaming.arm();
    const cut = up(context);
    await lockedOut(context, rules, cut);
    await context.pi.powerCut();
    context.say("      power was cut inside the window");
    await context.pi.boot();
    const afterCut = await cut;
    holds(
      context,
      afterCut.code !== 0 && /could not be confirmed/.test(said(afterCut)),
      "pulumi up fails and says that the change could not be confirmed",
      said(afterCut),
    );
    await rulesAre(context, rules, "after the boot the old rules are in force");
    await firewallCameFirst(context);

    roaming.arm();
    let engine = 0;
    const killed = up(context, (pid) => (engine = pid));
    await lockedOut(context, rules, killed);
    process.kill(await providerOf(engine), "SIGKILL");
    context.say("      the provider was killed inside the window");
    const afterKill = await killed;
    holds(
      context,
      afterKill.code !== 0 && /exited prematurely/.test(said(afterKill)),
      "pulumi up fails and says that its provider is gone",
      said(afterKill),
    );
    await onNode(
      context,
      "while [ -e /var/lib/edgeseal/pending ] || [ -e /var/lib/edgeseal/reverting ]; do sleep 0.5; done",
    );
    await rulesAre(context, rules, "the device took the change back by itself");

    await context.pulumi.site("demo", demoSite(await template(context), context.pi));
    const back = await up(context);
    holds(context, back.code === 0, "with the site file put right, pulumi up succeeds", said(back));
    await inForce(context);
  },
};

const template = (context: DemoContext): Promise<Record<string, unknown>> =>
  readSite(join(context.checkout, "stacks/demo.yaml"));

async function changeSite(context: DemoContext, firewall: object, port?: number): Promise<void> {
  const site = demoSite(await template(context), context.pi, port);
  await context.pulumi.site("demo", {
    ...site,
    nodes: site.nodes.map((node) => ({ ...node, firewall: { ...node.firewall, ...firewall } })),
  });
}

/** One connection observes and applies (no preview, no refresh of its own), so that the very next one is the confirmation. */
function up(context: DemoContext, onStart: (pid: number) => void = () => undefined): Promise<RunResult> {
  return context.pulumi.run(["up", "--yes", "--skip-preview", "--refresh=false", "--stack", "demo"], {
    signal: context.signal,
    onStart,
  });
}

/** Returns once the rules that lock us out are in force, and wait for their confirmation. */
async function lockedOut(context: DemoContext, former: string, under: Promise<RunResult>): Promise<void> {
  const ended = under.then((result) => {
    throw new NotAsItShouldBe(
      `expected: pulumi up waits for the confirmation of rules that lock us out\nfound: ${said(result)}`,
    );
  });
  await Promise.race([
    onNode(context, "until [ -e /var/lib/edgeseal/pending/applied ]; do sleep 0.2; done"),
    ended,
  ]);
  const loaded = await loadedRules(context);
  holds(context, loaded !== former, "the rules that lock us out are in force", loaded);
}

/** The provider process that an engine started. */
async function providerOf(engine: number): Promise<number> {
  for (const pid of (await readdir("/proc")).map(Number).filter(Number.isInteger)) {
    const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (/provider\/main\.ts/.test(command) && (await descends(pid, engine))) return pid;
  }
  throw new NotAsItShouldBe(`no provider process runs under the engine (process ${engine})`);
}

async function descends(pid: number, ancestor: number): Promise<boolean> {
  for (let each = pid; each > 1;) {
    if (each === ancestor) return true;
    const status = await readFile(`/proc/${each}/status`, "utf8").catch(() => "");
    each = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1] ?? 0);
  }
  return false;
}

/** One reading, so that what is shown is what was judged. */
async function rulesAre(context: DemoContext, expected: string, claim: string): Promise<void> {
  const loaded = await loadedRules(context);
  holds(context, loaded === expected, claim, loaded);
}

/** Our table without counters and handles: what is in force, independent of the provider. */
async function loadedRules(context: DemoContext): Promise<string> {
  const rules = await onNode(context, "nft -s list table inet edgeseal");
  return rules.replaceAll(/ counter( packets \d+ bytes \d+)?/g, "");
}
