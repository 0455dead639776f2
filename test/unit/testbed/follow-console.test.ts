import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { claimNodeFolder, describeNode } from "../../../testbed/node-folder.ts";

/* `edgeseal pi console`, as a process of its own: it ends by a signal, or with its node. */

const cli = fileURLToPath(new URL("../../../cli/main.ts", import.meta.url));
let cache: string;
let folder: string;
let log: string;

beforeEach(async () => {
  cache = mkdtempSync(join(tmpdir(), "edgeseal-follow-"));
  vi.stubEnv("EDGESEAL_CACHE", cache);
  ({ folder } = await claimNodeFolder("pi"));
  log = join(folder, "console.log");
  writeFileSync(log, "what was there\n");
  const ssh = {
    host: "127.0.0.1",
    port: 1,
    user: "pi",
    hostKey: "ssh-ed25519 AAAA",
    identityFile: "/nowhere",
  };
  await describeNode(folder, { name: "pi", ssh, imageHash: "0" });
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true, force: true });
});

type Console = ChildProcessByStdio<null, Readable, null>;

/** Follows the console; `shows` resolves once its output is `text`, neither less nor more. */
function follow(): { readonly child: Console; readonly shows: (text: string) => Promise<void> } {
  const child = spawn(process.execPath, [cli, "pi", "console"], { stdio: ["ignore", "pipe", "inherit"] });
  let shown = "";
  let look = (): void => undefined;
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    shown += chunk;
    look();
  });
  return {
    child,
    shows: (text) =>
      new Promise((resolve) => {
        look = () => {
          if (shown === text) resolve();
        };
        look();
      }),
  };
}

test("shows what was there and what is written later, once each, and ends on Ctrl-C with its node untouched", async () => {
  const { child, shows } = follow();
  await shows("what was there\n");
  appendFileSync(log, "one\n");
  await shows("what was there\none\n");
  for (const line of ["two\n", "three\n"]) appendFileSync(log, line);
  await shows("what was there\none\ntwo\nthree\n");
  child.kill("SIGINT");
  // As a shell has it of what ends by that signal.
  expect(await once(child, "exit")).toEqual([130, null]);
  appendFileSync(log, "the node goes on\n");
});

test("ends with its node", async () => {
  const { child, shows } = follow();
  await shows("what was there\n");
  rmSync(folder, { recursive: true });
  expect(await once(child, "exit")).toEqual([0, null]);
});

test("of a node that does not run says so, and which command starts one", async () => {
  rmSync(folder, { recursive: true });
  const child = spawn(process.execPath, [cli, "pi", "console"], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => (said += chunk));
  expect((await once(child, "close"))[0]).not.toBe(0);
  expect(said).toMatch(/no virtual Pi named "pi" is running.*`\.\/edgeseal pi up` starts one/s);
});
