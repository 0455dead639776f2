import { noDrift, nothingToDo } from "../refresh.ts";
import { holds, onNode, type DemoContext, type DemoStep } from "../step.ts";
import { inForce } from "./apply.ts";

export const power: DemoStep = {
  title: "It survives a reboot and a power cut",
  proves: "everything is still in force, and the firewall was in force before the network came up",
  async run(context) {
    await context.pi.reboot();
    context.say("      rebooted");
    await inForce(context);
    await firewallCameFirst(context);
    await noDrift(context);
    await context.pi.powerCut();
    await context.pi.boot();
    context.say("      power was cut, and is back");
    await inForce(context);
    await firewallCameFirst(context);
    await nothingToDo(context);
  },
};

/** By systemd's own monotonic clock of this boot. */
export async function firewallCameFirst(context: DemoContext): Promise<void> {
  const times = await onNode(
    context,
    "systemctl show -P ActiveEnterTimestampMonotonic edgeseal-firewall.service; systemctl show -P InactiveExitTimestampMonotonic systemd-networkd.service",
  );
  const [firewall, network] = times.trim().split("\n").map(Number);
  const known = firewall !== undefined && network !== undefined && firewall > 0 && network > 0;
  holds(
    context,
    known && firewall <= network,
    `the firewall was in force before the network service started (${((firewall ?? 0) / 1e6).toFixed(2)} s, ${((network ?? 0) / 1e6).toFixed(2)} s after boot)`,
    times,
  );
}
