import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { parseDocument } from "yaml";
import { SiteFileError } from "../components/site-file/problem.ts";
import { parseSite, readSite, type NodeSpec, type SiteSpec } from "../components/site-file/read.ts";
import type { Connection } from "../provider/connection.ts";
import { nearest } from "../provider/check/nearest.ts";
import { UserError } from "./errors.ts";

const checkout = fileURLToPath(new URL("..", import.meta.url));

/** A node of a site file, for a command that goes to it. */
export interface SiteNode {
  /** What the site file says of it; of its approvals only where nothing in the site's is wrong. */
  readonly spec: NodeSpec;
  /** The names of all nodes of the site. */
  readonly names: readonly string[];
  /** How it is reached. A private key that is in Pulumi configuration is asked of Pulumi, as a program would get it. */
  readonly connection: () => Promise<Connection>;
  /** The folder of the site's approvals. */
  readonly approvals: string;
  /** The policy key that the site file names; `undefined` when it names none. */
  readonly policyKey: { readonly generation: number; readonly file: string } | undefined;
}

/**
 * Finds a node in a site file.
 * @param stack The stack whose configuration holds the key for ssh. @default the selected one
 * @throws UserError for a site file with faults, or a node that it does not have.
 */
export async function siteNode(siteFile: string, nodeName: string, stack?: string): Promise<SiteNode> {
  const { nodes } = await readSiteForApproving(siteFile);
  const names = nodes.map(({ name }) => name);
  const node = nodes.find(({ name }) => name === nodeName);
  if (node === undefined) {
    const near = nearest(nodeName, names);
    throw new UserError(`${siteFile} has no node ${nodeName}`, {
      hint: near === undefined ? `it has: ${names.join(", ")}` : `did you mean ${near}?`,
    });
  }
  return { spec: node, names, connection: () => connectionOf(node, stack), ...(await trustOf(siteFile)) };
}

/**
 * A site file, whatever is wrong with its approvals: those are what the command is going to mend. Everything else that is wrong is refused.
 * @throws UserError
 */
async function readSiteForApproving(siteFile: string): Promise<SiteSpec> {
  try {
    return readSite(siteFile);
  } catch (error) {
    if (!(error instanceof SiteFileError)) throw error;
    const refused = new UserError(error.message, { cause: error });
    const document = parseDocument(await readFile(siteFile, "utf8").catch(() => ""));
    if (!document.hasIn(["trust", "policyKey"])) throw refused;
    // Where there are none, nothing is wrong with them. The faults that are left are told with the lines of the file as it is.
    document.setIn(["trust", "approvals"], "/nonexistent");
    try {
      return parseSite(siteFile, document.toString());
    } catch {
      throw refused;
    }
  }
}

async function trustOf(siteFile: string): Promise<Pick<SiteNode, "approvals" | "policyKey">> {
  const document = parseDocument(await readFile(siteFile, "utf8"));
  const folder = dirname(siteFile);
  const [approvals, generation, file] = ["approvals", "generation", "policyKey"].map((key) =>
    document.getIn(["trust", key]),
  );
  return {
    approvals: resolve(folder, typeof approvals === "string" ? approvals : "../approvals"),
    policyKey:
      typeof file === "string"
        ? { generation: typeof generation === "number" ? generation : 1, file: resolve(folder, file) }
        : undefined,
  };
}

/**
 * How a node of a site file is reached.
 * @param stack The stack whose configuration holds the key for ssh. @default the selected one
 * @throws UserError when the configuration does not have it
 */
export async function connectionOf(node: NodeSpec, stack?: string): Promise<Connection> {
  const { name, address, hostKey, port, user, privateKey, identityCommand, identityFile, agent } = node;
  return {
    node: name,
    address,
    hostKey,
    port: port ?? 22,
    user: user ?? "edgeseal",
    ...(privateKey === undefined ? {} : { privateKey: await configured(privateKey.config, stack) }),
    ...(identityCommand === undefined ? {} : { identityCommand }),
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
