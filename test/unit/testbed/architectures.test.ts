import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { detectAccelerator } from "../../../testbed/accelerator.ts";
import { boardSource, notSigned } from "../../../testbed/device-tree.ts";
import { ownArchitecture, registration } from "../../../testbed/foreign-programs.ts";
import type { Image } from "../../../testbed/image.ts";
import { qemuArguments, type Wiring } from "../../../testbed/machine.ts";
import { amd64, arm64, profiles } from "../../../testbed/profile.ts";

/* What differs between the architectures of a virtual Pi. */

beforeEach(() => void vi.stubEnv("EDGESEAL_ACCELERATOR", "kvm"));
afterEach(() => void vi.unstubAllEnvs());

test("KVM is for this machine's own architecture, whatever is asked for", async () => {
  const own = profiles[ownArchitecture];
  const other = own === amd64 ? arm64 : amd64;
  const image = (profile: typeof own): Image => ({
    ...{ hash: "0", profile, folder: "", disk: "", hostKey: "" },
    identityFiles: { operator: "", testbed: "" },
  });
  expect(await detectAccelerator(image(own))).toBe("kvm");
  expect(await detectAccelerator(image(other))).toBe("tcg");
});

test("binfmt_misc is told of a program by the head of its ELF file", () => {
  const line = registration("arm64", "/usr/bin/emulator");
  const [, name, kind, offset, magic = "", mask = "", interpreter, flags] = line.split(":");
  expect([name, kind, offset, interpreter, flags]).toEqual([
    "edgeseal-arm64",
    "M",
    "",
    "/usr/bin/emulator",
    "FP",
  ]);
  const bytes = (text: string): Buffer => Buffer.from(text.replaceAll(String.raw`\x`, ""), "hex");
  // /bin/true of Debian's arm64: 64-bit, little-endian, ET_DYN, EM_AARCH64.
  const head = bytes("7f454c460201010000000000000000000300b700");
  const applies = (program: Buffer): boolean =>
    program.every((byte, at) => (byte & (bytes(mask)[at] ?? 0)) === (bytes(magic)[at] ?? -1));
  expect(bytes(mask)).toHaveLength(20);
  expect(applies(head)).toBe(true);
  const changed = (at: number, to: number): Buffer => {
    const other = Buffer.from(head);
    other[at] = to;
    return other;
  };
  // ET_EXEC is one, too; a relocatable file, a 32-bit one and one for x86_64 are not.
  expect(applies(changed(16, 2))).toBe(true);
  expect(applies(changed(16, 1))).toBe(false);
  expect(applies(changed(4, 1))).toBe(false);
  expect(applies(changed(18, 0x3e))).toBe(false);
});

test("a board tells of signed boot what it is given, and of a trial in that boot only", () => {
  const sold = boardSource(notSigned, false);
  expect(sold).toContain("signed = <0x0>;");
  expect(sold).toContain("tryboot = <0x0>;");
  expect(sold).not.toMatch(/boot_img_sha256|blpubkey|reserved-memory/);

  const locked = { bits: 0x8000_0009, bootImageSha256: "ab".repeat(32), customerKey: Buffer.alloc(264, 1) };
  const tried = boardSource(locked, true);
  expect(tried).toContain("signed = <0x80000009>;");
  expect(tried).toContain("tryboot = <0x1>;");
  expect(tried).toContain(`boot_img_sha256 = [${"ab".repeat(32)}${"00".repeat(32)}];`);
  expect(tried).toContain('blpubkey = "/reserved-memory/nvram@9fff0000";');
  expect(() => boardSource({ ...locked, customerKey: Buffer.alloc(294) }, false)).toThrow(
    "264 bytes, not 294",
  );
});

test("each boot has a seed of its own", () => {
  const seed = (): string => /rng-seed = \[([0-9a-f]{128})\]/.exec(boardSource(notSigned, false))?.[1] ?? "";
  expect(seed()).not.toBe("");
  expect(seed()).not.toBe(seed());
});

test("QEMU is given the device tree, and the key where the tree says that it is", () => {
  const wiring: Wiring = {
    ...{ name: "x", accelerator: "tcg", folder: "/f", systemDisk: "/s", dataDisk: "/d", tpmState: "/t" },
    ...{ ports: { first: 1, second: 2 }, console: undefined as never, network: "isolated", board: 0 },
    ...{ profile: arm64, signedBoot: notSigned },
  };
  const boot = { kernel: "/k", commandLine: "", kernelName: "k" };
  const sockets = { tpmSocket: "/tpm", qmpSocket: "/qmp" };
  const withTree = qemuArguments(
    wiring,
    { ...boot, deviceTree: { blob: "/tree", customerKey: "/a,b" } },
    sockets,
  );
  expect(withTree[withTree.indexOf("-dtb") + 1]).toBe("/tree");
  expect(withTree).toContain("loader,file=/a,,b,addr=0x9fff0000,force-raw=on");
  expect(qemuArguments({ ...wiring, profile: amd64 }, boot, sockets)).not.toContain("-dtb");
});
