import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { isReason, type Approval } from "../../provider/trust/approval-schema.ts";
import { approveState, signApproval } from "../../provider/trust/approval.ts";
import { sha256Hex } from "../../provider/trust/digest.ts";
import { confirmed } from "../ask.ts";
import { UserError } from "../errors.ts";
import { timestamp } from "../keys/key-store.ts";
import { siteNode, type SiteNode } from "../site-node.ts";
import { ApprovalsFolder } from "./approvals-folder.ts";
import { artifactEvents } from "./artifacts.ts";
import { assess, reasonOf, type Assessment } from "./assess.ts";
import { forget } from "./forget.ts";
import { exitStatus, type ApproveOptions } from "./options.ts";
import { policyKeyOf, requireKeyOfSite, type PolicyKey } from "./policy-key.ts";
import { readNode, type NodeReading, type WhichState } from "./read-node.ts";
import { assessmentJson, assessmentLines } from "./report.ts";

const checkout = fileURLToPath(new URL("../..", import.meta.url));
const ownProgram = new URL("../../provider/resources/on-device/measure", import.meta.url);

/**
 * `edgeseal approve NODE`.
 * @throws UserError, and what the trust library and the device layer throw.
 */
export async function approve(node: string, options: ApproveOptions): Promise<void> {
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(node)) {
    throw new UserError(`'${node}' can't be a node's name: lower-case letters, digits and hyphens`);
  }
  if (options.reason !== undefined && !isReason(options.reason)) {
    throw new UserError("--reason takes one line of 1 to 500 characters");
  }
  const site = options.site === undefined ? undefined : await siteNode(options.site, node, options.stack);
  const approvals = new ApprovalsFolder(options.approvals ?? site?.approvals ?? join(checkout, "approvals"));
  const key = await policyKeyOf(options, site?.policyKey);
  if (site?.policyKey !== undefined) await requireKeyOfSite(key, site.policyKey);
  if (options.forget !== undefined) {
    await forget(node, options.forget, {
      approvals,
      key,
      confirm: (question) => confirmed(question, options),
      options,
    });
    return;
  }
  const { reading, which } = await readingOf(site, options);
  const { assessment, written } = await approveReading(node, reading, {
    which,
    approvals,
    key,
    options,
    siteGeneration: site?.policyKey?.generation,
  });
  if (options.json) {
    console.log(JSON.stringify({ ...assessmentJson(assessment), written: written ?? null }, undefined, 2));
  }
}

/** What became of a state that was to be approved. */
export interface Outcome {
  readonly assessment: Assessment;
  /** The approval with the state in it; `undefined` when it was not approved, and `process.exitCode` says why. */
  readonly approval: Approval | undefined;
  /** The file that was written; `undefined` when nothing was. */
  readonly written: string | undefined;
}

/** Shows what a node said, unless for JSON, and approves it if it may be and is to be. */
export async function approveReading(node: string, reading: NodeReading, means: Means): Promise<Outcome> {
  const { which, approvals, key, options, siteGeneration } = means;
  const approval = await approvals.read(node);
  const assessment = assess({
    node,
    which,
    reading,
    approval,
    approvedTexts: await approvals.texts(approval?.states.at(-1)?.events ?? []),
    key,
    siteGeneration,
    artifacts: options.artifacts === undefined ? undefined : await artifactEvents(options.artifacts),
    programDigest: sha256Hex(await readFile(ownProgram)),
  });
  if (!options.json) for (const line of assessmentLines(assessment)) console.log(line);
  if (!mayBeApproved(assessment)) return { assessment, approval: undefined, written: undefined };
  if (assessment.approved) return { assessment, approval, written: undefined };
  return { assessment, ...(await approveAssessed(assessment, reading, means)) };
}

/** What the node says: from files, where some are given, else from itself. Of one with an edit that waits for its trial, what follows that. */
async function readingOf(
  site: SiteNode | undefined,
  options: ApproveOptions,
): Promise<{ readonly reading: NodeReading; readonly which: WhichState }> {
  const { log, texts, current } = options;
  if (log !== undefined) {
    if (current) throw new UserError("--current asks the node's TPM: give --site, and no --log");
    const reading = {
      log: await fileText(log),
      texts: texts === undefined ? [] : await textsOf(texts),
      pcr11: undefined,
      staged: false,
    };
    return { reading, which: "next" };
  }
  if (texts !== undefined)
    throw new UserError("--texts goes with --log; from the node they are read with the log");
  if (site !== undefined) {
    const connection = await site.connection();
    const which = current ? "current" : "next";
    const reading = await readNode(connection, which);
    return reading.staged
      ? { reading: await readNode(connection, "afterTrial"), which: "afterTrial" }
      : { reading, which };
  }
  throw new UserError("where is the state to be read?", {
    hint: "give --site SITE.yaml to read it from the node, or --log FILE with what `/usr/lib/edgeseal/measure --next` printed there",
  });
}

async function fileText(path: string): Promise<string> {
  try {
    return path === "-" ? await text(process.stdin) : await readFile(path, "utf8");
  } catch (error) {
    throw new UserError(`${path} can't be read: ${(error as Error).message}`, { cause: error });
  }
}

async function textsOf(folder: string): Promise<readonly string[]> {
  try {
    const names = await readdir(folder);
    return await Promise.all(names.map((name) => readFile(join(folder, name), "utf8")));
  } catch (error) {
    throw new UserError(`${folder} can't be read: ${(error as Error).message}`, { cause: error });
  }
}

export interface Means {
  /** What the reading is of. */
  readonly which: WhichState;
  readonly approvals: ApprovalsFolder;
  readonly key: PolicyKey;
  readonly options: ApproveOptions;
  /** Generation of the policy key that the site file names, where one was read. */
  readonly siteGeneration: number | undefined;
}

/** Whether nothing but a person's yes is missing. Sets the exit status where it is not so. */
function mayBeApproved({ objections, artifacts }: Assessment): boolean {
  if (objections.length > 0) {
    process.exitCode = exitStatus.notApprovable;
    return false;
  }
  if (artifacts !== undefined && artifacts.differences.length + artifacts.remarks.length > 0) {
    process.exitCode = exitStatus.artifactsDiffer;
    return false;
  }
  return true;
}

async function approveAssessed(
  assessment: Assessment,
  reading: NodeReading,
  { approvals, key, options }: Means,
): Promise<Pick<Outcome, "approval" | "written">> {
  if (options.dryRun || !(await confirmed(`Approve this state of ${assessment.node}?`, options))) {
    if (!options.json) console.log("not approved; nothing was written");
    process.exitCode = exitStatus.notApproved;
    return { approval: undefined, written: undefined };
  }
  const signingKey = await key.open();
  const state = await approveState(signingKey, {
    events: assessment.log.events,
    reason: options.reason ?? reasonOf(assessment),
    now: timestamp(new Date()),
  });
  const approval: Approval = await signApproval(signingKey, {
    node: assessment.node,
    generation: key.generation,
    states: [...assessment.kept, state],
  });
  const details = assessment.log.events.map(({ detail }) => detail);
  const written = await approvals.write(approval, [...reading.texts, ...details]);
  if (!options.json) {
    console.log(`approved: wrote ${written} (${approval.states.length} approved)`);
    console.log("  commit it, and have it reviewed; `pulumi up` ships it to the node, before it reboots");
  }
  return { approval, written };
}
