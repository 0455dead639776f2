import { execFileSync, spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { newNonce } from "../../../provider/device/batch.ts";
import { revertScript } from "../../../provider/device/revert-script.ts";
import { renderConfirmation, renderOutcomeCheck, renderPlan } from "../../../provider/device/plan-script.ts";
import { commitConfirm, file, run } from "../../../provider/device/step.ts";

const options = {
  nonce: newNonce(),
  changeNonce: newNonce(),
  owner: "it's me",
  purpose: 'a "test"',
  lockWaitSeconds: 1,
  manifest: { set: new Map([["id", '{"a":"it\'s"}']]), drop: ["other"] },
};
const change = commitConfirm({
  title: "it's a change",
  apply: [file({ title: "w", path: "/etc/it's", content: "c", mode: "0600" })],
  files: ["/etc/it's"],
  save: `echo "it's"`,
  restore: "echo 'it is'",
  rollbackTo: 'it\'s "before"\nand more',
});
const probe = { id: "p", parts: { a: "echo 'a'" }, parse: () => undefined };

const parses = (script: string): Buffer => execFileSync("/bin/sh", ["-n"], { input: script });

test("all scripts parse", () => {
  parses(renderPlan([run({ title: "r", script: "it's not even sh (" }), change], [probe], options).script);
  parses(renderConfirmation([change], [probe], options).script);
  parses(renderOutcomeCheck([probe], options));
  parses(revertScript);
});

test("a plan that was cut off on its way runs nothing", () => {
  const { script } = renderPlan([run({ title: "r", script: "echo 'ran' >&2" })], [probe], options);
  for (let length = 1; length < script.length - 2; length += 97) {
    // As on the device: the shell reads all that comes, then runs it.
    const { stdout, status } = spawnSync("/bin/sh", ["-c", 'eval "$(/bin/cat)"'], {
      input: script.slice(0, length),
      encoding: "utf8",
      // Should it run after all, it finds nothing to run.
      env: { PATH: "/nowhere" },
    });
    expect({ length, stdout, status }).toEqual({ length, stdout: "", status: 2 });
  }
});

test("a commit-confirmed change comes last, or the plan is refused", () => {
  expect(() => renderPlan([change, run({ title: "r", script: "" })], [], options)).toThrow(
    "has to be the last step",
  );
});

test.each([4, 3601, 7.5])("a window of %d s is refused", (windowSeconds) => {
  expect(() => renderPlan([{ ...change, windowSeconds }], [], options)).toThrow(
    "is not a whole number of seconds from 5 to 3600",
  );
});

test("the deadline covers what a probe takes that reads large files through", () => {
  const of = (extraSeconds: number): number =>
    renderPlan([], [{ ...probe, extraSeconds }], options).deadlineSeconds;
  expect(of(1000) - of(0)).toBe(1000);
  const confirming = (extraSeconds: number): number =>
    renderConfirmation([change], [{ ...probe, extraSeconds }], options).deadlineSeconds;
  expect(confirming(1000) - confirming(0)).toBe(1000);
});

test("the deadline covers every step's own", () => {
  const slow = run({ title: "s", script: "", timeoutSeconds: 1000 });
  const of = (count: number): number =>
    renderPlan(Array<typeof slow>(count).fill(slow), [], options).deadlineSeconds;
  expect(of(2) - of(1)).toBeGreaterThanOrEqual(1000);
});
