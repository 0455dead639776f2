/**
 * What confinement costs a server of a language model: the real one with the real model and the unit that edgeseal renders, on one thread, beside the same program as a plain process, beside layers
 * of the confinement, in one run. Tokens per second of prompt and generation, and the time to the first token.
 *
 *   PATH=$PWD/.edgeseal/bin:$PATH node bench/inference.ts [--minutes N] [--json]
 *
 * Needs root: the node is made of namespaces. Rounds are repeated as long as one more fits into N minutes (default 10); under six, nothing can be decided.
 */
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { runComparison } from "../cli/bench/comparison.ts";
import { resultLines, verdictLines } from "../cli/bench/report.ts";
import { resultsOf } from "../cli/bench/samples.ts";
import {
  comparable,
  plainProcess,
  socketOf,
  withoutHardening,
  withoutLimits,
  withoutSeccompProfile,
} from "../cli/bench/served-unit.ts";
import { plainName, type Variant } from "../cli/bench/variants.ts";
import { createSession } from "../provider/device/session.ts";
import { ssh2Transport } from "../provider/device/ssh2-transport.ts";
import { startInferenceNode, type InferenceNode } from "./inference-node.ts";

const share = 0.05;
const everything = "all together";

/**
 * The plain process; limits alone; then the container, layer by layer. Seccomp does not come alone: podman sets the profile in a container, and a rootless one has namespaces of users, mounts and
 * processes.
 */
function layers({ unit, imageRoot, limitLines }: InferenceNode): readonly Variant[] {
  const limited = (text: string): string => `${text.trimEnd()}\n${limitLines.join("\n")}\n`;
  const plain = plainProcess(unit, imageRoot);
  const whole = withoutLimits(comparable(unit));
  const container = withoutHardening(whole);
  return [
    { name: plainName, unit: plain },
    { name: "cgroup limits alone", unit: limited(plain) },
    { name: "namespaces, read-only root, tmpfs", unit: withoutSeccompProfile(container) },
    { name: "the same and the seccomp profile", unit: container },
    { name: everything, unit: limited(whole) },
  ];
}

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "10" }, json: { type: "boolean", default: false } },
});
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new RangeError(`--minutes: expected a positive number, given ${values.minutes}`);
const interruption = new AbortController();
// The node goes away on Ctrl-C, too.
process.once("SIGINT", () => interruption.abort());
try {
  const say = (message: string): void => void process.stderr.write(`${message}\n`);
  await using machine = await startInferenceNode(say);
  const { node, unit } = machine;
  const variants = layers(machine);
  const session = createSession({ connection: node.connection, transport: ssh2Transport() });
  const [loadBefore = 0] = loadavg();
  const measured = await runComparison(
    session,
    {
      name: unit.name,
      socket: socketOf(unit),
      modelFile: `${unit.modelFolder}/model.gguf`,
      variants,
      modelInMemory: undefined,
      rounds: 1000,
      requests: 3,
      seconds: minutes * 60,
      loadSeconds: 120,
      promptTokens: 256,
      tokens: 64,
    },
    {
      signal: interruption.signal,
      onLine: (line) => {
        const round = /^begin (\d+) 0$/.exec(line)?.[1];
        if (round !== undefined) say(`round ${round}`);
      },
    },
  ).finally(() => session.close());
  const [loadAfter = 0] = loadavg();
  const results = resultsOf(measured.starts, plainName);
  const load = { before: loadBefore, after: loadAfter };
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ load, results, ...measured }, undefined, 2)}\n`);
  } else {
    const all = results.find(({ variant }) => variant === everything);
    const lines = [
      ...resultLines(results, plainName),
      "",
      ...Object.entries(measured.failures).map(([variant, why]) => `not measured: ${variant}: ${why}`),
      `load of the machine (1 minute): ${loadBefore.toFixed(1)} before, ${loadAfter.toFixed(1)} after`,
      ...(all === undefined
        ? [`${everything} was not measured`]
        : verdictLines("seccomp, namespaces, cgroup limits and read-only mounts", all, share)),
    ];
    process.stdout.write(`${lines.join("\n")}\n`);
  }
  if (Object.keys(measured.failures).length > 0) process.exitCode = 1;
} catch (error) {
  if (!interruption.signal.aborted) throw error;
  process.stderr.write("interrupted\n");
  process.exitCode = 130;
}
