import { armSteps } from "./commit-confirm.ts";
import type { PlainStep, RebootStep, Step, UploadStep } from "./step.ts";

/** One thing that the device does for a plan, in the order in which it does it: what a plan can fail at, or be killed before or after. */
export interface PlanPoint {
  /** Unique within the plan: `0`, `1`, and for a commit-confirmed step `2:arm:0`, `2:apply:0`, `2:confirm`; for a reboot `2`, which is done when the node is back, and `2:after:0`, of which the last may be another. */
  readonly id: string;
  readonly title: string;
  /**
   * `upload` runs in an exec of its own, before all others. `arm` runs before the change can be noticed, `apply` within the window, `confirm` in the second exec, over the new connection. `reboot` is asked for in the first exec and seen
   * to be done in the second; `after` runs there.
   */
  readonly phase: "upload" | "step" | "arm" | "apply" | "confirm" | "reboot" | "after";
  /** What runs; none for the confirmation. */
  readonly step: PlainStep | UploadStep | RebootStep | undefined;
}

/** Stops a plan at a point, for tests: the device says that it is there, and goes no further until its connection is gone. */
export interface Breakpoint {
  /** Id of a `PlanPoint`. */
  readonly at: string;
  readonly when: "before" | "after";
  /** Called once, when the device is there. */
  readonly reached: () => void;
}

/**
 * All points of a plan.
 * @throws TypeError when a commit-confirmed change or a reboot is not the last step: what comes after it would run unconfirmed, or not at all. And when an upload comes after anything else.
 */
export function pointsOf(steps: readonly Step[], nonce: string): readonly PlanPoint[] {
  return steps.flatMap((step, index): readonly PlanPoint[] => {
    const isLast = index === steps.length - 1;
    if (step.kind === "upload") {
      if (steps[index - 1] !== undefined && steps[index - 1]?.kind !== "upload")
        throw new TypeError(`'${step.title}' is an upload, so it has to come before every other step`);
      return [{ id: String(index), title: step.title, phase: "upload", step }];
    }
    if (step.kind === "reboot") return rebootPoints(step, String(index), isLast, "reboot");
    if (step.kind !== "commitConfirm") {
      return [{ id: String(index), title: step.title, phase: "step", step }];
    }
    if (!isLast) throw new TypeError(`'${step.title}' is commit-confirmed, so it has to be the last step`);
    const inner = (phase: "arm" | "apply", list: readonly PlainStep[]): PlanPoint[] =>
      list.map((each, at) => ({ id: `${index}:${phase}:${at}`, title: each.title, phase, step: each }));
    return [
      ...inner("arm", armSteps(step, nonce)),
      ...inner("apply", step.apply),
      { id: `${index}:confirm`, title: `confirm: ${step.title}`, phase: "confirm", step: undefined },
    ];
  });
}

/** Those of a reboot, and of what is done after it. */
function rebootPoints(
  step: RebootStep,
  id: string,
  isLast: boolean,
  phase: PlanPoint["phase"],
): readonly PlanPoint[] {
  if (!isLast) throw new TypeError(`'${step.title}' is a reboot, so it has to be the last step`);
  const { title, afterwards = [] } = step;
  return [
    { id, title, phase, step },
    ...afterwards.flatMap((each, at): readonly PlanPoint[] => {
      const inner = `${id}:after:${at}`;
      return each.kind === "reboot"
        ? rebootPoints(each, inner, at === afterwards.length - 1, "after")
        : [{ id: inner, title: each.title, phase: "after", step: each }];
    }),
  ];
}

/** Whether a point is done in the boot that the reboot of that id leads to. */
export const isAfter = ({ id }: PlanPoint, reboot: string): boolean =>
  id.startsWith(`${reboot}:after:`) && !id.slice(reboot.length + ":after:".length).includes(":");

export interface RebootPoint extends PlanPoint {
  readonly step: RebootStep;
}

export const isReboot = (point: PlanPoint): point is RebootPoint => point.step?.kind === "reboot";

/** The runner's own list of points, for tests that kill a plan at each of them. */
export function stepsOf(steps: readonly Step[]): readonly PlanPoint[] {
  return pointsOf(steps, "0".repeat(32));
}
