import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import grpc from "@grpc/grpc-js";
import empty from "google-protobuf/google/protobuf/empty_pb.js";
import struct from "google-protobuf/google/protobuf/struct_pb.js";
import languageService from "@pulumi/pulumi/proto/language_grpc_pb.js";
import type { LanguageRuntimeClient } from "@pulumi/pulumi/proto/language_grpc_pb.js";
import language from "@pulumi/pulumi/proto/language_pb.js";
import type { RunPluginResponse, RunResponse } from "@pulumi/pulumi/proto/language_pb.js";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type LanguageHost, languageHost } from "../../tools/language-host/host.ts";

const ENGINE = "127.0.0.1:4242";

/** A stand-in for the SDK's `cmd/*`: writes down how it was started, then does what `main` says. */
function sdk(folder: string, module: string, main: string): void {
  const path = join(folder, "node_modules/@pulumi/pulumi/cmd", module);
  mkdirSync(path, { recursive: true });
  writeFileSync(
    join(path, "index.js"),
    `require("node:fs").writeFileSync(${JSON.stringify(join(folder, "started.json"))},
       JSON.stringify({ args: process.argv.slice(2), env: process.env, cwd: process.cwd() }));
     ${main}`,
  );
}

interface Started {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
}

let folder: string;
let host: LanguageHost;
let server: grpc.Server;
let client: LanguageRuntimeClient;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-language-host-"));
  host = languageHost({ engine: ENGINE, version: "1.2.3" });
  server = new grpc.Server();
  server.addService(languageService.LanguageRuntimeService, host.service);
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  client = new languageService.LanguageRuntimeClient(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
});

afterEach(() => {
  host.stop();
  client.close();
  server.forceShutdown();
  rmSync(folder, { recursive: true });
});

/** A program that would run for ever. It holds a connection to the test, which the kernel closes when the program ends. */
async function longRunning(module: string) {
  const path = join(folder, "life.sock");
  sdk(folder, module, `require("node:net").connect(${JSON.stringify(path)}).resume()`);
  const listener = createServer();
  listener.listen(path);
  await once(listener, "listening");
  const begun = once(listener, "connection").then(([socket]) => socket as Socket);
  return {
    begun,
    over: async () => {
      const socket = await begun;
      if (!socket.closed) await once(socket.resume(), "close");
      listener.close();
    },
  };
}

const started = () => JSON.parse(readFileSync(join(folder, "started.json"), "utf8")) as Started;

function programInfo(options: Record<string, boolean> = {}) {
  return new language.ProgramInfo()
    .setRootDirectory("/project")
    .setProgramDirectory(folder)
    .setEntryPoint("main")
    .setOptions(struct.Struct.fromJavaScript(options));
}

function runRequest(options: Record<string, boolean> = {}) {
  return new language.RunRequest()
    .setProject("demo")
    .setStack("site-a")
    .setOrganization("organization")
    .setPwd("/elsewhere")
    .setParallel(7)
    .setMonitorAddress("127.0.0.1:1")
    .setInfo(programInfo(options));
}

const run = (request = runRequest()) =>
  new Promise<RunResponse>((resolve, reject) =>
    client.run(request, (error, response) => (error ? reject(error) : resolve(response))),
  );

function runPlugin(request: InstanceType<typeof language.RunPluginRequest>) {
  const stream = client.runPlugin(request);
  const output = { stdout: "", stderr: "", exitcode: undefined as number | undefined };
  stream.on("data", (response: RunPluginResponse) => {
    switch (response.getOutputCase()) {
      case language.RunPluginResponse.OutputCase.STDOUT:
        output.stdout += Buffer.from(response.getStdout_asU8()).toString();
        break;
      case language.RunPluginResponse.OutputCase.STDERR:
        output.stderr += Buffer.from(response.getStderr_asU8()).toString();
        break;
      default:
        output.exitcode = response.getExitcode();
    }
  });
  const done = new Promise<typeof output>((resolve, reject) => {
    stream.on("end", () => resolve(output));
    stream.on("error", reject);
  });
  return { stream, done };
}

describe("run", () => {
  test("a program that ends with 0 has neither error nor bail", async () => {
    sdk(folder, "run", "");
    const response = await run();
    expect(response.toObject()).toEqual({ error: "", bail: false });
  });

  test("32 means that the program has told the user: bail, without another message", async () => {
    sdk(folder, "run", "process.exit(32)");
    expect((await run()).toObject()).toEqual({ error: "", bail: true });
  });

  test("any other code is an error that names it", async () => {
    sdk(folder, "run", "process.exit(1)");
    expect((await run()).toObject()).toEqual({
      error: "Program exited with non-zero exit code: 1",
      bail: false,
    });
  });

  test("a program that was killed is an error, not a success", async () => {
    sdk(folder, "run", `process.kill(process.pid, "SIGKILL")`);
    expect((await run()).getError()).toBe("Program was ended by SIGKILL");
  });

  test("a program without its packages is refused with the mend", async () => {
    await expect(run()).rejects.toMatchObject({
      code: grpc.status.FAILED_PRECONDITION,
      details: expect.stringContaining("npm ci") as string,
    });
  });

  test("the program gets its directory, entry point and addresses", async () => {
    sdk(folder, "run", "");
    await run(runRequest().setDryrun(true).setArgsList(["extra"]));
    expect(started().cwd).toBe(folder);
    expect(started().args).toEqual([
      ...["--monitor", "127.0.0.1:1", "--engine", ENGINE, "--organization", "organization"],
      ...["--project", "demo", "--stack", "site-a", "--pwd", folder, "--parallel", "7"],
      ...["--root-directory", "/project", "--dry-run", "main", "extra"],
    ]);
  });

  test("an entry point that the engine does not name is the directory", async () => {
    sdk(folder, "run", "");
    const request = runRequest();
    request.getInfo()?.setEntryPoint("");
    await run(request);
    expect(started().args.at(-1)).toBe(".");
    expect(started().args).not.toContain("--dry-run");
  });

  test("configuration keys arrive as namespace:config:name", async () => {
    sdk(folder, "run", "");
    const request = runRequest().setConfigsecretkeysList(["demo:key"]);
    request.getConfigMap().set("demo:key", "a=b").set("aws:config:region", "x");
    await run(request);
    const { PULUMI_CONFIG: config, PULUMI_CONFIG_SECRET_KEYS: secretKeys } = started().env;
    expect(JSON.parse(config ?? "")).toEqual({ "demo:config:key": "a=b", "aws:config:region": "x" });
    expect(JSON.parse(secretKeys ?? "")).toEqual(["demo:key"]);
  });

  test.each([
    [{ typescript: false }, undefined],
    [{ typescript: true }, "true"],
    [{}, "true"],
  ])("options %j set PULUMI_NODEJS_TYPESCRIPT to %s", async (options: Record<string, boolean>, expected) => {
    sdk(folder, "run", "");
    await run(runRequest(options));
    expect(started().env["PULUMI_NODEJS_TYPESCRIPT"]).toBe(expected);
  });

  test("Cancel ends a running program", async () => {
    const life = await longRunning("run");
    const response = run();
    await life.begun;
    await new Promise<void>((resolve, reject) =>
      client.cancel(new empty.Empty(), (error) => (error ? reject(error) : resolve())),
    );
    await life.over();
    expect((await response).getError()).toBe("Program was ended by SIGTERM");
  });

  test("a call that the engine gives up ends its program", async () => {
    const life = await longRunning("run");
    const call = client.run(runRequest(), () => undefined);
    await life.begun;
    call.cancel();
    await life.over();
  });
});

describe("runPlugin", () => {
  const pluginRequest = (kind: string) =>
    new language.RunPluginRequest()
      .setKind(kind)
      .setPwd(tmpdir())
      .setInfo(programInfo({ typescript: false }))
      .setArgsList([ENGINE, "rest"])
      .setEnvList(["PLUGIN_SETTING=a=b"]);

  test("standard output, standard error and exit code are streamed apart", async () => {
    sdk(
      folder,
      "run-plugin",
      `process.stdout.write("12345\\n"); process.stderr.write("oops"); process.exitCode = 3`,
    );
    const output = await runPlugin(pluginRequest("resource")).done;
    expect(output).toEqual({ stdout: "12345\n", stderr: "oops", exitcode: 3 });
  });

  test("a plugin gets its directory and arguments, in the engine's working directory", async () => {
    sdk(folder, "run-plugin", "");
    await runPlugin(pluginRequest("resource")).done;
    expect(started().args).toEqual([folder, ENGINE, "rest"]);
    expect(started().cwd).toBe(tmpdir());
    expect(started().env["PLUGIN_SETTING"]).toBe("a=b");
    expect(started().env["PULUMI_NODEJS_TYPESCRIPT"]).toBeUndefined();
  });

  test("a call that the engine gives up ends its plugin", async () => {
    const life = await longRunning("run-plugin");
    const { stream, done } = runPlugin(pluginRequest("resource"));
    const cancelled = expect(done).rejects.toMatchObject({ code: grpc.status.CANCELLED });
    await life.begun;
    stream.cancel();
    await life.over();
    await cancelled;
  });

  test("a policy pack gets the engine's address first, and runs where its package.json is", async () => {
    sdk(folder, "run-policy-pack", "");
    await runPlugin(pluginRequest("analyzer")).done;
    expect(started().args).toEqual([ENGINE, folder, "rest"]);
    expect(started().cwd).toBe(folder);
  });

  test("a plugin that was killed does not end with 0", async () => {
    sdk(folder, "run-plugin", `process.kill(process.pid, "SIGKILL")`);
    expect((await runPlugin(pluginRequest("resource")).done).exitcode).toBe(1);
  });

  test("a plugin without its packages is refused with the mend", async () => {
    await expect(runPlugin(pluginRequest("resource")).done).rejects.toMatchObject({
      code: grpc.status.FAILED_PRECONDITION,
      details: expect.stringContaining("npm ci") as string,
    });
  });
});

describe("the rest of the service", () => {
  test("reports its version", async () => {
    const version = await new Promise<string>((resolve, reject) =>
      client.getPluginInfo(new empty.Empty(), (error, info) =>
        error ? reject(error) : resolve(info.getVersion()),
      ),
    );
    expect(version).toBe("1.2.3");
  });

  test("what only project creation needs says where it is to be had", async () => {
    const refusal = {
      code: grpc.status.UNIMPLEMENTED,
      details: expect.stringContaining("Pulumi's own distribution") as string,
    };
    const unary = new Promise((_resolve, reject) =>
      client.generateProject(new language.GenerateProjectRequest(), (error) =>
        reject(error ?? new Error("answered")),
      ),
    );
    await expect(unary).rejects.toMatchObject(refusal);
    const streaming = new Promise((_resolve, reject) =>
      client
        .installDependencies(new language.InstallDependenciesRequest())
        .on("data", () => undefined)
        .on("error", reject),
    );
    await expect(streaming).rejects.toMatchObject(refusal);
  });
});
