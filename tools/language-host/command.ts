import { createRequire } from "node:module";
import { join } from "node:path";
import type { RunPluginRequest, RunRequest } from "@pulumi/pulumi/proto/language_pb.js";

/** A Node process to start. */
export interface Command {
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
}

/**
 * Where a module of the Pulumi SDK is, as the program in `directory` would find it.
 * Throws with the mend when the program's packages are not installed.
 */
export function sdkModule(directory: string, module: "run" | "run-plugin" | "run-policy-pack"): string {
  try {
    return createRequire(join(directory, "package.json")).resolve(`@pulumi/pulumi/cmd/${module}`);
  } catch (cause) {
    throw new Error(
      `The Pulumi SDK (@pulumi/pulumi) is not installed for ${directory}. Have you run 'npm ci' there?`,
      { cause },
    );
  }
}

/** The engine says `namespace:name`; programs are given `namespace:config:name`. */
function programConfigKey(key: string): string {
  const [namespace, name, ...rest] = key.split(":");
  return name === undefined || rest.length > 0 ? key : `${namespace ?? ""}:config:${name}`;
}

/** TypeScript is compiled by the SDK (through ts-node) unless the project says that Node runs it as it is. */
function typescriptEnv(options: Record<string, unknown>): NodeJS.ProcessEnv {
  return options["typescript"] === false ? {} : { PULUMI_NODEJS_TYPESCRIPT: "true" };
}

/** The command line and environment of a Pulumi program, as Pulumi's own language host makes them. */
export function programCommand(request: RunRequest, engine: string, base: NodeJS.ProcessEnv): Command {
  const info = request.getInfo();
  const directory = info?.getProgramDirectory() ?? request.getPwd();
  const config: Record<string, string> = {};
  request.getConfigMap().forEach((value, key) => {
    config[programConfigKey(key)] = value;
  });
  const flags = {
    monitor: request.getMonitorAddress(),
    engine,
    organization: request.getOrganization(),
    project: request.getProject(),
    stack: request.getStack(),
    pwd: directory,
    parallel: String(request.getParallel()),
    "root-directory": info?.getRootDirectory() ?? "",
  };
  return {
    args: [
      sdkModule(directory, "run"),
      ...Object.entries(flags).flatMap(([name, value]) => (value === "" ? [] : [`--${name}`, value])),
      ...(request.getDryrun() ? ["--dry-run"] : []),
      info?.getEntryPoint() || ".",
      ...request.getArgsList(),
    ],
    env: {
      ...base,
      PULUMI_CONFIG: JSON.stringify(config),
      PULUMI_CONFIG_SECRET_KEYS: JSON.stringify(request.getConfigsecretkeysList()),
      ...typescriptEnv(info?.getOptions()?.toJavaScript() ?? {}),
    },
    cwd: directory,
  };
}

/** The command line and environment of a policy pack (kind `analyzer`) or of another plugin written for Node. */
export function pluginCommand(request: RunPluginRequest, base: NodeJS.ProcessEnv): Command {
  const info = request.getInfo();
  const directory = info?.getProgramDirectory() ?? request.getProgram();
  const args = request.getArgsList();
  const env = Object.fromEntries(
    request.getEnvList().map((pair) => {
      const separator = pair.indexOf("=");
      return [pair.slice(0, separator), pair.slice(separator + 1)];
    }),
  );
  const policyPack = request.getKind() === "analyzer";
  return {
    args: policyPack
      ? // run-policy-pack takes the engine's address first, and drops it.
        [sdkModule(directory, "run-policy-pack"), args[0] ?? "", directory, ...args.slice(1)]
      : [sdkModule(directory, "run-plugin"), directory, ...args],
    env: { ...base, ...env, ...typescriptEnv(info?.getOptions()?.toJavaScript() ?? {}) },
    // @pulumi/policy reads the pack's version from the package.json of the working directory.
    cwd: policyPack ? directory : request.getPwd(),
  };
}
