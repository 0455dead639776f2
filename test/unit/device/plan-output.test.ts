import { describe, expect, test } from "vitest";
import { parsePlanOutput } from "../../../provider/device/plan-output.ts";
import { failureIn } from "../../../provider/device/plan-failure.ts";
import { stepsOf } from "../../../provider/device/plan-runner.ts";
import { commitConfirm, run } from "../../../provider/device/step.ts";

const nonce = "0123456789abcdef0123456789abcdef";
const lines = (...said: string[]): string => said.map((line) => `\n@${nonce} ${line}\n`).join("");
const base64 = (text: string): string => Buffer.from(text).toString("base64");

const change = commitConfirm({
  title: "the change",
  apply: [run({ title: "load", script: "" })],
  files: [],
  save: "",
  restore: "",
  rollbackTo: "no table",
});
const steps = [run({ title: "use the key", script: "", stdin: "sw0rdfish-2\n" }), change];
const points = stepsOf(steps);
const failure = (stdout: string): ReturnType<typeof failureIn> =>
  failureIn("pi-1", parsePlanOutput(stdout, nonce), points, change);

test("what others print, and a line that was cut off, is not heard", () => {
  const output = parsePlanOutput(
    `motd\n@${"f".repeat(32)} failed 0 1 60 \n@${nonce}x end-step 9\n ${lines("begin-step 0")}@${nonce} end-step 0`,
    nonce,
  );
  expect(output.begun).toEqual(["0"]);
  expect(output.done).toEqual([]);
  expect(output.failure).toBeUndefined();
});

test("a plan that ran to its end has no failure", () => {
  expect(failure(lines("begin-step 0", "end-step 0", "armed", "applied"))).toBeUndefined();
});

describe("each way in which a plan can stop is a fact of its own, with the mend", () => {
  test.each([
    [
      "locked",
      lines("locked 42", "lock-owner ada@laptop", "lock-purpose apply", "not-locked"),
      "ada@laptop is changing this node: apply; nothing was done; run the operation again when that has ended (42 s at most)",
    ],
    [
      "locked",
      lines("pending-title the change", "pending-rollback-to no table", "pending 12"),
      "takes it back in 12 s (to: no table)",
    ],
    [
      "locked",
      lines("pending-title the change", "pending-rollback-to no table", "pending-reverted"),
      "an unconfirmed change was found and taken back: 'the change'; the node is back to: no table",
    ],
    [
      "locked",
      lines("pending-title the change", "pending-trouble nft failed"),
      "can't be taken back: 'the change' (nft failed)",
    ],
    ["stepFailed", lines("not-locked"), "no lock can be taken in /run/edgeseal"],
    [
      "stepFailed",
      lines("begin-step 0", `failed 0 1 60 ${base64("no such key")}`),
      "'use the key' failed with exit status 1 (no such key)",
    ],
    [
      "timedOut",
      lines("begin-step 0", "failed 0 124 60 "),
      "'use the key' did not end within 60 s and was killed",
    ],
    [
      "timedOut",
      lines("begin-step 0", "failed 0 137 60 "),
      "was killed; the steps after it were not run; see on the device what hangs or keeps it busy",
    ],
    [
      "stepFailed",
      lines("begin-step 0", `failed 0 2 60 ${base64("cat: write error: No space left on device")}`),
      "No space left on device); the steps after it were not run; make room on the device (`df -h` and `df -i` there tell what is full), and run the operation again: it goes on from here",
    ],
    [
      "stepFailed",
      lines("begin-step 0", `failed 0 2 60 ${base64("mv: /etc/x: Read-only file system")}`),
      "see on the device what is mounted read-only, and why (`findmnt -O ro`, `dmesg`)",
    ],
    [
      "stepFailed",
      lines("begin-step 1:apply:0", `failed 1:apply:0 2 30 ${base64("No space left on device")}`, "reverted"),
      "the node is back to: no table; make room on the device (`df -h` and `df -i` there tell what is full), and run the operation again",
    ],
    [
      "preconditionFailed",
      lines("begin-step 0", `precondition 0 1 ${base64("has a signature")}`),
      "the device is no longer as the plan for 'use the key' assumed (has a signature); it was not done",
    ],
    ["fenced", lines("begin-step 0", "fenced 0"), "somebody else took over the node before 'use the key'"],
    [
      "stepFailed",
      lines("begin-step 1:apply:0", "failed 1:apply:0 2 30 ", "reverted"),
      "'load' failed with exit status 2; the change was taken back at once; the node is back to: no table",
    ],
    [
      "stepFailed",
      lines("begin-step 1:apply:0", "failed 1:apply:0 2 30 ", "revert-failed disk full"),
      "taking the change back (to: no table) has not succeeded yet: disk full",
    ],
    [
      "timedOut",
      lines("begin-step 1:apply:0", "late 1:apply:0", "reverted"),
      "the window ended before 'load' could run; the change was taken back at once; the node is back to: no table; give the change a longer window",
    ],
  ])("%s: %#", (kind, stdout, message) => {
    const error = failure(stdout);
    expect(error?.kind).toBe(kind);
    expect(error?.message).toContain(message);
    expect(error?.message).toMatch(/^pi-1: /);
  });
});

test("a step's output is shown without its secret, whole or encoded, and without control characters", () => {
  const said = `key sw0rdfish-2 and ${base64("sw0rdfish-2")} and ${Buffer.from("sw0rdfish-2").toString("hex")}\u001b[31m`;
  const error = failure(lines("begin-step 0", `failed 0 1 60 ${base64(said)}`));
  expect(error?.originalMessage).toBe("key [secret] and [secret] and [secret][31m");
});
