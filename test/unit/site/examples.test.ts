import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { checkSite } from "../../../cli/site-check.ts";
import { blockKinds } from "../../../components/site-file/schema.ts";
import { faults, hostKey } from "./site-text.ts";

/* What the documents tell people to type works, and leads somewhere. */

const checkout = fileURLToPath(new URL("../../../", import.meta.url));
const markdownBelow = (folder: string): string[] =>
  readdirSync(join(checkout, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".md"))
    .map((entry) => relative(checkout, join(entry.parentPath, entry.name)));
const documents = ["README.md", "CONTRIBUTING.md", ...markdownBelow("docs")];

const read = (name: string): string => readFileSync(join(checkout, name), "utf8");
const yamlIn = (text: string): string[] =>
  [...text.matchAll(/^```yaml\n([^]*?)^```$/gm)].map(([, yaml = ""]) => yaml);
const indented = (text: string, spaces: number): string => text.replaceAll(/^(?=.)/gm, " ".repeat(spaces));

/** Anchors as GitHub makes them of headings. */
const anchorsOf = (text: string): string[] =>
  text
    .replaceAll(/^```[^]*?^```$/gm, "")
    .split("\n")
    .filter((line) => /^#+ /.test(line))
    .map((line) =>
      line
        .replace(/^#+ /, "")
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    );

describe.each(documents)("%s", (name) => {
  const text = read(name);
  const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = ""]) => target)
    .filter((target) => !/^[a-z]+:/.test(target));

  test("has no link that leads nowhere", () => {
    const broken = links.filter((link) => {
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? name : join(dirname(name), path);
      if (!existsSync(join(checkout, target))) return true;
      return anchor !== undefined && !anchorsOf(read(target)).includes(anchor);
    });
    expect(broken).toEqual([]);
  });
});

describe.each(documents.filter((name) => name.startsWith("docs/resources/")))("%s", (name) => {
  test("shows a block as a node of a site file takes it", () => {
    const [block = ""] = yamlIn(read(name));
    expect(Object.keys(blockKinds)).toContain(block.split(":")[0]);
    const rest = block.startsWith("firewall") ? "" : "    firewall: { management: [192.0.2.0/24] }\n";
    const site = `site: test\nnodes:\n  - name: pi-1\n    address: 192.0.2.1\n    hostKey: ${hostKey}\n${rest}${indented(block, 4)}`;
    expect(faults(site)).toEqual([]);
  });
});

test("README.md: the first site of one's own, put together as it says, is free of faults and passes the gate", () => {
  const [head = "", waiver = ""] = yamlIn(read("README.md"));
  const example = read("stacks/example.yaml");
  const waivers = example.slice(example.indexOf("\nwaivers:"));
  const site = `${head}${waivers}${indented(waiver, 2)}`.replace("ssh-ed25519 AAAA...", hostKey);
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-readme-"));
  try {
    writeFileSync(join(folder, "office.yaml"), site);
    const { lines, passes } = checkSite(join(folder, "office.yaml"), new Date("2026-12-01"));
    expect(lines.join("\n")).toContain("the checklist is met, waivers counted in");
    expect(passes).toBe(true);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
