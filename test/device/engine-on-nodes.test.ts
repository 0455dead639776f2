import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Fleet, type FleetNode } from "../../testbed/fleet.ts";
import { EngineProject, type Declaration } from "../provider/fixture/engine-project.ts";
import { formsIn, formsOf, privateSeedOf, type SecretForms } from "../secret-forms.ts";
import { ProcessSampler } from "./process-sampler.ts";
import { namedNote, noteFolder, thirtyResources } from "./thirty-kinds.ts";

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

  // The engine itself writes secrets that are given to it into its most verbose trace (docs/threat-model.md); a key that is given by file or command never comes there.
  test.each([
    { way: "as a secret", verbose: [] },
    { way: "by configuration", verbose: [] },
    { way: "by file", verbose: ["-v=9", "--logtostderr", "--logflow"] },
    { way: "by command", verbose: ["-v=9", "--logtostderr", "--logflow"] },
  ])(
    "the private key, given $way, is in no state, output, log, argument or environment while it is in use",
    { timeout: 5 * minute },
    async ({ way, verbose }) => {
      await using fleet = await Fleet.start(1);
      const node = fleet.first;
      await node.exec(`mkdir -p ${noteFolder}`);
      const { identityFile, ...connection } = node.connection;
      const key = await readFile(identityFile ?? "", "utf8");
      const forms = formsOfKey(key);

      using project = await onStack();
      const given = {
        "as a secret": { privateKey: { $secret: key } },
        "by configuration": { privateKey: { $config: "key" } },
        "by file": { identityFile },
        "by command": { identityCommand: `cat '${identityFile}'` },
      }[way];
      const resources = declarationsOf(node, { ...connection, ...given });
      project.declare(resources);
      if (way === "by configuration") await project.must("config", "set-all", "--secret", `key=${key}`);
      const sampler = new ProcessSampler(forms, (command) => /@pulumi\/pulumi\/cmd\/run[/ ]/.test(command));
      const said = await sampler.while(async () => [
        await project.must("up", "--yes", "--skip-preview", ...verbose),
        await project.must("refresh", "--yes", "--skip-preview", "--diff", ...verbose),
      ]);
      const { text: state } = await project.exported();
      expect([...said, state].flatMap((text) => formsIn(text, forms))).toEqual([]);
      // Pulumi gives a program its decrypted configuration in its environment, as JSON; that alone is known (docs/threat-model.md).
      const known = way === "by configuration" ? formsIn(JSON.stringify(key), forms) : [];
      expect(sampler.found).toEqual(known.map((form) => `program's environ: ${form}`).sort());
      expect(known.length > 0).toBe(way === "by configuration");

      // The controls: samples were taken while the provider and the node's sessions ran, and the trace is what it is taken for.
      expect(sampler.rounds).toBeGreaterThan(5);
      expect(sampler.commands.some((command) => command.includes("plugin/main.ts"))).toBe(true);
      expect(sampler.commands.some((command) => command.includes("/bin/sh"))).toBe(true);
      if (verbose.length > 0) expect(said.join("")).toMatch(/"msg":"[^"]*Marshaling property for RPC/);

      // And each form is found where it is planted.
      const planted = Object.values(forms);
      const note = resources.find(({ type }) => type === namedNote.token) ?? expect.fail("no note");
      project.declare(
        planted.map((content, index) => ({
          ...note,
          name: `planted-${index}`,
          props: { ...note.props, name: `planted-${index}`, content },
        })),
      );
      expect(formsIn(await project.must("preview", "--diff"), forms)).toEqual(Object.keys(forms));
      await project.must("up", "--yes", "--skip-preview");
      expect(formsIn((await project.exported()).text, forms)).toEqual(Object.keys(forms));
      expect(foundWhenPlanted(forms)).toEqual(
        ["cmdline", "environ"]
          .flatMap((place) => Object.keys(forms).map((form) => `${place}: ${form}`))
          .sort(),
      );
    },
  );
});

/** What only the private half of a key has: its seed, and the piece of the key file that encodes it. */
function formsOfKey(key: string): SecretForms {
  const seed = formsOf("seed", privateSeedOf(key));
  const piece = key
    .split("\n")
    .map((line) => line.slice(5, 47))
    .find((text) => text.length > 40 && Object.values(seed).some((form) => form.includes(text)));
  return { ...seed, ...formsOf("piece of the key file", piece ?? expect.fail("no line is all of the seed")) };
}

/** What a sampler finds with every form in the arguments of one process, and in the environment of another. */
function foundWhenPlanted(forms: SecretForms): readonly string[] {
  const sampler = new ProcessSampler(forms);
  const planted = Object.values(forms);
  const waits = ["-c", "read line", "sh"];
  const children = [
    spawn("/bin/sh", [...waits, ...planted], { env: {} }),
    spawn("/bin/sh", waits, {
      env: Object.fromEntries(planted.map((form, index) => [`PLANTED_${index}`, form])),
    }),
  ];
  // `spawn` returns once the program is in its place.
  sampler.sample();
  for (const { stdin } of children) stdin.end();
  return sampler.found;
}
