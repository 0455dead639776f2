import { join } from "node:path";

/** How the virtual machine runs: on the host's own processor, or translated in software. */
export type Accelerator = "kvm" | "tcg";

/** All that differs between processor architectures of the virtual Pi: each is a value of this type, and little else in the testbed names one. */
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
  /** Many times what a boot takes on an idle machine: much else may run beside it. */
  readonly bootTimeoutMs: number;
  /** A TPM 2.0 behind the character device `chardev` that leads to swtpm. */
  tpm(chardev: string): readonly string[];
  /**
   * What goes over that: swtpm's `control` channel, by which QEMU gives it power and saves it with the machine's memory; or a TPM's own `commands` and answers, which the node itself
   * carries between its kernel and a serial port.
   */
  readonly tpmChannel: "control" | "commands";
  /** Whether the kernel learns what board it is on from a device tree, which the testbed's firmware then makes. */
  readonly hasDeviceTree: boolean;
  /** Whether a node that is restored from memory notices. One that doesn't makes the same keys as its twins, so that this profile has no snapshots. */
  readonly noticesRestore: boolean;
  /** A folder with files for the root file system that only this architecture needs, beside those of the recipe. */
  readonly ownFiles?: string;
}

/** The host's own processor, which runs two in parallel without harm. */
const underKvm = ["-accel", "kvm", "-cpu", "host", "-smp", "2"] as const;

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
    ...(accelerator === "kvm" ? underKvm : ["-accel", "tcg", "-cpu", "max", "-smp", "1"]),
    "-m",
    "1536M",
    "-nodefaults",
    "-no-user-config",
    // A new id at each start tells the kernel that it was restored: it reseeds its random numbers, or the nodes of
    // one snapshot would all make the same keys.
    ...["-device", "vmgenid,guid=auto"],
  ],
  // Of some 35 s, emulated.
  bootTimeoutMs: 300_000,
  tpm: (chardev) => ["-tpmdev", `emulator,id=tpm,chardev=${chardev}`, "-device", "tpm-tis,tpmdev=tpm"],
  tpmChannel: "control",
  hasDeviceTree: false,
  noticesRestore: true,
};

/**
 * For what has to be seen on a Pi's own architecture, or with a device tree (docs/arm64.md). Debian's kernel has a driver for a TPM on SPI, as a Pi has it, which this board of QEMU's lacks, and none for what QEMU
 * offers here. It has one for a TPM behind a program, though: that program (root-arm64) passes on what swtpm says outside of the node.
 */
export const arm64: Profile = {
  arch: "arm64",
  kernelPackage: "linux-image-arm64",
  console: "ttyAMA0",
  initramfsModules: ["virtio_pci", "virtio_blk", "ext4"],
  qemu: "qemu-system-aarch64",
  machine: (accelerator) => [
    ...["-machine", "virt,gic-version=3"],
    ...(accelerator === "kvm"
      ? underKvm
      : // The processor of a Pi 5, whose clock goes by what it has done, 8 ns an instruction: on a busy machine the node is slow by our clock and not by its own, so that nothing in it
        // times out, and its ticks leave it time for anything else. That takes a single one.
        ["-accel", "tcg", "-cpu", "cortex-a76", "-smp", "1", "-icount", "shift=3"]),
    ...["-m", "1536M", "-nodefaults", "-no-user-config"],
  ],
  // As long as the node itself waits for its devices (root-arm64).
  bootTimeoutMs: 900_000,
  tpm: (chardev) => [
    ...["-device", "virtio-serial-pci,addr=0x7"],
    ...["-device", `virtserialport,chardev=${chardev},name=testbed.tpm`],
  ],
  tpmChannel: "commands",
  hasDeviceTree: true,
  // QEMU has the device that tells (vmgenid) for boards with ACPI alone.
  noticesRestore: false,
  ownFiles: join(import.meta.dirname, "root-arm64"),
};

export const profiles: Readonly<Record<Profile["arch"], Profile>> = { amd64, arm64 };
