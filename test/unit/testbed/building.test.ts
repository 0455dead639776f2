import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { debianMirror } from "../../../testbed/debian-mirror.ts";
import { ownArchitecture } from "../../../testbed/foreign-programs.ts";
import { ensureImage, type Image } from "../../../testbed/image.ts";
import { ensureNamespaceRoot } from "../../../testbed/namespace/root.ts";
import { amd64, arm64 } from "../../../testbed/profile.ts";
import { ensureSnapshot } from "../../../testbed/snapshot.ts";

/* What is built once: with programs that only note what they were asked for. The first that can't go on ends it. */

let scratch: string;
const said: string[] = [];
const say = (line: string): void => void said.push(line);

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "edgeseal-building-"));
  mkdirSync(join(scratch, "bin"));
  for (const name of ["setpriv", "flock", "sh", "cat", "mkdir"]) {
    const path = execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
    symlinkSync(path, join(scratch, "bin", name));
  }
  vi.stubEnv("PATH", join(scratch, "bin"));
  vi.stubEnv("EDGESEAL_CACHE", join(scratch, "cache"));
  vi.spyOn(process, "getuid").mockReturnValue(0);
  said.length = 0;
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(scratch, { recursive: true });
});

function program(name: string, body: string): void {
  const path = join(scratch, "bin", name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
}

test("how long the image takes is said before it is built", async () => {
  program("ssh-keygen", "exit 9");
  await expect(ensureImage({ onProgress: say })).rejects.toThrow("ssh-keygen");
  expect(said).toEqual(["building the virtual Pi's image (1 to 2 min, once)"]);
});

test("another architecture's is built in a process for which its programs run, and takes longer", async () => {
  program("unshare", `echo "$*" >&2; exit 9`);
  const foreign = ownArchitecture === "amd64" ? arm64 : amd64;
  await expect(ensureImage({ profile: foreign, onProgress: say })).rejects.toThrow(
    /build-foreign-image\.ts \S+ (arm64|amd64): exit code 9/,
  );
  expect(said).toEqual(["building the virtual Pi's image (some 20 min, once)"]);
});

test.each([
  ["tcg", "booting the image for its snapshot (emulated: about 40 s, once)"],
  ["kvm", "booting the image for its snapshot (KVM: about 10 s, once)"],
] as const)("how long the snapshot takes under %s is said before the boot", async (accelerator, words) => {
  for (const name of [amd64.qemu, "swtpm"]) program(name, "echo version 1");
  program("qemu-img", "exit 9");
  const image: Image = {
    ...{ hash: "0", profile: amd64, folder: scratch, disk: join(scratch, "disk.raw") },
    ...{ hostKey: "", identityFiles: { operator: "", testbed: "" } },
  };
  await expect(ensureSnapshot(image, accelerator, { onProgress: say })).rejects.toThrow("qemu-img");
  expect(said).toEqual([words]);
});

test("the root of the nodes of namespaces comes from the machine's own mirror", async () => {
  program(
    "mmdebstrap",
    `printf '%s\\n' "$@" >"${join(scratch, "asked")}"
     mkdir -p "$4/etc/systemd/system" "$4/etc/ssh/sshd_config.d" "$4/etc/sudoers.d"`,
  );
  program("chroot", "");
  const root = await ensureNamespaceRoot(say);
  expect(root).toContain(join(scratch, "cache/namespace-root"));
  const asked = readFileSync(join(scratch, "asked"), "utf8").trim().split("\n");
  expect(asked.slice(2)).toEqual([
    "trixie",
    expect.stringContaining(`${root}.`) as string,
    await debianMirror(),
  ]);
  expect(said).toEqual([
    "building the root of the namespace nodes (Debian trixie; about half a minute, once)",
  ]);
});
