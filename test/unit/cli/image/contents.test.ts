import { readFileSync } from "node:fs";
import { unpackTar } from "modern-tar";
import { describe, expect, test } from "vitest";
import { imageContents } from "../../../../cli/image/contents.ts";
import { controlFields } from "../../../../cli/image/deb.ts";
import { elfNeeds } from "../../../../cli/image/elf.ts";
import { layerOf } from "../../../../cli/image/layer.ts";
import { elfFile, packageOf, serverPackages, serverRecipe } from "./packages-in-memory.ts";

const lib = "/usr/lib/x86_64-linux-gnu";

describe("what an ELF file needs", () => {
  test("is its dynamic linker and libraries, of a real program", () => {
    const needs = elfNeeds(readFileSync(process.execPath));
    expect(needs?.interpreter).toMatch(/^\/lib.*\/ld-linux/);
    expect(needs?.needed).toContain("libc.so.6");
  });

  test("is found where the file says, not where it is loaded", () => {
    expect(elfNeeds(elfFile(["liba.so.1", "libb.so"], "/lib/ld.so"))).toEqual({
      interpreter: "/lib/ld.so",
      needed: ["liba.so.1", "libb.so"],
    });
    expect(elfNeeds(elfFile([]))).toEqual({ interpreter: undefined, needed: [] });
  });

  test.each([
    ["a script", Buffer.from("#!/bin/sh\n")],
    ["nothing", Buffer.alloc(0)],
    ["a 32-bit file", Buffer.concat([Buffer.from("7f454c46010101", "hex"), Buffer.alloc(100)])],
  ])("is not known of %s", (_, bytes) => expect(elfNeeds(bytes)).toBeUndefined());

  test("is an error for one that ends too early", () => {
    expect(() => elfNeeds(elfFile(["libc.so.6"]).subarray(0, 100))).toThrow(RangeError);
  });
});

describe("the contents of an image", () => {
  const contents = imageContents(serverRecipe, serverPackages());

  test("are the program, its plug-ins, what they link, the copyrights and what these refer to, and nothing else", () => {
    expect([...contents.files.keys()].sort()).toEqual(
      [
        "/etc/os-release",
        "/lib64",
        "/usr/bin/server",
        "/usr/lib/os-release",
        `${lib}/ld.so`,
        `${lib}/libc.so.6`,
        `${lib}/libplug.so.2`,
        `${lib}/libserver.so.1`,
        `${lib}/libserver.so.1.0`,
        `${lib}/server/plug-a.so`,
        "/usr/lib64/ld.so",
        "/usr/share/common-licenses/GPL-3",
        "/usr/share/doc/base-doc/copyright",
        "/usr/share/doc/base-files/copyright",
        "/usr/share/doc/libc6/copyright",
        "/usr/share/doc/libplug2/copyright",
        "/usr/share/doc/libserver1",
        "/usr/share/doc/server/copyright",
      ].sort(),
    );
    expect([...contents.packages.keys()].sort()).toEqual([
      "base-doc",
      "base-files",
      "libc6",
      "libplug2",
      "libserver1",
      "server",
    ]);
  });

  test.each([
    ["a library", "libplug2", /no package brings libplug\.so\.2, which is needed by: .*plug-a\.so/],
    ["the dynamic linker's links", "base-files", /no package brings /],
    ["the program", "server", /no package brings \/usr\/bin\/server/],
    ["a copyright", "base-doc", /no package brings \/usr\/share\/doc\/libserver1\/copyright/],
  ])("are refused without %s", (_, name, message) => {
    const others = serverPackages().filter(({ fields }) => fields.get("Package") !== name);
    expect(() => imageContents(serverRecipe, others)).toThrow(message);
  });

  test("are refused without any plug-in, and when a link leads in a circle", () => {
    expect(() => imageContents({ ...serverRecipe, plugins: /^\/nowhere/ }, serverPackages())).toThrow(
      /no package brings/,
    );
    const circle = packageOf("circle", { "/a": "-> b", "/b": "-> a" });
    expect(() => imageContents({ ...serverRecipe, files: ["/a"] }, [...serverPackages(), circle])).toThrow(
      /circle of symbolic links/,
    );
  });

  test("have no mode that makes a program run as somebody else", async () => {
    const { execFileSync } = await import("node:child_process");
    const { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const { readDeb } = await import("../../../../cli/image/deb.ts");
    const folder = mkdtempSync(`${tmpdir()}/edgeseal-deb-`);
    try {
      mkdirSync(`${folder}/p/DEBIAN`, { recursive: true });
      mkdirSync(`${folder}/p/usr/bin`, { recursive: true });
      writeFileSync(
        `${folder}/p/DEBIAN/control`,
        "Package: p\nVersion: 1:2-3\nArchitecture: all\nMaintainer: M <m@example.org>\nDescription: short\n long\n",
      );
      writeFileSync(`${folder}/p/usr/bin/suid`, "x");
      chmodSync(`${folder}/p/usr/bin/suid`, 0o4755);
      execFileSync("dpkg-deb", ["--root-owner-group", "--build", "p", "p.deb"], { cwd: folder });
      const deb = await readDeb(`${folder}/p.deb`);
      expect(deb.fields.get("Version")).toBe("1:2-3");
      expect(deb.files.get("/usr/bin/suid")?.mode).toBe(0o755);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

test("a control file's fields keep their further lines", () => {
  expect([...controlFields("Package: a\nDescription: b\n c\n .\n d\nHomepage: https://x\n")]).toEqual([
    ["Package", "a"],
    ["Description", "b\n c\n .\n d"],
    ["Homepage", "https://x"],
  ]);
});

describe("the layer", () => {
  const created = new Date("2027-01-15T12:00:00Z");
  const layer = () => layerOf(imageContents(serverRecipe, serverPackages()), serverRecipe.folders, created);

  test("is sorted, of one time, root's, with what scanners look for, and no file of the machine that made it", async () => {
    const entries = (await unpackTar(await layer(), { strict: true })).map(({ header }) => header);
    const names = entries.map(({ name }) => name);
    expect(names).toEqual([...names].sort());
    expect(new Set(entries.map(({ mtime }) => mtime?.toISOString()))).toEqual(
      new Set([created.toISOString()]),
    );
    expect(new Set(entries.map(({ uid, gid }) => `${uid}:${gid}`))).toEqual(new Set(["0:0"]));
    expect(names).toEqual(expect.arrayContaining(["run/inference/", "tmp/", "var/lib/dpkg/status.d/libc6"]));
    expect(entries.find(({ name }) => name === "tmp/")?.mode).toBe(0o1777);
    for (const name of ["etc/hostname", "etc/resolv.conf", "etc/hosts", "usr/bin/sh"])
      expect(names).not.toContain(name);
    // Each folder is there before what is in it.
    for (const name of names)
      for (let at = name.indexOf("/"); at !== -1 && at < name.length - 1; at = name.indexOf("/", at + 1))
        expect(names.indexOf(name.slice(0, at + 1))).toBeLessThan(names.indexOf(name));
  });

  test("is the same bytes whatever order the packages come in", async () => {
    const turned = imageContents(serverRecipe, [...serverPackages()].reverse());
    expect(await layerOf(turned, [...serverRecipe.folders].reverse(), created)).toEqual(await layer());
  });
});
