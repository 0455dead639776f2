import type { Connection } from "../../provider/connection.ts";
import type { Breakpoint } from "../../provider/device/plan-runner.ts";
import { openToo } from "./firewall-change.ts";
import { apply, sessionTo } from "./steps-on-node.ts";

/*
 * A provider process that is killed, for real, when the device says that its plan has come to a point. Arguments: the connection, and
 * `[point, "before" | "after"]`, as JSON.
 */

const [connection, point] = process.argv.slice(2).map((argument): unknown => JSON.parse(argument));
const [at, when] = point as [string, Breakpoint["when"]];

await apply(sessionTo(connection as Connection), [openToo], {
  breakpoint: { at, when, reached: () => process.kill(process.pid, "SIGKILL") },
});
