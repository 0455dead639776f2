import { createHash } from "node:crypto";
import * as pulumi from "@pulumi/pulumi";
import { quote } from "../provider/device/shell-quote.ts";
import type { ConnectionArgs } from "./connection-args.ts";
import { needsWholeKey, onNodeFaults, wholeHostKey } from "./hook-faults.ts";

/** A command that is run once a node is as it must be, and again when what was observed of it is another state: a smoke test, a notification. */
export interface HookArgs {
  /** Where: on the `node`, over ssh as its login user; or `here`, on the machine that runs Pulumi. */
  readonly on: "node" | "here";
  /** For `sh`. Its exit status decides about the update. */
  readonly command: string;
  /** Variables for it; each a Pulumi secret from here on. For a command `here` alone: a node's TPM is not asked before a hook, so that they would go to a copy of its disk as well. @default none. */
  readonly environment?: Readonly<Record<string, pulumi.Input<string>>>;
  /** @default 60. */
  readonly timeoutSeconds?: number;
}

/** The commands of a node, by name. */
export type Hooks = Readonly<Record<string, HookArgs>>;

/**
 * Version of pulumi-command whose resources these are.
 *
 * Its npm package is left out on purpose: where one with `pulumi.resource` in its package.json is installed, Pulumi's Node.js host reports its plugin as needed by the program,
 * used or not, and each `pulumi up` of each machine would go and look for it.
 */
export const commandVersion = "1.2.1";

/** For the connection, above what the command itself may take. */
const connectSeconds = 60;

/** `remote.Command` and `local.Command` of @pulumi/command, as its own classes register them. */
class Command extends pulumi.CustomResource {
  constructor(
    where: "remote" | "local",
    name: string,
    inputs: pulumi.Inputs,
    options: pulumi.CustomResourceOptions,
  ) {
    super(
      `command:${where}:Command`,
      name,
      { ...inputs, stdout: undefined, stderr: undefined },
      pulumi.mergeOptions(options, {
        version: commandVersion,
        replaceOnChanges: ["triggers[*]"],
        // What a command prints may hold what it was given.
        additionalSecretOutputs: ["connection", "stdin", "environment", "stdout", "stderr"],
      }),
    );
  }
}

/**
 * Registers what is run after all of a node's resources.
 * @param of the node's connection and its resources
 * @throws pulumi.RunError for a hook on the node that can't be connected to with the pinned host key, or without a private key in the state; and for one with secrets
 */
export function afterApply(
  node: string,
  hooks: Hooks,
  of: {
    readonly connection: ConnectionArgs;
    readonly resources: readonly pulumi.CustomResource[];
  },
  parent: pulumi.Resource,
): void {
  const faults = Object.entries(hooks).flatMap(([name, hook]) =>
    hook.on === "here"
      ? []
      : onNodeFaults(hook, of.connection).map((fault) => `${node}: hook ${name}: ${fault}`),
  );
  if (faults.length > 0) throw new pulumi.RunError(faults.join("\n"));
  const triggers = [stateDigest(of.resources)];
  for (const [name, { on, command, environment = {}, timeoutSeconds = 60 }] of Object.entries(hooks)) {
    const secrets = Object.fromEntries(
      Object.entries(environment).map(([key, value]) => [key, pulumi.secret(value)]),
    );
    const limit = `${timeoutSeconds + (on === "node" ? connectSeconds : 0)}s`;
    new Command(
      on === "node" ? "remote" : "local",
      `${node}-hook-${name}`,
      {
        ...(on === "node"
          ? remote(`${node}: hook ${name}`, `export EDGESEAL_NODE=${quote(node)}\n${command}\n`, {
              timeoutSeconds,
              connection: of.connection,
            })
          : { create: command, environment: { ...secrets, EDGESEAL_NODE: node } }),
        triggers,
        logging: "none",
      },
      {
        parent,
        dependsOn: [...of.resources],
        customTimeouts: { create: limit, update: limit },
      },
    );
  }
}

/** A command line is in the process list, so the command goes to standard input. */
function remote(
  what: string,
  command: string,
  { timeoutSeconds, connection }: { readonly timeoutSeconds: number; readonly connection: ConnectionArgs },
): pulumi.Inputs {
  return {
    create: `timeout --kill-after=5 ${timeoutSeconds} sh -c 'eval "$(cat)"'`,
    stdin: command,
    connection: remoteConnection(what, connection),
  };
}

function remoteConnection(what: string, connection: ConnectionArgs): pulumi.Inputs {
  const { address, port = 22, user = "edgeseal", hostKey, privateKey, agent } = connection;
  return {
    host: address,
    port,
    user,
    hostKey:
      typeof hostKey === "string"
        ? pinnedHostKey(what, hostKey)
        : pulumi.output(hostKey).apply((key) => pinnedHostKey(what, key)),
    ...(privateKey === undefined ? {} : { privateKey: pulumi.secret(privateKey) }),
    ...(agent === undefined ? {} : { agentSocketPath: agent }),
    perDialTimeout: 15,
    dialErrorLimit: 3,
  };
}

/** pulumi-command compares whole keys; without one it would take any. What only the update will know is judged here alone. */
function pinnedHostKey(what: string, key: string): string {
  const whole = wholeHostKey(key);
  if (whole === undefined) throw new pulumi.RunError(`${what}: ${needsWholeKey}`);
  return whole;
}

/** One digest of all that was read back: known in a preview when nothing is about to change, so that no hook is announced then. */
function stateDigest(resources: readonly pulumi.CustomResource[]): pulumi.Output<string> {
  const states = resources.map((resource) =>
    Object.fromEntries(
      Object.entries(resource)
        // The way to the node is no state of it, nor is the way to an image; the names of resources are none either.
        .filter(
          ([key, value]) =>
            !["connection", "registryAuth", "onDelete", "id", "urn"].includes(key) &&
            pulumi.Output.isInstance(value),
        )
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    ),
  );
  return pulumi.output(states).apply((all) => createHash("sha256").update(canonical(all)).digest("hex"));
}

/** JSON with sorted keys: the order in which an object came back says nothing. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_key, each: unknown) =>
    typeof each === "object" && each !== null && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  );
