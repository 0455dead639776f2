import { isMap, isSeq, parseDocument, type YAMLSeq } from "yaml";

/** The text can't be added to. */
export class NotInsertable extends Error {
  override readonly name = "NotInsertable";
}

/**
 * Adds an item at the end of `nodes:` of a site file. Where that is a list in block form, which it is in all but odd files, every byte of the file stays as it is, and the
 * item is indented as those before it. Else the document is written anew, its comments kept.
 * @param lines The item, not indented; the first begins with `- `.
 * @throws NotInsertable when the text has faults, or `nodes` is no list.
 */
export function insertNode(text: string, lines: readonly string[]): string {
  const document = parseDocument(text, { version: "1.2", schema: "core", merge: true });
  const [fault] = document.errors;
  if (fault !== undefined) throw new NotInsertable(fault.message.split("\n")[0] ?? "not valid YAML");
  if (!isMap(document.contents)) throw new NotInsertable("it has no fields of a site");
  const nodes = document.get("nodes");
  if (nodes !== undefined && nodes !== null && !isSeq(nodes))
    throw new NotInsertable("its `nodes` is no list");
  if (isSeq(nodes) && nodes.flow !== true && nodes.items.length > 0) return splice(text, nodes, lines);
  const added: unknown = parseDocument(lines.join("\n")).contents;
  const [item] = isSeq(added) ? added.items : [];
  if (isSeq(nodes)) {
    nodes.flow = false;
    nodes.add(item);
  } else document.set("nodes", document.createNode([item]));
  return document.toString({ lineWidth: 0, flowCollectionPadding: true });
}

/** Puts the lines behind the last item of a list in block form. */
function splice(text: string, nodes: YAMLSeq, lines: readonly string[]): string {
  const newline = text.includes("\r\n") ? "\r\n" : "\n";
  const start = nodes.range?.[0] ?? 0;
  const column = start - (text.lastIndexOf("\n", start - 1) + 1);
  const last = nodes.items.at(-1) as { readonly range?: readonly [number, number, number] | null };
  const [, valueEnd] = last.range ?? [0, 0];
  let end = text[valueEnd - 1] === "\n" ? valueEnd : lineEnd(text, valueEnd);
  // Comments that are indented further than the dash are of the last node.
  for (;;) {
    const next = text.slice(end, lineEnd(text, end));
    const comment = /^( *)#/.exec(next)?.[1];
    if (comment === undefined || comment.length <= column) break;
    end += next.length;
  }
  const before = text.slice(0, end);
  const item = lines.map((line) => `${" ".repeat(column)}${line}${newline}`).join("");
  return `${before}${before.endsWith("\n") ? "" : newline}${item}${text.slice(end)}`;
}

/** The place behind the line that has that place. */
function lineEnd(text: string, place: number): number {
  const at = text.indexOf("\n", place);
  return at === -1 ? text.length : at + 1;
}
