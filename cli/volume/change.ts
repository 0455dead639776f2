import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nearest } from "../../provider/check/nearest.ts";
import type { Connection } from "../../provider/connection.ts";
import { DeviceError } from "../../provider/device/errors.ts";
import { PlanRefused } from "../../provider/resource.ts";
import { policyKeyOf } from "../../provider/resources/sealed-volume-files.ts";
import { recoverVolume, resealProbe } from "../../provider/resources/sealed-volume-plan.ts";
import { checkSealedVolume, type SealedVolumeInputs } from "../../provider/resources/sealed-volume-inputs.ts";
import type { SealedVolumeState } from "../../provider/resources/sealed-volume-state.ts";
import { ChallengeFailed, type AnsweredChallenge } from "../../provider/resources/tpm-challenge.ts";
import { openRecovery, RecoveryRefused } from "../../provider/trust/recovery.ts";
import { askShown, canAsk, confirmed, type Asking } from "../ask.ts";
import { UserError } from "../errors.ts";
import { withInterruption } from "../interruption.ts";
import { siteNode, type SiteNode } from "../site-node.ts";
import { visible } from "../visible.ts";
import { assess, isSealed, type AssessedVolume, type Assessment, type ReadVolume } from "./assess.ts";
import { openNode, type NodeAccess } from "./node-access.ts";
import { exitStatus, type Task, type VolumeOptions } from "./options.ts";
import { namingKeys, recoveryKeyOf, renamedHint, type RecoveryKey } from "./recovery-key.ts";
import { assessmentLines, outcomeLine, resultJson, type Outcome } from "./report.ts";

/** What changing volumes does with the world; given, so that tests need neither node nor terminal. */
export interface World extends Asking {
  readonly open: (connection: Connection) => NodeAccess;
}

const theWorld: World = { open: openNode, canAsk, ask: askShown };

/**
 * `edgeseal volume recover NODE [VOLUME...]` and `edgeseal volume rotate NODE [VOLUME...]`.
 * @throws UserError, Interrupted, and what the trust library and the device layer throw.
 */
export async function changeVolumes(
  task: Task,
  node: string,
  names: readonly string[],
  options: VolumeOptions,
  world: World = theWorld,
): Promise<void> {
  const site = await siteNode(options.site, node, options.stack);
  const pinned = pinOf(site, options);
  const key = await recoveryKeyOf(options);
  const { volumes, approvalFaults } = await volumesOf(site, options.site, node);
  const meant = meantOf(names, volumes, node);
  await withInterruption(async (signal) => {
    const access = world.open(await site.connection());
    const work = new Work({ access, key, pinned, options, names: site.names, world, signal });
    try {
      const read = await work.read(volumes);
      await work.carryOut(assess({ node, task, volumes: read, meant, approvalFaults }));
    } catch (error) {
      if (!signal.aborted) throw error;
      // Whatever was under way, it is the person who ended it.
      process.exitCode = 130;
      throw new UserError(
        work.sending
          ? "interrupted: what had begun on the node may be half done; run it again, and it goes on from there"
          : "interrupted: nothing was changed",
        { cause: error },
      );
    } finally {
      await access.close();
    }
  });
}

// --- what is asked for ---

/** The digest that the TPM must have; `undefined` where somebody said that none is known. @throws UserError */
function pinOf({ spec }: SiteNode, { tpm, unpinnedTpm }: VolumeOptions): string | undefined {
  const ofSite = spec.blocks.tpm?.endorsementKeySha256;
  const given = tpm?.toLowerCase();
  if (given !== undefined && !/^[0-9a-f]{64}$/.test(given)) {
    throw new UserError("--tpm takes the digest of an endorsement key: 64 hex digits", {
      hint: "`edgeseal node console-script` prints a script that shows it on the node's console",
    });
  }
  if (ofSite !== undefined && given !== undefined && ofSite !== given) {
    throw new UserError(
      `--tpm is ${given}, and the site file pins ${ofSite} for ${spec.name} (tpm.endorsementKeySha256)`,
      {
        hint: "if the TPM was replaced on purpose, change it in the site file: the next pulumi up needs that as well",
      },
    );
  }
  const pinned = ofSite ?? given;
  if (pinned !== undefined && unpinnedTpm) {
    throw new UserError(`--unpinned-tpm is of no use: the TPM of ${spec.name} is pinned, ${pinned}`, {
      hint: "leave it out",
    });
  }
  if (pinned === undefined && !unpinnedTpm) {
    process.exitCode = exitStatus.tpmNotShown;
    throw new UserError(`it is not known which TPM ${spec.name} has, so no recovery key is sent to it`, {
      hint: "read the digest of its endorsement key on its console, and pin it (tpm.endorsementKeySha256 in the site file, or --tpm SHA256); --unpinned-tpm does without, and then a machine without any TPM gets the keys if it has the node's host key",
    });
  }
  return pinned;
}

/** The volumes of the site file with the approvals as they are, and what is wrong with those. */
async function volumesOf(
  site: SiteNode,
  siteFile: string,
  node: string,
): Promise<{ readonly volumes: readonly SealedVolumeInputs[]; readonly approvalFaults: readonly string[] }> {
  const declared = Object.values(site.spec.blocks.volumes ?? {});
  if (declared.length === 0) throw new UserError(`${siteFile} has no volumes for ${node}`);
  const path = join(site.approvals, `${node}.json`);
  const approval = await readFile(path, "utf8").catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UserError(`${path} can't be read: ${(error as Error).message}`, { cause: error });
  });
  const without = declared.map(({ approval: _ofSite, ...inputs }) => inputs);
  const volumes = approval === undefined ? without : without.map((inputs) => ({ ...inputs, approval }));
  // All of them have the same.
  const faults = volumes
    .slice(0, 1)
    .flatMap(checkSealedVolume)
    .filter(({ path: at }) => at.startsWith("approval"));
  if (faults.length === 0) return { volumes, approvalFaults: [] };
  return { volumes: without, approvalFaults: faults.map(({ path: at, message }) => `${at}: ${message}`) };
}

function meantOf(
  names: readonly string[],
  volumes: readonly SealedVolumeInputs[],
  node: string,
): ReadonlySet<string> {
  const known = volumes.map(({ name }) => name);
  for (const name of names) {
    if (known.includes(name)) continue;
    const near = nearest(name, known);
    throw new UserError(`${node} has no volume ${name}`, {
      hint: near === undefined ? `it has: ${known.join(", ")}` : `did you mean ${near}?`,
    });
  }
  return new Set(names.length === 0 ? known : names);
}

// --- what is done ---

interface Means {
  readonly access: NodeAccess;
  readonly key: RecoveryKey;
  readonly pinned: string | undefined;
  readonly options: VolumeOptions;
  /** Of all nodes of the site. */
  readonly names: readonly string[];
  readonly world: World;
  readonly signal: AbortSignal;
}

class Work {
  /** Whether anything was sent to the node that changes something. */
  sending = false;
  readonly #means: Means;

  constructor(means: Means) {
    this.#means = means;
  }

  async read(volumes: readonly SealedVolumeInputs[]): Promise<readonly ReadVolume[]> {
    const { access, signal } = this.#means;
    const states = await access.observe(volumes, signal);
    const read: ReadVolume[] = [];
    for (const [index, inputs] of volumes.entries()) {
      const state = states[index];
      if (state === undefined) throw new TypeError(`${inputs.name} was not observed`);
      const { formation, devicePresent, headerMatchesPins } = state;
      const doubtful = formation === "complete" && devicePresent && !headerMatchesPins;
      const headerInTheWay = doubtful
        ? await access.ask(resealProbe(inputs, state.device), signal)
        : undefined;
      read.push({ inputs, state, headerInTheWay });
    }
    return read;
  }

  async carryOut(assessment: Assessment): Promise<void> {
    const say = (line: string): void => {
      if (!this.#means.options.json) console.log(line);
    };
    for (const line of assessmentLines(assessment)) say(line);
    const result = await this.#stages(assessment, say);
    if (this.#means.options.json) console.log(JSON.stringify(resultJson(assessment, result), undefined, 2));
  }

  async #stages(
    assessment: Assessment,
    say: (line: string) => void,
  ): Promise<Parameters<typeof resultJson>[1]> {
    const { options, pinned, world } = this.#means;
    const { node, volumes } = assessment;
    const nothing = { tpm: undefined, outcomes: [] };
    const inTheWay = volumes.filter(({ objections }) => objections.length > 0);
    if (assessment.objections.length + inTheWay.length > 0) {
      const others = volumes.filter((each) => !inTheWay.includes(each)).map(({ name }) => name);
      if (assessment.objections.length === 0 && others.length > 0)
        say(`nothing was changed; for the others alone, name them: ${others.join(" ")}`);
      process.exitCode = exitStatus.refused;
      return nothing;
    }
    const toChange = volumes.filter(({ change }) => change);
    if (toChange.length === 0) {
      say("nothing to do");
      return nothing;
    }
    const { endorsementKeySha256, pcr11 } = await this.#challenge(assessment.approvedPcr11);
    const tpm = { endorsementKeySha256, pinned: pinned !== undefined };
    say("");
    say(
      tpm.pinned
        ? `the TPM with the pinned endorsement key ${endorsementKeySha256} answered a challenge on this connection`
        : `SOMETHING answered a challenge with the endorsement key ${endorsementKeySha256}; as none is pinned, that may be any TPM, or none: only the host key says that it is ${node}`,
    );
    say(`${tpm.pinned ? "it" : "whatever that is"} quotes PCR 11 as ${pcr11}, which is approved`);
    const which = toChange.map(({ name }) => name).join(", ");
    if (
      options.dryRun ||
      !(await confirmed(`Send the recovery keys of ${which} to ${node}?`, options, world))
    ) {
      say("not done; nothing was changed");
      process.exitCode = exitStatus.notDone;
      return { tpm, outcomes: [] };
    }
    const keys = await this.#decrypt(toChange);
    const outcomes: Outcome[] = [];
    for (const volume of toChange) {
      outcomes.push(await this.#change(volume, keys.get(volume.name) ?? "", say));
      if (outcomes.at(-1)?.failure !== undefined) break;
    }
    for (const outcome of outcomes) say(outcomeLine(outcome));
    for (const { name } of toChange.slice(outcomes.length)) say(`  ${visible(name)}: not begun`);
    if (outcomes.some(({ failure }) => failure !== undefined)) process.exitCode = 1;
    return { tpm, outcomes };
  }

  async #challenge(approvedPcr11: readonly string[]): Promise<AnsweredChallenge> {
    const { access, pinned, signal } = this.#means;
    try {
      return await access.challenge({ pinned, approvedPcr11, signal });
    } catch (error) {
      if (!(error instanceof ChallengeFailed)) throw error;
      process.exitCode = error.fault === "otherState" ? exitStatus.refused : exitStatus.tpmNotShown;
      throw new UserError(visible(error.message), {
        cause: error,
        ...(error.hint === undefined ? {} : { hint: error.hint }),
      });
    }
  }

  /** The recovery keys by volume. All are decrypted, and what each is for is checked, before any is sent. */
  async #decrypt(volumes: readonly AssessedVolume[]): Promise<ReadonlyMap<string, string>> {
    const { key, names, options, signal } = this.#means;
    const privateKey = await key.open();
    const keys = new Map<string, string>();
    for (const volume of volumes) {
      const { name, inputs, state } = volume;
      const ciphertext = Buffer.from(state.recoveryCiphertext, "base64");
      const node = options.boundTo ?? inputs.node;
      const expected = { kind: "luks", node, subject: state.luksUuid } as const;
      try {
        keys.set(name, await openRecovery(ciphertext, privateKey, expected));
      } catch (error) {
        if (!(error instanceof RecoveryRefused)) throw namingKeys(error, volume, key);
        process.exitCode = exitStatus.refused;
        throw new UserError(`${name}: ${error.message}`, {
          cause: error,
          hint:
            renamedHint(error, inputs.node, names) ??
            `the right one is in the state of the stack (recoveryCiphertext of ${name}), unless that is a copy of this`,
        });
      }
    }
    signal.throwIfAborted();
    return keys;
  }

  async #change(
    { name, inputs, state }: AssessedVolume,
    key: string,
    say: (line: string) => void,
  ): Promise<Outcome> {
    const { access, options, signal } = this.#means;
    this.sending = true;
    try {
      const renamed = options.boundTo !== undefined && options.boundTo !== inputs.node;
      const steps = recoverVolume(inputs, state, key, { renamed });
      const { observed, failure } = await access.apply(inputs, steps, {
        signal,
        onProgress: (title) => say(`  ${visible(title)}`),
      });
      const after = observed.outcome === "present" ? observed.state : undefined;
      return { name, state: after, failure: failure?.message ?? shortfall(inputs, after) };
    } catch (error) {
      const known = error instanceof DeviceError || error instanceof PlanRefused;
      if (signal.aborted || !known) throw error;
      // What was done to other volumes is told beside it.
      return { name, state: undefined, failure: error.message };
    }
  }
}

/** What is not as it has to be, by what was read back. */
function shortfall(inputs: SealedVolumeInputs, state: SealedVolumeState | undefined): string | undefined {
  if (state === undefined) return "it could not be read back";
  if (!state.open) return `it is still locked${state.lockedReason === "" ? "" : `: ${state.lockedReason}`}`;
  if (state.mountedAt !== inputs.mountPoint) return `it is open, and not mounted at ${inputs.mountPoint}`;
  if (!state.headerMatchesPins) return "its header is not the pinned one";
  if (state.policyKey !== policyKeyOf(inputs))
    return "it is not bound to the policy key that the site file names";
  if (!isSealed(state)) return "its key slot for the TPM is not the only one, or not sealed as it has to be";
  return undefined;
}
