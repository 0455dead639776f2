import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { recipeHash } from "../../testbed/image.ts";
import { namespaceRootFolder } from "../../testbed/namespace/root.ts";
import { amd64, arm64 } from "../../testbed/profile.ts";
import { debianPackages, examinePackages } from "../../tools/doctor/packages.ts";
import { examine } from "../../tools/doctor/pieces.ts";

let bin: string;
beforeEach(() => {
  bin = mkdtempSync(join(tmpdir(), "edgeseal-doctor-"));
  vi.stubEnv("PATH", bin);
  vi.stubEnv("EDGESEAL_CACHE", join(bin, "cache"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(bin, { recursive: true });
});

function command(name: string, body = ""): void {
  writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(bin, name), 0o755);
}

const finding = async (piece: string) => (await examine()).find((one) => one.piece.startsWith(piece));

describe("the list of Debian packages", () => {
  test("gives each package a group that the entry script knows, a proof and a reason", () => {
    const packages = debianPackages();
    expect(packages.length).toBeGreaterThan(10);
    for (const { group, name, proof, why } of packages) {
      expect(["base", "go", "vm", "check", "arm64"]).toContain(group);
      expect(name).toMatch(/^[a-z0-9][a-z0-9.+-]+$/);
      expect(proof).toMatch(/^(\/\S+|[a-z0-9_.-]+)$/);
      expect(why).not.toBe("");
    }
  });
});

describe("a package", () => {
  const swtpm = async (needed = true) =>
    (await examinePackages(() => needed)).find((one) => one.piece.startsWith("swtpm:"));

  test("is missing when its command is not on PATH, and the mend names it", async () => {
    expect(await swtpm()).toMatchObject({
      state: "missing",
      mend: expect.stringMatching(/^(sudo )?tools\/install-debian-packages swtpm$/) as string,
    });
  });

  test("is no fault when nothing needs it", async () => {
    expect(await swtpm(false)).toMatchObject({ state: "note" });
  });

  test("that only the tests on arm64 need is never missing", async () => {
    expect(await finding("qemu-user-static:")).toMatchObject({ state: "note" });
  });

  test("is present when its command is there from elsewhere", async () => {
    command("swtpm");
    expect(await swtpm()).toMatchObject({ state: "present", found: join(bin, "swtpm") });
  });

  test("is missing when the file on PATH is not executable", async () => {
    command("swtpm");
    chmodSync(join(bin, "swtpm"), 0o644);
    // root may execute what anybody may; nobody may execute this
    expect(await swtpm()).toMatchObject({ state: "missing" });
  });
});

describe("the Pulumi CLI", () => {
  const oldest = readFileSync(new URL("../../tools/pulumi/oldest-version", import.meta.url), "utf8").trim();

  /** One that another checkout has had built by the same recipe. */
  function builtPulumi(): void {
    const recipe = execFileSync("/bin/sh", ["-c", "cat go.mod go.sum | sha256sum | cut -c 1-16"], {
      cwd: new URL("../../tools/pulumi", import.meta.url).pathname,
      env: { PATH: "/usr/bin:/bin" },
      encoding: "utf8",
    }).trim();
    mkdirSync(join(bin, "cache", `pulumi-${recipe}`), { recursive: true });
    command(`cache/pulumi-${recipe}/pulumi`, "echo v3.259.0");
  }

  test("is missing when it is not on PATH; Go is then needed to build it", async () => {
    expect(await finding("Pulumi CLI")).toMatchObject({ state: "missing" });
    expect(await finding("golang-go")).toMatchObject({ state: "missing" });
  });

  test("is present with its version; Go is then not needed", async () => {
    command("pulumi", "echo v3.259.0");
    expect(await finding("Pulumi CLI")).toMatchObject({
      state: "present",
      found: expect.stringContaining("v3.259.0") as string,
    });
    expect(await finding("golang-go")).toMatchObject({ state: "note" });
  });

  test("is present when another checkout has had it built by the same recipe", async () => {
    builtPulumi();
    expect(await finding("Pulumi CLI")).toMatchObject({ state: "present" });
  });

  test.each(["v3.100.0", "v3.228.9", "v2.999.0", "3.30.0"])(
    "is missing when it is too old: %s, and what would do is said",
    async (version) => {
      command("pulumi", `echo ${version}`);
      expect(await finding("Pulumi CLI")).toMatchObject({
        state: "missing",
        found: `${version} (${join(bin, "pulumi")}), and ${oldest} is the oldest that will do`,
        mend: expect.stringContaining(`Pulumi ${oldest} or newer`) as string,
      });
      expect(await finding("golang-go")).toMatchObject({ state: "missing" });
    },
  );

  test.each([oldest, `v${oldest}`, "v3.229.1", "v3.1000.0", "v4.0.0", "v3.259.0-dev"])(
    "is present when it is new enough: %s",
    async (version) => {
      command("pulumi", `echo ${version}`);
      expect(await finding("Pulumi CLI")).toMatchObject({ state: "present" });
    },
  );

  test("the one that was built counts where the user's own is too old", async () => {
    command("pulumi", "echo v3.100.0");
    builtPulumi();
    expect(await finding("Pulumi CLI")).toMatchObject({
      state: "present",
      found: expect.stringMatching(/^v3\.259\.0 .*cache\/pulumi-/) as string,
    });
  });

  test("is missing when it can't be run", async () => {
    command("pulumi", "exit 1");
    expect(await finding("Pulumi CLI")).toMatchObject({ state: "missing" });
  });
});

describe("the virtual Pi's image", () => {
  const built = (recipe: string): void => {
    const folder = join(bin, "cache/images", recipe);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "disk.raw"), "");
  };

  test("that was never built is a note: it is built when it is needed", async () => {
    expect(await finding("virtual Pi image")).toMatchObject({
      state: "note",
      found: "none of this recipe yet",
      mend: expect.stringContaining("./edgeseal pi image") as string,
    });
  });

  test("of another recipe is not taken for this one's", async () => {
    built("0123456789abcdef");
    expect(await finding("virtual Pi image")).toMatchObject({
      state: "note",
      found: "none of this recipe yet; 1 of other recipes, which ./edgeseal pi image --prune removes",
    });
  });

  test("of this recipe is present, and others are counted", async () => {
    const recipe = await recipeHash(amd64);
    built(recipe);
    expect(await finding("virtual Pi image")).toMatchObject({
      state: "present",
      found: join(bin, "cache/images", recipe),
    });
    built("0123456789abcdef");
    expect(await finding("virtual Pi image")).toMatchObject({
      state: "present",
      found: expect.stringContaining("; 1 of other recipes") as string,
    });
  });

  test("for arm64 is one of its own, of no other recipe", async () => {
    built(await recipeHash(arm64));
    expect(await finding("virtual Pi image")).toMatchObject({ found: "none of this recipe yet" });
    expect(await finding("image of the virtual Pi for arm64")).toMatchObject({ state: "present" });
  });

  test("that is under construction does not count", async () => {
    built(`building-${await recipeHash(amd64)}-x`);
    expect(await finding("virtual Pi image")).toMatchObject({
      state: "note",
      found: "none of this recipe yet",
    });
  });
});

test("the root of the nodes of namespaces is a note until this recipe's is built", async () => {
  mkdirSync(join(bin, "cache/namespace-root/0123456789abcdef"), { recursive: true });
  expect(await finding("root of the nodes of namespaces")).toMatchObject({
    state: "note",
    mend: expect.stringContaining("./edgeseal test device") as string,
  });
  mkdirSync(namespaceRootFolder());
  expect(await finding("root of the nodes of namespaces")).toMatchObject({
    state: "present",
    found: namespaceRootFolder(),
  });
});
