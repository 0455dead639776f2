import type { BlockName } from "../../policies/node.ts";
import { formatPath, type Path } from "../../provider/host/values.ts";
import type { InputProblem } from "../../provider/resource.ts";
import { pathParts, type SiteProblem } from "./problem.ts";

/*
 * Faults of the blocks that `inference` stands for, told where they are said, and once: one thing that is said there is judged by several kinds, and by the schema of the file.
 */

/** Where in a node an input is said, and what of its path has no place in a site file. */
interface Said {
  readonly path: Path;
  readonly within: Path;
}

function saidAt(block: BlockName, input: Path, volume: string): Said {
  const [name = "", ...rest] = input;
  const at = (...path: Path): Said => ({ path, within: [] });
  switch (name) {
    case "modelDirectory":
    case "storage":
    case "directory":
    case "mountPoint":
      return at("volumes", volume, "mountPoint");
    case "name":
    case "variant":
      return at("inference", name);
    case "accelerator":
      return at("inference", "confinement", "devices");
    case "statement":
    case "sealed":
      return { path: ["inference", "model", name], within: rest };
    default:
      if (block === "model") return at("inference", "model", name, ...rest);
      return block === "inference" && name === "model"
        ? at("inference", "model", "digest")
        : at("inference", ...input);
  }
}

/**
 * The faults of one of the blocks, of each place the first.
 * @param problem makes a problem of a path within the node
 */
export function placedFaults(
  block: BlockName,
  faults: readonly InputProblem[],
  volume: string,
  problem: (path: Path, message: string) => SiteProblem,
): readonly SiteProblem[] {
  const placed = new Map<string, SiteProblem>();
  for (const fault of faults) {
    const { path, within } = saidAt(block, pathParts(fault.path), volume);
    const key = JSON.stringify([path, within]);
    const inside = within.length === 0 ? "" : `${formatPath(within)}: `;
    if (!placed.has(key)) placed.set(key, problem(path, `${inside}${fault.message}`));
  }
  return [...placed.values()];
}

/** What the kinds find, one after the other, but for the places of which something was told before. */
export function untold(
  told: readonly SiteProblem[],
  kinds: readonly (readonly SiteProblem[])[],
): readonly SiteProblem[] {
  const paths = new Set(told.map(({ path }) => path));
  return kinds.flatMap((ofKind) => {
    const fresh = ofKind.filter(({ path }) => !paths.has(path));
    for (const { path } of fresh) paths.add(path);
    return fresh;
  });
}
