import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { FakeRoot } from "./fake-root.ts";
import { onDevice, sha256 } from "./measure-fixture.ts";

/** What update-initramfs runs after it built an image (run-parts, with the kernel's version and the image's path). */
const note = (root: FakeRoot, version: string, image: string): void => {
  const script = readFileSync(onDevice("initramfs-record"), "utf8");
  expect(root.sh(`set -- '${version}' '${image && root.root + image}'\n${script}`)).toEqual({
    code: 0,
    stdout: "",
    stderr: "",
  });
};

const notes = "/var/lib/edgeseal/initramfs";

function aRoot(): FakeRoot {
  const root = new FakeRoot();
  root.write("/proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000001\n");
  root.write("/boot/initrd.img-6.12", "image");
  root.write("/run/edgeseal/initramfs/6.12", "program=aa\nconf=bb\n");
  return root;
}

describe("the note on an initramfs", () => {
  test("has what the hook put in, the image's digest, and the boot in which it was built", () => {
    using root = aRoot();
    note(root, "6.12", "/boot/initrd.img-6.12");
    expect(root.read(`${notes}/6.12`)).toBe(
      `program=aa\nconf=bb\nimage=${sha256("image")}\nboot=00000000-0000-4000-8000-000000000001\n`,
    );
    expect(root.exists("/run/edgeseal/initramfs/6.12")).toBe(false);
  });

  test("goes when an image is built without the hook", () => {
    using root = aRoot();
    note(root, "6.12", "/boot/initrd.img-6.12");
    note(root, "6.12", "/boot/initrd.img-6.12");
    expect(root.exists(`${notes}/6.12`)).toBe(false);
  });

  test("goes with its kernel; those of others stay", () => {
    using root = aRoot();
    root.write(`${notes}/6.6`, "image=cc\n");
    root.write(`${notes}/6.13`, "image=dd\n");
    root.write("/boot/initrd.img-6.13", "another");
    note(root, "6.12", "/boot/initrd.img-6.12");
    expect(root.exists(`${notes}/6.6`)).toBe(false);
    expect(root.read(`${notes}/6.13`)).toBe("image=dd\n");
  });

  test("is none where there is no image, or nothing was said", () => {
    using root = aRoot();
    note(root, "6.12", "/boot/gone");
    expect(root.exists(`${notes}/6.12`)).toBe(false);
    note(root, "", "");
  });
});
