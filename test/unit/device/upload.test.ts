import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { newNonce } from "../../../provider/device/batch.ts";
import { stepsOf } from "../../../provider/device/plan-runner.ts";
import { renderPlan } from "../../../provider/device/plan-script.ts";
import { remoteCommand, standardInput } from "../../../provider/device/privileged-shell.ts";
import { reboot, run, upload, type UploadStep } from "../../../provider/device/step.ts";
import { offsetLine, partialOf, renderUpload } from "../../../provider/device/upload-script.ts";

const step = upload({
  title: "it's a model",
  precondition: "mountpoint -q '/srv/it'\\''s'",
  source: "/home/ada/it's.gguf",
  path: "/srv/it's/model.gguf",
  bytes: 4_000_000_000,
  sha256: "ab".repeat(32),
  mode: "0444",
});
const options = {
  nonce: newNonce(),
  changeNonce: newNonce(),
  owner: "it's me",
  purpose: 'a "test"',
  lockWaitSeconds: 1,
};
const rendered = (of: UploadStep = step): string => renderUpload({ id: "0", step: of }, options);

test("the script parses, and names no file of this machine", () => {
  execFileSync("/bin/sh", ["-n"], { input: rendered() });
  expect(rendered()).not.toContain("/home/ada");
});

test("a script that was cut off on its way runs nothing", () => {
  const script = rendered();
  for (let length = 1; length < script.length - 2; length += 97) {
    const { stdout, status } = spawnSync("/bin/sh", ["-c", `eval "$(/usr/bin/head -c ${script.length})"`], {
      input: script.slice(0, length),
      encoding: "utf8",
      env: { PATH: "/nowhere" },
    });
    expect({ length, stdout, status }).toEqual({ length, stdout: "", status: 2 });
  }
});

describe.each(["/bin/dash", "/bin/bash", "/usr/bin/zsh", "/usr/bin/fish", "/usr/bin/tcsh"])(
  "login shell %s",
  (shell) => {
    test.skipIf(!existsSync(shell))(
      "the script is read by its length, and the content is its own to read",
      () => {
        const script = "{\n# ünïcode\nhead -c 7 | od -An -tx1\nhead -c 1000 | od -An -tx1\n}\n";
        const root = { node: "pi-1", address: "192.0.2.1", port: 22, user: "root", hostKey: "" };
        const { stdout } = spawnSync(shell, ["-c", remoteCommand(root)], {
          input: Buffer.concat([
            Buffer.from(standardInput(script, "abc", 0, true)),
            Buffer.from([0, 10, 13, 255, 39, 0, 10]),
            Buffer.from("\n\n\0"),
          ]),
          env: { PATH: "/usr/bin:/bin" },
          encoding: "utf8",
        });
        expect(stdout).toBe("\n@abc started\n 00 0a 0d ff 27 00 0a\n 0a 0a 00\n");
      },
    );
  },
);

test.each<[string, Partial<UploadStep>, string]>([
  ["a relative path", { path: "srv/model" }, "is not an absolute, normal path"],
  ["a path with ..", { path: "/srv/../etc/shadow" }, "is not an absolute, normal path"],
  ["a relative source", { source: "model.gguf" }, "is from no absolute path"],
  ["a digest with its algorithm", { sha256: `sha256:${"ab".repeat(32)}` }, "names no SHA-256 digest"],
  ["a digest in capitals", { sha256: "AB".repeat(32) }, "names no SHA-256 digest"],
  ["a size that is none", { bytes: 1.5 }, "has no size in whole bytes"],
  ["a negative size", { bytes: -1 }, "has no size in whole bytes"],
  ["a mode that is none", { mode: "rw" }, "is not an octal mode"],
  ["an owner that is none", { owner: "root" }, "is not an owner"],
])("%s is refused", (_what, changes, said) => {
  expect(() => rendered({ ...step, ...changes })).toThrow(said);
});

test("uploads come before everything else", () => {
  const other = run({ title: "r", script: ":" });
  expect(() => renderPlan([other, step], [], options)).toThrow("has to come before every other step");
  expect(() => renderPlan([step, step, other], [], options)).not.toThrow();
  expect(
    stepsOf([step, other, reboot({ title: "b", waitSeconds: 60 })]).map(({ id, phase }) => [id, phase]),
  ).toEqual([
    ["0", "upload"],
    ["1", "step"],
    ["2", "reboot"],
  ]);
});

test("the plan's own script has nothing of an upload, nor its deadline", () => {
  const other = run({ title: "r", script: ":" });
  const plain = renderPlan([other], [], options);
  const after = renderPlan([step, other], [], options);
  expect(after.deadlineSeconds).toBe(plain.deadlineSeconds);
  // But for the number of the step.
  expect(after.script.replace("plan_step 1", "plan_step 0")).toBe(plain.script);
});

test("content of one digest is gathered under one name, beside its place", () => {
  expect(partialOf(step)).toBe(`/srv/it's/.model.gguf.${"ab".repeat(8)}.edgeseal-partial`);
  expect(partialOf({ ...step, path: "/model" })).toBe(`/.model.${"ab".repeat(8)}.edgeseal-partial`);
});

test("the line before the content has one length", () => {
  expect(offsetLine(0)).toHaveLength(21);
  expect(offsetLine(Number.MAX_SAFE_INTEGER)).toHaveLength(21);
});
