import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { insertNode, NotInsertable } from "../../../cli/node-add/insert-node.ts";

const item = ["- name: new", "  # a comment", "  address: 192.0.2.9"];
const node = { name: "new", address: "192.0.2.9" };

const names = (text: string): string[] =>
  (parse(text) as { nodes: { name: string }[] }).nodes.map(({ name }) => name);

describe("a node is added behind the last one", () => {
  test.each([
    ["indented", "nodes:\n  - name: a\n    x: 1 # one\nw: 1\n", "  "],
    ["not indented", "nodes:\n- name: a\n  x: 1\nw: 1\n", ""],
    ["far indented", "nodes:\n      -   name: a\n", "      "],
    ["in flow form each", "nodes:\n  - { name: a } # q\nw: 1\n", "  "],
    ["with a block of text at its end", "nodes:\n  - name: a\n    t: |\n      foo\n\nw: 1\n", "  "],
    [
      "with comments of its own at its end",
      "nodes:\n  - name: a\n    # x: 1\n    # y: 2\n\n# w\nw: 1\n",
      "  ",
    ],
    ["at the end of a file without a last line feed", "nodes:\n  - name: a", "  "],
    ["from an anchor", "d: &d { name: a }\nnodes:\n  - *d\nw: 1\n", "  "],
  ])("%s; every other byte stays", (_, text, indent) => {
    const added = insertNode(text, item);
    const lines = item.map((line) => `${indent}${line}\n`).join("");
    expect(added).toContain(lines);
    expect(added.replace(lines, "")).toBe(text.endsWith("\n") ? text : `${text}\n`);
    expect(names(added)).toEqual(["a", "new"]);
  });

  test("behind comments of that node, and before those of the list", () => {
    expect(insertNode("nodes:\n  - name: a\n    # x: 1\n  # end\n", item)).toBe(
      `nodes:\n  - name: a\n    # x: 1\n${item.map((line) => `  ${line}\n`).join("")}  # end\n`,
    );
  });

  test("with the line ends that the file has", () => {
    expect(insertNode("nodes:\r\n  - name: a\r\nw: 1\r\n", item)).toBe(
      `nodes:\r\n  - name: a\r\n${item.map((line) => `  ${line}\r\n`).join("")}w: 1\r\n`,
    );
  });

  test("of the example of a site", () => {
    const text = readFileSync(new URL("../../../stacks/example.yaml", import.meta.url), "utf8");
    const added = insertNode(text, item);
    expect(added.replace(item.map((line) => `  ${line}\n`).join(""), "")).toBe(text);
    const before = parse(text) as { nodes: object[] };
    expect(parse(added)).toEqual({ ...before, nodes: [...before.nodes, node] });
  });
});

describe("a list that can't be added to as text is written anew", () => {
  test.each([
    ["in flow form", "site: x # s\nnodes: [{ name: a }] # q\nw: 1\n", ["a", "new"]],
    ["empty", "site: x # s\nnodes: [] # q\nw: 1\n", ["new"]],
    ["null", "site: x # s\nnodes:\nw: 1 # q\n", ["new"]],
    ["missing", "site: x # s\nw: 1 # q\n", ["new"]],
  ])("%s; its comments are kept", (_, text, expected) => {
    const added = insertNode(text, item);
    expect(names(added)).toEqual(expected);
    for (const comment of ["# s", "# q", "# a comment"]) expect(added).toContain(comment);
    expect(parse(added)).toMatchObject({ site: "x", w: 1 });
  });
});

test.each([
  ["no YAML", "a: b: c\n", /./],
  ["a list", "- a\n", /no fields of a site/],
  ["one whose nodes are a word", "nodes: some\n", /`nodes` is no list/],
])("a text that is %s is refused", (_, text, why) => {
  const insert = () => insertNode(text, item);
  expect(insert).toThrow(NotInsertable);
  expect(insert).toThrow(why);
});
