import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { FakeNode } from "./fixture/fake-devices.ts";
import { EngineProject } from "./fixture/engine-project.ts";
import { notePath } from "./fixture/kinds.ts";

const minute = 60_000;
const wanted = { text: "hello", level: 3, mode: "strict", rules: {} };
/** More than the engine reads at once, so that some reads begin after the first has failed; and one whose name begins with that of the first. */
const nodes = [...Array.from({ length: 24 }, (_, index) => `pi-${index + 1}`), "pi-1-note"];
const [gone = "", ...others] = nodes;

const nodeAt = (level: number): FakeNode => ({
  files: { "/proc/version": "Linux 6.12", [notePath]: JSON.stringify({ ...wanted, level }) },
});

/** The engine with a site of many nodes, all of which drifted, and the first of which can't be reached. */
describe("one node of many can't be reached", () => {
  let project: EngineProject;

  const declare = (names: readonly string[], inputs: object = {}): void =>
    project.declare(
      names.map((name) => ({
        type: "edgeseal:test:Note",
        name: `${name}-note`,
        node: name,
        props: {
          text: "hello",
          ...inputs,
          connection: { node: name, address: project.address(name), hostKey: `SHA256:${"a".repeat(43)}` },
        },
      })),
    );
  const levels = (): unknown[] =>
    others.map(
      (name) => (JSON.parse(project.node(name).files[notePath] ?? "{}") as { level?: number }).level,
    );
  const recorded = async (): Promise<Record<string, unknown>> =>
    Object.fromEntries(
      (await project.exported()).resources
        .filter(({ type }) => type === "edgeseal:test:Note")
        .map(({ urn, outputs }) => [
          (urn.split("::").at(-1) ?? "").replace(/-note$/, ""),
          outputs?.["level"],
        ]),
    );

  beforeAll(async () => {
    project = new EngineProject({ refresh: "always" });
    await project.must("stack", "init", "dev");
    declare(nodes);
    for (const name of nodes) project.putNode(name, nodeAt(3));
    await project.must("up", "--yes", "--skip-preview");
  }, 2 * minute);
  afterAll(() => project[Symbol.dispose]());

  beforeEach(async () => {
    for (const name of nodes) project.putNode(name, nodeAt(3));
    await project.must("up", "--yes", "--skip-preview");
    for (const name of others) project.putNode(name, nodeAt(9));
    project.removeNode(gone);
  }, minute);

  test(
    "a refresh records all others as observed, and leaves its state as it was",
    async () => {
      const { code, text } = await project.pulumi("refresh", "--yes", "--skip-preview");
      expect(code).not.toBe(0);
      expect(text).toContain(`${gone}: can't be reached`);
      expect(await recorded()).toEqual({
        [gone]: 3,
        ...Object.fromEntries(others.map((name) => [name, 9])),
      });
    },
    minute,
  );

  test(
    "up changes nothing and says how to go on without it; that mends all others",
    async () => {
      const stopped = await project.pulumi("up", "--yes", "--skip-preview");
      expect(stopped.code).not.toBe(0);
      expect(levels()).toEqual(others.map(() => 9));

      const [, way = ""] =
        /to go on with the other nodes: `pulumi up (--exclude [^`]+)`/.exec(stopped.text) ?? [];
      expect(way).toBe(`--exclude '**::${gone}' --exclude-dependents`);
      const went = await project.must(
        ...["up", "--yes", "--skip-preview"],
        ...way.replaceAll("'", "").split(" "),
      );
      expect(went).not.toContain("can't be reached");
      expect(levels()).toEqual(others.map(() => 3));
      expect(await recorded()).toEqual(Object.fromEntries(nodes.map((name) => [name, 3])));
    },
    minute,
  );

  test(
    "up without the look before it, and on past errors, changes all others as the program says; of that node nothing is recorded anew",
    async () => {
      declare(nodes, { level: 5 });
      const { code, text } = await project.pulumi(
        ...["up", "--yes", "--skip-preview", "--refresh=false", "--continue-on-error"],
      );
      declare(nodes);
      expect(code).not.toBe(0);
      expect(text).toContain(`${gone}: can't be reached`);
      expect(levels()).toEqual(others.map(() => 5));
      expect(await recorded()).toEqual({
        [gone]: 3,
        ...Object.fromEntries(others.map((name) => [name, 5])),
      });
    },
    minute,
  );

  test(
    "a node that is gone for good leaves the stack without being reached",
    async () => {
      declare(others);
      expect((await project.pulumi("up", "--yes", "--skip-preview")).code).not.toBe(0);
      const { code, text } = await project.pulumi("up", "--yes", "--skip-preview", "--refresh=false");
      expect(code).toBe(0);
      expect(text).toContain(`stays in force on ${gone} (onDelete: keep)`);
      expect(Object.keys(await recorded()).sort()).toEqual([...others].sort());
    },
    minute,
  );
});
