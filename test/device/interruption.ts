import { expect } from "vitest";
import {
  newNonce,
  parseProbes,
  renderProbes,
  renderScript,
  requireComplete,
} from "../../provider/device/batch.ts";
import { pendingProbe } from "../../provider/device/commit-confirm.ts";
import type { PlanPoint } from "../../provider/device/plan-points.ts";
import { stepsOf, type Breakpoint } from "../../provider/device/plan-runner.ts";
import type { Probe } from "../../provider/device/probe.ts";
import type { Session } from "../../provider/device/session.ts";
import type { Step } from "../../provider/device/step.ts";
import type { Observed, ResourceKind, Route } from "../../provider/resource.ts";
import type { NamespaceNode } from "../../testbed/namespace/node.ts";
import { apply, sessionTo } from "./steps-on-node.ts";

/** What is interrupted: something that can be brought to a start, and from there by steps to an end. */
export interface Interruptible {
  /** Brings the node to where the plan starts. */
  readonly reset: (node: NamespaceNode) => Promise<void>;
  /** The steps that lead from what is found now to the end; `[]` at the end. */
  readonly plan: (session: Session) => Promise<readonly Step[]>;
}

/** Asks the device one probe. */
export async function ask<T>(session: Session, probe: Probe<T>): Promise<T> {
  const nonce = newNonce();
  const result = await session.run(renderScript(renderProbes([probe], nonce), nonce), {
    timeoutMs: 60_000,
    readOnly: true,
  });
  requireComplete(session.node, result, nonce);
  return probe.parse(parseProbes(result.stdout, result.stderr, nonce).get(probe.id) ?? {});
}

/** As a reader does: within the window of a change that nobody confirms, it waits for the window's end and looks again. */
async function unlessPending(session: Session): Promise<void> {
  for (;;) {
    const pending = await ask(session, pendingProbe);
    if (pending === undefined) return;
    await new Promise((resolve) => setTimeout(resolve, Math.max(100, pending.secondsLeft * 1000)));
  }
}

/**
 * Cuts a plan off before and after every one of its points in turn, the list generated from the runner's own, and holds that the next plan reaches the end.
 * Returns the points, so that a test can tell that they were the ones it meant.
 */
export async function interruptEverywhere(
  subject: Interruptible,
  node: NamespaceNode,
): Promise<readonly string[]> {
  const points: string[] = [];
  const all = await listPoints(subject, node);
  for (const { id, title } of all) {
    for (const when of ["before", "after"] as const) {
      points.push(`${when} ${title}`);
      await subject.reset(node);
      await cutOff(subject, node, { at: id, when }, all);

      await using session = sessionTo(node.connection);
      await unlessPending(session);
      const next = await apply(session, await subject.plan(session));
      expect(next.failure, `the plan after one cut off ${when} '${title}'`).toBeUndefined();
      expect(await subject.plan(session), `what is left to do after one cut off ${when} '${title}'`).toEqual(
        [],
      );
    }
  }
  return points;
}

async function listPoints(subject: Interruptible, node: NamespaceNode): Promise<readonly PlanPoint[]> {
  await using session = sessionTo(node.connection);
  await subject.reset(node);
  return stepsOf(await subject.plan(session));
}

async function cutOff(
  subject: Interruptible,
  node: NamespaceNode,
  point: Pick<Breakpoint, "at" | "when">,
  all: readonly PlanPoint[],
): Promise<void> {
  const session = sessionTo(node.connection);
  const steps = await subject.plan(session);
  const title = all.find(({ id }) => id === point.at)?.title ?? point.at;
  // A reset that does not always lead to the same place would cut another step than the one named, or none.
  expect(titlesOf(stepsOf(steps)), `the plan to be cut off ${point.when} '${title}'`).toEqual(titlesOf(all));
  let reached = false;
  const applying = apply(session, steps, {
    breakpoint: {
      ...point,
      reached: () => {
        reached = true;
        void session.close();
      },
    },
  });
  await expect(applying, `the plan cut off ${point.when} '${title}'`).rejects.toMatchObject({
    kind: "cancelled",
  });
  expect(reached, `the plan came to the point ${point.when} '${title}'`).toBe(true);
}

const titlesOf = (points: readonly PlanPoint[]): readonly string[] => points.map(({ title }) => title);

const noRoute: Route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

/**
 * The same for a resource kind: from where `reset` brings the node (default: by the kind's own `revert`) to the inputs' desired state.
 */
export async function testEveryInterruption(
  kind: ResourceKind,
  inputs: object,
  node: NamespaceNode,
  options: { readonly reset?: (node: NamespaceNode) => Promise<void>; readonly route?: Route } = {},
): Promise<readonly string[]> {
  const observe = (session: Session): Promise<Observed<object>> =>
    ask(session, kind.observe(inputs as never));
  const revert = async (): Promise<void> => {
    await using session = sessionTo(node.connection);
    await unlessPending(session);
    const result = await apply(session, kind.revert(inputs as never, (await observe(session)) as never));
    expect(result.failure, `the revert of ${kind.token}`).toBeUndefined();
  };
  return interruptEverywhere(
    {
      reset: options.reset ?? revert,
      plan: async (session) =>
        kind.plan(inputs as never, (await observe(session)) as never, options.route ?? noRoute),
    },
    node,
  );
}
