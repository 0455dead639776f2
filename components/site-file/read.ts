import { readFileSync } from "node:fs";
import {
  blockNames,
  inferenceBlocks,
  isSeveral,
  type Assurance,
  type BlockInputs,
  type BlockName,
} from "../../policies/node.ts";
import { volumeClashes, type PlacedVolume } from "../../policies/distinct-volumes.ts";
import type { Waiver } from "../../policies/waiver.ts";
import type { TrustArgs } from "../block-args.ts";
import type { InputProblem } from "../../provider/resource.ts";
import { inputValidator, type InputValidator } from "../../provider/check/input-validator.ts";
import type { Path, Properties } from "../../provider/host/values.ts";
import { asksFirst, factOf, factsFor, factsOf, needsKeys } from "./facts.ts";
import { hookFaults } from "./hooks-schema.ts";
import { placedFaults, untold } from "./inference-faults.ts";
import { readInference, type RegistryLogin } from "./inference.ts";
import { isPlain, mergePatch, withoutRemovals, type Plain } from "./merge.ts";
import { pathParts, SiteFileError, type SiteProblem } from "./problem.ts";
import { blockSchema } from "./schema-parts.ts";
import { blockKinds, siteSchema, type SiteFile, type SiteFileNode } from "./schema.ts";
import { semanticProblems } from "./semantics.ts";
import { parseSource, type Source } from "./source.ts";
import { readTrust, type SiteTrust } from "./trust.ts";

/** A node of a site, `defaults` merged in and defaults of the kinds filled in. */
export interface NodeSpec extends Omit<SiteFileNode, keyof BlockInputs> {
  readonly blocks: { readonly [B in keyof BlockInputs]?: BlockInputs[B] };
  /** Statements about this node, by control id. */
  readonly statements: Readonly<Record<string, string>>;
  /** The site's keys, when it has any. */
  readonly trust?: TrustArgs;
  /** Content of the node's approvals, when it has any. */
  readonly approval?: string;
  /** The login of what it serves to the registry of its image. */
  readonly registryAuth?: RegistryLogin;
}

/** A site file that is free of faults. Whether it meets the checklist is for the gate to say. */
export interface SiteSpec {
  readonly site: string;
  readonly assurance: Assurance;
  readonly nodes: readonly NodeSpec[];
  readonly waivers: readonly Waiver[];
}

/**
 * Reads a site file.
 * @throws SiteFileError with every fault, each with its line and column.
 */
export function readSite(file: string): SiteSpec {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const message = missing
      ? "there is no such site file; copy stacks/example.yaml there and fill it in (docs/site-file.md), or set `edgeseal:siteFile` to where it is"
      : `can't be read: ${(error as Error).message}`;
    throw new SiteFileError(file, [{ path: "", line: undefined, column: undefined, message }]);
  }
  return parseSite(file, text);
}

/**
 * Parses the text of a site file. `file` is only for messages.
 * @throws SiteFileError with every fault.
 */
export function parseSite(file: string, text: string): SiteSpec {
  const source = parseSource(text);
  if (source.problems.length > 0) throw new SiteFileError(file, source.problems);
  const given = source.value;
  if (!isPlain(given)) {
    throw new SiteFileError(file, [
      source.problem([], "expected the fields of a site (site, nodes, ...), as stacks/example.yaml has them"),
    ]);
  }
  const site: Plain = { ...stripSite(given), nodes: mergedNodes(given) };
  const trust = readTrust(file, given.trust, source);
  const blocks = (site.nodes as readonly Plain[]).map((node, index) =>
    readBlocks(node, index, { file, source, trust }),
  );
  const problems = distinct([
    ...schemaProblems(stripSite(given), source),
    ...trust.problems,
    ...blocks.flatMap((each) => each.problems),
    ...semanticProblems(site, source),
  ]);
  problems.push(
    ...untold(
      problems,
      blocks.flatMap(({ ofInference }) => ofInference),
    ),
  );
  if (problems.length > 0) throw new SiteFileError(file, problems);
  return specOf(site as unknown as SiteFile, blocks);
}

function schemaProblems(stripped: Plain, source: Source): SiteProblem[] {
  return siteValidator
    .validate(stripped as Properties, secretPaths(stripped))
    .problems.map(({ path, message }) => source.problem(pathParts(path), saidOf(path, message)));
}

/** A fault in words. Of a field that is one only here, the schema knows no more than that it is none there. */
const saidOf = (path: string, message: string): string =>
  path === "defaults.tpm.endorsementKeySha256"
    ? "one TPM can't be that of every node; move it to the `tpm` block of the node whose endorsement key it is"
    : message + mendOf(path, message);

/** What the schema can't tell: where the value comes from, and what a word in place of a block was meant to say. */
function mendOf(path: string, message: string): string {
  const block = /\.(swap|coreDumps)$/.exec(path)?.[1];
  if (block !== undefined && message.startsWith("expected an object")) {
    return `; to turn it off, write \`${block}: { mode: off }\`, which is the default`;
  }
  if (path.endsWith(".hostKey")) {
    return "; read it at the console of the node: cat /etc/ssh/ssh_host_ed25519_key.pub";
  }
  if (path.endsWith("privateKey")) {
    return "; store it with `pulumi config set --secret sshKey` and write `privateKey: { config: sshKey }`";
  }
  if (path.endsWith(".registryAuth.password")) {
    return "; store it with `pulumi config set --secret registryPassword` and write `password: { config: registryPassword }`";
  }
  const variable = /\.environment\.([A-Z0-9_]+)$/.exec(path)?.[1];
  if (variable !== undefined)
    return `; store it with \`pulumi config set --secret KEY\` and write \`${variable}: { config: KEY }\``;
  return "";
}

/** A site without faults, as the components take it. */
function specOf(site: SiteFile, read: readonly BlocksRead[]): SiteSpec {
  const { statements = [], waivers = [], assurance = "baseline" } = site;
  return {
    site: site.site,
    assurance,
    nodes: site.nodes.map((node, index) => {
      const connection = Object.entries(node).filter(
        ([key]) => !(blockNames as readonly string[]).includes(key),
      );
      const ours = statements.filter((each) => each.node === node.name || each.node === "*");
      const { blocks = {}, trust, approval, registryAuth } = read[index] ?? {};
      return {
        ...(Object.fromEntries(connection) as Omit<SiteFileNode, keyof BlockInputs>),
        blocks,
        statements: Object.fromEntries(ours.map((each) => [each.control, each.statement])),
        ...(trust === undefined ? {} : { trust }),
        ...(approval === undefined ? {} : { approval }),
        ...(registryAuth === undefined ? {} : { registryAuth }),
      };
    }),
    waivers,
  };
}

/** The nodes with `defaults` merged in. What is no list of blocks is a fault that the schema tells of. */
function mergedNodes(site: Plain): readonly Plain[] {
  const { defaults, nodes } = site;
  return Array.isArray(nodes)
    ? nodes.map((node) => mergePatch(isPlain(defaults) ? defaults : {}, isPlain(node) ? node : {}) as Plain)
    : [];
}

/** Nulls stand for "remove" in `defaults` and in nodes; everywhere else they are faults. */
function stripSite(site: Plain): Plain {
  const stripped = withoutRemovals(site) as Plain;
  return Array.isArray(site.nodes) ? { ...stripped, nodes: site.nodes.map(withoutRemovals) } : stripped;
}

/** The blocks of a node, and what they were read with. */
interface BlocksRead extends Pick<NodeSpec, "blocks" | "trust" | "approval" | "registryAuth"> {
  readonly problems: readonly SiteProblem[];
  /** Faults of the blocks that `inference` stands for, kind by kind. */
  readonly ofInference: readonly (readonly SiteProblem[])[];
}

/**
 * The blocks of a merged node, with the defaults of the kinds filled in, and their faults. A block that neither the node nor `defaults` gives
 * gets the kind's own, secure defaults; one that has no such default stays away: the firewall needs to know who manages the node, and what changes how a node
 * boots or what is on its disks is for somebody to ask for.
 */
function readBlocks(
  merged: Plain,
  index: number,
  { file, source, trust }: { readonly file: string; readonly source: Source; readonly trust: SiteTrust },
): BlocksRead {
  const inference = readInference(merged, file);
  const node: Plain = { ...without(merged, inferenceBlocks), ...inference.blocks };
  const problems: SiteProblem[] = inference.problems.map(({ path, message }) =>
    source.problem(origin(source, index, path), message),
  );
  problems.push(
    ...hookFaults(node).map(({ hook, message }) =>
      source.problem(origin(source, index, ["hooks", "afterApply", hook]), message),
    ),
  );
  const ofInference: (readonly SiteProblem[])[] = [];
  const blocks: Record<string, unknown> = {};
  const readOne = (name: BlockName, path: Path, given: Plain, facts: Plain): Properties | undefined => {
    const { inputs, problems: found } = blockValidators[name].validate(
      { ...given, ...facts } as Properties,
      [],
    );
    const check = blockKinds[name].check as ((inputs: Properties) => readonly InputProblem[]) | undefined;
    const faults = found.length > 0 ? found : (check?.(inputs) ?? []);
    if (node[name] === undefined && faults.length > 0) return undefined;
    if ((inferenceBlocks as readonly BlockName[]).includes(name)) {
      ofInference.push(
        placedFaults(name, faults, inference.volume, (path, message) =>
          source.problem(origin(source, index, path), message),
        ),
      );
      return inputs;
    }
    problems.push(
      ...faults.map((fault) => {
        const elsewhere = factOf(name, fault.path);
        return elsewhere === undefined
          ? source.problem(origin(source, index, [...path, ...pathParts(fault.path)]), fault.message)
          : source.problem(
              elsewhere.path ?? origin(source, index, path),
              `${elsewhere.said}${fault.message}`,
            );
      }),
    );
    return inputs;
  };
  const facts = factsOf(node, trust);
  const { trust: keys } = facts;
  for (const name of blockNames) {
    const given = node[name];
    // The schema tells of a block that is none; looking into it would tell of its letters.
    if ((given !== undefined && !isPlain(given)) || (given === undefined && asksFirst(name))) continue;
    const needing = needsKeys(name);
    if (needing !== undefined && keys === undefined) {
      if (trust.problems.length === 0)
        problems.push(
          source.problem(
            origin(source, index, [name]),
            `${needing} the site's keys: \`edgeseal keys new\` makes them, and \`trust:\` names their public halves (docs/trust.md)`,
          ),
        );
      continue;
    }
    if (!isSeveral(name)) {
      const inputs = readOne(name, [name], given ?? {}, factsFor(name, facts));
      if (inputs !== undefined) blocks[name] = inputs;
      continue;
    }
    const each = Object.entries(given ?? {}).filter((entry): entry is [string, Plain] => isPlain(entry[1]));
    blocks[name] = Object.fromEntries(
      each.map(([key, instance]) => [
        key,
        readOne(name, [name, key], instance, { ...factsFor(name, facts), name: key }),
      ]),
    );
  }
  problems.push(
    ...volumeClashes(placedVolumes(node.volumes)).map(({ name, field, message }) =>
      source.problem(origin(source, index, ["volumes", name, field]), message),
    ),
  );
  const { node: _name, ...read } = facts;
  const { registryAuth } = inference;
  return { blocks, problems, ofInference, ...read, ...(registryAuth === undefined ? {} : { registryAuth }) };
}

/** The volumes of a merged node whose places can be compared; of the others the schema tells. */
const placedVolumes = (volumes: unknown): readonly PlacedVolume[] =>
  Object.entries(isPlain(volumes) ? volumes : {}).flatMap(([name, given]): PlacedVolume[] => {
    if (!isPlain(given) || typeof given.mountPoint !== "string") return [];
    const { mountPoint, device } = given;
    if (typeof device === "string") return [{ name, mountPoint, device }];
    if (!isPlain(device) || typeof device.disk !== "string") return [];
    return [{ name, mountPoint, device: { disk: device.disk } }];
  });

const without = (node: Plain, keys: readonly string[]): Plain =>
  Object.fromEntries(Object.entries(node).filter(([key]) => !keys.includes(key)));

/** Where a value of a merged node comes from: the node itself, else `defaults`; for what is in neither, the node. */
function origin(source: Source, index: number, path: Path): Path {
  const own: Path = ["nodes", index, ...path];
  const shared: Path = ["defaults", ...path];
  return !source.has(own) && source.has(shared) ? shared : own;
}

/** A fault in `defaults` is found once for each node that inherits it; it is one fault. */
function distinct(problems: readonly SiteProblem[]): SiteProblem[] {
  return [...new Map(problems.map((problem) => [JSON.stringify(problem), problem])).values()];
}

/** Where secrets stand in a site file: of what is there, a message shows nothing. */
function secretPaths(site: Plain): Path[] {
  const nodes: readonly unknown[] = Array.isArray(site.nodes) ? site.nodes : [];
  const places: (readonly [Path, unknown])[] = [
    [["defaults"], site.defaults],
    ...nodes.map((node, index): readonly [Path, unknown] => [["nodes", index], node]),
  ];
  return places.flatMap(([path, block]) => [
    [...path, "privateKey"],
    [...path, "inference", "registryAuth", "password"],
    ...hookNames(block).map((name) => [...path, "hooks", "afterApply", name, "environment"]),
  ]);
}

function hookNames(block: unknown): readonly string[] {
  const hooks = isPlain(block) && isPlain(block.hooks) ? block.hooks.afterApply : undefined;
  return isPlain(hooks) ? Object.keys(hooks) : [];
}

const siteValidator = inputValidator(siteSchema);

const blockValidators: { readonly [B in keyof BlockInputs]: InputValidator } = {
  swap: inputValidator(blockSchema(blockKinds.swap)),
  coreDumps: inputValidator(blockSchema(blockKinds.coreDumps)),
  firewall: inputValidator(blockSchema(blockKinds.firewall)),
  boot: inputValidator(blockSchema(blockKinds.boot)),
  firmware: inputValidator(blockSchema(blockKinds.firmware)),
  measuredBoot: inputValidator(blockSchema(blockKinds.measuredBoot)),
  tpm: inputValidator(blockSchema(blockKinds.tpm)),
  volumes: inputValidator(blockSchema(blockKinds.volumes)),
  imagePolicy: inputValidator(blockSchema(blockKinds.imagePolicy)),
  scratch: inputValidator(blockSchema(blockKinds.scratch)),
  model: inputValidator(blockSchema(blockKinds.model)),
  seccompProfile: inputValidator(blockSchema(blockKinds.seccompProfile)),
  appArmorProfile: inputValidator(blockSchema(blockKinds.appArmorProfile)),
  inference: inputValidator(blockSchema(blockKinds.inference)),
};
