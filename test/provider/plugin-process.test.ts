import { spawn, type ChildProcess } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { PluginInfo } from "@pulumi/pulumi/proto/plugin_pb.js";
import { empty, grpc, providerService } from "../../provider/host/proto.ts";
import { packageVersion } from "../../provider/version.ts";
import { unary } from "./fixture/provider-client.ts";

const executable = fileURLToPath(new URL("../../provider/pulumi-resource-edgeseal", import.meta.url));

let folder: string;
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "edgeseal-plugin-"))));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Started {
  readonly child: ChildProcess;
  readonly firstLine: Promise<string>;
  readonly ended: Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>;
}

function start(options: { readonly path?: string; readonly env?: NodeJS.ProcessEnv } = {}): Started {
  const env = { ...process.env, EDGESEAL_NODE: process.execPath, XDG_CACHE_HOME: folder, ...options.env };
  const child = spawn(options.path ?? executable, ["127.0.0.1:1"], { env, stdio: ["pipe", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  const line = Promise.withResolvers<string>();
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
    if (stdout.includes("\n")) line.resolve(stdout.slice(0, stdout.indexOf("\n")));
  });
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = new Promise<Awaited<Started["ended"]>>((resolve) => {
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
  return { child, firstLine: line.promise, ended };
}

const versionAt = async (port: string): Promise<string> => {
  const client = new providerService.ResourceProviderClient(
    `127.0.0.1:${port}`,
    grpc.credentials.createInsecure(),
  );
  const info = await unary<PluginInfo>((done) => client.getPluginInfo(new empty.Empty(), done));
  client.close();
  return info.getVersion();
};

test("says its port on the first line and nothing else, answers there, and ends with the engine", async () => {
  const { child, firstLine, ended } = start();
  const port = await firstLine;
  expect(await versionAt(port)).toBe(packageVersion());
  child.stdin?.end();
  expect(await ended).toEqual({ code: 0, stdout: `${port}\n`, stderr: "" });
});

test.each(["SIGINT", "SIGTERM"] as const)("%s ends it in good order", async (signal) => {
  const { child, firstLine, ended } = start();
  await firstLine;
  child.kill(signal);
  expect(await ended).toMatchObject({ code: 0, stderr: "" });
});

test("works through a symbolic link", async () => {
  const link = join(folder, "pulumi-resource-edgeseal");
  symlinkSync(executable, link);
  const { child, firstLine, ended } = start({ path: link });
  expect(await versionAt(await firstLine)).toBe(packageVersion());
  child.stdin?.end();
  await ended;
});

test("without a recent Node says so and what to do, on standard error only", async () => {
  const old = join(folder, "bin", "node");
  mkdirSync(dirname(old));
  writeFileSync(old, "#!/bin/sh\necho v20.20.2\n", { mode: 0o755 });
  // A copy of the checkout's layout without its own Node.
  const link = join(folder, "provider", "pulumi-resource-edgeseal");
  mkdirSync(dirname(link));
  copyFileSync(executable, link);
  const { ended } = start({ path: link, env: { EDGESEAL_NODE: old } });
  const { code, stdout, stderr } = await ended;
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toContain("edgeseal needs Node.js 24 or newer");
  expect(stderr).toContain("./edgeseal doctor");
});

test("finds the Node of the checkout when the one on PATH is old", async () => {
  const old = join(folder, "old", "node");
  mkdirSync(dirname(old));
  writeFileSync(old, "#!/bin/sh\necho v20.20.2\n", { mode: 0o755 });
  const own = join(folder, ".edgeseal", "bin", "node");
  mkdirSync(dirname(own), { recursive: true });
  symlinkSync(process.execPath, own);
  const copy = join(folder, "provider", "pulumi-resource-edgeseal");
  mkdirSync(dirname(copy));
  copyFileSync(executable, copy);
  writeFileSync(join(folder, "provider", "main.ts"), 'console.log(process.execPath !== "");');
  const { firstLine, ended } = start({ path: copy, env: { EDGESEAL_NODE: old } });
  expect(await firstLine).toBe("true");
  await ended;
});
