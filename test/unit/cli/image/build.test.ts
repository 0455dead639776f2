import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { UserError } from "../../../../cli/errors.ts";
import { readLayout } from "../../../../cli/image/archive.ts";
import { buildImage } from "../../../../cli/image/build.ts";
import { checkImage } from "../../../../cli/image/check.ts";
import type { ImageLock } from "../../../../cli/image/lock-file.ts";
import { sha256Hex } from "../../../../provider/trust/digest.ts";
import { scratchFolder } from "../scratch.ts";
import { serverPackages, serverRecipe } from "./packages-in-memory.ts";

const scratch = scratchFolder();
const environment = { ...process.env };

beforeEach(() => {
  process.env["EDGESEAL_CACHE"] = scratch("cache");
  // What is not in the cache is not looked for anywhere.
  process.env["EDGESEAL_OFFLINE"] = "1";
  delete process.env["SOURCE_DATE_EPOCH"];
});
afterEach(() => {
  process.env = { ...environment };
});

/** Real packages, made by dpkg-deb and put into the cache; and their lock. */
function locked(change: (files: Map<string, Buffer>) => unknown = () => undefined): ImageLock {
  mkdirSync(scratch("cache", "debs"), { recursive: true });
  const packages = serverPackages().map((deb) => {
    const name = deb.fields.get("Package") ?? "";
    const root = scratch(`p-${name}`);
    mkdirSync(`${root}/DEBIAN`, { recursive: true });
    const fields = new Map(deb.fields).set("Description", "a package");
    writeFileSync(`${root}/DEBIAN/control`, [...fields].map(([key, value]) => `${key}: ${value}\n`).join(""));
    const files = new Map<string, Buffer>();
    for (const [path, { content, mode }] of deb.files) {
      // A file below a symbolic link is only there in memory.
      if (path === "/usr/share/doc/libserver1/copyright") continue;
      mkdirSync(dirname(root + path), { recursive: true });
      if ("linkTo" in content) execFileSync("ln", ["-sfn", content.linkTo, root + path]);
      else files.set(path, content.bytes);
      if ("bytes" in content) writeFileSync(root + path, content.bytes, { mode });
    }
    change(files);
    for (const [path, bytes] of files) writeFileSync(root + path, bytes);
    const file = scratch("package.deb");
    execFileSync("dpkg-deb", ["--root-owner-group", "-Znone", "--build", root, file], {
      env: { ...process.env, SOURCE_DATE_EPOCH: "0" },
      stdio: "ignore",
    });
    const bytes = readFileSync(file);
    writeFileSync(scratch("cache", "debs", `${sha256Hex(bytes)}.deb`), bytes);
    return { name, version: "1.0-1", sha256: sha256Hex(bytes), path: `pool/main/${name}_1.0-1_amd64.deb` };
  });
  return { created: "2027-01-15T12:00:00Z", packages };
}

const build = (lock: ImageLock, out = "image") =>
  buildImage(serverRecipe, "arm64", { lock, out: scratch(out) });
const refusal = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "",
    (error: unknown) => {
      expect(error).toBeInstanceOf(UserError);
      return `${(error as UserError).message}\n${String((error as UserError).hint)}`;
    },
  );

describe("building an image", () => {
  test("twice gives the same bytes, in another time zone and in another order, too", async () => {
    const lock = locked();
    const first = await build(lock, "one");
    process.env["TZ"] = "Pacific/Auckland";
    const second = await build({ ...lock, packages: [...lock.packages].reverse() }, "two");
    expect(second.digest).toBe(first.digest);
    const [one, two] = [await readLayout(first.folder), await readLayout(second.folder)];
    expect([...two].sort()).toEqual([...one].sort());
    expect(checkImage("one", one)).toMatchObject({ digest: first.digest, architecture: "arm64" });
  });

  test("of another file, another time or another package is another image", async () => {
    const { digest } = await build(locked());
    const changed = await build(
      locked(
        (files) =>
          files.has("/usr/lib/os-release") && files.set("/usr/lib/os-release", Buffer.from("ID=x\n")),
      ),
    );
    const lock = locked();
    const later = await build({ ...lock, created: "2027-01-15T12:00:01Z" });
    process.env["SOURCE_DATE_EPOCH"] = "1800000000";
    const atEpoch = await build(lock);
    expect(new Set([digest, changed.digest, later.digest, atEpoch.digest]).size).toBe(4);
    expect(atEpoch.created).toBe("2027-01-15T08:00:00Z");
  });

  test("gives a bill of materials of the packages whose files are in it", async () => {
    const lock = locked();
    const { sbom, digest } = await build(lock);
    const bom = JSON.parse(readFileSync(sbom, "utf8")) as {
      specVersion: string;
      metadata: { timestamp: string };
      components: { name: string; purl: string; hashes: { alg: string; content: string }[] }[];
      dependencies: { ref: string; dependsOn?: string[] }[];
    };
    expect(bom.specVersion).toBe("1.6");
    expect(bom.metadata.timestamp).toBe("2027-01-15T12:00:00.000Z");
    expect(bom.components.map(({ name }) => name)).toEqual([
      "base-doc",
      "base-files",
      "libc6",
      "libplug2",
      "libserver1",
      "server",
    ]);
    const server = bom.components.at(-1);
    expect(server?.purl).toBe("pkg:deb/debian/server@1.0-1?arch=amd64&distro=sid");
    expect(server?.hashes).toEqual([
      { alg: "SHA-256", content: lock.packages.find(({ name }) => name === "server")?.sha256 },
    ]);
    expect(bom.dependencies.find(({ ref }) => ref === server?.purl)?.dependsOn).toEqual([
      "pkg:deb/debian/libc6@1.0-1?arch=amd64&distro=sid",
      "pkg:deb/debian/libserver1@1.0-1?arch=amd64&distro=sid",
    ]);
    expect(JSON.stringify(bom)).not.toContain(digest);
  });

  test("takes no package that is not the locked one, to the byte", async () => {
    const lock = locked();
    const [first] = lock.packages;
    writeFileSync(scratch("cache", "debs", `${first?.sha256 ?? ""}.deb`), "another");
    expect(await refusal(build(lock))).toMatch(/server 1\.0-1 is not in .*debs, and EDGESEAL_OFFLINE=1/);
    expect(readdirSync(scratch())).not.toContain("image");
  });

  test("says what to do when the mirror has moved on", async () => {
    delete process.env["EDGESEAL_OFFLINE"];
    const lock = locked();
    const missing = { name: "gone", version: "1", sha256: "0".repeat(64), path: "pool/main/gone.deb" };
    mkdirSync(scratch("mirror"));
    const building = buildImage(serverRecipe, "arm64", {
      lock: { ...lock, packages: [...lock.packages, missing] },
      out: scratch("image"),
      mirror: `file:${scratch("mirror")}`,
    });
    expect(await refusal(building)).toMatch(
      /gone 1 can't be had from file:.*\n.*edgeseal image lock.*snapshot\.debian\.org/,
    );
    expect(readdirSync(scratch("cache", "debs")).filter((name) => !name.endsWith(".deb"))).toEqual([]);
  });

  test("from a mirror that has another file under the name is refused, and the file is not kept", async () => {
    delete process.env["EDGESEAL_OFFLINE"];
    const lock = locked();
    mkdirSync(scratch("mirror", "pool/main"), { recursive: true });
    writeFileSync(scratch("mirror", "pool/main/other.deb"), "another");
    const other = { name: "other", version: "1", sha256: "0".repeat(64), path: "pool/main/other.deb" };
    const building = buildImage(serverRecipe, "arm64", {
      lock: { ...lock, packages: [...lock.packages, other] },
      out: scratch("image"),
      mirror: `file:${scratch("mirror")}`,
    });
    expect(await refusal(building)).toMatch(/is not the locked package: SHA-256/);
    expect(readdirSync(scratch("cache", "debs"))).not.toContain(`${other.sha256}.deb`);
  });

  test("leaves an image alone that is there already, to the byte, and replaces one that is not", async () => {
    const lock = locked();
    const { folder } = await build(lock);
    const { ino } = statSync(folder);
    await build(lock);
    expect(statSync(folder).ino).toBe(ino);
    for (const damage of [
      () => writeFileSync(`${folder}/manifest.json`, "{}"),
      () => rmSync(`${folder}/manifest.json`),
      () => writeFileSync(`${folder}/signature-1`, "of another image"),
    ]) {
      damage();
      await build(lock);
      expect(checkImage("image", await readLayout(folder)).created.toISOString()).toContain("12:00:00");
      expect(readdirSync(folder)).not.toContain("signature-1");
    }
  });

  test("many at a time into one folder: each succeeds, and one of them is there, whole", async () => {
    const lock = locked();
    const locks = [0, 1].map((second) => ({ ...lock, created: `2027-01-15T12:00:0${second}Z` }));
    const digests = await Promise.all(
      Array.from({ length: 16 }, async (_, index) => (await build(locks[index % 2] ?? lock)).digest),
    );
    expect(new Set(digests).size).toBe(2);
    expect(digests).toContain(checkImage("image", await readLayout(scratch("image"))).digest);
    expect(readdirSync(scratch()).filter((name) => name.startsWith("image."))).toEqual([]);
  });

  test("replaces an image, and leaves any other folder alone", async () => {
    const lock = locked();
    await build(lock);
    const { folder } = await build({ ...lock, created: "2027-01-15T12:00:01Z" });
    expect(checkImage("image", await readLayout(folder)).created.toISOString()).toContain("12:00:01");
    mkdirSync(scratch("mine"));
    writeFileSync(scratch("mine", "file"), "mine");
    expect(await refusal(build(lock, "mine"))).toMatch(/is there, and is no image/);
    expect(readdirSync(scratch("mine"))).toEqual(["file"]);
    expect(readdirSync(scratch()).filter((name) => name.startsWith("image."))).toEqual([]);
  });
});
