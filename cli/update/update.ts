import type { Connection } from "../../provider/connection.ts";
import type { Device } from "../../provider/device/device.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import type { Step } from "../../provider/device/step.ts";
import { measuredBoot } from "../../provider/resources/measured-boot.ts";
import type { MeasuredBootState } from "../../provider/resources/measured-boot-observation.ts";
import {
  bootApproved,
  confirmUpdate,
  endUpdate,
  keepApproved,
  upgradePackages,
} from "../../provider/resources/measured-boot-update.ts";
import { isReason, type Approval } from "../../provider/trust/approval-schema.ts";
import { verifyApproval } from "../../provider/trust/approval.ts";
import { policyPcrDigest } from "../../provider/trust/pcr-policy.ts";
import { ApprovalsFolder } from "../approve/approvals-folder.ts";
import { approveReading, type Outcome } from "../approve/approve.ts";
import { exitStatus as approveStatus, type ApproveOptions } from "../approve/options.ts";
import { policyKeyOf, requireKeyOfSite, type PolicyKey } from "../approve/policy-key.ts";
import { readNode } from "../approve/read-node.ts";
import { assessmentJson } from "../approve/report.ts";
import { UserError } from "../errors.ts";
import { withInterruption } from "../interruption.ts";
import { siteNode } from "../site-node.ts";
import { visible } from "../visible.ts";
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
    if (before.phase === "back" || before.phase === "restoring") {
      if (before.phase === "back" && !options.dryRun) await run([endUpdate()]);
      return { how: "went-back", reading: before };
    }
    if (before.phase !== "none" && before.hasBooted) {
      if (options.dryRun) return { how: "waiting", reading: before };
      resume(before, await approvals.read(node), key);
      await confirm(run, say);
      return { how: "confirmed", reading: before };
    }
    if (!options.dryRun) await prepare(run, before, options);
    const reading = await readNode(connection, "next", { signal });
    if (signal.aborted) throw new UserError("interrupted: nothing was approved");
    const outcome = await approveReading(node, reading, {
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
    requireOwnKey(now, approval);
    if (options.wayBack) requireWayBack(now, approval, assessment.pcr11);
    const after = await throughBoot(connection, {
      run,
      signal,
      approval,
      confirmSeconds: options.wayBack ? confirmSeconds : undefined,
      before: now,
    });
    if (after.phase === "back" || after.phase === "restoring") {
      if (after.phase === "back") await run([endUpdate()]);
      return { how: "went-back", reading: after, outcome };
    }
    requireAsPredicted(after, assessment.pcr11);
    if (after.phase !== "none") await confirm(run, say);
    return { how: "confirmed", reading: after, outcome };
  });
  if (ended.how === "went-back") process.exitCode = exitStatus.wentBack;
  for (const line of endLines(node, ended)) say(line);
  if (options.json) console.log(JSON.stringify(endJson(node, ended), undefined, 2));
}

const lockedOf = (volumes: UpdateReading["volumes"]): readonly string[] =>
  Object.keys(volumes).filter((name) => volumes[name] === false);

/** Whether nothing is left to do: what will boot is what booted, the node has its approval, and its volumes are open by it. */
const holdsAlready = ({ pcr11, consistent, approved, volumes }: UpdateReading, next: string): boolean =>
  pcr11 === next && consistent && approved.has(policyPcrDigest(next)) && lockedOf(volumes).length === 0;

/**
 * An update that was begun by an earlier run is confirmed for the same reasons as by that.
 * @throws UserError
 */
function resume(
  before: UpdateReading,
  approval: Approval | undefined,
  key: Pick<PolicyKey, "generation" | "publicKeyPem">,
): void {
  const { generation, publicKeyPem } = key;
  const own =
    approval !== undefined &&
    verifyApproval(approval, { node: approval.node, generation, publicKeyPem }).length === 0 &&
    approval.states.some(({ pcr11 }) => pcr11 === before.pcr11);
  if (!own) {
    throw new UserError(`the node has booted into PCR 11 ${before.pcr11}, which your approvals do not have`, {
      hint: "bring your approvals up to date; unless it is confirmed, the node goes back by itself when the time is over",
    });
  }
  requireAsPredicted(before, before.pcr11);
}

/** Confirms; that there is no room for a copy of what was confirmed takes nothing from it. */
async function confirm(run: Run, say: (line: string) => void): Promise<void> {
  await run([confirmUpdate()]);
  await keep(run, say);
}

/** Keeps what has booted, where it may be gone back to. What was kept before stays where it may not. */
async function keep(run: Run, say: (line: string) => void): Promise<void> {
  try {
    await run([keepApproved()]);
  } catch (error) {
    if (!(error instanceof DeviceError) || error.kind !== "stepFailed") throw error;
    say(`  not copied: ${visible(error.message)}`);
  }
}

/** Brings the node to where its next boot can be looked at, with a copy of what it would go back to. */
async function prepare(run: Run, before: UpdateReading, options: UpdateOptions): Promise<void> {
  // Armed, and never booted: it was interrupted in between.
  if (before.phase !== "none") await run([endUpdate()]);
  if (options.wayBack) await keep(run, () => undefined);
  if (options.upgrade) await run([upgradePackages()]);
}

function wholeSeconds(text: string): number {
  const seconds = Number(text);
  if (/^\d+$/.test(text) && seconds >= 300 && seconds <= 86_400) return seconds;
  throw new UserError(`--confirm-within takes whole seconds from 300 to 86400, not '${text}'`, {
    hint: "a boot of a Pi 5 takes 20 to 60 s; the confirmation comes when all of it has started and was read",
  });
}

/**
 * Another generation's signatures open nothing of what this one sealed, and shipping them takes away those that do.
 * @throws UserError
 */
function requireOwnKey({ signedBy }: UpdateReading, approval: Approval): void {
  if (signedBy.size === 0 || signedBy.has(approval.policyKey)) return;
  throw new UserError(
    `the node's volumes open by the signatures of another policy key than generation ${approval.generation}, so after this boot they would stay locked`,
    { hint: `seal them to this generation first: edgeseal volume recover ${approval.node}` },
  );
}

/**
 * Before anything is shipped: what the node would go back to is there, opens by what is shipped, and is not the very state that is tried.
 * @throws UserError
 */
function requireWayBack(
  { keptPolicy, pcr11, approved, volumes }: UpdateReading,
  approval: Approval,
  next: string,
): void {
  if (keptPolicy === undefined) {
    throw new UserError("the node has no copy of an approved boot partition that it could go back to", {
      hint: "a copy is kept before each run of apt, and by this command, while the node is in an approved state; put the files back as they were approved, boot, and run this again, or give --no-way-back and have a keyboard at hand",
    });
  }
  if (!approval.states.some((state) => policyPcrDigest(state.pcr11) === keptPolicy)) {
    throw new UserError("what the node would go back to is not in the approval that would be shipped", {
      hint: "your approvals lack a state that the node was approved in: bring them up to date",
    });
  }
  if (policyPcrDigest(next) === keptPolicy) {
    throw new UserError("what the node would go back to is the very state that it is to boot", {
      hint: "it was approved and opened the volumes before: give --no-way-back",
    });
  }
  const locked = lockedOf(volumes);
  if (locked.length > 0 && approved.has(policyPcrDigest(pcr11))) {
    throw new UserError(
      `${locked.join(", ")} stays locked although this boot is an approved one, so every update would be taken back`,
      { hint: "`pulumi refresh --diff` says why; mend that first, or give --no-way-back" },
    );
  }
}

/** What was measured is what was approved, or nobody confirms it. */
function requireAsPredicted({ pcr11, consistent, volumes }: UpdateReading, predicted: string): void {
  const locked = lockedOf(volumes);
  const goesBack = "it is not confirmed, and the node goes back by itself when the time is over";
  if (pcr11 !== predicted || !consistent) {
    throw new UserError(
      `PCR 11 is ${pcr11} after the boot, and ${predicted} was predicted and approved: something else booted`,
      { hint: goesBack },
    );
  }
  if (locked.length > 0) throw new UserError(`locked: ${locked.join(", ")}`, { hint: goesBack });
}

type Run = (steps: readonly Step[]) => Promise<void>;

interface Boot {
  readonly run: Run;
  readonly signal: AbortSignal;
  readonly approval: Approval;
  readonly confirmSeconds: number | undefined;
  readonly before: UpdateReading;
}

/** Boots what was approved, and reads what became of it: of this boot, or of the one after it, when the node went back. */
async function throughBoot(
  connection: Connection,
  { run, signal, approval, confirmSeconds, before }: Boot,
): Promise<UpdateReading> {
  let trouble: unknown;
  try {
    await run(bootApproved(approval, confirmSeconds));
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
