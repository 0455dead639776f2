import { createHash } from "node:crypto";
import type { VerifiedBootState } from "../../provider/resources/verified-boot-properties.ts";
import type { SignedBoot } from "../../testbed/device-tree.ts";

/** RSA-2048 in the bootloader's form: modulus and exponent, little-endian. */
const customerKey = Buffer.concat([Buffer.alloc(256, 0xc3), Buffer.from([1, 0, 1, 0, 0, 0, 0, 0])]);
const sha256 = (data: string | Buffer): string => createHash("sha256").update(data).digest("hex");

/** A board with signed boot locked in, as one reports it that has a bootloader of 2026. */
export const lockedBoard = {
  bits: 0x8000_0009,
  customerKey,
  bootImageSha256: sha256("boot.img"),
} satisfies SignedBoot;

/** What a node on it has to say. */
export const lockedState: VerifiedBootState = {
  model: "Raspberry Pi 5 Model B Rev 1.0",
  signedBits: "0x80000009",
  signedBootEnabled: "yes",
  developmentKeyRevoked: "no",
  otpKeyLocked: "yes",
  customerKeySha256: sha256(customerKey),
  bootImageSha256: lockedBoard.bootImageSha256,
  eepromVersion: "83b5e5e61a70a93caee65cbd6aea77bdd485e5b0",
  eepromBuildTime: "2024-05-13T15:15:01Z",
};

/** And on one as it comes from the shop. */
export const unlockedState: VerifiedBootState = {
  ...lockedState,
  signedBits: "0x00000000",
  signedBootEnabled: "no",
  otpKeyLocked: "no",
  customerKeySha256: "unknown",
  bootImageSha256: "unknown",
};
