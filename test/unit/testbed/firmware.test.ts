import { describe, expect, test } from "vitest";
import { asksToTry, initramfsNameFor, parseConfig } from "../../../testbed/firmware.ts";

describe("config.txt", () => {
  test("an empty one boots the Pi 5's kernel, else the generic one, without an initramfs", () => {
    expect(parseConfig("")).toEqual({
      kernels: ["kernel_2712.img", "kernel8.img"],
      initramfs: undefined,
      commandLineFile: "cmdline.txt",
    });
  });

  test("a named kernel is the only one", () => {
    expect(parseConfig("kernel=other.img\n").kernels).toEqual(["other.img"]);
  });

  test("the last value counts, spaces and comments do not", () => {
    expect(parseConfig("kernel=a.img\n  kernel = b.img  # newer\n#kernel=c.img").kernels).toEqual(["b.img"]);
  });

  test("auto_initramfs and a named initramfs", () => {
    expect(parseConfig("auto_initramfs=1").initramfs).toBe("auto");
    expect(parseConfig("auto_initramfs=0").initramfs).toBeUndefined();
    expect(parseConfig("auto_initramfs=1\ninitramfs mine.img followkernel").initramfs).toBe("mine.img");
  });

  test("sections of other boards do not hold, until one that does", () => {
    const config = parseConfig(
      "[pi4]\nkernel=four.img\n[pi5]\ncmdline=five.txt\n[none]\nkernel=no.img\n[all]\n",
    );
    expect(config.kernels).toEqual(["kernel_2712.img", "kernel8.img"]);
    expect(config.commandLineFile).toBe("five.txt");
    expect(parseConfig("[pi4]\nkernel=four.img\n[ALL]\nkernel=any.img").kernels).toEqual(["any.img"]);
  });

  test("os_prefix goes before every name", () => {
    expect(parseConfig("os_prefix=new/\ncmdline=c.txt\ninitramfs i.img")).toEqual({
      kernels: ["new/kernel_2712.img", "new/kernel8.img"],
      initramfs: "new/i.img",
      commandLineFile: "new/c.txt",
    });
  });
});

test("what is only for a trial holds in a trial", () => {
  const text = "[tryboot]\ncmdline=try.txt\n[all]\n";
  expect(parseConfig(text).commandLineFile).toBe("cmdline.txt");
  expect(parseConfig(text, true).commandLineFile).toBe("try.txt");
});

test("a trial is asked for by the kernel's last words", () => {
  expect(asksToTry("[  61.2] reboot: Restarting system with command '0 tryboot'\r\n")).toBe(true);
  expect(asksToTry("[  61.2] reboot: Restarting system\r\n")).toBe(false);
});

test.each([
  ["kernel_2712.img", "initramfs_2712"],
  ["kernel8.img", "initramfs8"],
  ["new/kernel_2712.img", "new/initramfs_2712"],
  ["kernel8", "initramfs8"],
])("auto_initramfs for %s is %s", (kernel, initramfs) => {
  expect(initramfsNameFor(kernel)).toBe(initramfs);
});
