import { type ChildProcess, spawn } from "node:child_process";
import type { EventEmitter } from "node:events";
import grpc from "@grpc/grpc-js";
import type { handleUnaryCall, sendUnaryData, UntypedServiceImplementation } from "@grpc/grpc-js";
import empty from "google-protobuf/google/protobuf/empty_pb.js";
import language from "@pulumi/pulumi/proto/language_pb.js";
import type {
  RunPluginRequest,
  RunPluginResponse,
  RunRequest,
  RunResponse,
} from "@pulumi/pulumi/proto/language_pb.js";
import type { ServerUnaryCall, ServerWritableStream } from "@grpc/grpc-js";
import plugin from "@pulumi/pulumi/proto/plugin_pb.js";
import { type Command, pluginCommand, programCommand } from "./command.ts";

/** `cmd/run` ends with this code when it has told the user all there is to tell. */
const ALREADY_REPORTED = 32;

/** A program that has not ended on SIGTERM by then is killed. */
const GRACE_MS = 5000;

/** Pulumi's LanguageRuntime service for Node, and the processes that it has started. */
export interface LanguageHost {
  readonly service: UntypedServiceImplementation;
  /** Ends every program and plugin still running. */
  readonly stop: () => void;
}

export interface LanguageHostOptions {
  /** Address of the engine's gRPC server, handed on to programs. */
  readonly engine: string;
  /** Version reported to the engine, without `v`. */
  readonly version: string;
}

/** What ended a program: its exit code, or the signal, or why it could not be started. */
type Ending = number | NodeJS.Signals | Error;

export function languageHost({ engine, version }: LanguageHostOptions): LanguageHost {
  const children = new Set<ChildProcess>();

  function start(command: Command, stdio: "inherit" | "pipe"): ChildProcess {
    const child = spawn(process.execPath, command.args, {
      cwd: command.cwd,
      env: command.env,
      stdio: ["ignore", stdio, stdio],
    });
    children.add(child);
    child.once("close", () => children.delete(child));
    return child;
  }

  function run(call: ServerUnaryCall<RunRequest, RunResponse>, respond: sendUnaryData<RunResponse>): void {
    const child = attempt(() => start(programCommand(call.request, engine, process.env), "inherit"), respond);
    if (child === undefined) return;
    call.on("cancelled", () => stopChild(child));
    ended(child, (ending) => respond(null, runResponse(ending)));
  }

  function runPlugin(call: ServerWritableStream<RunPluginRequest, RunPluginResponse>): void {
    const child = attempt(
      () => start(pluginCommand(call.request, process.env), "pipe"),
      (error) => call.emit("error", error),
    );
    if (child === undefined) return;
    const forward = (fill: (response: RunPluginResponse) => void) => {
      if (call.cancelled) return;
      const response = new language.RunPluginResponse();
      fill(response);
      call.write(response);
    };
    child.stdout?.on("data", (chunk: Buffer) => forward((response) => response.setStdout(chunk)));
    child.stderr?.on("data", (chunk: Buffer) => forward((response) => response.setStderr(chunk)));
    call.on("cancelled", () => stopChild(child));
    ended(child, (ending) => {
      if (ending instanceof Error) forward((response) => response.setStderr(Buffer.from(ending.message)));
      forward((response) => response.setExitcode(typeof ending === "number" ? ending : 1));
      call.end();
    });
  }

  const stop = () => children.forEach(stopChild);

  return {
    stop,
    service: {
      handshake: answer(() => new language.LanguageHandshakeResponse()),
      // Node programs load plugins on demand, or Pulumi.yaml names them.
      getRequiredPlugins: answer(() => new language.GetRequiredPluginsResponse()),
      getRequiredPackages: answer(() => new language.GetRequiredPackagesResponse()),
      getPluginInfo: answer(() => new plugin.PluginInfo().setVersion(version)),
      runtimeOptionsPrompts: answer(() => new language.RuntimeOptionsResponse()),
      about: answer(() =>
        new language.AboutResponse().setExecutable(process.execPath).setVersion(process.version),
      ),
      getProgramDependencies: answer(() => new language.GetProgramDependenciesResponse()),
      run,
      runPlugin,
      cancel: answer(() => {
        stop();
        return new empty.Empty();
      }),
      ...Object.fromEntries(NOT_HERE.map((method) => [method, unimplemented(method)])),
    },
  };
}

/** What only project creation and code generation call. */
const NOT_HERE = [
  "installDependencies",
  "template",
  "generateProgram",
  "generateProject",
  "generatePackage",
  "pack",
  "link",
] as const;

function unimplemented(method: string) {
  // A unary call has a second argument; a streaming one is ended through its stream.
  return (call: EventEmitter, respond?: (error: Partial<grpc.ServiceError>) => void) => {
    const error = {
      code: grpc.status.UNIMPLEMENTED,
      details: `${method} needs Pulumi's own distribution: https://www.pulumi.com/docs/install`,
    };
    if (respond === undefined) call.emit("error", error);
    else respond(error);
  };
}

function answer<Response>(make: () => Response): handleUnaryCall<unknown, Response> {
  return (_call, respond) => respond(null, make());
}

function attempt<T>(make: () => T, fail: (error: Partial<grpc.ServiceError>) => void): T | undefined {
  try {
    return make();
  } catch (error) {
    const details = error instanceof Error ? error.message : String(error);
    fail({ code: grpc.status.FAILED_PRECONDITION, details });
    return undefined;
  }
}

/** Calls back once, when a process has ended and its output has been read, or could not be started. */
function ended(child: ChildProcess, callback: (ending: Ending) => void): void {
  let failure: Error | undefined;
  child.once("error", (error) => (failure = error));
  child.once("close", (code, signal) => callback(failure ?? code ?? signal ?? 1));
}

function runResponse(ending: Ending): RunResponse {
  const response = new language.RunResponse();
  if (ending === 0) return response;
  if (ending === ALREADY_REPORTED) return response.setBail(true);
  if (ending instanceof Error) return response.setError(`Program could not be started: ${ending.message}`);
  return response.setError(
    typeof ending === "number"
      ? `Program exited with non-zero exit code: ${ending}`
      : `Program was ended by ${ending}`,
  );
}

function stopChild(child: ChildProcess): void {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), GRACE_MS);
  child.once("close", () => clearTimeout(timer));
}
