import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { Path } from "../../provider/host/values.ts";
import type { TrustArgs } from "../block-args.ts";
import { isPlain } from "./merge.ts";
import type { SiteProblem } from "./problem.ts";
import type { Source } from "./source.ts";

/** The keys and approvals that a site file names, read. */
export interface SiteTrust {
  /** `undefined` when the site has none, or a file of it can't be read. */
  readonly keys: TrustArgs | undefined;
  /** Content of the approvals of a node; `undefined` when it has none. */
  readonly approvalOf: (node: string) => string | undefined;
  readonly problems: readonly SiteProblem[];
}

/** @param file the site file; what it names is taken from its folder on */
export function readTrust(file: string, given: unknown, source: Source): SiteTrust {
  // What is of another shape is a fault that the schema tells of.
  // Without keys an approval says nothing.
  if (!isPlain(given)) return { keys: undefined, approvalOf: () => undefined, problems: [] };
  const folder = dirname(file);
  const problems: SiteProblem[] = [];
  const read = (key: "policyKey" | "recoveryKey"): string | undefined => {
    const path = given[key];
    if (typeof path !== "string") return undefined;
    try {
      return readFileSync(resolve(folder, path), "utf8");
    } catch (error) {
      const at: Path = ["trust", key];
      const mend = "`edgeseal keys new` makes the site's keys; copy the public halves here";
      problems.push(source.problem(at, `${path} can't be read: ${(error as Error).message}; ${mend}`));
      return undefined;
    }
  };
  const policyKey = read("policyKey");
  const recoveryKey = read("recoveryKey");
  const generation = typeof given.generation === "number" ? given.generation : 1;
  const approvals = typeof given.approvals === "string" ? given.approvals : "../approvals";
  return {
    keys:
      policyKey === undefined || recoveryKey === undefined
        ? undefined
        : { generation, policyKey, recoveryKey },
    approvalOf: (node) => readIfThere(resolve(folder, approvals, `${node}.json`)),
    problems,
  };
}

/** @throws Error of the file system when it is there and can't be read: nothing is approved silently, and nothing silently not. */
function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
