import { writeFileSync } from "node:fs";
import { beforeEach, expect, test } from "vitest";
import { stringify } from "yaml";
import {
  inferenceBlock,
  inferenceControls,
  inferenceSite,
  type Signed,
} from "../../../../../cli/demo/inference/site.ts";
import { readSite } from "../../../../../cli/pulumi.ts";
import { checkSite } from "../../../../../cli/site-check.ts";
import { sha256Hex } from "../../../../../provider/trust/digest.ts";
import { siteKey, statementOn } from "../../../resources/model-example.ts";
import { chapterFolders, ssh, template } from "../demo-site.ts";
import { scratchFolder } from "../../scratch.ts";

const path = scratchFolder();
const content = Buffer.from("model");
const signed: Signed = {
  publicKey: siteKey.pem,
  imageDigest: `sha256:${"ab".repeat(32)}`,
  archive: "../../image.tar",
  modelDigest: `sha256:${sha256Hex(content)}`,
  model: "../../model.gguf",
  statement: "../../model.dsse.json",
};

let file: string;
beforeEach(async () => {
  file = chapterFolders(path);
  writeFileSync(path("model.dsse.json"), await statementOn(content));
});

async function check(inference: object) {
  const block = { ...inferenceBlock(signed), ...inference };
  writeFileSync(file, stringify(inferenceSite(await readSite(template), { ssh }, signed, block)));
  return checkSite(file, new Date());
}

test("the site has no fault, and what the chapter shows passes the gate without a waiver", async () => {
  const { lines, passes, findings } = await check({});
  expect(passes, lines.join("\n")).toBe(true);
  for (const control of inferenceControls) {
    const own = findings.filter((finding) => finding.control === control);
    expect(
      own.map(({ outcome }) => outcome),
      control,
    ).toEqual(["pass"]);
  }
});

test("with a layer taken away it does not pass", async () => {
  const { passes, findings } = await check({ confinement: { seccomp: "unconfined" } });
  expect(passes).toBe(false);
  expect(findings.filter(({ outcome }) => outcome === "violation").map(({ control }) => control)).toEqual([
    "4.seccomp",
  ]);
});

test("a context that does not fit is a fault of the file", async () => {
  const { passes, problems } = await check({ contextTokens: 65_536 });
  expect(passes).toBe(false);
  expect(problems.map(({ path, message }) => `${path}: ${message}`)).toEqual([
    expect.stringMatching(/^nodes\[0\]\.inference\.memoryMaxMiB: .* context 1152 /),
  ]);
});
