import { execFileSync, spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unpackTar } from "modern-tar";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readLayout } from "../../cli/image/archive.ts";
import { buildImage, type BuiltImage } from "../../cli/image/build.ts";
import { checkImage, type CheckedImage } from "../../cli/image/check.ts";
import { elfNeeds } from "../../cli/image/elf.ts";
import { hexOf } from "../../cli/image/oci.ts";
import { architectures } from "../../cli/image/recipe.ts";
import { llamaServer } from "../../images/llama-server/recipe.ts";

/*
 * The image as it is locked, from Debian's packages: fetched from a mirror, where the cache does not have them.
 */

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "edgeseal-image-"));
});
afterAll(() => rm(scratch, { recursive: true }));

describe.each(architectures)("the image for %s", (arch) => {
  let built: BuiltImage;
  let image: CheckedImage;
  let layer: Buffer;

  beforeAll(async () => {
    built = await buildImage(llamaServer, arch, { out: join(scratch, arch) });
    image = checkImage(built.folder, await readLayout(built.folder));
    layer = await readFile(join(built.folder, hexOf(image.blobs[1]?.digest ?? "")));
  });

  test("built twice is one digest, and each byte is what it names", async () => {
    const again = await buildImage(llamaServer, arch, { out: join(scratch, `${arch}-again`) });
    expect(again.digest).toBe(built.digest);
    for (const { folder, digest } of [built, again])
      expect(checkImage(folder, await readLayout(folder))).toMatchObject({ digest, architecture: arch });
  });

  test("has one program, of its architecture, no shell, and nothing of this machine", async () => {
    const entries = await unpackTar(layer);
    const programs = entries.filter(
      ({ header, data }) => /^usr\/s?bin\//.test(header.name) && data !== undefined,
    );
    expect(programs.map(({ header }) => header.name)).toEqual(["usr/bin/llama-server"]);
    // e_machine: EM_X86_64, EM_AARCH64.
    const machines = entries.flatMap(({ data }) => {
      const bytes = data === undefined ? undefined : Buffer.from(data);
      return bytes !== undefined && elfNeeds(bytes) !== undefined ? [bytes.readUInt16LE(18)] : [];
    });
    expect(new Set(machines)).toEqual(new Set([arch === "amd64" ? 62 : 183]));
    expect(new Set(entries.map(({ header }) => `${header.uid}:${header.gid}`))).toEqual(new Set(["0:0"]));
    for (const { header } of entries)
      expect(header.name).not.toMatch(/^etc\/(hostname|resolv|passwd|shadow)/);
  });

  test("is described by its bill of materials, package by package", () => {
    const bom = JSON.parse(image.sbom?.toString() ?? "") as { components: { name: string; purl: string }[] };
    expect(bom.components).toHaveLength(built.packages);
    expect(bom.components.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["libc6", "libggml0", "libllama0", "llama.cpp-tools"]),
    );
    for (const { purl } of bom.components) expect(purl).toMatch(/^pkg:deb\/debian\/.*distro=sid$/);
  });
});

test.skipIf(process.arch !== "x64" || process.getuid?.() !== 0)(
  "the server in it starts, with nothing but what is in it",
  async () => {
    const { folder } = await buildImage(llamaServer, "amd64", { out: join(scratch, "run") });
    const { blobs } = checkImage(folder, await readLayout(folder));
    const root = join(scratch, "root");
    execFileSync("mkdir", [root]);
    execFileSync("tar", ["-x", "-C", root, "-f", join(folder, hexOf(blobs[1]?.digest ?? ""))]);
    const run = spawnSync("chroot", [root, "/usr/bin/llama-server", "--version"], { encoding: "utf8" });
    expect(run).toMatchObject({ status: 0, stderr: expect.stringContaining("version: ") as string });
  },
);
