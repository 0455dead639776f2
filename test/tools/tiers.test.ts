import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { closingLine, NOTHING, succeeded, sum, type Tally } from "../../tools/tiers/tally.ts";
import { type Check, runCheck, shellScripts } from "../../tools/tiers/checks.ts";

describe("the closing line", () => {
  test("is what CI reads", () => {
    expect(closingLine({ passed: 12, failed: [], skipped: 3 })).toBe("12 passed, 0 failed, 3 skipped");
  });

  test("sums all stages", () => {
    const all = sum([
      NOTHING,
      { passed: 1, failed: ["a"], skipped: 3 },
      { passed: 10, failed: ["b", "c"], skipped: 30 },
    ]);
    expect(all).toEqual({ passed: 11, failed: ["a", "b", "c"], skipped: 33 });
    expect(closingLine(all)).toBe("11 passed, 3 failed, 33 skipped");
  });

  test.each<[Tally, boolean]>([
    [{ passed: 1, failed: [], skipped: 0 }, true],
    [{ passed: 1, failed: [], skipped: 5 }, true],
    [{ passed: 9, failed: ["a"], skipped: 0 }, false],
    [{ passed: 0, failed: [], skipped: 0 }, false],
    [{ passed: 0, failed: [], skipped: 5 }, false],
  ])("%j: success is %s", (tally, expected) => {
    expect(succeeded(tally)).toBe(expected);
  });
});

describe("counting what vitest ran", () => {
  const count = async (filter: string) => {
    const script = new URL("count.ts", import.meta.url).pathname;
    // What vitest sets for this test's own process is not for the one inside.
    const { VITEST: _vitest, VITEST_WORKER_ID: _id, VITEST_POOL_ID: _pool, ...env } = process.env;
    const { stdout } = await promisify(execFile)(process.execPath, [script, filter], { env });
    const lines = stdout.trim().split("\n");
    return { tally: JSON.parse(lines.at(-1) ?? "") as Tally, stdout };
  };

  test.each<[string, Tally]>([
    ["passes-and-skips", { passed: 2, failed: [], skipped: 1 }],
    [
      "test-fails",
      {
        passed: 1,
        failed: ["unit: test-fails.case.ts > fails: expected 1 to be 2 // Object.is equality"],
        skipped: 0,
      },
    ],
    [
      "cannot-load",
      { passed: 0, failed: ["unit: cannot-load.case.ts: this file cannot be loaded"], skipped: 0 },
    ],
    ["hook-fails", { passed: 0, failed: ["unit: hook-fails.case.ts: no device"], skipped: 1 }],
    ["stray-rejection", { passed: 1, failed: ["unit: outside of tests: nobody awaits this"], skipped: 0 }],
    ["no such suite", { passed: 0, failed: ["unit: the tier: no test was run"], skipped: 0 }],
  ])("%s", async (filter, expected) => {
    expect((await count(filter)).tally).toEqual(expected);
  });

  test("says why a test was skipped", async () => {
    expect((await count("passes-and-skips")).stdout).toContain("skipped: three: there is no TPM here");
  });
});

describe("a check", () => {
  const check = (...command: Check["command"]) => runCheck({ name: "example", command });

  test("passes when its command ends with 0", async () => {
    expect(await check("true")).toEqual({ passed: 1, failed: [], skipped: 0 });
  });

  test("fails when its command does not", async () => {
    expect(await check("false")).toEqual({ passed: 0, failed: ["checks: example"], skipped: 0 });
  });

  test("fails when its command is not installed", async () => {
    expect(await check("edgeseal-no-such-command")).toEqual({
      passed: 0,
      failed: ["checks: example"],
      skipped: 0,
    });
  });
});

test("shellcheck gets every shell script, wherever it is and whatever it is called", () => {
  const scripts = shellScripts();
  expect(scripts).toEqual(
    expect.arrayContaining([
      ".ci/run",
      "edgeseal",
      "provider/resources/on-device/check-inference",
      "provider/resources/on-device/firmware-trial",
      // Taken in by others: it does not start as a program does.
      "provider/resources/on-device/own-tpm",
      "provider/resources/on-device/start-inference",
      "testbed/image/customize.sh",
      "testbed/namespace/boot.sh",
    ]),
  );
  // The controls: programs for other interpreters, and what is not of the checkout.
  expect(scripts).not.toContain("provider/resources/on-device/ask-inference");
  expect(scripts.filter((path) => /^(node_modules|\.git|\.edgeseal)\//.test(path))).toEqual([]);
});
