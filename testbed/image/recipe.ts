import type { Profile } from "../profile.ts";

/** The Debian release that Raspberry Pi OS is built on. */
export const suite = "trixie";

/** The login that has `sudo` without a password: the normal case on a Pi. */
export const adminUser = "edge";

/** Size of the blank data disk (the model partition), in MiB: room for a small model in LUKS. */
export const dataDiskMiB = 1024;

/** What is installed. Later resources need most of it; a bigger image costs seconds once, a rebuild costs minutes. */
export function packages(profile: Profile): readonly string[] {
  return [
    profile.kernelPackage,
    ...["systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd", "dbus-user-session", "kmod", "procps"],
    ...["initramfs-tools", "zstd", "e2fsprogs", "dosfstools", "fdisk", "less", "ca-certificates"],
    ...["openssh-server", "sudo", "iproute2", "iputils-ping", "netcat-openbsd", "nftables"],
    // What there is to turn off: core dumps that are kept, and zram as on Raspberry Pi OS.
    ...["systemd-coredump", "systemd-zram-generator"],
    ...["cryptsetup", "systemd-cryptsetup", "tpm2-tools", "openssl", "xfsprogs"],
    // Another kernel without a reset of the board, and so of its TPM: what a warm reboot may do to a TPM on a bus.
    "kexec-tools",
    // systemd loads these by name at run time, so nothing depends on them.
    ...["libtss2-rc0", "libtss2-tcti-device0", "libtss2-esys-3.0.2-0"],
    ...["apparmor", "podman", "crun", "uidmap", "passt", "fuse-overlayfs"],
  ];
}
