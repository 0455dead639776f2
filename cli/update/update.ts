import type { Connection } from "../../provider/connection.ts";
import type { Device } from "../../provider/device/device.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import type { Step } from "../../provider/device/step.ts";
import { measuredBoot } from "../../provider/resources/measured-boot.ts";
import type { MeasuredBootState } from "../../provider/resources/measured-boot-observation.ts";
import { keepApproved } from "../../provider/resources/measured-boot-update.ts";
import { isReason } from "../../provider/trust/approval-schema.ts";
import { ApprovalsFolder } from "../approve/approvals-folder.ts";
import { approveReading, type Outcome } from "../approve/approve.ts";
import { exitStatus as approveStatus, type ApproveOptions } from "../approve/options.ts";
import { policyKeyOf, requireKeyOfSite } from "../approve/policy-key.ts";
import { readNode } from "../approve/read-node.ts";
import { assessmentJson } from "../approve/report.ts";
import { UserError } from "../errors.ts";
import { withInterruption } from "../interruption.ts";
import { siteNode } from "../site-node.ts";
import { visible } from "../visible.ts";
import { beginning, bootSteps, ending, holdsAlready, lockedOf, preparation, resumed } from "./judge.ts";
import { readUpdate, type UpdateReading } from "./read-update.ts";

/** The options of `edgeseal update`, as commander gives them. */
export interface UpdateOptions extends Omit<ApproveOptions, "log" | "texts" | "current" | "forget" | "site"> {
  readonly site: string;
  readonly upgrade?: true;
  /** Seconds, in digits. */
  readonly confirmWithin: string;
  /** `false` with --no-way-back. */
  readonly wayBack: boolean;
}

/** Exit statuses beside those of `edgeseal approve`. */
export const exitStatus = { ...approveStatus, wentBack: 7 } as const;

/** Its trial is not this command's: what boots is what lies on the boot partition. */
const waits =
  "note: an edit of config.txt and cmdline.txt waits for its trial, and is no part of this; `edgeseal approve` and `pulumi up` go on with it";

/** How an update ended. */
interface Ended {
  readonly how: "nothing-to-do" | "not-approved" | "not-booted" | "waiting" | "confirmed" | "went-back";
  readonly reading: UpdateReading;
  /** Of the state that was looked at. */
  readonly outcome?: Outcome;
}

/**
 * `edgeseal update NODE`.
 * @throws UserError, and what the trust library and the device layer throw.
 */
export async function update(node: string, options: UpdateOptions): Promise<void> {
  const confirmSeconds = wholeSeconds(options.confirmWithin);
  if (options.reason !== undefined && !isReason(options.reason)) {
    throw new UserError("--reason takes one line of 1 to 500 characters");
  }
  const site = await siteNode(options.site, node, options.stack);
  const approvals = new ApprovalsFolder(options.approvals ?? site.approvals);
  const key = await policyKeyOf(options, site.policyKey);
  if (site.policyKey !== undefined) await requireKeyOfSite(key, site.policyKey);
  const connection = await site.connection();
  const say = (line: string): void => {
    if (!options.json) console.log(line);
  };

  const ended = await withNode(connection, say, async (run, signal): Promise<Ended> => {
    const before = await readUpdate(connection, { signal });
    const begun = beginning(before, options.dryRun === true);
    switch (begun.how) {
      case "went-back":
        await run(begun.steps);
        return { how: begun.how, reading: before };
      case "waiting":
        return { how: begun.how, reading: before };
      case "resume":
        await run(resumed(before, await approvals.read(node), node, key));
        await keep(run, say);
        return { how: "confirmed", reading: before };
      case "begin":
    }
    if (!options.dryRun) await prepare(run, before, options);
    const reading = await readNode(connection, "next", { signal });
    if (signal.aborted) throw new UserError("interrupted: nothing was approved");
    if (reading.staged) say(`  ${waits}`);
    const outcome = await approveReading(node, reading, {
      which: "next",
      approvals,
      key,
      options,
      siteGeneration: site.policyKey?.generation,
    });
    const { assessment, approval } = outcome;
    const now = await readUpdate(connection, { signal });
    if (approval === undefined) return { how: "not-approved", reading: now, outcome };
    if (holdsAlready(now, assessment.pcr11)) return { how: "nothing-to-do", reading: now, outcome };
    if (options.dryRun) return { how: "not-booted", reading: now, outcome };
    const within = options.wayBack ? confirmSeconds : undefined;
    const after = await throughBoot(connection, {
      run,
      signal,
      steps: bootSteps(now, approval, assessment.pcr11, within),
      confirmSeconds: within,
      before: now,
    });
    const { how, steps } = ending(after, assessment.pcr11);
    await run(steps);
    // Of no copy where there is nothing to confirm: that the boot is approved is all that was asked.
    if (how === "confirmed" && steps.length > 0) await keep(run, say);
    return { how, reading: after, outcome };
  });
  if (ended.how === "went-back") process.exitCode = exitStatus.wentBack;
  for (const line of endLines(node, ended)) say(line);
  if (options.json) console.log(JSON.stringify(endJson(node, ended), undefined, 2));
}

/** Keeps what has booted, where it may be gone back to. That there is no room for a copy takes nothing from what was confirmed; what was kept before stays. */
async function keep(run: Run, say: (line: string) => void): Promise<void> {
  const failure = await unlessItFails(run, keepApproved());
  if (failure !== undefined) say(`  not copied: ${visible(failure.message)}`);
}

async function unlessItFails(run: Run, step: Step): Promise<DeviceError | undefined> {
  try {
    await run([step]);
    return undefined;
  } catch (error) {
    if (error instanceof DeviceError && error.kind === "stepFailed") return error;
    throw error;
  }
}

/** Brings the node to where its next boot can be looked at, with a copy of what it would go back to. */
async function prepare(run: Run, before: UpdateReading, options: UpdateOptions): Promise<void> {
  const { wayBack, upgrade = false } = options;
  for (const { step, mayFail } of preparation(before, { wayBack, upgrade })) {
    await (mayFail ? unlessItFails(run, step) : run([step]));
  }
}

function wholeSeconds(text: string): number {
  const seconds = Number(text);
  if (/^\d+$/.test(text) && seconds >= 300 && seconds <= 86_400) return seconds;
  throw new UserError(`--confirm-within takes whole seconds from 300 to 86400, not '${text}'`, {
    hint: "a boot of a Pi 5 takes 20 to 60 s; the confirmation comes when all of it has started and was read",
  });
}

type Run = (steps: readonly Step[]) => Promise<void>;

interface Boot {
  readonly run: Run;
  readonly signal: AbortSignal;
  readonly steps: readonly Step[];
  readonly confirmSeconds: number | undefined;
  readonly before: UpdateReading;
}

/** Boots what was approved, and reads what became of it: of this boot, or of the one after it, when the node went back. */
async function throughBoot(
  connection: Connection,
  { run, signal, steps, confirmSeconds, before }: Boot,
): Promise<UpdateReading> {
  let trouble: unknown;
  try {
    await run(steps);
  } catch (error) {
    // A node that goes back boots twice, the second time maybe in the middle of being read.
    if (!(error instanceof DeviceError)) throw error;
    trouble = error;
  }
  const after = await readUpdate(connection, { signal }).catch((error: unknown) => {
    const goesBack =
      confirmSeconds === undefined
        ? "it has no way back of its own: see what its console says"
        : `if it boots at all, it goes back by itself ${confirmSeconds} s after that boot began; run this command again to see`;
    throw new UserError(
      `the node does not answer as it should after its boot: ${((trouble ?? error) as Error).message}`,
      { cause: trouble ?? error, hint: goesBack },
    );
  });
  if (after.bootId !== before.bootId) return after;
  throw trouble instanceof Error ? trouble : new UserError("the node is in the same boot as before");
}

function endLines(node: string, { how, reading }: Ended): readonly string[] {
  const names = Object.keys(reading.volumes).join(", ");
  switch (how) {
    case "not-approved":
      return [];
    case "not-booted":
      return [`${node}: that state is approved, and not booted yet`];
    case "waiting":
      return [`${node}: booted, and waits for the confirmation of an update that was begun before`];
    case "nothing-to-do":
      return [`${node}: this boot is in the state that the next one will have, and that is approved`];
    case "confirmed":
      return [
        `${node}: booted as predicted: PCR 11 is ${reading.pcr11}${names === "" ? "" : `; open: ${names}`}`,
      ];
    case "went-back": {
      const locked = lockedOf(reading.volumes);
      return [
        `${node}: WENT BACK to the boot partition as it was before: ${visible(reading.reason ?? "unknown")}`,
        ...(reading.phase === "restoring" ? ["  it is not done with that yet; run this command again"] : []),
        ...(locked.length === 0 ? [] : [`  still locked: ${locked.join(", ")}`]),
        "  the state that did not hold is still approved; `edgeseal approve --forget` withdraws it",
      ];
    }
  }
}

const endJson = (node: string, { how, reading, outcome }: Ended): Readonly<Record<string, unknown>> => ({
  node,
  outcome: how,
  pcr11: reading.pcr11,
  volumes: reading.volumes,
  reason: reading.reason ?? null,
  approval:
    outcome === undefined
      ? null
      : { ...assessmentJson(outcome.assessment), written: outcome.written ?? null },
});

/**
 * Runs steps on a node, with its lock, each title told as it begins. Ctrl-C ends what is going on here; what the node does by then it ends itself.
 * @throws DeviceError
 */
async function withNode<T>(
  connection: Connection,
  say: (line: string) => void,
  work: (run: Run, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const devices = createDevices({ kinds: [measuredBoot] });
  const inputs = { node: connection.node, reboot: "never", rebootUnapproved: "refuse" } as const;
  try {
    const device: Device = devices.get(connection);
    return await withInterruption((signal) =>
      work(async (steps) => {
        if (steps.length === 0) return;
        const applied = await device.apply<MeasuredBootState>(measuredBoot, inputs, steps, {
          signal,
          onProgress: (title) => {
            say(`  ${title}`);
          },
        });
        if (applied.failure !== undefined) throw applied.failure;
      }, signal),
    );
  } finally {
    await devices.close();
  }
}
