import { Ajv } from "ajv";
import { Type } from "typebox";
import { describe, expect, test } from "vitest";
import {
  mayReboot,
  rebootInputs,
  rebootProblems,
  rebootSteps,
  type RebootInputs,
} from "../../../provider/resources/reboot-inputs.ts";
import { approved, site } from "./sealed-volume-example.ts";

const inputs = (reboot: RebootInputs["reboot"], rebootWindow?: string): RebootInputs => ({
  reboot,
  rebootUnapproved: "refuse",
  ...(rebootWindow === undefined ? {} : { rebootWindow }),
});
/** 2026-03-01 was a Sunday. */
const at = (time: string): Date => new Date(`2026-03-0${time.replace(" ", "T")}Z`);

describe("whether a node may be rebooted", () => {
  test("never, and ifNeeded, whatever the time", () => {
    expect(mayReboot(inputs("never"), at("1 03:00:00"))).toBe(false);
    expect(mayReboot(inputs("ifNeeded"), at("1 03:00:00"))).toBe(true);
  });

  test.each([
    // Sunday is the 1st.
    ["Sun 02:00-04:00", "1 01:59:59", false],
    ["Sun 02:00-04:00", "1 02:00:00", true],
    ["Sun 02:00-04:00", "1 03:59:59", true],
    ["Sun 02:00-04:00", "1 04:00:00", false],
    ["Sun 02:00-04:00", "2 03:00:00", false],
    ["02:00-04:00", "5 03:00:00", true],
    ["02:00-04:00", "5 05:00:00", false],
    ["Mon,Wed 22:30-01:00", "2 23:00:00", true],
    ["Mon,Wed 22:30-01:00", "3 00:59:00", true],
    ["Mon,Wed 22:30-01:00", "3 01:00:00", false],
    // Tuesday evening, and Monday before dawn: the day is that of the beginning.
    ["Mon,Wed 22:30-01:00", "3 23:00:00", false],
    ["Mon,Wed 22:30-01:00", "2 00:30:00", false],
    ["Sat 23:00-01:00", "1 00:30:00", true],
    ["Sun 00:00-00:00", "1 17:00:00", true],
    ["Sun 00:00-00:00", "2 00:00:00", false],
  ])("within %s, on the %s: %s", (window, time, may) => {
    expect(mayReboot(inputs("window", window), at(time))).toBe(may);
  });
});

test("a window is asked for with `reboot: window`, and only then", () => {
  expect(rebootProblems(inputs("window"))).toEqual([
    { path: "rebootWindow", message: "reboot: window needs a rebootWindow, e.g. Sun 02:00-04:00 (UTC)" },
  ]);
  expect(rebootProblems(inputs("ifNeeded", "02:00-04:00"))).toHaveLength(1);
  expect(rebootProblems(inputs("window", "02:00-04:00"))).toEqual([]);
  expect(rebootProblems(inputs("never"))).toEqual([]);
});

test("what a window may look like", () => {
  const fits = new Ajv({ strict: false }).compile(Type.Object(rebootInputs));
  const may = (rebootWindow: string): boolean =>
    fits({ reboot: "window", rebootWindow, rebootUnapproved: "refuse" });
  for (const window of ["Sun 02:00-04:00", "Mon,Tue 22:30-01:00", "00:00-23:59"])
    expect(may(window)).toBe(true);
  for (const window of [
    "Sunday 02:00-04:00",
    "sun 02:00-04:00",
    "Sun 2:00-4:00",
    "24:00-25:00",
    "02:00",
    "Sun",
    "",
  ])
    expect(may(window), window).toBe(false);
});

test("the step is there when it may be done, and takes along what was said of unapproved states", () => {
  expect(rebootSteps(inputs("never"), "reboot", at("1 03:00:00"))).toEqual([]);
  expect(rebootSteps(inputs("window", "Sun 02:00-04:00"), "reboot", at("1 05:00:00"))).toEqual([]);
  expect(rebootSteps({ reboot: "ifNeeded", rebootUnapproved: "allow" }, "reboot", at("1 03:00:00"))).toEqual([
    { kind: "reboot", title: "reboot", waitSeconds: 900, unapproved: "allow" },
  ]);
});

describe("an approval", () => {
  const verified = { node: "pi-1", policyKey: site.key.publicKeyPem, generation: 1 };
  const given = { ...inputs("ifNeeded"), ...verified, approval: site.approval };
  const kinds = (wanted: RebootInputs): readonly string[] =>
    rebootSteps(wanted, "reboot", at("1 03:00:00")).map(({ title }) => title);

  test("is shipped before the reboot, and with none nothing is", () => {
    expect(kinds(given)).toEqual([
      "see that no volume loses the approval that it opens by",
      "make /etc/edgeseal",
      "make /etc/edgeseal/trust",
      "ship the approval",
      "reboot",
    ]);
    expect(kinds({ ...given, reboot: "never" })).toEqual([]);
    expect(kinds(inputs("ifNeeded"))).toEqual(["reboot"]);
  });

  test("is verified as a volume's is, and not without what that takes", async () => {
    const problems = (more: Partial<RebootInputs>): readonly string[] =>
      rebootProblems({ ...given, ...more }).map(({ path }) => path);
    expect(problems({})).toEqual([]);
    expect(problems({ approval: (await approved()).approval })).toEqual(["approval.policyKey"]);
    expect(problems({ approval: (await approved("pi-2", 1, site.key)).approval })).toEqual(["approval.node"]);
    expect(problems({ generation: 2 })).toEqual(["approval.generation"]);
    expect(problems({ approval: site.approval.replace('"a test"', '"another"') })).toEqual([
      "approval.signature",
    ]);
    expect(problems({ approval: "x" })).toHaveLength(1);
    expect(problems({ policyKey: "x" })).toEqual(["policyKey"]);
    for (const missing of ["node", "policyKey", "generation"] as const) {
      const { [missing]: _, ...rest } = given;
      expect(rebootProblems(rest).map(({ path }) => path)).toEqual(["approval"]);
    }
  });
});
