import { control, pass, uncovered, unknown, violation } from "./control.ts";

/** Point 1: verified boot or bootloader signature checks; a TPM or secure element present and used. */
export const bootControls = [
  control({
    id: "1.verified-boot",
    point: 1,
    title: "The board loads only a signed boot image, and the key for it is locked in OTP",
    mend: "provision the board on the bench with rpi-sb-provisioner (it burns the key's digest into OTP, for good), and set `boot: { require: signed-boot-locked }`, the default",
    block: "boot",
    declared: {
      reads: ["require"],
      judge: ({ require, customerKeySha256 }) =>
        require === "signed-boot-locked"
          ? pass(`boot.require is "signed-boot-locked", key ${customerKeySha256 ?? "any"}`)
          : violation(`boot.require is ${JSON.stringify(require)}`),
    },
    observed: {
      reads: ["signedBits", "signedBootEnabled", "otpKeyLocked", "customerKeySha256"],
      judge: ({ signedBits, signedBootEnabled, otpKeyLocked, customerKeySha256 }) => {
        const evidence = `signed ${signedBits}: signed boot ${signedBootEnabled}, key locked in OTP ${otpKeyLocked}, key ${customerKeySha256}`;
        if (signedBootEnabled === "yes" && otpKeyLocked === "yes") return pass(evidence);
        // What is known to be off is a violation, whatever else the firmware keeps to itself.
        return signedBootEnabled === "no" || otpKeyLocked === "no" ? violation(evidence) : unknown(evidence);
      },
    },
  }),
  uncovered({ id: "1.tpm", point: 1, title: "A TPM 2.0 is present and used" }),
] as const;
