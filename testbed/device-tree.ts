import { randomBytes } from "node:crypto";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "./bound-process.ts";
import type { Accelerator, Profile } from "./profile.ts";

/** What a Pi 5's bootloader tells the kernel of signed boot. */
export interface SignedBoot {
  /** Bit 0: it is on. Bit 3: the digest of the customer's key is in OTP. Bit 31 is set on real boards and documented nowhere. */
  readonly bits: number;
  /** The public key in the EEPROM: 264 bytes, as rpi-bootloader-key-convert makes them. */
  readonly customerKey?: Buffer;
  /** Of the boot.img that was loaded, in hex. */
  readonly bootImageSha256?: string;
}

/** A board as it comes from the shop. */
export const notSigned: SignedBoot = { bits: 0 };

/** Files on this machine that the firmware hands to the kernel beside its own. */
export interface DeviceTree {
  /** The flattened tree. */
  readonly blob: string;
  /** What is in memory at `customerKeyAddress`. */
  readonly customerKey?: string;
}

/** Within the memory of every board with a device tree, at its end: nothing else is loaded there. */
export const customerKeyAddress = 0x9fff_0000;
const customerKeyBytes = 264;

/**
 * The tree of a booting board: what QEMU says of its machine, under the name of a Raspberry Pi 5, and with what that board's bootloader adds of itself.
 * @param folder where the files go
 * @param tryboot whether this boot is on trial
 */
export async function makeDeviceTree(
  profile: Profile,
  accelerator: Accelerator,
  folder: string,
  signedBoot: SignedBoot,
  tryboot: boolean,
): Promise<DeviceTree> {
  const [machine, source, blob] = ["machine.dtb", "board.dts", "board.dtb"].map((name) =>
    join(folder, name),
  ) as [string, string, string];
  await run(profile.qemu, [
    ...profile.machine(accelerator),
    ...["-machine", `dumpdtb=${machine.replaceAll(",", ",,")}`, "-display", "none"],
  ]);
  const described = await run("dtc", ["-q", "-I", "dtb", "-O", "dts", machine]);
  // Of two definitions of a property, dtc takes the later.
  await writeFile(source, described + boardSource(signedBoot, tryboot));
  await run("dtc", ["-q", "-I", "dts", "-O", "dtb", "-o", blob, source]);
  await Promise.all([machine, source].map((path) => rm(path)));
  if (signedBoot.customerKey === undefined) return { blob };
  const customerKey = join(folder, "customer-key.bin");
  await writeFile(customerKey, signedBoot.customerKey);
  return { blob, customerKey };
}

/**
 * What is added to QEMU's description, as device tree source.
 * Source of the names and byte layouts: Raspberry Pi documentation, "Firmware parameters" and "NVMEM nodes"; rpi-eeprom's issue 575, from which the version and its time are.
 */
export function boardSource(signedBoot: SignedBoot, tryboot: boolean): string {
  const { bits, customerKey, bootImageSha256 } = signedBoot;
  if (customerKey !== undefined && customerKey.length !== customerKeyBytes)
    throw new Error(
      `a customer's key has ${String(customerKeyBytes)} bytes, not ${String(customerKey.length)}`,
    );
  const bytes = (hex: string): string => `[${hex}]`;
  const cell = (value: number): string => `<0x${(value >>> 0).toString(16)}>`;
  const address = customerKeyAddress.toString(16);
  return `
/ {
  model = "Raspberry Pi 5 Model B Rev 1.0";
  compatible = "raspberrypi,5-model-b", "brcm,bcm2712", "linux,dummy-virt";
  serial-number = "c36b093f773d46b8";

  chosen {
    // With a seed for it, the kernel also isolates its page tables, which emulation pays for at each system call.
    /delete-property/ kaslr-seed;
    // QEMU's would be that of another start.
    rng-seed = ${bytes(randomBytes(64).toString("hex"))};
    os_prefix = "";

    bootloader {
      boot-mode = <1>;
      partition = <1>;
      rsts = <0x1000>;
      tryboot = ${cell(tryboot ? 1 : 0)};
      build-timestamp = <0x66422e75>;
      version = "83b5e5e61a70a93caee65cbd6aea77bdd485e5b0";
      signed = ${cell(bits)};${
        // The digest, and as many zeros.
        bootImageSha256 === undefined
          ? ""
          : `
      boot_img_sha256 = ${bytes(bootImageSha256.padEnd(128, "0"))};`
      }
    };
  };
${
  customerKey === undefined
    ? ""
    : `
  aliases {
    blpubkey = "/reserved-memory/nvram@${address}";
  };

  reserved-memory {
    #address-cells = <2>;
    #size-cells = <2>;
    ranges;

    nvram@${address} {
      compatible = "raspberrypi,bootloader-public-key", "nvmem-rmem";
      #address-cells = <1>;
      #size-cells = <1>;
      reg = <0 0x${address} 0 0x1000>;
      no-map;
    };
  };
`
}};
`;
}
