import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import { reportLines } from "../../../cli/report-lines.ts";
import * as report from "../../../cli/report.ts";
import * as site from "../../../cli/site.ts";
import { checklist } from "../../../policies/checklist.ts";
import { blockTypes, type BlockName } from "../../../policies/node.ts";
import { goodInputs, resourcesOf, waiver } from "../policies/cases.ts";

const uncovered = checklist.filter(({ block }) => block === undefined).map(({ id }) => id);

/** The exported state of a site with one node. */
function exported(states: Partial<Record<BlockName, object>> = {}, expires = "2999-12-31"): string {
  const waivers = uncovered.map((control) => waiver({ control, node: "*", expires }));
  const nodes = [{ name: "pi-1", blocks: goodInputs }];
  const devices = (Object.keys(blockTypes) as BlockName[]).flatMap((block) =>
    resourcesOf(block).map(({ inputs, outputs }, index) => ({
      urn: `urn:pulumi:s::edgeseal::${blockTypes[block]}::pi-1-${block}-${index}`,
      type: blockTypes[block],
      inputs: { connection: { node: "pi-1" }, ...inputs },
      outputs: { ...outputs, ...states[block] },
    })),
  );
  const component = {
    urn: "urn:pulumi:s::edgeseal::edgeseal:index:Site::plant",
    type: "edgeseal:index:Site",
    inputs: { nodes, waivers },
  };
  return JSON.stringify({ version: 3, deployment: { resources: [component, ...devices] } });
}

const now = new Date("2027-01-15T00:00:00Z");

describe("the table", () => {
  test("has a row for each control, with the evidence as observed and the waiver", () => {
    const lines = reportLines(exported(), { now, width: 200 });
    expect(lines[0]).toMatch(/^CONTROL +NODE +OUTCOME +EVIDENCE, AS OBSERVED +WAIVER$/);
    const row = (id: string) => lines.find((line) => line.startsWith(`${id} `));
    expect(row("3.swap-off")).toMatch(
      /^3\.swap-off +pi-1 +pass +no active area, no zram, nothing in fstab, no unit, no left-over file$/,
    );
    expect(row("1.tpm")).toMatch(
      /^1\.tpm +pi-1 +pass +TPM 2\.0, endorsement key persistent, storage root key persistent, owner authorization ours, lockout/,
    );
    expect(row("4.rootless-container")).toMatch(
      /^4\.rootless-container +pi-1 +pass +user edgeseal-inference, no capability, no_new_privs, own cgroup ipc mnt net pid user uts, root/,
    );
    expect(row("5.mtls")).toMatch(
      /^5\.mtls +pi-1 +waived +no resource observes this yet +until 2999-12-31 \(platform: bench device\)$/,
    );
    expect(lines.at(-1)).toBe(
      "27 controls on 1 node: 18 pass, 9 waived; the checklist is met, waivers counted in",
    );
  });

  test("says what drifted", () => {
    const lines = reportLines(exported({ swap: { activeAreas: ["/swapfile"] } }), { now, width: 200 });
    expect(lines.find((line) => line.startsWith("3.swap-off"))).toMatch(/violation +\/swapfile in use$/);
    expect(lines.at(-1)).toBe("27 controls on 1 node: 17 pass, 1 violation, 9 waived; 1 not met");
  });

  test("keeps to the width", () => {
    for (const width of [80, 100, 120]) {
      const lines = reportLines(exported(), { now, width }).slice(0, -2);
      expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(width);
    }
  });
});

describe("commands", () => {
  let folder: string;
  let printed: string[];
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "edgeseal-cli-"));
    printed = [];
    vi.spyOn(console, "log").mockImplementation((line: string) => void printed.push(line));
    process.exitCode = undefined;
  });
  afterEach(() => {
    vi.restoreAllMocks();
    rmSync(folder, { recursive: true });
    process.exitCode = undefined;
  });

  async function run(...words: string[]): Promise<number> {
    const program = new Command().exitOverride();
    for (const command of [report, site]) command.register(program);
    await program.parseAsync(words, { from: "user" });
    return Number(process.exitCode ?? 0);
  }

  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };

  test("report ends with 0 when all is met, and with 1 when not", async () => {
    expect(await run("report", "--file", file("a.json", exported()))).toBe(0);
    expect(printed.at(-1)).toContain("the checklist is met");
    expect(await run("report", "--file", file("b.json", exported({}, "2020-01-01")))).toBe(1);
    expect(printed.join("\n")).toContain("expired on");
  });

  test("report --json gives the findings", async () => {
    await run("report", "--json", "--file", file("a.json", exported()));
    const findings = JSON.parse(printed.join("\n")) as { control: string; outcome: string }[];
    expect(findings).toHaveLength(checklist.length);
    expect(findings.find(({ control }) => control === "3.swap-off")?.outcome).toBe("pass");
  });

  test("report --site-file holds the state against that site: a node that is not in the state fails", async () => {
    const text = `site: x
nodes:
  - { name: pi-1, address: 192.0.2.1, hostKey: "SHA256:${"A".repeat(43)}" }
  - { name: pi-2, address: 192.0.2.2, hostKey: "SHA256:${"A".repeat(43)}" }
`;
    expect(
      await run(
        "report",
        "--json",
        "--file",
        file("a.json", exported()),
        "--site-file",
        file("x.yaml", text),
      ),
    ).toBe(1);
    const findings = JSON.parse(printed.join("\n")) as { control: string; node: string; evidence: string }[];
    expect(findings.find(({ control, node }) => node === "pi-2" && control === "3.swap-off")).toMatchObject({
      outcome: "violation",
      evidence: "the state has no edgeseal:memory:Swap of this node",
    });
    expect(findings.find(({ control }) => control === "5.mtls")).toMatchObject({
      outcome: "not-covered",
    });
  });

  test.each([
    ["no state", "{}", "not an exported state of version 3"],
    ["an empty stack", '{"version":3,"deployment":{}}', "has no node"],
  ])("report of %s is refused", async (_, text, message) => {
    const path = file("a.json", text);
    await expect(run("report", "--file", path)).rejects.toThrow(UserError);
    await expect(run("report", "--file", path)).rejects.toThrow(message);
  });

  test("report of a file that is not there is refused", async () => {
    await expect(run("report", "--file", join(folder, "none.json"))).rejects.toThrow("can't be read: ENOENT");
  });

  test("site check prints faults as a compiler does, and ends with 1", async () => {
    const path = file("x.yaml", "site: x\nnods: []\n");
    expect(await run("site", "check", "--site-file", path)).toBe(1);
    expect(printed).toEqual([
      expect.stringMatching(new RegExp(`^${path}:1:1: nodes: required, but not given`)),
      expect.stringMatching(new RegExp(`^${path}:2:1: nods: unknown field; did you mean 'nodes'\\?`)),
    ]);
  });

  test("site check holds the site against the checklist, offline", async () => {
    const path = file(
      "x.yaml",
      `site: x\nnodes:\n  - { name: pi-1, address: 192.0.2.1, hostKey: "SHA256:${"A".repeat(43)}" }\n`,
    );
    expect(await run("site", "check", "--site-file", path)).toBe(1);
    expect(printed[0]).toContain(`${path}: site "x" does not meet the deployment checklist (`);
    expect(printed[0]).toContain(
      "5.default-deny (checklist point 5) on pi-1: violation: the node has no `firewall` block",
    );
  });

  test("site check --json gives problems and findings", async () => {
    const path = file("x.yaml", "site: x\nnods: []\n");
    expect(await run("site", "check", "--json", "--site-file", path)).toBe(1);
    expect(JSON.parse(printed.join("\n"))).toMatchObject([
      {
        file: path,
        passes: false,
        problems: [
          { path: "nodes", line: 1, column: 1 },
          { path: "nods", line: 2 },
        ],
        findings: [],
      },
    ]);
  });

  test("site check without a stack checks all that stacks/ has", async () => {
    await run("site", "check", "--json");
    const results = JSON.parse(printed.join("\n")) as { file: string }[];
    expect(results.map((each) => each.file)).toEqual(["stacks/demo.yaml", "stacks/example.yaml"]);
  });

  test("site schema prints the schema", async () => {
    await run("site", "schema");
    expect(JSON.parse(printed.join("\n"))).toMatchObject({ title: "edgeseal site", type: "object" });
  });
});
