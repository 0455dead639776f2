import type { Connection } from "../../provider/connection.ts";
import { applyPlan, type ApplyPlanOptions, type PlanResult } from "../../provider/device/plan-runner.ts";
import type { Probe } from "../../provider/device/probe.ts";
import { createSession, type Session } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import type { Step } from "../../provider/device/step.ts";

/** A session as the provider makes it, but quick to say that nobody is there. */
export function sessionTo(connection: Connection): Session & AsyncDisposable {
  const session = createSession({
    connection,
    transport: ssh2Transport(),
    connectTimeoutMs: 3_000,
    attempts: 1,
    failureHoldMs: 0,
  });
  return Object.assign(session, { [Symbol.asyncDispose]: () => session.close() });
}

/** Applies steps as some operator. */
export function apply(
  session: Session,
  steps: readonly Step[],
  options: Partial<ApplyPlanOptions> & { readonly readback?: readonly Probe<unknown>[] } = {},
): Promise<PlanResult> {
  const { readback = [], ...rest } = options;
  return applyPlan(session, steps, readback, { purpose: "a test", owner: "tester@bench", ...rest });
}

/** A probe that prints what a fragment prints. */
export function look(fragment: string): Probe<string> {
  return { id: "test:look", parts: { out: fragment }, parse: ({ out }) => out?.stdout ?? "" };
}

/** What `look` saw in a plan's readback. */
export function seen(result: PlanResult): string | undefined {
  return result.readback.get("test:look")?.["out"]?.stdout;
}
