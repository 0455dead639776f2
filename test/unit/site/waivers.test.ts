import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { readSite } from "../../../components/site-file/read.ts";
import { checklist } from "../../../policies/checklist.ts";

/* What this repository's own sites, program and README say of what is not there yet is so: such sentences outlive what they were true of. */

const checkout = fileURLToPath(new URL("../../../", import.meta.url));
const read = (name: string): string => readFileSync(`${checkout}${name}`, "utf8");
const unserved = new Set<string>(checklist.filter(({ block }) => block === undefined).map(({ id }) => id));
const saysUnserved = (reason: string): boolean => /\b(nothing|no resource) (enforces|serves)\b/i.test(reason);

interface Reasoned {
  readonly control: string;
  readonly reason: string;
}

/** Waivers of a control that a resource serves, which say that none does; and of one that none serves, which do not. */
const untrue = (waivers: readonly Reasoned[]): readonly Reasoned[] =>
  waivers.filter(({ control, reason }) => saysUnserved(reason) !== unserved.has(control));

/** The waivers of the example program, as its text has them: `without(REASON, [CONTROL, ...])`. */
function inProgram(text: string): readonly Reasoned[] {
  return [...text.matchAll(/without\("([^"]+)", \[([^\]]*)\]\)/g)].flatMap(([, reason = "", list = ""]) =>
    [...list.matchAll(/"([^"]+)"/g)].map(([, control = ""]) => ({ control, reason })),
  );
}

describe("a waiver says that no resource serves a control exactly where that is so", () => {
  test.each(readdirSync(`${checkout}stacks`).filter((name) => name.endsWith(".yaml")))(
    "stacks/%s",
    (name) => {
      const { waivers } = readSite(`${checkout}stacks/${name}`);
      expect(waivers.length).toBeGreaterThan(unserved.size);
      expect(untrue(waivers)).toEqual([]);
    },
  );

  test("examples/edge-node/index.ts", () => {
    const waivers = inProgram(read("examples/edge-node/index.ts"));
    expect(waivers.length).toBeGreaterThan(unserved.size);
    expect(untrue(waivers)).toEqual([]);
  });

  test("the control: one that is wrong is found, either way", () => {
    const wrong = [
      { control: "3.swap-off", reason: "Nothing enforces this yet" },
      { control: "5.mtls", reason: "Later" },
    ];
    const right = [
      { control: "3.swap-off", reason: "Later" },
      { control: "5.mtls", reason: "No resource serves this yet" },
    ];
    expect(untrue([...right, ...wrong])).toEqual(wrong);
  });
});

test("README.md says which points resources serve, in part, and not at all", () => {
  const parts = Map.groupBy(checklist, ({ point }) => point);
  const pointsWhere = (holds: (served: number, all: number) => boolean): string =>
    new Intl.ListFormat("en-GB").format(
      [...parts].flatMap(([point, controls]) =>
        holds(controls.filter(({ id }) => !unserved.has(id)).length, controls.length) ? [String(point)] : [],
      ),
    );
  expect(read("README.md").replaceAll(/\s+/g, " ")).toContain(
    `Resources serve points ${pointsWhere((served, all) => served === all)} of the checklist, and parts of points ` +
      `${pointsWhere((served, all) => served > 0 && served < all)}; nothing serves points ${pointsWhere((served) => served === 0)} yet.`,
  );
});
