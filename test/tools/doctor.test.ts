import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
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
      expect(["base", "go", "vm", "check"]).toContain(group);
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
      mend: expect.stringContaining("swtpm") as string,
    });
  });

  test("is no fault when nothing needs it", async () => {
    expect(await swtpm(false)).toMatchObject({ state: "note" });
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
    const recipe = execFileSync("/bin/sh", ["-c", "cat go.mod go.sum | sha256sum | cut -c 1-16"], {
      cwd: new URL("../../tools/pulumi", import.meta.url).pathname,
      env: { PATH: "/usr/bin:/bin" },
      encoding: "utf8",
    }).trim();
    mkdirSync(join(bin, "cache", `pulumi-${recipe}`), { recursive: true });
    command(`cache/pulumi-${recipe}/pulumi`, "echo v3.259.0");
    expect(await finding("Pulumi CLI")).toMatchObject({ state: "present" });
  });

  test("is missing when it can't be run", async () => {
    command("pulumi", "exit 1");
    expect(await finding("Pulumi CLI")).toMatchObject({ state: "missing" });
  });
});

test("an image that was never built is a note: it is built when it is needed", async () => {
  expect(await finding("virtual Pi image")).toMatchObject({ state: "note" });
});
