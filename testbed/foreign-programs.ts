import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { UserError } from "../cli/errors.ts";
import { spawnBound } from "./bound-process.ts";
import type { Profile } from "./profile.ts";

/** Debian's name of this machine's architecture, of those that a virtual Pi has. */
export const ownArchitecture: Profile["arch"] = process.arch === "arm64" ? "arm64" : "amd64";

/** How QEMU's user-mode emulator says in binfmt_misc which programs are its own: the head of a 64-bit little-endian ELF file, and the bits of it that count. */
const emulators: Readonly<Record<Profile["arch"], { readonly program: string; readonly machine: string }>> = {
  // e_machine of elf(5): EM_X86_64 and EM_AARCH64.
  amd64: { program: "qemu-x86_64-static", machine: "3e" },
  arm64: { program: "qemu-aarch64-static", machine: "b7" },
};

/**
 * The line for `/proc/sys/fs/binfmt_misc/register` (kernel documentation, admin-guide/binfmt-misc). `F` opens the emulator now, so that it need not be in a new root; `P` keeps `argv[0]`.
 * @param emulator its absolute path
 */
export function registration(arch: Profile["arch"], emulator: string): string {
  const bytes = (hex: string): string => hex.replaceAll(/../g, String.raw`\x$&`);
  // ET_EXEC and ET_DYN alike; any ABI.
  const magic = bytes(
    `7f454c46020101000000000000000000 0200 ${emulators[arch].machine}00`.replaceAll(" ", ""),
  );
  const mask = bytes("ffffffffffffff00ffffffffffffffff feff ffff".replaceAll(" ", ""));
  return `:edgeseal-${arch}:M::${magic}:${mask}:${emulator}:FP`;
}

const waitForIds = `echo ready && read -r _ && exec "$@"`;

/** Arguments: ARCHITECTURE REGISTRATION COMMAND... Where this machine runs such programs already, there is nothing to register. */
const register = `set -e
if ! arch-test "$1" >/dev/null; then
  mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 97
  printf %s "$2" >/proc/sys/fs/binfmt_misc/register
fi
shift 2
exec "$@"`;
const noBinfmt = 97;

/**
 * Runs a command, as root, where programs of another architecture run too, translated by QEMU. That is so for this command alone: binfmt_misc is one per user namespace (Linux 6.7),
 * and this one is given all of this machine's user ids, so that files belong to whom they would belong without it. It goes with its last process, even if that is killed.
 * @throws Error with its exit code and last words; UserError where the kernel has no binfmt_misc for it
 */
export async function runWithForeignPrograms(
  arch: Profile["arch"],
  command: readonly [string, ...string[]],
  options: { readonly signal?: AbortSignal | undefined; readonly onLine: (line: string) => void },
): Promise<void> {
  const { signal, onLine } = options;
  signal?.throwIfAborted();
  const emulator = `/usr/bin/${emulators[arch].program}`;
  const bound = await spawnBound(
    "unshare",
    [
      // With its capabilities kept: the kernel forgets whom to end with this process when one gains some.
      ...["--user", "--keep-caps", "--", "sh", "-c", waitForIds, "sh"],
      ...["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"],
      ...["sh", "-c", register, "sh", arch, registration(arch, emulator), ...command],
    ],
    { stdio: ["pipe", "pipe", "pipe"] },
  );
  const { stdin, stdout } = bound.child;
  if (!stdin || !stdout) throw new Error("unshare was started without its pipes");
  const abort = (): void => void bound.kill();
  signal?.addEventListener("abort", abort, { once: true });
  stdin.on("error", () => undefined);
  stdout.setEncoding("utf8");
  // It is in its namespace once it says so; if it ended instead, the end says why.
  await Promise.race([once(stdout, "data"), bound.ended]);
  let rest = "";
  stdout.on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
  });
  for (const kind of ["uid", "gid"])
    await writeFile(`/proc/${String(bound.pid)}/${kind}_map`, "0 0 4294967295").catch(() => undefined);
  stdin.end("\n");
  const { code, signal: endedBy } = await bound.ended;
  signal?.removeEventListener("abort", abort);
  signal?.throwIfAborted();
  if (code === 0) return;
  const words = bound.stderr().trim();
  if (code === noBinfmt) {
    throw new UserError(`programs for ${arch} can't be run here: ${words}`, {
      hint: "Linux 6.7 or newer with binfmt_misc lets them run for one command; on an older one install qemu-user-static and binfmt-support, which let them run at any time",
    });
  }
  const how = endedBy === null ? `exit code ${String(code)}` : `signal ${endedBy}`;
  throw new Error(`${command.join(" ")}: ${how}\n${words}`);
}
