import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { kinds } from "../../provider/registry.ts";
import { packageVersion } from "../../provider/version.ts";

/* What Pulumi makes of the provider's schema when `pulumi package add` asks the executable for it. */

const executable = fileURLToPath(new URL("../../provider/pulumi-resource-edgeseal", import.meta.url));
let folder: string;
beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), "edgeseal-schema-"))));
afterAll(() => rmSync(folder, { recursive: true }));

const options = () =>
  ({
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, PULUMI_HOME: folder, PULUMI_SKIP_UPDATE_CHECK: "true", NO_COLOR: "1" },
  }) as const;

interface Schema {
  readonly name: string;
  readonly version: string;
  readonly resources: Readonly<Record<string, { readonly inputProperties?: Record<string, unknown> }>>;
}

test("Pulumi gets it from the executable: every kind, with the version of the package", () => {
  const schema = JSON.parse(
    execFileSync("pulumi", ["package", "get-schema", executable], options()),
  ) as Schema;
  expect(schema).toMatchObject({ name: "edgeseal", version: packageVersion() });
  expect(Object.keys(schema.resources).sort()).toEqual(kinds.map(({ token }) => token).sort());
  for (const { inputProperties } of Object.values(schema.resources))
    expect(inputProperties).toHaveProperty("connection");
});

test("Pulumi's own check of schemas, for all languages, has no remark on it", () => {
  const check = (source: string) => spawnSync("pulumi", ["schema", "check", source], options());
  const { status, stdout, stderr } = check(executable);
  expect({ status, said: `${stdout}${stderr}`.trim() }).toEqual({ status: 0, said: "" });

  // The control: one that refers to a type which is not there has.
  const broken = join(folder, "broken.json");
  const property = { $ref: "#/types/edgeseal:index:Nowhere" };
  const resources = { "edgeseal:index:Broken": { properties: { nowhere: property } } };
  writeFileSync(broken, JSON.stringify({ name: "edgeseal", version: "1.0.0", resources }));
  expect(check(broken).status).not.toBe(0);
});
