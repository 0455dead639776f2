/** How the virtual machine runs: on the host's own processor, or translated in software. */
export type Accelerator = "kvm" | "tcg";

/**
 * All that differs between processor architectures of the virtual Pi. A second one is a second value of this type:
 * nothing else in the testbed names an architecture.
 */
export interface Profile {
  /** Debian's name of it. */
  readonly arch: "amd64" | "arm64";
  /** The Debian package with the kernel. */
  readonly kernelPackage: string;
  /** The serial console's device in the guest, without `/dev/`. */
  readonly console: string;
  /** Kernel modules that the initramfs needs to find the root file system. */
  readonly initramfsModules: readonly string[];
  readonly qemu: string;
  /** Board, processor and memory. The same at every start, or a snapshot would not fit. */
  machine(accelerator: Accelerator): readonly string[];
  /** A TPM 2.0 behind the character device `chardev` that leads to swtpm. */
  tpm(chardev: string): readonly string[];
}

/**
 * The default: its image needs no foreign emulation to build, and Debian's kernel drives QEMU's TPM
 * (CONFIG_TCG_TIS, which Debian's arm64 kernel lacks).
 */
export const amd64: Profile = {
  arch: "amd64",
  kernelPackage: "linux-image-amd64",
  console: "ttyS0",
  initramfsModules: ["virtio_pci", "virtio_blk", "ext4"],
  qemu: "qemu-system-x86_64",
  machine: (accelerator) => [
    "-machine",
    // Without the parts of a PC that a Pi does not have either, and whose drivers cost boot time.
    "q35,sata=off,smbus=off,i8042=off,vmport=off",
    // One processor under translation: with two, QEMU 7.2 lets one of them run a breakpoint that the other has already taken out of the kernel's code, and the guest
    // panics with `Oops: int3` some time or other; within seconds when `sched_schedstats` is switched on and off under load. What needs real cores at once is in the device tier.
    ...(accelerator === "kvm"
      ? ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
      : ["-accel", "tcg", "-cpu", "max", "-smp", "1"]),
    "-m",
    "1536M",
    "-nodefaults",
    "-no-user-config",
    // A new id at each start tells the kernel that it was restored: it reseeds its random numbers, or the nodes of
    // one snapshot would all make the same keys.
    ...["-device", "vmgenid,guid=auto"],
  ],
  tpm: (chardev) => ["-tpmdev", `emulator,id=tpm,chardev=${chardev}`, "-device", "tpm-tis,tpmdev=tpm"],
};
