import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Connection } from "../provider/connection.ts";
import { nearest } from "../provider/check/nearest.ts";
import { UserError } from "./errors.ts";
import { readSiteOrRefuse } from "./site.ts";

const checkout = fileURLToPath(new URL("..", import.meta.url));

/**
 * How a site file says that a node is reached. A private key that is in Pulumi configuration is asked of Pulumi, as a program would get it.
 * @param stack The stack whose configuration holds the key. @default the selected one
 * @throws UserError for a site file with faults, a node that it does not have, or a key that Pulumi does not give.
 */
export async function siteConnection(
  siteFile: string,
  nodeName: string,
  stack?: string,
): Promise<Connection> {
  const { nodes } = await readSiteOrRefuse(siteFile);
  const node = nodes.find(({ name }) => name === nodeName);
  if (node === undefined) {
    const names = nodes.map(({ name }) => name);
    const near = nearest(nodeName, names);
    throw new UserError(`${siteFile} has no node ${nodeName}`, {
      hint: near === undefined ? `it has: ${names.join(", ")}` : `did you mean ${near}?`,
    });
  }
  const { address, hostKey, port, user, privateKey, identityFile, agent } = node;
  return {
    node: nodeName,
    address,
    hostKey,
    port: port ?? 22,
    user: user ?? "edgeseal",
    ...(privateKey === undefined ? {} : { privateKey: await configured(privateKey.config, stack) }),
    ...(identityFile === undefined ? {} : { identityFile }),
    ...(agent === undefined ? {} : { agent }),
  };
}

async function configured(key: string, stack: string | undefined): Promise<string> {
  const words = ["config", "get", key, ...(stack === undefined ? [] : ["--stack", stack])];
  try {
    const { stdout } = await promisify(execFile)("pulumi", words, { cwd: checkout });
    return stdout;
  } catch (error) {
    const { stderr = "", code } = error as Error & { readonly stderr?: string; readonly code?: unknown };
    const reason = code === "ENOENT" ? "there is no pulumi on PATH" : stderr.trim() || "it failed";
    // The output may hold the key; the reason does not.
    throw new UserError(`pulumi ${words.join(" ")}: ${reason}`, {
      hint: "or load the key into an ssh agent, and name no key in the site file",
    });
  }
}
