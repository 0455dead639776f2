import { Type, type Static } from "typebox";
import { approvalCheck, approvalSeconds, isUnapproved } from "../device/reboot-script.ts";
import { reboot, run, type PlainStep, type RebootStep, type Step } from "../device/step.ts";
import type { InputProblem } from "../resource.ts";
import { parseApproval } from "../trust/approval.ts";
import { approvalInputs, approvalProblems, keyProblems } from "./approval-inputs.ts";
import { shipApproval } from "./approval-shipping.ts";

/*
 * The inputs of every kind whose changes take effect with the next boot, and what follows of them: a reboot at the end of the plan, or a state that says that one is pending.
 *
 * A kind has them in `inputs`, `pendingReboot` in its state, and demands `pendingReboot: false` only while it may reboot (`mayReboot`): so a node that nobody may reboot is no failed
 * update, and yet every refresh shows that it is not yet what it was made to be.
 */

const days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"] as const;
const dayPattern = `(?:${days.join("|")})`;
const timePattern = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";

/** To be spread into a kind's inputs. */
export const rebootInputs = {
  reboot: Type.Enum(["never", "ifNeeded", "window"], {
    type: "string",
    default: "never",
    description:
      "What is done when a boot is needed: `never`: nothing, and `pendingReboot` says so. `ifNeeded`: the node is rebooted at the end of the update. `window`: the same, when the update begins within `rebootWindow`. Default `never`: whoever lets a node go down should have said so.",
  }),
  rebootWindow: Type.Optional(
    Type.String({
      pattern: `^(?:${dayPattern}(?:,${dayPattern})* )?${timePattern}-${timePattern}$`,
      description:
        "With `reboot: window`: when an update that may reboot the node may begin, in UTC by the clock of whoever runs the update, e.g. `Sun 02:00-04:00`, `Mon,Wed 22:30-01:00` (over midnight; the day is that of the beginning), or `02:00-04:00` for every day. What comes before the reboot takes its time (a new initramfs up to half an hour), and is not cut short at the end of the window.",
    }),
  ),
  rebootUnapproved: Type.Enum(["refuse", "allow"], {
    type: "string",
    default: "refuse",
    description:
      "What is done when the node has sealed volumes, and no approval for what its next boot will measure: `refuse` the reboot, or `allow` it, after which the volumes stay locked. Default `refuse`.",
  }),
  node: Type.Optional(approvalInputs.node),
  policyKey: Type.Optional(approvalInputs.policyKey),
  generation: Type.Optional(approvalInputs.generation),
  approval: Type.Optional(
    Type.String({
      description:
        "Content of `approvals/<node>.json`, as `edgeseal approve` wrote it; verified with `node`, `policyKey` and `generation`, and shipped before the reboot. Default none: what the node has counts.",
    }),
  ),
} as const;

/** To be spread into a kind's state. */
export const rebootState = {
  pendingReboot: Type.Boolean({
    description: "Whether what is declared and on the disk takes effect with the next boot only.",
  }),
} as const;

export interface RebootInputs {
  readonly reboot: Static<typeof rebootInputs.reboot>;
  readonly rebootWindow?: string;
  readonly rebootUnapproved: Static<typeof rebootInputs.rebootUnapproved>;
  readonly node?: string;
  readonly policyKey?: string;
  readonly generation?: number;
  readonly approval?: string;
}

/** Faults that the schema can't express; for a kind's `check`. */
export function rebootProblems(inputs: RebootInputs): readonly InputProblem[] {
  return [...windowProblems(inputs), ...shippedProblems(inputs)];
}

function windowProblems({ reboot, rebootWindow }: RebootInputs): readonly InputProblem[] {
  if (reboot === "window" && rebootWindow === undefined) {
    return [
      { path: "rebootWindow", message: "reboot: window needs a rebootWindow, e.g. Sun 02:00-04:00 (UTC)" },
    ];
  }
  if (reboot !== "window" && rebootWindow !== undefined) {
    return [
      { path: "rebootWindow", message: `only reboot: window has a rebootWindow, and reboot is '${reboot}'` },
    ];
  }
  return [];
}

function shippedProblems({ node, policyKey, generation, approval }: RebootInputs): readonly InputProblem[] {
  if (approval === undefined) return [];
  if (node === undefined || policyKey === undefined || generation === undefined) {
    return [
      { path: "approval", message: "it is verified with node, policyKey and generation: give these too" },
    ];
  }
  return [
    ...keyProblems("policyKey", policyKey, "policy"),
    ...approvalProblems({ node, policyKey, generation, approval }),
  ];
}

/** Whether an update that begins at a time may reboot a node at its end. */
export function mayReboot({ reboot, rebootWindow }: RebootInputs, now: Date): boolean {
  if (reboot !== "window") return reboot === "ifNeeded";
  return rebootWindow !== undefined && isWithin(rebootWindow, now);
}

function isWithin(window: string, now: Date): boolean {
  const [, names, from, to] = /^(?:(\S+) )?(\d\d:\d\d)-(\d\d:\d\d)$/.exec(window) ?? [];
  if (from === undefined || to === undefined) return false;
  const minute = now.getUTCHours() * 60 + now.getUTCMinutes();
  const isDay = (day: number): boolean =>
    names === undefined || names.split(",").includes(days[(day + 7) % 7] ?? "");
  const [begin, end] = [minuteOf(from), minuteOf(to)];
  const today = now.getUTCDay();
  if (begin < end) return isDay(today) && minute >= begin && minute < end;
  // Over midnight; the same time twice is a whole day.
  return (isDay(today) && minute >= begin) || (isDay(today - 1) && minute < end);
}

const minuteOf = (time: string): number => Number(time.slice(0, 2)) * 60 + Number(time.slice(3));

/** A Pi 5 takes 20 to 60 s to boot; a check of its file systems or an update of its bootloader takes minutes. */
export const rebootSeconds = 900;

/**
 * The end of a plan that needs a boot: the reboot when the node may be rebooted now, else nothing. The approval goes before it: a volume, whose plan ships it too, comes after this one,
 * and the reboot is refused as long as the node has none of what it would boot.
 * @param title what for, e.g. `reboot, so that config.txt takes effect`
 * @param more what else there is to say of the reboot
 */
export function rebootSteps(
  inputs: RebootInputs,
  title: string,
  now: Date,
  more: Pick<RebootStep, "tryboot" | "approvedWith" | "prepare" | "afterwards"> = {},
): readonly Step[] {
  if (!mayReboot(inputs, now)) return [];
  const { approval, rebootUnapproved } = inputs;
  return [
    ...(approval === undefined ? [] : shipApproval(parseApproval(approval))),
    reboot({ ...more, title, waitSeconds: rebootSeconds, unapproved: rebootUnapproved }),
  ];
}

/**
 * The end of a plan that changed what the next boot measures, and does not reboot: whoever reboots the node is told before that volumes would stay locked. It only looks, so it stops nothing.
 */
export const tellOfNextBoot = (): PlainStep =>
  run({
    title: "see whether the next boot is an approved one",
    onFailure: "warn",
    timeoutSeconds: approvalSeconds,
    script: `said=$( ( ${approvalCheck()} ) 2>&1 )
code=$?
case $code in
  0) exit 0 ;;
  ${isUnapproved}) what='the next boot would not be an approved one, and sealed volumes would stay locked' ;;
  *) what='it can not be told whether the next boot is an approved one, and sealed volumes may stay locked in it' ;;
esac
printf '%s (%s); approve it before a reboot: edgeseal update NODE\\n' "$what" "$said" >&2
exit "$code"`,
  });
