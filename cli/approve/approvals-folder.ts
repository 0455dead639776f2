import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Approval } from "../../provider/trust/approval-schema.ts";
import { ApprovalRefused, formatApproval, parseApproval } from "../../provider/trust/approval.ts";
import { sha256Hex } from "../../provider/trust/digest.ts";
import { measuredTexts, type MeasuredEvent, type MeasuredTexts } from "../../provider/trust/event-log.ts";
import { writeDurably } from "../durable-file.ts";
import { UserError } from "../errors.ts";

/*
 * approvals/: `<node>.json` for each node, and in `measured/` the listings and other texts behind the digests of approved events, each under its digest. They are not
 * signed and need not be: a text that does not have the digest of its name is not looked at. They serve to say later *which* file of a folder changed.
 */

export class ApprovalsFolder {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  path(node: string): string {
    return join(this.folder, `${node}.json`);
  }

  #textPath(digest: string): string {
    return join(this.folder, "measured", `${digest}.txt`);
  }

  /**
   * The approval of a node; `undefined` when there is none. Its form is right; whether it may be believed is not looked at.
   * @throws UserError
   */
  async read(node: string): Promise<Approval | undefined> {
    const path = this.path(node);
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new UserError(`${path} can't be read: ${(error as Error).message}`, { cause: error });
    }
    try {
      return parseApproval(text);
    } catch (error) {
      if (!(error instanceof ApprovalRefused)) throw error;
      throw new UserError(`${path} can't be used:\n${error.message}`, { cause: error });
    }
  }

  /** The measured texts of these events that are kept. */
  async texts(events: readonly MeasuredEvent[]): Promise<MeasuredTexts> {
    const found = await Promise.all(
      events.map(({ digest }) => readFile(this.#textPath(digest), "utf8").catch(() => undefined)),
    );
    return measuredTexts(found.filter((text) => text !== undefined));
  }

  /** Writes an approval, after the texts of its events: a document never stands there without what explains it. */
  async write(approval: Approval, texts: Iterable<string>): Promise<string> {
    await mkdir(join(this.folder, "measured"), { recursive: true });
    const wanted = new Set(approval.states.flatMap(({ events }) => events.map(({ digest }) => digest)));
    for (const text of texts) {
      const digest = sha256Hex(text);
      if (wanted.has(digest)) await writeDurably(this.#textPath(digest), text, 0o644);
    }
    await writeDurably(this.path(approval.node), formatApproval(approval), 0o644);
    await this.#prune();
    return this.path(approval.node);
  }

  /** Takes away texts of states that no approval has any more; none, where an approval can't be read. */
  async #prune(): Promise<void> {
    const names = await readdir(this.folder);
    const wanted = new Set<string>();
    for (const name of names.filter((each) => each.endsWith(".json"))) {
      try {
        const { states } = parseApproval(await readFile(join(this.folder, name), "utf8"));
        for (const { events } of states) for (const { digest } of events) wanted.add(digest);
      } catch {
        return;
      }
    }
    for (const name of await readdir(join(this.folder, "measured"))) {
      const [, digest] = /^([0-9a-f]{64})\.txt$/.exec(name) ?? [];
      if (digest !== undefined && !wanted.has(digest)) await rm(this.#textPath(digest), { force: true });
    }
  }
}
