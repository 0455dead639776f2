import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { recorder, valueOf } from "./recorder.ts";

const checkout = fileURLToPath(new URL("../../../", import.meta.url));
const hostKey = `SHA256:${"A".repeat(43)}`;

beforeEach(() => {
  vi.resetModules();
});

describe("examples/edge-node", () => {
  // Its waivers have an end, as every waiver has; the test has none.
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["Date"], now: new Date("2027-01-15T12:00:00Z") });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  test("registers one node, from configuration, with the key as a secret", async () => {
    const run = await recorder(
      { "edgeseal:address": "192.0.2.1", "edgeseal:hostKey": hostKey, "edgeseal:sshKey": "canary" },
      ["edgeseal:sshKey"],
    );
    await import("../../../examples/edge-node/index.ts");
    await run.settled();
    expect(run.registered.map(({ type }) => type).sort()).toEqual([
      "edgeseal:boot:VerifiedBoot",
      "edgeseal:index:EdgeNode",
      "edgeseal:memory:CoreDumps",
      "edgeseal:memory:Scratch",
      "edgeseal:memory:Swap",
      "edgeseal:network:Firewall",
    ]);
  });

  test("is refused once its waivers have ended", async () => {
    vi.setSystemTime(new Date("2027-07-01T00:00:00Z"));
    const run = await recorder({
      "edgeseal:address": "192.0.2.1",
      "edgeseal:hostKey": hostKey,
      "edgeseal:sshKey": "canary",
    });
    await expect(import("../../../examples/edge-node/index.ts")).rejects.toThrow(
      "waiver of platform-team expired on 2027-06-30",
    );
    await run.settled();
  });

  test("is what docs/programs.md shows", () => {
    const program = readFileSync(join(checkout, "examples/edge-node/index.ts"), "utf8");
    const shown =
      /```ts\n([\s\S]*?)```/.exec(readFileSync(join(checkout, "docs/programs.md"), "utf8"))?.[1] ?? "";
    expect(shown).toBe(program);
  });

  test("loads no schema, no YAML and no validator: these belong to site files and to the provider", () => {
    const script = `
      import { registerHooks } from "node:module";
      registerHooks({ resolve(name, context, next) { const found = next(name, context); console.log(found.url); return found; } });
      await import("./components/edge-node.ts");
    `;
    const loaded = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
      cwd: checkout,
      encoding: "utf8",
    });
    expect(loaded).toContain("/components/edge-node.ts");
    const needless = loaded.split("\n").filter(
      (url) =>
        /node_modules\/(typebox|ajv|yaml|ssh2)\//.test(url) ||
        // The one definition of the levels, and of quoting for a shell, which are pure and have no imports of their own.
        (url.startsWith(pathToFileURL(join(checkout, "provider")).href) &&
          !/\/(trust\/level|device\/shell-quote)\.ts$/.test(url)),
    );
    expect(needless).toEqual([]);
  });
});

describe("index.ts", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "edgeseal-index-"));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
    vi.unstubAllEnvs();
  });

  const siteFile = (change: (text: string) => string = (text) => text) => {
    const file = join(folder, "site.yaml");
    writeFileSync(
      file,
      change(readFileSync(join(checkout, "stacks/example.yaml"), "utf8")).replaceAll(
        "2027-06-30",
        "2999-12-31",
      ),
    );
    return file;
  };
  const program = () => import("../../../index.ts");

  test("is a few lines", () => {
    expect(readFileSync(join(checkout, "index.ts"), "utf8").trim().split("\n").length).toBeLessThanOrEqual(5);
  });

  test("returns the site of the file that the configuration names", async () => {
    const run = await recorder({ "edgeseal:siteFile": siteFile() });
    const { site, nodes, waived } = await program();
    await run.settled();
    expect({ site, nodes: Object.keys(nodes), waived }).toEqual({
      site: "example",
      nodes: ["pi-1", "pi-2"],
      waived: "23 waivers, the first ends on 2999-12-31",
    });
    expect(run.registered).toHaveLength(1 + 2 + 8);
  });

  test("a file with faults is refused with all of them, and nothing is registered", async () => {
    const file = siteFile((text) =>
      text.replace("address: 192.0.2.12", "address: 192.0.2.11").replace("  user:", "  usr:"),
    );
    const run = await recorder({ "edgeseal:siteFile": file });
    const failure: unknown = await program().catch((error: unknown) => error);
    expect((failure as Error).message.split("\n")).toEqual([
      expect.stringMatching(
        new RegExp(`^${file}:9:3: defaults\\.usr: unknown field; did you mean 'user'\\?`),
      ),
      expect.stringMatching(
        new RegExp(`^${file}:\\d+:5: nodes\\[1\\]\\.address: expected an address and port of its own`),
      ),
    ]);
    expect((failure as { readonly __pulumiRunError?: true }).__pulumiRunError).toBe(true);
    await run.settled();
    expect(run.registered).toEqual([]);
  });

  describe("a private key", () => {
    const withKey = (text: string) =>
      text.replace("identityFile: ~/.ssh/id_ed25519", "privateKey: { config: sshKey }");

    test("comes from the configuration, as a secret", async () => {
      vi.stubEnv("PULUMI_CONFIG_SECRET_KEYS", '["edgeseal:sshKey"]');
      const run = await recorder({ "edgeseal:siteFile": siteFile(withKey), "edgeseal:sshKey": "canary" }, [
        "edgeseal:sshKey",
      ]);
      const { secretFromConfig } = await import("../../../components/secret-config.ts");
      expect(await valueOf(secretFromConfig("sshKey"))).toEqual({ value: "canary", secret: true });
      await program();
      await run.settled();
      expect(run.registered).toHaveLength(1 + 2 + 8);
    });

    test("that is not configured is told with the mend", async () => {
      await recorder({ "edgeseal:siteFile": siteFile(withKey) });
      await expect(program()).rejects.toThrow(
        'the site file refers to the configuration "sshKey", which this stack does not have; pulumi config set --secret sshKey',
      );
    });

    test("that is configured in plain text is refused, and not shown", async () => {
      vi.stubEnv("PULUMI_CONFIG_SECRET_KEYS", "[]");
      await recorder({ "edgeseal:siteFile": siteFile(withKey), "edgeseal:sshKey": "canary" });
      const failure: unknown = await program().catch((error: unknown) => error);
      expect((failure as Error).message).toBe(
        'the configuration "sshKey" is stored in plain text; store it as a secret: pulumi config set --secret sshKey',
      );
    });
  });
});
