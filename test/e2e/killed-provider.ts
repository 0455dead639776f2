import type { Connection } from "../../provider/connection.ts";
import { createDevices } from "../../provider/device/devices.ts";
import type { Breakpoint } from "../../provider/device/plan-runner.ts";
import { kinds } from "../../provider/registry.ts";

/*
 * A provider process that observes, plans and applies one resource, and is killed, for real, when the device says that the plan has come to a point. Arguments: the
 * connection, the kind's token, its inputs, and `[point, "before" | "after"]`; all as JSON.
 */

const [connection, token, inputs, point] = process.argv
  .slice(2)
  .map((argument): unknown => JSON.parse(argument));
const [at, when] = point as [string, Breakpoint["when"]];

const kind = kinds.find((each) => each.token === token);
if (kind === undefined) throw new Error(`no kind ${String(token)}`);
const device = createDevices({
  kinds: [kind],
  breakpoint: { at, when, reached: () => process.kill(process.pid, "SIGKILL") },
}).get(connection as Connection);

const observed = await device.observe(kind, inputs as object);
const steps = kind.plan(inputs as never, observed as never, await device.route());
const { failure } = await device.apply(kind, inputs as object, steps);
throw failure ?? new Error(`the plan ended without coming to ${when} ${at}`);
