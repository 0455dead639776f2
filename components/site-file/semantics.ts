import { controlIds, checklist } from "../../policies/checklist.ts";
import { clashesInList, endpoint } from "../../policies/distinct-nodes.ts";
import { siteFileBlock } from "../../policies/node.ts";
import { parseDay } from "../../policies/waiver.ts";
import { nearest } from "../../provider/check/nearest.ts";
import type { Path } from "../../provider/host/values.ts";
import { addressFault } from "./address.ts";
import { hostKeyFault } from "./host-key.ts";
import type { SiteProblem } from "./problem.ts";
import { isPlain, type Plain } from "./merge.ts";
import type { Source } from "./source.ts";

/** A node, waiver or statement as far as its values have the right type; what has not is a fault that the schema has told of. */
type Readable<K extends string> = { readonly [P in K]?: string } & { readonly port?: number };

const readable = <K extends string>(value: unknown): Readable<K> =>
  isPlain(value)
    ? (Object.fromEntries(
        Object.entries(value).filter(([key, each]) => typeof each === (key === "port" ? "number" : "string")),
      ) as Readable<K>)
    : {};

const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

function endorsementKeyOf(node: unknown): string | undefined {
  const digest = isPlain(node) && isPlain(node.tpm) ? node.tpm.endorsementKeySha256 : undefined;
  return typeof digest === "string" ? digest : undefined;
}

/** Faults that no schema can express, in a site whose `defaults` have been merged into its nodes. All of them. */
export function semanticProblems(site: Plain, source: Source): SiteProblem[] {
  const given = list(site.nodes);
  const nodes = given.map(readable<"name" | "address" | "hostKey">);
  const waivers = list(site.waivers).map(readable<"control" | "node" | "expires">);
  const statements = list(site.statements).map(readable<"control" | "node">);
  const names = nodes.map(({ name }) => name);
  const placed = nodes.map(({ name, address, port }, index) => ({
    name,
    // One that `defaults` give is a fault there.
    endorsementKey: source.has(["nodes", index, "tpm", "endorsementKeySha256"])
      ? endorsementKeyOf(given[index])
      : undefined,
    endpoint: address === undefined ? undefined : endpoint(address, port),
  }));
  return [
    ...clashesInList(placed).map(({ index, field, message }) =>
      source.problem(["nodes", index, ...field.split(".")], message),
    ),
    ...nodes.flatMap(({ address }, index) => {
      const fault = address === undefined ? undefined : addressFault(address);
      return fault === undefined ? [] : [source.problem(["nodes", index, "address"], fault)];
    }),
    ...nodes.flatMap(({ hostKey }, index) => {
      const fault = hostKey === undefined ? undefined : hostKeyFault(hostKey);
      return fault === undefined ? [] : [source.problem(["nodes", index, "hostKey"], fault)];
    }),
    ...waivers.flatMap((waiver, index) => [
      ...target(source, ["waivers", index], waiver, names),
      ...(waiver.expires === undefined || parseDay(waiver.expires) !== undefined
        ? []
        : [
            source.problem(
              ["waivers", index, "expires"],
              `expected a day that exists, as YYYY-MM-DD, got ${JSON.stringify(waiver.expires)}, which counts as expired`,
            ),
          ]),
    ]),
    ...statements.flatMap((statement, index) => [
      ...target(source, ["statements", index], statement, names),
      ...needless(source, index, statement.control),
    ]),
  ];
}

/** A statement about a control that is judged on evidence. */
function needless(source: Source, index: number, id: string | undefined): SiteProblem[] {
  const control = checklist.find((each) => each.id === id);
  return control?.block === undefined
    ? []
    : [
        source.problem(
          ["statements", index, "control"],
          `${control.id} is judged on the \`${siteFileBlock(control.block)}\` block, so a statement says nothing; remove it`,
        ),
      ];
}

/** Whether the control and the node that a waiver or statement names exist. */
function target(
  source: Source,
  path: Path,
  { control, node }: Readable<"control" | "node">,
  names: readonly (string | undefined)[],
): SiteProblem[] {
  const known = names.filter((name) => name !== undefined);
  return [
    ...(control === undefined || controlIds.includes(control)
      ? []
      : [
          source.problem(
            [...path, "control"],
            `there is no control ${JSON.stringify(control)}${didYouMean(control, controlIds) ?? "; docs/checklist.md lists them"}`,
          ),
        ]),
    ...(node === undefined || node === "*" || known.includes(node)
      ? []
      : [
          source.problem(
            [...path, "node"],
            `there is no node ${JSON.stringify(node)} in this site${didYouMean(node, known) ?? `; it has ${known.join(", ")}, and * stands for all`}`,
          ),
        ]),
  ];
}

function didYouMean(word: string, candidates: readonly string[]): string | undefined {
  const near = nearest(word, candidates);
  return near === undefined ? undefined : `; did you mean ${JSON.stringify(near)}?`;
}
