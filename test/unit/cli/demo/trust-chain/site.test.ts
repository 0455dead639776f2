import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { stringify } from "yaml";
import { trustControls, trustSite } from "../../../../../cli/demo/trust-chain/site.ts";
import { readSite } from "../../../../../cli/pulumi.ts";
import { checkSite } from "../../../../../cli/site-check.ts";
import { scratchFolder } from "../../scratch.ts";
import { chapterFolders, ssh, template } from "../demo-site.ts";

const path = scratchFolder();

test("the site has no fault, and what the chapter shows passes the gate without a waiver", async () => {
  const file = chapterFolders(path);
  writeFileSync(file, stringify(trustSite(await readSite(template), { ssh }, "ab".repeat(32))));
  const { lines, passes, findings } = checkSite(file, new Date());
  expect(passes, lines.join("\n")).toBe(true);
  for (const control of trustControls) {
    const own = findings.filter((finding) => finding.control === control);
    expect(
      own.map(({ outcome }) => outcome),
      control,
    ).toEqual(own.map(() => "pass"));
    expect(own.length, control).toBeGreaterThan(0);
  }
});
