import { isAlias, isMap, isNode, isPair, isScalar, isSeq, LineCounter, parseDocument, visit } from "yaml";
import type { Document, Node } from "yaml";
import { formatPath, type Path } from "../../provider/host/values.ts";
import type { SiteProblem } from "./problem.ts";

/** A parsed YAML text that can say where each value stands. */
export interface Source {
  /** The plain value; `undefined` when there are problems. */
  readonly value: unknown;
  readonly problems: readonly SiteProblem[];
  /** A problem at a path: at the key there (at the value, for an item of a list), else at the nearest thing above. */
  readonly problem: (path: Path, message: string) => SiteProblem;
  /** Whether the text itself has something at the path (through anchors and merge keys). */
  readonly has: (path: Path) => boolean;
}

/** What a person may have pasted where a reference to Pulumi configuration belongs. */
const privateKeyMark = /-----BEGIN [A-Z ]*PRIVATE KEY-----|PuTTY-User-Key-File/;

/**
 * Parses YAML 1.2 (core schema: `off` and dates stay text), with anchors and merge keys. Duplicate keys, unresolved tags and a second document
 * are problems. Messages carry no excerpt of the text: it may hold a secret.
 */
export function parseSource(text: string): Source {
  const lines = new LineCounter();
  const document = parseDocument(text, {
    version: "1.2",
    schema: "core",
    merge: true,
    uniqueKeys: true,
    prettyErrors: false,
    lineCounter: lines,
  });
  const at = (offset: number): Pick<SiteProblem, "line" | "column"> => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const problem: Source["problem"] = (path, message) => ({
    path: formatPath(path),
    ...at(offsetOf(document, path)),
    message,
  });

  const problems: SiteProblem[] = [...document.errors, ...document.warnings].map((error) => ({
    path: "",
    ...at(error.pos[0]),
    message: syntaxMessage(error.code, error.message),
  }));
  visit(document, {
    Alias: (_key, node, ancestors) => {
      if (node.resolve(document) !== undefined) return;
      problems.push({
        path: formatPath(pathOf(ancestors, node)),
        ...at(node.range?.[0] ?? 0),
        message: `there is no anchor &${node.source} before this`,
      });
    },
    Scalar: (_key, node, ancestors) => {
      if (typeof node.value !== "string" || !privateKeyMark.test(node.value)) return;
      problems.push({
        path: formatPath(pathOf(ancestors, node)),
        ...at(node.range?.[0] ?? 0),
        message:
          "a private key in plain text (not shown); take it out of the file, store it with `pulumi config set --secret sshKey` and write `privateKey: { config: sshKey }`, or name its file with `identityFile`, or what prints it with `identityCommand`",
      });
    },
  });
  if (problems.length > 0) return { value: undefined, problems, problem, has: () => false };

  let value: unknown;
  try {
    // The limit on aliases keeps a file of nested anchors from growing to gigabytes.
    value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    problems.push(problem([], `not usable: ${error instanceof Error ? error.message : String(error)}`));
  }
  return { value, problems, problem, has: (path) => find(document, path).depth === path.length };
}

function syntaxMessage(code: string, message: string): string {
  switch (code) {
    case "DUPLICATE_KEY":
      return "this key is given twice in one block; keep one of them";
    case "MULTIPLE_DOCS":
      return "a second YAML document starts here; a site is one document: remove the `---`";
    case "TAB_AS_INDENT":
      return "a tab as indentation; YAML takes spaces only";
    case "TAG_RESOLVE_FAILED":
      return "a tag (`!...`) means nothing in a site file: remove it, or quote the text if it is one";
    default:
      // Some messages quote the text they stumbled on.
      return `not valid YAML: ${message.replace(/"(?:[^"\\]|\\.){16,}"/g, "(text not shown)")}; see that brackets, quotes and indentation before this are as they should be`;
  }
}

interface Found {
  /** How many parts of the path were found. */
  readonly depth: number;
  readonly key: Node | undefined;
  readonly value: Node | undefined;
}

function find(document: Document, path: Path): Found {
  let found: Found = { depth: 0, key: undefined, value: nodeOrNone(document.contents) };
  for (const part of path) {
    const next = child(document, found.value, part);
    if (next === undefined) return found;
    found = { depth: found.depth + 1, ...next };
  }
  return found;
}

function child(
  document: Document,
  holder: Node | undefined,
  part: string | number,
): { readonly key: Node | undefined; readonly value: Node | undefined } | undefined {
  const node = isAlias(holder) ? holder.resolve(document) : holder;
  if (isSeq(node)) {
    const item = typeof part === "number" ? nodeOrNone(node.items[part]) : undefined;
    return item && { key: undefined, value: item };
  }
  if (!isMap(node)) return undefined;
  const keyOf = (key: unknown): unknown => (isScalar(key) ? key.value : key);
  const pair = node.items.find(({ key }) => String(keyOf(key)) === String(part));
  if (pair !== undefined) return { key: nodeOrNone(pair.key), value: nodeOrNone(pair.value) };
  for (const { key, value } of node.items) {
    if (!isScalar(key) || (key.value !== "<<" && typeof key.value !== "symbol")) continue;
    const sources = isSeq(value) ? value.items : [value];
    for (const source of sources) {
      const merged = child(document, nodeOrNone(source), part);
      if (merged !== undefined) return merged;
    }
  }
  return undefined;
}

function offsetOf(document: Document, path: Path): number {
  const { key, value } = find(document, path);
  return (key ?? value)?.range?.[0] ?? 0;
}

function pathOf(ancestors: readonly unknown[], leaf: unknown): Path {
  const path: (string | number)[] = [];
  ancestors.forEach((ancestor, index) => {
    const next = ancestors[index + 1] ?? leaf;
    if (isSeq(ancestor)) path.push(ancestor.items.indexOf(next));
    // A pair stands between a map and its value; a scalar key is the text of the step.
    if (isPair(ancestor) && ancestor.value === next && isScalar(ancestor.key))
      path.push(String(ancestor.key.value));
  });
  return path;
}

const nodeOrNone = (value: unknown): Node | undefined => (isNode(value) ? value : undefined);
