import { createHash } from "node:crypto";
import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";

const yesNo = (description: string) => Type.Enum(["yes", "no", "unknown"], { type: "string", description });

export const verifiedBootState = Type.Object({
  model: Type.String({
    description: "Board, e.g. `Raspberry Pi 5 Model B Rev 1.0`; `unknown` without a device tree.",
  }),
  signedBits: Type.String({
    description:
      "The bootloader's `signed` property as it is, e.g. `0x80000009`; `unknown` where the firmware doesn't report it.",
  }),
  signedBootEnabled: yesNo(
    "Bit 0: `SIGNED_BOOT` is set in the EEPROM's configuration, so only a signed boot.img is loaded.",
  ),
  developmentKeyRevoked: yesNo("Bit 2: the boot ROM's development key is revoked (BCM2711)."),
  otpKeyLocked: yesNo(
    "Bit 3: the digest of the customer's public key is in OTP. One-way; without it the EEPROM can be replaced.",
  ),
  customerKeySha256: Type.String({
    description:
      "SHA-256 of the public key in the EEPROM, in the binary form whose digest goes to OTP; `unknown` where the firmware doesn't show it. With `otpKeyLocked` it is the OTP digest: the bootloader refuses any other key.",
  }),
  bootImageSha256: Type.String({
    description:
      "SHA-256 of the boot.img that was loaded, as the bootloader reports it (EEPROM of 2025-01-22 or later, signed boot only); else `unknown`.",
  }),
  eepromVersion: Type.String({ description: "Git commit of the bootloader; `unknown` where not reported." }),
  eepromBuildTime: Type.String({
    description: "When the bootloader was built, in UTC (RFC 3339); `unknown` where not reported.",
  }),
});

export type VerifiedBootState = Static<typeof verifiedBootState>;

const deviceTree = "/proc/device-tree";

/** Files of the device tree by the names they get in the answer. */
const properties = {
  model: `${deviceTree}/model`,
  signed: `${deviceTree}/chosen/bootloader/signed`,
  bootImage: `${deviceTree}/chosen/bootloader/boot_img_sha256`,
  version: `${deviceTree}/chosen/bootloader/version`,
  buildTime: `${deviceTree}/chosen/bootloader/build-timestamp`,
} as const;

type Property = keyof typeof properties | "publicKey";

const dump = (word: string): string => `od -An -v -tx1 -N 1024 -- ${word}`;

const read = [
  ...Object.entries(properties).map(
    ([name, path]) => `if [ -f ${path} ]; then echo '@ ${name}'; ${dump(path)} || exit 1; fi`,
  ),
  // The firmware's copy of the EEPROM's public key is an nvmem device; its alias names the node in the device tree that is the device's of_node.
  `alias=${deviceTree}/aliases/blpubkey`,
  'if [ -f "$alias" ]; then',
  `  node=${deviceTree}$(tr -d '\\000' < "$alias")`,
  "  for d in /sys/bus/nvmem/devices/*; do",
  `    if [ "$d/of_node" -ef "$node" ] && [ -f "$d/nvmem" ]; then echo '@ publicKey'; ${dump('"$d/nvmem"')} || exit 1; fi`,
  "  done",
  "fi",
].join("\n");

export const verifiedBootProbe: Probe<Observed<VerifiedBootState>> = {
  id: "edgeseal:boot:VerifiedBoot",
  parts: { read },
  parse: (parts) => ({ outcome: "present", state: parseVerifiedBoot(parts) }),
};

function parseVerifiedBoot(parts: Readonly<Record<string, PartOutput>>): VerifiedBootState {
  const found = parseDump(outputOf(parts, "read"));
  const signed = word(found.get("signed"));
  const bit = (number: number): "yes" | "no" | "unknown" =>
    signed === undefined ? "unknown" : ((signed >>> number) & 1) === 1 ? "yes" : "no";
  const buildTime = word(found.get("buildTime"));
  return {
    model: text(found.get("model")),
    signedBits: signed === undefined ? "unknown" : `0x${signed.toString(16).padStart(8, "0")}`,
    signedBootEnabled: bit(0),
    developmentKeyRevoked: bit(2),
    otpKeyLocked: bit(3),
    customerKeySha256: keyDigest(found.get("publicKey")),
    bootImageSha256: digest(found.get("bootImage")),
    eepromVersion: text(found.get("version")),
    eepromBuildTime:
      buildTime === undefined || buildTime === 0
        ? "unknown"
        : new Date(buildTime * 1000).toISOString().replace(".000Z", "Z"),
  };
}

function parseDump(output: string): ReadonlyMap<Property, Buffer> {
  const hex = new Map<Property, string>();
  let current: Property | undefined;
  for (const line of output.split("\n")) {
    if (line.startsWith("@ ")) {
      current = line.slice(2) as Property;
      hex.set(current, "");
    } else if (line.trim() !== "") {
      if (current === undefined || !/^( [0-9a-f]{2})+$/.test(line)) {
        throw new UnknownObservation(`unexpected line in a dump of the device tree: '${line.slice(0, 80)}'`);
      }
      hex.set(current, `${hex.get(current) ?? ""}${line.replaceAll(" ", "")}`);
    }
  }
  return new Map([...hex].map(([name, digits]) => [name, Buffer.from(digits, "hex")]));
}

/** A 32-bit big-endian cell of the device tree; anything of another size tells nothing. */
function word(bytes: Buffer | undefined): number | undefined {
  return bytes?.length === 4 ? bytes.readUInt32BE(0) : undefined;
}

/** A string of the device tree, without the NUL that ends it. */
function text(bytes: Buffer | undefined): string {
  const value = bytes?.toString("utf8").replace(/\0+$/, "") ?? "";
  return value === "" || /[\0-\x1f]/.test(value) ? "unknown" : value;
}

/**
 * The boot image's digest. EEPROM releases are known to report 64 bytes, of which the second half is zero; the 32 bytes of a bare digest are read
 * too. Another form, or all zeros, tells nothing.
 */
function digest(bytes: Buffer | undefined): string {
  if (bytes === undefined || (bytes.length !== 32 && bytes.length !== 64)) return "unknown";
  const [value, rest] = [bytes.subarray(0, 32), bytes.subarray(32)];
  return isZero(rest) && !isZero(value) ? value.toString("hex") : "unknown";
}

/** RSA-2048 in the bootloader's form: 256 bytes of modulus and 8 of exponent, both little-endian (rpi-eeprom's rpi-bootloader-key-convert). */
const publicKeyBytes = 264;

function keyDigest(bytes: Buffer | undefined): string {
  // The nvmem region may be larger than the key. Without a key it is empty: zeros, or erased flash.
  const key = bytes?.subarray(0, publicKeyBytes);
  if (key?.length !== publicKeyBytes || isZero(key) || key.every((byte) => byte === 0xff)) return "unknown";
  return createHash("sha256").update(key).digest("hex");
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}
