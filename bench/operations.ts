/**
 * What `pulumi preview`, `up` and `refresh` cost: time, connections, execs, round trips and the provider's memory, with the real engine, the real provider
 * and its four resources a node, on one node and on three, next door and 100 ms away. The floor, in the same run, is the engine with an empty program.
 *
 *   PATH=$PWD/.edgeseal/bin:$PATH node bench/operations.ts [--minutes N] [--json]
 *
 * Needs root: the nodes are made of namespaces. Rounds are repeated as long as one more fits into N minutes (default 5); there is always one.
 */
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { PulumiWorkspace } from "../cli/pulumi.ts";
import { BenchSite } from "./bench-site.ts";
import { runEngine } from "./engine-run.ts";
import { rowsOf, tableOf, type Sample } from "./operation-rows.ts";

const checkout = join(import.meta.dirname, "..");
const noChanges = "--expect-no-changes";

/** One round: every operation once. A stack is made afresh for each, since a first `up` happens once in a node's life. */
class Round {
  readonly samples: Sample[] = [];
  readonly #workspace: PulumiWorkspace;
  readonly #empty: PulumiWorkspace;
  readonly #serial: number;
  readonly #signal: AbortSignal;

  constructor(workspace: PulumiWorkspace, empty: PulumiWorkspace, serial: number, signal: AbortSignal) {
    this.#workspace = workspace;
    this.#empty = empty;
    this.#serial = serial;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    for (const [nodes, rttMs] of [
      [1, 0],
      [3, 0],
      [1, 100],
      [3, 100],
    ] as const) {
      // Each time, so that a machine that gets busier is as unfair to the floor.
      await this.#floor();
      await this.#site(nodes, rttMs);
    }
  }

  /** The engine, its language host and the SDK, with nothing to look after. */
  async #floor(): Promise<void> {
    const run = async (command: Sample["command"], ...words: readonly string[]): Promise<void> => {
      const cost = await runEngine(
        this.#empty,
        [command, ...words, noChanges, "--stack", emptyStack],
        this.#signal,
      );
      this.samples.push({ operation: `floor: ${command}, empty program`, command, isFloor: true, ...cost });
    };
    await run("preview");
    await run("up", "--yes");
    await run("refresh", "--preview-only");
  }

  async #site(nodes: number, rttMs: number): Promise<void> {
    const stack = `bench-${nodes}x${rttMs}-${this.#serial}`;
    await using site = await BenchSite.start(this.#workspace, stack, { nodes, rttMs });
    const run = async (
      operation: string,
      command: Sample["command"],
      ...words: readonly string[]
    ): Promise<void> => {
      const { result, ways } = await site.counted(() =>
        runEngine(this.#workspace, [command, ...words, "--stack", stack], this.#signal),
      );
      this.samples.push({ operation, command, isFloor: false, nodes, rttMs, ways, ...result });
    };
    const isNear = rttMs === 0;
    // What contacts no node costs the same at any distance.
    if (isNear) await run("preview, first", "preview");
    await run("up, first", "up", "--yes");
    await run("preview", "preview", noChanges);
    await run("up, nothing to do", "up", "--yes", noChanges);
    await run("refresh --preview-only", "refresh", "--preview-only", noChanges);
    if (isNear) {
      await run("preview --refresh=false", "preview", "--refresh=false", noChanges);
      await run("up --refresh=false, nothing to do", "up", "--yes", "--refresh=false", noChanges);
    }
    if (nodes > 1) return;
    await site.tamper("echo 2 > /proc/sys/fs/suid_dumpable");
    await run("up, one resource to mend", "up", "--yes");
    await site.tamper("nft add rule inet edgeseal output ip daddr 198.51.100.7 accept");
    await run("up, firewall to mend", "up", "--yes");
  }
}

const emptyStack = "empty";

/** A project with one program that declares nothing, run by the same engine, language host and SDK as ours. */
async function emptyWorkspace(folder: string, signal: AbortSignal): Promise<PulumiWorkspace> {
  const program = join(folder, "program");
  await mkdir(program, { recursive: true });
  const runtime = { name: "nodejs", options: { typescript: false } };
  await writeFile(join(program, "Pulumi.yaml"), JSON.stringify({ name: "empty", runtime, main: "index.ts" }));
  await writeFile(join(program, "package.json"), JSON.stringify({ type: "module", main: "index.ts" }));
  await writeFile(join(program, "index.ts"), 'import "@pulumi/pulumi";\n');
  await symlink(join(checkout, "node_modules"), join(program, "node_modules"));
  const workspace = await PulumiWorkspace.create(program, join(folder, "workspace"));
  await workspace.site(emptyStack, {});
  await runEngine(workspace, ["up", "--yes", "--skip-preview", "--stack", emptyStack], signal);
  return workspace;
}

async function measure(minutes: number, signal: AbortSignal): Promise<readonly Sample[]> {
  const begun = performance.now();
  const folder = await mkdtemp(join(tmpdir(), "edgeseal-bench-"));
  try {
    const empty = await emptyWorkspace(join(folder, "empty"), signal);
    const workspace = await PulumiWorkspace.create(checkout, join(folder, "edgeseal"));
    const samples: Sample[] = [];
    for (let serial = 1, roundMs = 0; ; serial++) {
      const elapsedMs = performance.now() - begun;
      if (serial > 1 && elapsedMs + roundMs > minutes * 60_000) return samples;
      const round = new Round(workspace, empty, serial, signal);
      await round.run();
      samples.push(...round.samples);
      roundMs = performance.now() - begun - elapsedMs;
      process.stderr.write(`round ${serial}: ${(roundMs / 1000).toFixed(0)} s\n`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "5" }, json: { type: "boolean", default: false } },
});
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new RangeError(`--minutes: expected a positive number, given ${values.minutes}`);
const interruption = new AbortController();
// Nodes and folders go away on Ctrl-C, too.
process.once("SIGINT", () => interruption.abort());
try {
  const samples = await measure(minutes, interruption.signal);
  const rows = rowsOf(samples);
  process.stdout.write(
    values.json ? `${JSON.stringify({ rows, samples }, undefined, 2)}\n` : `${tableOf(rows)}\n`,
  );
} catch (error) {
  if (!interruption.signal.aborted) throw error;
  process.stderr.write("interrupted\n");
  process.exitCode = 130;
}
