import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { stringify } from "yaml";
import { trustControls, trustSite } from "../../../../../cli/demo/trust-chain/site.ts";
import { readSite } from "../../../../../cli/pulumi.ts";
import { checkSite } from "../../../../../cli/site-check.ts";
import { scratchFolder } from "../../scratch.ts";
import { testKey } from "../../../trust/keys.ts";

const path = scratchFolder();
const template = fileURLToPath(new URL("../../../../../stacks/demo.yaml", import.meta.url));
const ssh = {
  host: "127.0.0.1",
  port: 2222,
  user: "edge",
  identityFile: "/key",
  hostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE5QmexH8bLts3Fe6Qnlo2UpPTL/DWDxG6waAUaP84vh",
};

test("the site has no fault, and what the chapter shows passes the gate without a waiver", async () => {
  for (const folder of ["project/stacks", "keys"]) mkdirSync(path(folder), { recursive: true });
  writeFileSync(path("keys/policy-1.pub.pem"), testKey("policy").publicKeyPem);
  writeFileSync(path("keys/recovery.pub.pem"), testKey("recovery").publicKeyPem);
  const file = path("project/stacks/demo.yaml");
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
