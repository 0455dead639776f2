import { atLeast, levelReached } from "../provider/trust/level.ts";
import { bootEvidence } from "./boot-evidence.ts";
import { control, pass, uncovered, unknown, violation } from "./control.ts";
import type { JudgedNode } from "./node.ts";

/** The level that a site asks for. */
const wanted = ({ assurance = "baseline" }: JudgedNode): "measured" | "verified" =>
  assurance === "strict" ? "verified" : "measured";

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
  control({
    id: "1.measured-boot",
    point: 1,
    title: "The boot is measured into the TPM, and what was measured is approved",
    mend: "give the node a `measuredBoot` block and sealed `volumes`; after a boot that was measured, `edgeseal approve NODE`, have the approval reviewed, and apply it (docs/trust.md)",
    block: "measuredBoot",
    alsoReads: ["volumes", "boot"],
    declared: {
      reads: ["node"],
      judge: (_, node) =>
        wanted(node) === "measured"
          ? pass("measured in the initramfs, approvals signed by the site's policy key")
          : violation(
              "`assurance: strict` asks for level verified, which takes a fresh quote checked off the device: edgeseal does not check quotes yet",
            ),
    },
    observed: {
      reads: ["replay", "measured", "pcr11"],
      judge: ({ pcr11 }, node) => {
        const { level, lacking } = levelReached(bootEvidence(node));
        if (atLeast(level, wanted(node))) return pass(`level ${level}, PCR 11 ${pcr11.slice(0, 16)}...`);
        return violation(`level ${level}; for the next it lacks ${lacking.join("; ")}`);
      },
    },
  }),
  uncovered({ id: "1.tpm", point: 1, title: "A TPM 2.0 is present and used" }),
] as const;
