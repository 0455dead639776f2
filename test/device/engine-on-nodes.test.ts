import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Fleet, type FleetNode } from "../../testbed/fleet.ts";
import { EngineProject, type Declaration } from "../provider/fixture/engine-project.ts";
import { noteFolder, thirtyResources } from "./thirty-kinds.ts";

const minute = 60_000;
const plugin = join(import.meta.dirname, "plugin");

function declarationsOf(node: FleetNode, connection: object): readonly Declaration[] {
  return thirtyResources.map(({ kind, inputs }, index) => ({
    type: kind.token,
    name: `${node.name}-${index}`,
    props: { ...inputs, connection },
  }));
}

async function onStack(): Promise<EngineProject> {
  const project = new EngineProject({ plugin });
  await project.must("stack", "init", "dev");
  return project;
}

/** What each node's own sshd logged while `action` ran. */
async function counted(
  fleet: Fleet,
  action: () => Promise<unknown>,
): Promise<readonly { connections: number; execs: number }[]> {
  const before = await Promise.all(fleet.nodes.map((node) => node.counts()));
  await action();
  const after = await Promise.all(fleet.nodes.map((node) => node.counts()));
  return after.map(({ connections, execs }, index) => ({
    connections: connections - (before[index]?.connections ?? 0),
    execs: execs - (before[index]?.execs ?? 0),
  }));
}

describe("the engine with the real device layer, three nodes with thirty resources each", () => {
  test(
    "a refresh makes 1 connection and at most 2 execs a node, however many resources are under way at a time",
    { timeout: 5 * minute },
    async () => {
      await using fleet = await Fleet.start(3);
      for (const node of fleet.nodes) await node.exec(`mkdir -p ${noteFolder}`);
      using project = await onStack();
      project.declare(fleet.nodes.flatMap((node) => declarationsOf(node, node.connection)));

      const up = await counted(fleet, () => project.must("up", "--yes", "--skip-preview"));
      // One exec applies a resource. A fresh node's manifest knows none of them, so each may have to be looked for by itself first.
      for (const { connections, execs } of up) {
        expect(connections).toBe(1);
        expect(execs).toBeLessThanOrEqual(2 * thirtyResources.length);
        expect(execs).toBeGreaterThan(thirtyResources.length);
      }

      for (const parallel of [["--parallel", "2"], []]) {
        const refresh = await counted(fleet, () =>
          project.must("refresh", "--preview-only", "--expect-no-changes", ...parallel),
        );
        for (const { connections, execs } of refresh) {
          expect(connections).toBe(1);
          expect(execs).toBeLessThanOrEqual(2);
        }
      }
    },
  );

  test(
    "a node that can't be reached fails the refresh, its state stays, and the other nodes are read",
    { timeout: 5 * minute },
    async () => {
      await using fleet = await Fleet.start(2);
      for (const node of fleet.nodes) await node.exec(`mkdir -p ${noteFolder}`);
      using project = await onStack();
      project.declare(fleet.nodes.flatMap((node) => declarationsOf(node, node.connection).slice(0, 3)));
      await project.must("up", "--yes", "--skip-preview");
      const before = await project.exported();

      const [gone, there] = fleet.nodes;
      await gone?.stop();
      const [, other] = await counted(fleet, async () => {
        const { code, text } = await project.pulumi("refresh", "--yes", "--skip-preview");
        expect(code).not.toBe(0);
        expect(text).toContain(gone?.name);
      });
      expect(other).toEqual({ connections: 1, execs: 1 });
      expect(there).toBeDefined();
      const after = await project.exported();
      expect(after.resources.map(({ urn, outputs }) => ({ urn, outputs }))).toEqual(
        before.resources.map(({ urn, outputs }) => ({ urn, outputs })),
      );
    },
  );

  // The engine itself writes secrets that are given to it into its most verbose trace (docs/threat-model.md); a key that is given by file never comes there.
  test.each([
    { way: "as a secret", verbose: [] },
    { way: "by file", verbose: ["-v=9", "--logtostderr", "--logflow"] },
  ])(
    "the private key, given $way, is in no state, output, log, argument or environment while it is in use",
    { timeout: 5 * minute },
    async ({ way, verbose }) => {
      await using fleet = await Fleet.start(1);
      const node = fleet.first;
      await node.exec(`mkdir -p ${noteFolder}`);
      const { identityFile, ...connection } = node.connection;
      const key = await readFile(identityFile ?? "", "utf8");
      // A line from the middle of the key's own encoding: nothing else has it.
      const canary = key.split("\n")[2] ?? "";
      expect(canary.length).toBeGreaterThan(40);
      const forms = [
        canary,
        Buffer.from(canary).toString("base64").slice(0, 60),
        Buffer.from(canary).toString("hex"),
      ];

      using project = await onStack();
      const given = way === "by file" ? { identityFile } : { privateKey: { $secret: key } };
      project.declare(declarationsOf(node, { ...connection, ...given }));
      const said: string[] = [];
      const sampled = await whileSampling(forms, [process.pid], async () => {
        said.push(await project.must("up", "--yes", "--skip-preview", ...verbose));
        said.push(await project.must("refresh", "--yes", "--skip-preview", "--diff", ...verbose));
      });
      said.push((await project.exported()).text);
      expect(said.filter((text) => forms.some((form) => text.includes(form)))).toEqual([]);
      expect(sampled.found).toEqual([]);

      if (verbose.length > 0) expect(said.join("")).toMatch(/"msg":"[^"]*Marshaling property for RPC/);

      // The controls: samples were taken while the provider and the node's sessions ran, and what is planted in the clear is found.
      expect(sampled.rounds).toBeGreaterThan(5);
      expect(sampled.commands.some((command) => command.includes("plugin/main.ts"))).toBe(true);
      expect(sampled.commands.some((command) => command.includes("/bin/sh"))).toBe(true);
      const planted = await whileSampling(forms, [process.pid], async () => {
        await node.exec(`CANARY='${canary}' sh -c 'sleep 1'`);
      });
      expect(planted.found.length).toBeGreaterThan(0);
    },
  );
});

interface Sampled {
  readonly rounds: number;
  /** Command lines that were seen, without those of processes that were there before. */
  readonly commands: readonly string[];
  /** Processes with one of the forms in their arguments or environment. */
  readonly found: readonly string[];
}

/** Reads the arguments and environment of every process of this machine, nodes included, over and over while `action` runs. */
async function whileSampling(
  forms: readonly string[],
  except: readonly number[],
  action: () => Promise<void>,
): Promise<Sampled> {
  const commands = new Set<string>();
  const found = new Set<string>();
  const { readdirSync, readFileSync } = await import("node:fs");
  const read = (path: string): string => {
    try {
      return readFileSync(path, "utf8").replaceAll("\0", " ");
    } catch {
      // It ended while we looked.
      return "";
    }
  };
  let rounds = 0;
  const sample = (): void => {
    rounds++;
    for (const pid of readdirSync("/proc").filter(
      (entry) => /^\d+$/.test(entry) && !except.includes(Number(entry)),
    )) {
      const command = read(`/proc/${pid}/cmdline`);
      commands.add(command);
      const text = command + read(`/proc/${pid}/environ`);
      if (forms.some((form) => text.includes(form))) found.add(command);
    }
  };
  const timer = setInterval(sample, 50);
  try {
    await action();
  } finally {
    clearInterval(timer);
  }
  return { rounds, commands: [...commands], found: [...found] };
}
