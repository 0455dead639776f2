import { Type, type Static } from "typebox";
import { diffState } from "../diff.ts";
import { defineResource, PlanRefused } from "../resource.ts";
import { verifiedBootProbe, verifiedBootState, type VerifiedBootState } from "./verified-boot-properties.ts";

const sha256 = (description: string) =>
  Type.Optional(Type.String({ pattern: "^[0-9a-f]{64}$", description }));

const inputs = Type.Object({
  require: Type.Enum(["signed-boot-locked", "none"], {
    type: "string",
    default: "signed-boot-locked",
    description:
      "`signed-boot-locked` asks for signed boot with the customer key's digest in OTP; a node that doesn't show both fails. `none` only reports. Default `signed-boot-locked`: without it, whoever has the card decides what boots, and measurements of the boot prove nothing.",
  }),
  customerKeySha256: sha256(
    "The key that must be locked in: SHA-256, in lower-case hex, of the binary form of the public key (`rpi-bootloader-key-convert public.pem | sha256sum`; `CUSTOMER_KEY_HASH` in the metadata of rpiboot). Default: any key, which is no proof that it is yours.",
  ),
  bootImageSha256: sha256(
    "The boot.img that must have been loaded: SHA-256 in lower-case hex. Default: any that was signed, an older one with a known hole included.",
  ),
});

/**
 * The state of the Raspberry Pi's signed boot, observed and never changed: its fuses are one-way and are set with rpiboot, on the bench.
 *
 * What is read is what the running system says of itself. It stands only as far as the system does: a quote of the TPM is evidence, this is not.
 */
export const verifiedBoot = defineResource({
  token: "edgeseal:boot:VerifiedBoot",
  description:
    "Signed boot of a Raspberry Pi, observed from the device tree: whether it is on, whether the customer key's digest is in OTP, the key, the boot image and the bootloader. Never changed over SSH, since the fuses are one-way.",
  inputs,
  state: verifiedBootState,
  observe: () => verifiedBootProbe,
  desired,
  plan: (wanted, observed) => {
    if (observed.outcome === "absent") throw new Error("the state of signed boot was not observed");
    const problems = diffState(desired(wanted), observed.state);
    if (problems.length === 0) return [];
    const list = problems.map(
      ({ path, observed: have, desired: want }) => `${path} is ${String(have)} and has to be ${String(want)}`,
    );
    throw new PlanRefused(list.join("; "), mend(observed.state));
  },
  revert: () => [],
});

function desired(wanted: Static<typeof inputs>): Partial<VerifiedBootState> {
  return {
    ...(wanted.require === "signed-boot-locked"
      ? { signedBootEnabled: "yes" as const, otpKeyLocked: "yes" as const }
      : {}),
    ...(wanted.customerKeySha256 === undefined ? {} : { customerKeySha256: wanted.customerKeySha256 }),
    ...(wanted.bootImageSha256 === undefined ? {} : { bootImageSha256: wanted.bootImageSha256 }),
  };
}

function mend({ signedBits, otpKeyLocked, signedBootEnabled }: VerifiedBootState): string {
  if (signedBits === "unknown") {
    return "the device tree says nothing of signed boot: this is no Raspberry Pi, or its bootloader is too old (rpi-eeprom-update)";
  }
  if (otpKeyLocked !== "yes" || signedBootEnabled !== "yes") {
    return "signed boot can't be set up over SSH: provision the board on the bench with rpi-sb-provisioner or rpiboot, which burns the key's digest into OTP for good; or waive the control, and set require: none";
  }
  return "check which key and image the board was provisioned with; a locked key can't be changed, a boot image is replaced by installing the signed one and rebooting";
}
