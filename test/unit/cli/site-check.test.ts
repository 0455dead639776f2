import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkSite } from "../../../cli/site-check.ts";
import { checklist } from "../../../policies/checklist.ts";
import { hostKey } from "../site/site-text.ts";

const now = new Date("2027-01-15T12:00:00Z");
const uncovered = checklist.filter(({ block }) => block === undefined).map(({ id }) => id);

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-site-check-"));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Two nodes without a waiver. */
const bare = `site: plant
defaults:
  firewall: { management: [192.0.2.0/24] }
nodes:
  - { name: pi-1, address: 192.0.2.1, hostKey: ${hostKey} }
  - { name: pi-2, address: 192.0.2.2, hostKey: ${hostKey} }
`;

const check = (text: string) => {
  const file = join(folder, "plant.yaml");
  writeFileSync(file, text);
  return checkSite(file, now);
};

/** What is printed from `waivers:` on, as a person would copy it. */
const block = (lines: readonly string[]): string => {
  const text = lines.join("\n");
  return `${text.slice(text.indexOf("\nwaivers:") + 1)}\n`;
};

describe("the waivers that are printed for what no resource serves", () => {
  test("are one for each control", () => {
    expect(block(check(bare).lines).split("\n")).toEqual([
      "waivers:",
      ...uncovered.map(
        (id) => `  - { control: ${id}, node: "*", reason: "", owner: "", expires: YYYY-MM-DD }`,
      ),
      "",
    ]);
  });

  test("do not pass as they stand: each is told to lack a reason, an owner and a day", () => {
    const { passes, problems } = check(bare + block(check(bare).lines));
    expect(passes).toBe(false);
    expect(problems.map(({ path }) => path).sort()).toEqual(
      uncovered
        .flatMap((_, index) => ["expires", "owner", "reason"].map((field) => `waivers[${index}].${field}`))
        .sort(),
    );
  });

  test("pass once a person has filled them in", () => {
    const filled = block(check(bare).lines)
      .replaceAll('reason: ""', "reason: Not yet")
      .replaceAll('owner: ""', "owner: platform")
      .replaceAll("YYYY-MM-DD", "2027-01-31");
    // What a resource serves, and this site does not have.
    const absent = checklist
      .filter(({ block: name }) =>
        ["measuredBoot", "tpm", "volumes", "imagePolicy", "scratch", "model", "inference"].includes(
          name ?? "",
        ),
      )
      .map(
        ({ id }) =>
          `  - { control: ${id}, node: "*", reason: Not yet, owner: platform, expires: 2027-01-31 }\n`,
      );
    expect(check(bare + filled + absent.join(""))).toMatchObject({ passes: true, problems: [] });
  });

  test("name the nodes that lack them, where others have theirs", () => {
    const [first = "", ...others] = uncovered;
    const waive = (control: string, node: string) =>
      `  - { control: ${control}, node: ${node}, reason: Not yet, owner: platform, expires: 2027-01-31 }\n`;
    const waived = `waivers:\n${waive(first, "pi-2")}${others.map((id) => waive(id, '"*"')).join("")}`;
    expect(block(check(bare + waived).lines)).toBe(
      `waivers:\n  - { control: ${first}, node: pi-1, reason: "", owner: "", expires: YYYY-MM-DD }\n`,
    );
  });
});
