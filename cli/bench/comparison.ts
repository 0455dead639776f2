import { readFileSync } from "node:fs";
import type { Session } from "../../provider/device/session.ts";
import { quote } from "../../provider/device/shell-quote.ts";
import { lastWords } from "../../provider/resources/inference-container-files.ts";
import { UserError } from "../errors.ts";
import { visible } from "../visible.ts";
import { parseMeasured, type Measured } from "./samples.ts";
import type { Variant } from "./variants.ts";

/** What is to be measured on a node. */
export interface Comparison {
  /** Name of the service. */
  readonly name: string;
  /** Where its server listens: path of a socket. */
  readonly socket: string;
  /** The model's file, which is dropped from the page cache before each start. */
  readonly modelFile: string;
  /** Empty: only what serves is measured, and nothing is stopped. */
  readonly variants: readonly Variant[];
  /** Where the model is copied to, for a variant that reads it from memory. */
  readonly modelInMemory: string | undefined;
  readonly rounds: number;
  /** Prompts of each start that count. */
  readonly requests: number;
  /** No round is begun that would not end by then. */
  readonly seconds: number;
  /** Longest time for a start, and for an answer. */
  readonly loadSeconds: number;
  readonly promptTokens: number;
  readonly tokens: number;
}

const program = readFileSync(new URL("on-device/compare", import.meta.url), "utf8");

const folderOf = (name: string): string => `/run/edgeseal-${name}-bench`;
/** Runs the comparison. */
export const comparingUnit = (name: string): string => `edgeseal-${name}-compare.service`;
/** Puts back what was served, whatever ended the other. */
export const guardUnit = (name: string): string => `edgeseal-${name}-back.service`;
/** Runs the variants. */
export const comparedUnit = (name: string): string => `edgeseal-${name}-bench.service`;

/** Beyond its own limit: the round that is under way, and what ends it. */
const overtimeSeconds = (comparison: Comparison): number => comparison.loadSeconds * 2 + 120;

/** Words that are a token each, and no text that a model could answer. */
const prompt = (tokens: number): string =>
  Array.from({ length: tokens }, (_, index) => ["one", "two", "three", "four", "five"][index % 5]).join(" ");

const body = (promptTokens: number, tokens: number): string =>
  JSON.stringify({
    prompt: prompt(promptTokens),
    n_predict: tokens,
    // Each prompt is read anew, and each answer is as long.
    cache_prompt: false,
    ignore_eos: true,
    temperature: 0,
    stream: true,
  });

/**
 * Shell that measures on the node, and prints what `parseMeasured` reads. What runs there is a unit of its own, and when that ends, systemd starts the guard: also when the connection is lost (the
 * program can't print any more), when it is killed, and when it takes too long. Not ExecStopPost=: that runs in the same control group, and a kill of all of the unit has met it, too.
 */
export function renderComparison(comparison: Comparison): string {
  const { name, socket, modelFile, variants, modelInMemory } = comparison;
  const { rounds, requests, seconds, loadSeconds, promptTokens, tokens } = comparison;
  const folder = folderOf(name);
  const write = (path: string, text: string): string => `printf %s ${quote(text)} >${folder}/${path}`;
  const copy =
    modelInMemory === undefined
      ? ""
      : `rm -rf -- ${quote(modelInMemory)}
mkdir -m 0711 -- ${quote(modelInMemory)}
cp -- ${quote(modelFile)} ${quote(`${modelInMemory}/model.gguf`)}
chmod 0444 -- ${quote(`${modelInMemory}/model.gguf`)}`;
  const after = `exec >/dev/null 2>&1
systemctl stop ${comparedUnit(name)}
rm -f /run/systemd/system/${comparedUnit(name)} /run/systemd/system/${guardUnit(name)}
systemctl daemon-reload
systemctl reset-failed ${comparedUnit(name)}
${modelInMemory === undefined ? "" : `rm -rf -- ${quote(modelInMemory)}`}
back=$(cat ${folder}/back)
[ -z "$back" ] || systemctl start --no-block $back
rm -rf ${folder}
`;
  const words = [name, socket, modelFile, rounds, requests, seconds, loadSeconds].map(String);
  return `set -eu
umask 077
for unit in ${comparingUnit(name)} ${guardUnit(name)}; do
  case $(systemctl show -P ActiveState $unit) in inactive | failed) ;; *) echo 'a comparison is under way on the node already' >&2; exit 1 ;; esac
done
rm -rf ${folder}
mkdir ${folder} ${folder}/variants
${[
  write("compare", program),
  write("last-words", lastWords),
  write("request", body(promptTokens, tokens)),
  write("warm-up", body(Math.min(promptTokens, 8), 2)),
  ...variants.map(({ unit }, index) => write(`variants/${index}`, unit)),
].join("\n")}
back=
for unit in edgeseal-${name}-port.socket edgeseal-${name}.service; do
  systemctl is-active -q $unit && back="$back $unit"
done
printf %s "$back" >${folder}/back
${write("after", after)}
cat >/run/systemd/system/${guardUnit(name)} <<'END'
[Unit]
Description=Puts back the inference server ${name} after a comparison
[Service]
Type=oneshot
ExecStart=/bin/sh ${folder}/after
TimeoutStartSec=300
END
systemctl daemon-reload
trap ${quote(modelInMemory === undefined ? `rm -rf ${folder}` : `rm -rf ${folder} ${quote(modelInMemory)}`)} EXIT
${copy}
trap - EXIT
exec systemd-run --quiet --pipe --wait --collect --unit=${comparingUnit(name)} -p RuntimeMaxSec=${seconds + overtimeSeconds(comparison)} -p TimeoutStopSec=120 \\
  -p OnSuccess=${guardUnit(name)} -p OnFailure=${guardUnit(name)} -- /usr/bin/perl ${folder}/compare ${words.map(quote).join(" ")}${variants.length === 0 ? " --keep-serving" : ""}`;
}

/**
 * Measures on a node.
 * @param onLine called with each line that the node says, as it says it
 * @throws DeviceError, UserError
 */
export async function runComparison(
  session: Session,
  comparison: Comparison,
  options: { readonly signal?: AbortSignal; readonly onLine?: (line: string) => void } = {},
): Promise<Measured> {
  const { signal, onLine = () => undefined } = options;
  let rest = "";
  const { code, stdout, stderr } = await session.run(renderComparison(comparison), {
    timeoutMs: (comparison.seconds + overtimeSeconds(comparison) + 130) * 1000,
    ...(signal === undefined ? {} : { signal }),
    onStdout: (chunk) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) onLine(line);
    },
  });
  const measured = parseMeasured(
    stdout,
    comparison.variants.map(({ name }) => name),
  );
  if (code !== 0 || !measured.complete) {
    const said = stderr.trim().split("\n").at(-1) ?? "";
    throw new UserError(
      `the comparison on ${session.node} did not come to its end: ${visible(said === "" ? `exit status ${code ?? "none"}` : said)}`,
      {
        hint: `what was served is started again by the node itself; journalctl -u ${comparingUnit(comparison.name)} there has more`,
      },
    );
  }
  return measured;
}
