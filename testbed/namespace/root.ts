import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { withLock } from "../cache-lock.ts";
import { debianMirror } from "../debian-mirror.ts";
import { cacheFolder } from "../image.ts";

const run = promisify(execFile);

const suite = "trixie";
const packages = [
  "systemd",
  "systemd-sysv",
  "systemd-coredump",
  "dbus",
  "libpam-systemd",
  "openssh-server",
  "sudo",
  "nftables",
  "iproute2",
  "procps",
  "kmod",
  "openssl",
];

/** Said by the node when sshd listens, into a named pipe that the testbed reads. */
const readyUnit = `[Unit]
Description=Tell the testbed that this node is up
After=ssh.service systemd-user-sessions.service
Requires=ssh.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo ready > /run/testbed/ready'
[Install]
WantedBy=multi-user.target
`;

const files: Readonly<Record<string, { readonly content: string; readonly mode: number }>> = {
  "etc/systemd/system/testbed-ready.service": { content: readyUnit, mode: 0o644 },
  "etc/ssh/sshd_config.d/testbed.conf": {
    content:
      "LogLevel VERBOSE\nPermitRootLogin no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nMaxStartups 100:30:200\nHostKey /etc/ssh/ssh_host_ed25519_key\n",
    mode: 0o644,
  },
  "etc/sudoers.d/edge": { content: "edge ALL=(ALL) NOPASSWD: ALL\n", mode: 0o440 },
  "etc/fstab": { content: "", mode: 0o644 },
};

/** Run in the unpacked root; what `files` can't express. */
const finish = `set -eu
useradd -m -s /bin/bash edge
rm -f /etc/ssh/ssh_host_*
systemctl enable ssh.service testbed-ready.service
systemctl mask systemd-udevd.service systemd-udev-trigger.service systemd-firstboot.service getty.target console-getty.service
rm -f /etc/machine-id; : > /etc/machine-id
`;

const recipeOf = (additional: readonly string[]): string =>
  createHash("sha256")
    .update(JSON.stringify([suite, [...packages, ...additional], files, finish]))
    .digest("hex")
    .slice(0, 16);

/** Where the root of the current recipe is, or will be: in the per-user cache. */
export function namespaceRootFolder(additional: readonly string[] = []): string {
  return join(cacheFolder(), "namespace-root", recipeOf(additional));
}

/**
 * The read-only root that every namespace node is layered on: Debian trixie, unpacked, cached by the hash of its recipe.
 * Built in a temporary folder under a lock and renamed: two builders make one, and an interrupted build leaves nothing that looks finished.
 * @param additional Debian packages beside those that every node has
 */
export async function ensureNamespaceRoot(
  onProgress: (message: string) => void = () => undefined,
  additional: readonly string[] = [],
): Promise<string> {
  const target = namespaceRootFolder(additional);
  const roots = dirname(target);
  if (existsSync(target)) return target;
  await mkdir(roots, { recursive: true });
  await withLock(`${target}.lock`, async () => {
    if (existsSync(target)) return;
    onProgress(`building the root of the namespace nodes (Debian ${suite}; about half a minute, once)`);
    const building = await mkdtemp(`${target}.`);
    try {
      await run(
        "mmdebstrap",
        [
          "--variant=minbase",
          `--include=${[...packages, ...additional].join(",")}`,
          suite,
          building,
          await debianMirror(),
        ],
        { maxBuffer: 64 * 1024 * 1024 },
      );
      for (const [path, { content, mode }] of Object.entries(files))
        await writeFile(join(building, path), content, { mode });
      await run("chroot", [building, "/bin/sh", "-c", finish]);
      await rename(building, target);
    } finally {
      await rm(building, { recursive: true, force: true });
    }
  });
  return target;
}
