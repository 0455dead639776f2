import type { PoweredOffDisks } from "../../testbed/tamper.ts";
import type { DemoContext } from "./step.ts";

/** Boots with something changed while the node was off, as somebody with its disks in hand does. That it returns says that ssh answers. */
export async function whileOff(
  context: DemoContext,
  what: string,
  change: (disks: PoweredOffDisks) => Promise<void>,
): Promise<void> {
  await context.pi.powerOff();
  await context.pi.tamper(change);
  context.say(`      while it was off: ${what}`);
  await context.pi.boot();
}
