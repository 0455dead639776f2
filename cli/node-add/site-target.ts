import { readFile, realpath, stat } from "node:fs/promises";
import { isMap, isSeq, parseDocument } from "yaml";
import { judgedNodes } from "../../components/site-file/judged-site.ts";
import { SiteFileError } from "../../components/site-file/problem.ts";
import { parseSite, type NodeSpec, type SiteSpec } from "../../components/site-file/read.ts";
import { endpoint } from "../../policies/distinct-nodes.ts";
import type { JudgedNode } from "../../policies/node.ts";
import type { Waiver } from "../../policies/waiver.ts";
import { writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";
import { insertNode, NotInsertable } from "./insert-node.ts";

/** A node as it stands in a site. */
export interface PlacedNode {
  readonly spec: NodeSpec;
  readonly judged: JudgedNode;
  readonly waivers: readonly Waiver[];
}

/** What a site gives its nodes, as far as it matters for a block. */
export interface SiteFacts {
  /** Whether it has keys: without a recovery key, a TPM can't be owned. */
  readonly hasKeys: boolean;
  /** Of its `defaults`, as they are written. */
  readonly port?: unknown;
  readonly user?: unknown;
  readonly identityFile?: unknown;
  readonly privateKey?: unknown;
  readonly identityCommand?: unknown;
}

/** A site file that a node is added to, or the lack of one: a node by itself is checked as a site's only one. */
export class SiteTarget {
  /** `undefined` for a node by itself. */
  readonly file: string | undefined;

  constructor(file: string | undefined) {
    this.file = file;
  }

  /** @throws UserError when it can't be read */
  async #text(): Promise<string> {
    const { file } = this;
    if (file === undefined) return "site: first-contact\n";
    return await readFile(file, "utf8").catch((error: unknown) => {
      throw new UserError(`${file} can't be read: ${(error as Error).message}`, {
        hint: "to begin a site, copy stacks/example.yaml there; or leave --site out, and the node's block is printed",
      });
    });
  }

  /** @throws UserError when it can't be read */
  async facts(): Promise<SiteFacts> {
    const document = parseDocument(await this.#text());
    const defaults: unknown = document.get("defaults");
    const shared = isMap(defaults) ? (defaults.toJSON() as Omit<SiteFacts, "hasKeys">) : {};
    return { ...shared, hasKeys: isMap(document.get("trust")) };
  }

  /**
   * Refuses what is wrong with the file already, and a node with the name, or the address and port, of another one.
   * @throws UserError
   */
  async requireRoomFor(node: {
    readonly name: string;
    readonly address: string;
    readonly port: number;
  }): Promise<void> {
    const { file } = this;
    const text = await this.#text();
    const nodes: unknown = parseDocument(text).get("nodes");
    // A site without a node is none yet; it becomes one.
    if (
      file === undefined ||
      nodes === undefined ||
      nodes === null ||
      (isSeq(nodes) && nodes.items.length === 0)
    )
      return;
    const place = endpoint(node.address, node.port);
    for (const each of parsed(file, text).nodes) {
      if (each.name === node.name)
        throw new UserError(`${file} has a node ${node.name} already`, { hint: "give another --name" });
      if (endpoint(each.address, each.port) === place)
        throw new UserError(`${file} has a node at ${place} already: ${each.name}`, {
          hint: "two nodes are two devices; to replace a device, change the host key of its node instead",
        });
    }
  }

  /**
   * The site with the node added, checked as every site file is.
   * @param lines the item of `nodes:`
   * @throws UserError with every fault
   */
  async with(name: string, lines: readonly string[]): Promise<PlacedNode & { readonly text: string }> {
    const file = this.file ?? "the node's block";
    let text: string;
    try {
      text = insertNode(await this.#text(), lines);
    } catch (error) {
      if (!(error instanceof NotInsertable)) throw error;
      throw new UserError(`${file} can't be added to: ${error.message}`, { cause: error });
    }
    const site = parsed(file, text);
    const spec = site.nodes.find((node) => node.name === name);
    const judged = judgedNodes(site).find((node) => node.name === name);
    if (spec === undefined || judged === undefined) throw new Error(`${name} is not where it was added`);
    return { spec, judged, waivers: site.waivers, text };
  }

  /** Writes the file: all of it or nothing, in the mode that it has, and where a symbolic link leads to. */
  async write(text: string): Promise<void> {
    const path = await realpath(this.file ?? "");
    await writeDurably(path, text, (await stat(path)).mode & 0o7777);
  }
}

function parsed(file: string, text: string): SiteSpec {
  try {
    return parseSite(file, text);
  } catch (error) {
    if (error instanceof SiteFileError) throw new UserError(error.message, { cause: error });
    throw error;
  }
}
