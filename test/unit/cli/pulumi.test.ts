import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { PulumiWorkspace } from "../../../cli/pulumi.ts";

const checkout = new URL("../../..", import.meta.url).pathname;
let scratch: string;
let workspace: PulumiWorkspace;

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "edgeseal-pulumi-"));
  mkdirSync(join(scratch, "bin"));
  vi.stubEnv("PATH", `${join(scratch, "bin")}:/usr/bin:/bin`);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(scratch, { recursive: true });
});

/** A workspace whose Pulumi CLI is this shell script. */
async function withPulumi(script?: string): Promise<void> {
  if (script !== undefined) {
    writeFileSync(join(scratch, "bin/pulumi"), `#!/bin/sh\n${script}\n`);
    chmodSync(join(scratch, "bin/pulumi"), 0o755);
  }
  workspace = await PulumiWorkspace.create(checkout, join(scratch, "workspace"));
}

test("a run that failed is a result", async () => {
  await withPulumi(`echo "$*"; echo "no" >&2; exit 7`);
  expect(await workspace.run(["up", "--yes"])).toMatchObject({
    code: 7,
    stdout: "up --yes --non-interactive --color=never\n",
    stderr: "no\n",
  });
});

test("a run that is aborted is over only once the CLI has ended", async () => {
  const path = (name: string): string => join(scratch, name);
  await withPulumi(
    // No child in the background: one that had not yet run `sleep` would swallow the signal, and hold the output open.
    [
      "trap stopped=1 TERM",
      `echo >"${path("runs")}"`,
      `until [ "$stopped" ]; do sleep 0.05; done`,
      `sleep 0.3; echo >"${path("put-away")}"`,
    ].join("\n"),
  );
  const interrupted = new AbortController();
  const run = workspace.run(["up"], { signal: interrupted.signal });
  await vi.waitUntil(() => existsSync(path("runs")), { timeout: 10_000, interval: 10 });
  interrupted.abort();
  await expect(run).rejects.toThrow(/abort/i);
  expect(existsSync(path("put-away"))).toBe(true);
});

test("a Pulumi CLI that is not there is an error, not a hang", async () => {
  await withPulumi();
  await expect(workspace.run(["up"])).rejects.toThrow("spawn pulumi ENOENT");
});
