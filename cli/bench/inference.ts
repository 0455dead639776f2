import { writeFile } from "node:fs/promises";
import { outputOf, UnknownObservation } from "../../provider/device/probe.ts";
import { ask } from "../../provider/device/ask.ts";
import { createSession, type Session } from "../../provider/device/session.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import type { Connection } from "../../provider/connection.ts";
import { inferenceUnit, serviceName } from "../../provider/resources/container-process.ts";
import { askShown, canAsk, confirmed, type Asking } from "../ask.ts";
import type { BenchInferenceOptions } from "../bench.ts";
import { UserError } from "../errors.ts";
import { withInterruption } from "../interruption.ts";
import { siteNode } from "../site-node.ts";
import { visible } from "../visible.ts";
import { runComparison, type Comparison } from "./comparison.ts";
import { factParts, nodeFacts, readUnit, type NodeFacts } from "./node-facts.ts";
import { plotSvg } from "./plot.ts";
import { resultLines, servingLine } from "./report.ts";
import { resultsOf, type Measured, type VariantResult } from "./samples.ts";
import { readServedUnit, socketOf, UnitUnknown, type ServedUnit } from "./served-unit.ts";
import { layersTakenAway, plainName, type Variant } from "./variants.ts";

/** What measuring does with the world; given, so that tests need neither node nor terminal. */
export interface World extends Asking {
  readonly open: (connection: Connection) => Session;
}

const theWorld: World = {
  open: (connection) => createSession({ connection, transport: ssh2Transport() }),
  canAsk,
  ask: askShown,
};

const notDone = 4;
const interrupted = 130;
/** A model of some GB from a card, or of 250 MB in an emulator. */
const loadSeconds = 300;
const askMs = 60_000;
/** What stays free when the model is copied into memory. */
const spareBytes = 300 * 1024 * 1024;

/**
 * `edgeseal bench inference NODE`.
 * @throws UserError, DeviceError, Interrupted
 */
export async function benchInference(
  nodeName: string,
  options: BenchInferenceOptions,
  world: World = theWorld,
): Promise<void> {
  if (!new RegExp(serviceName).test(options.service))
    throw new UserError(`--service takes the name of an inference service, got '${options.service}'`);
  const site = await siteNode(options.site, nodeName, options.stack);
  const connection = await site.connection();
  await withInterruption(async (signal) => {
    const session = world.open(connection);
    try {
      await measureOn(session, options, world, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
      process.exitCode = interrupted;
      throw new UserError(
        `interrupted: if the service was stopped, ${nodeName} itself starts it again within seconds`,
        { cause: error },
      );
    } finally {
      await session.close();
    }
  });
}

async function measureOn(
  session: Session,
  options: BenchInferenceOptions,
  world: World,
  signal: AbortSignal,
): Promise<void> {
  const say = (line: string): void => console.error(line);
  const { unit, facts } = await readNode(session, options.service, signal);
  if (!facts.active)
    throw new UserError(`${inferenceUnit(unit.name)} does not serve on ${session.node}`, {
      hint: "see why: pulumi refresh; or systemctl status there",
    });
  const { variants, modelInMemory } = variantsFor(unit, facts, options);
  if (variants.length > 0) {
    say(`${session.node}: ${machineOf(facts)}; the model is on ${visible(facts.modelOn)}`);
    for (const line of leftOut(facts, modelInMemory)) say(line);
    const question = `Stop ${inferenceUnit(unit.name)} on ${session.node} for up to ${options.minutes} minutes, and run it less and less confined meanwhile?`;
    if (!(await confirmed(question, options, world))) {
      process.exitCode = notDone;
      say("not done: nobody said yes (--yes); --served-only measures without stopping anything");
      return;
    }
  }
  const comparison: Comparison = {
    name: unit.name,
    socket: socketOf(unit),
    modelFile: `${unit.modelFolder}/model.gguf`,
    variants,
    modelInMemory,
    rounds: options.rounds,
    requests: 3,
    seconds: options.minutes * 60,
    loadSeconds,
    promptTokens: options.promptTokens,
    tokens: options.tokens,
  };
  const measured = await runComparison(session, comparison, {
    signal,
    onLine: (line) => {
      const [, round, number] = /^begin (\d+) (\d+)$/.exec(line) ?? [];
      if (round !== undefined) say(`round ${round}: ${variants[Number(number)]?.name ?? ""}`);
    },
  });
  const servesAgain = variants.length === 0 || (await isServing(session, unit.name, signal));
  await show(measured, variants, session.node, facts, options);
  if (!servesAgain)
    throw new UserError(`${inferenceUnit(unit.name)} was started again, and does not run`, {
      hint: "see why: systemctl status there; pulumi refresh and up bring it back",
    });
}

async function readNode(
  session: Session,
  name: string,
  signal: AbortSignal,
): Promise<{ readonly unit: ServedUnit; readonly facts: NodeFacts }> {
  const asking = { timeoutMs: askMs, readOnly: true, signal };
  const first = { id: "unit", parts: { unit: readUnit(name) } };
  const text = (await ask(session, [first], asking))(first)["unit"];
  if (text?.code !== 0)
    throw new UserError(`${session.node} has no inference service ${name}`, {
      hint: "--service names another; the site file declares it as `inference`",
    });
  try {
    const unit = readServedUnit(name, text.stdout);
    const second = { id: "facts", parts: factParts(unit) };
    const parts = (await ask(session, [second], asking))(second);
    return { unit, facts: nodeFacts(unit, outputOf(parts, "facts"), outputOf(parts, "manifest")) };
  } catch (error) {
    if (error instanceof UnitUnknown || error instanceof UnknownObservation)
      throw new UserError(`${session.node}: ${visible(error.message)}`, { cause: error });
    throw error;
  }
}

function variantsFor(
  unit: ServedUnit,
  { modelBytes, memoryFreeBytes, imageRoot }: NodeFacts,
  { servedOnly }: BenchInferenceOptions,
): { readonly variants: readonly Variant[]; readonly modelInMemory: string | undefined } {
  if (servedOnly) return { variants: [], modelInMemory: undefined };
  const fits = modelBytes > 0 && modelBytes + spareBytes < memoryFreeBytes;
  const modelInMemory = fits ? `/dev/shm/edgeseal-${unit.name}-bench` : undefined;
  return { variants: layersTakenAway(unit, { modelInMemory, imageRoot }), modelInMemory };
}

/** Not every machine says what board it is. */
const machineOf = ({ board, kernel, architecture }: NodeFacts): string =>
  visible(`${board === "" ? architecture : board}, Linux ${kernel}`);

const leftOut = ({ imageRoot }: NodeFacts, modelInMemory: string | undefined): readonly string[] => [
  ...(modelInMemory === undefined
    ? ["left out: the model read from memory (a copy of it would leave less than 300 MiB free)"]
    : []),
  ...(imageRoot === undefined
    ? ["left out: the plain process (the image has several layers, or compressed ones)"]
    : []),
];

/** Whether systemd runs the service again. That it answers is another matter: reading the model takes its time. */
async function isServing(session: Session, name: string, signal: AbortSignal): Promise<boolean> {
  const question = {
    id: "again",
    parts: {
      // The start may be a job that waits for the check of the model.
      state: `tries=0
while :; do
  state=$(systemctl show -P ActiveState ${inferenceUnit(name)})
  case $state in active) exit 0 ;; failed) exit 1 ;; esac
  tries=$((tries + 1)); [ $tries -lt 120 ] || exit 1
  sleep 0.5
done`,
    },
  };
  const answers = await ask(session, [question], { timeoutMs: askMs + 30_000, readOnly: true, signal });
  return answers(question)["state"]?.code === 0;
}

async function show(
  measured: Measured,
  variants: readonly Variant[],
  node: string,
  facts: NodeFacts,
  { json, plot, promptTokens, tokens }: BenchInferenceOptions,
): Promise<void> {
  const base = baseOf(variants, measured);
  const results = resultsOf(measured.starts, base);
  const emulated = facts.virtualBy === undefined ? undefined : "emulated, not transferable";
  if (plot !== undefined && results.length > 0)
    await writeFile(
      plot,
      plotSvg(results, {
        title: `What confinement costs llama-server on ${node}`,
        subtitle: `${machineOf(facts)}; prompts of ${promptTokens} tokens, ${tokens} generated; medians of ${roundsOf(results)} rounds, lines from lowest to highest`,
        warning:
          emulated === undefined
            ? undefined
            : `${emulated}: this machine is a virtual one (${facts.virtualBy ?? ""})`,
        base,
      }),
    );
  if (json) {
    console.log(
      JSON.stringify({ node, emulated: emulated !== undefined, facts, results, ...measured }, undefined, 2),
    );
  } else {
    const lines = [
      ...(emulated === undefined ? [] : [`${emulated} (${facts.virtualBy ?? ""})`, ""]),
      servingLine(measured.serving),
      ...(results.length === 0 ? [] : ["", ...resultLines(results, base)]),
      ...Object.entries(measured.failures).map(
        ([variant, why]) => `not measured: ${variant}: ${visible(why)}`,
      ),
      ...(plot === undefined || results.length === 0 ? [] : [`plot: ${plot}`]),
    ];
    for (const line of lines) console.log(line);
  }
  if (Object.keys(measured.failures).length > 0) process.exitCode = 1;
}

/** What the others are set against: what is least confined, of what was measured. */
const baseOf = (variants: readonly Variant[], { starts, failures }: Measured): string =>
  variants.findLast(({ name }) => !(name in failures) && starts.some(({ variant }) => variant === name))
    ?.name ?? plainName;

const roundsOf = (results: readonly VariantResult[]): number =>
  Math.max(...results.map(({ rounds }) => rounds));
