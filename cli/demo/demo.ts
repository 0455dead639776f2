import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VirtualPi, type StartOptions } from "../../testbed/virtual-pi.ts";
import { PulumiWorkspace } from "../pulumi.ts";
import type { ChapterName } from "./chapters.ts";
import { cost } from "./inference/cost.ts";
import { drift as inferenceDrift } from "./inference/drift.ts";
import { refuse } from "./inference/refuse.ts";
import { comesBack } from "./inference/return.ts";
import { serve } from "./inference/serve.ts";
import { sign } from "./inference/sign.ts";
import { apply } from "./main-job/apply.ts";
import { badSite } from "./main-job/bad-site.ts";
import { drift } from "./main-job/drift.ts";
import { freshNode } from "./main-job/fresh-node.ts";
import { lockout } from "./main-job/lockout.ts";
import { power } from "./main-job/power.ts";
import type { DemoContext, DemoStep } from "./step.ts";
import { anotherTpm } from "./trust-chain/another-tpm.ts";
import { changedBoot } from "./trust-chain/changed-boot.ts";
import { editedHeader } from "./trust-chain/edited-header.ts";
import { reboot } from "./trust-chain/reboot.ts";
import { seal } from "./trust-chain/seal.ts";
import { update } from "./trust-chain/update.ts";

/** The steps of each chapter. */
export const stepsOf: Readonly<Record<ChapterName, readonly DemoStep[]>> = {
  "main-job": [freshNode, badSite, apply, drift, power, lockout],
  "trust-chain": [seal, reboot, changedBoot, anotherTpm, editedHeader, update],
  inference: [sign, refuse, serve, inferenceDrift, comesBack, cost],
};

/** What a chapter runs in. */
export interface DemoSurroundings {
  /** Ends it, and the node with it. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

export interface DemoOptions extends DemoSurroundings {
  readonly chapter: ChapterName;
}

type Opened = DemoContext & AsyncDisposable;

/** What a demo consists of. */
export interface DemoParts {
  /** @default those of the chapter */
  readonly steps?: readonly DemoStep[];
  /** What the steps run on; disposed of however they end. @default a fresh virtual Pi and a workspace */
  readonly open?: (surroundings: DemoSurroundings) => Promise<Opened>;
}

/** What a step took, and how much of it was a virtual machine booting in software. */
export interface StepTime {
  readonly title: string;
  readonly seconds: number;
  readonly bootingSeconds: number;
}

/**
 * A node and a workspace for a chapter; both are gone after disposal, and after a failure. The node has a name of its own each time: demos and tests
 * may run side by side.
 * @param board what node it is, when not the usual one
 */
export async function openDemo(
  { signal, say }: DemoSurroundings,
  board: Pick<StartOptions, "profile" | "signedBoot"> = {},
): Promise<Opened> {
  const checkout = join(import.meta.dirname, "../..");
  await using opening = new AsyncDisposableStack();
  const scratch = await mkdtemp(join(tmpdir(), "edgeseal-demo-"));
  opening.defer(() => rm(scratch, { recursive: true, force: true }));
  const pulumi = await PulumiWorkspace.create(checkout, scratch);
  const name = `demo-${randomBytes(3).toString("hex")}`;
  const pi = opening.use(await VirtualPi.start({ ...board, name, signal, onProgress: say }));
  const opened = opening.move();
  return {
    pi,
    pulumi,
    checkout,
    say,
    signal,
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

/** Runs one step; says what it proves before, and what it took after. */
export async function runStep(context: DemoContext, step: DemoStep, number: number): Promise<StepTime> {
  const booted = bootingSeconds(context.pi);
  const started = performance.now();
  context.say(`\n${number}. ${step.title}: ${step.proves}`);
  await step.run(context);
  const seconds = (performance.now() - started) / 1000;
  const booting = bootingSeconds(context.pi) - booted;
  context.say(
    `   done in ${seconds.toFixed(1)} s${booting > 0 ? `, ${booting.toFixed(0)} s of it emulated booting` : ""}`,
  );
  return { title: step.title, seconds, bootingSeconds: booting };
}

/**
 * A chapter from beginning to end. Stops with the first thing that is not as it should be: no later step is begun.
 * @throws NotAsItShouldBe
 */
export async function runDemo(options: DemoOptions, parts: DemoParts = {}): Promise<void> {
  const { steps = stepsOf[options.chapter], open = openDemo } = parts;
  const started = performance.now();
  await using context = await open(options);
  const { name } = context.pi;
  options.say(
    `a fresh virtual Pi, ${name}, is up after ${((performance.now() - started) / 1000).toFixed(1)} s (to look on from elsewhere: ./edgeseal pi console --name ${name})`,
  );
  for (const [index, step] of steps.entries()) await runStep(context, step, index + 1);
  const total = (performance.now() - started) / 1000;
  // What the start waited for is of it, too: a boot, when there was no snapshot yet.
  const booting = bootingSeconds(context.pi);
  options.say(
    `\nAll ${steps.length} steps are as they should be: ${total.toFixed(0)} s, ${booting.toFixed(0)} s of them emulated booting.`,
  );
}

const bootingSeconds = (pi: VirtualPi): number => pi.bootTimings.reduce((sum, { ms }) => sum + ms, 0) / 1000;
