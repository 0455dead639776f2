import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { chapters } from "../../../../cli/demo/chapters.ts";

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

/** `edgeseal demo`, a process of its own, with the two steps of two-steps.ts. */
function demo(
  fails = "",
  ...args: readonly string[]
): Promise<{ code: unknown; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [
        ...["--disable-warning=ExperimentalWarning", "--import", path("two-steps.ts")],
        ...[path("../../../../cli/main.ts"), "demo", ...args],
      ],
      { env: { ...process.env, FAILS: fails } },
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : error.code, stdout, stderr });
      },
    );
  });
}

test("every step runs in its turn, and all is well: 0", async () => {
  const { code, stdout, stderr } = await demo();
  expect(stderr).toBe("");
  expect(code).toBe(0);
  expect(stdout).toMatch(/2\. The second[^]*done in [\d.]+ s, 30 s of it emulated booting/);
  // With what the start waited for: 40 s for the snapshot, and 3 s.
  expect(stdout).toMatch(/\d+ s, 73 s of them emulated booting/);
  expect(stdout).toMatch(
    /1\. The first: [^]*ok {2}the sky is blue[^]*2\. The second: [^]*the second step ran[^]*All 2 steps are as they should be[^]*the node is gone/,
  );
});

test("the first thing that is not as it should be: 1, what was expected and found, no later step, and the node is gone", async () => {
  const { code, stdout, stderr } = await demo("claim");
  expect(code).toBe(1);
  expect(stderr).toBe("edgeseal: not as it should be\nexpected: the sky is blue\nfound: a grey sky\n");
  expect(stdout).toContain("1. The first");
  expect(stdout).not.toContain("The second");
  expect(stdout).not.toContain("the second step ran");
  expect(stdout).not.toContain("as they should be");
  expect(stdout).toContain("the node is gone");
});

test("a fault of another kind: 1, as what it is", async () => {
  const { code, stdout, stderr } = await demo("fault");
  expect(code).toBe(1);
  expect(stderr).toContain("Error: the roof fell in");
  expect(stdout).not.toContain("The second");
  expect(stdout).toContain("the node is gone");
});

test("its help has each chapter with its time, and a chapter that there is not is wrong usage", async () => {
  const { code, stdout } = await demo("", "--help");
  expect(code).toBe(0);
  for (const [name, { shows, usualMinutes }] of Object.entries(chapters))
    expect(stdout).toMatch(new RegExp(`^  ${name} +some ${usualMinutes} minutes\\n    ${shows}$`, "m"));
  const wrong = await demo("", "main-jobs");
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain("'main-jobs' is invalid");
  expect(wrong.stdout).not.toContain("The first");
});
