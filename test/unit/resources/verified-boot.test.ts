import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { diffState } from "../../../provider/diff.ts";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { verifiedBoot } from "../../../provider/resources/verified-boot.ts";
import type { VerifiedBootState } from "../../../provider/resources/verified-boot-properties.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const locked = { require: "signed-boot-locked" } as const;
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const probe = verifiedBoot.observe(locked);

const bootloader = "/proc/device-tree/chosen/bootloader";
const imageDigest = createHash("sha256").update("boot.img").digest();
/** RSA-2048 in the bootloader's form: modulus and exponent, little-endian, 264 bytes. */
const publicKey = Buffer.concat([Buffer.alloc(256, 0xc3), Buffer.from([1, 0, 1, 0, 0, 0, 0, 0])]);
const keyDigest = createHash("sha256").update(publicKey).digest("hex");

/** The device tree of a Pi 5, byte by byte as rpi-eeprom's issue 575 shows it (2024-05-13's bootloader). */
function pi5(): FakeRoot {
  const root = new FakeRoot();
  root.write("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
  root.write(`${bootloader}/build-timestamp`, Buffer.from("66422e75", "hex"));
  root.write(`${bootloader}/version`, "83b5e5e61a70a93caee65cbd6aea77bdd485e5b0\0");
  root.write(`${bootloader}/signed`, Buffer.from("00000000", "hex"));
  return root;
}

/** One with signed boot locked in: bits as reported with an EEPROM of 2026, bit 31 (undocumented) included, and a digest followed by 32 zeros. */
function lockedPi5(): FakeRoot {
  const root = pi5();
  root.write(`${bootloader}/signed`, Buffer.from("80000009", "hex"));
  root.write(`${bootloader}/boot_img_sha256`, Buffer.concat([imageDigest, Buffer.alloc(32)]));
  root.write("/proc/device-tree/aliases/blpubkey", "/reserved-memory/nvram@1\0");
  root.write("/proc/device-tree/reserved-memory/nvram@1/status", "okay\0");
  root.write("/sys/bus/nvmem/devices/rmem0/nvmem", "boot configuration");
  root.write("/sys/bus/nvmem/devices/rmem1/nvmem", publicKey);
  root.write("/proc/device-tree/reserved-memory/nvram@0/status", "okay\0");
  root.link(
    "/sys/bus/nvmem/devices/rmem0/of_node",
    "../../../../../proc/device-tree/reserved-memory/nvram@0",
  );
  root.link(
    "/sys/bus/nvmem/devices/rmem1/of_node",
    "../../../../../proc/device-tree/reserved-memory/nvram@1",
  );
  return root;
}

function stateOf(root: FakeRoot): VerifiedBootState {
  const observed = root.observe(probe);
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const planFor = (state: VerifiedBootState, inputs: Parameters<typeof verifiedBoot.plan>[0] = locked) =>
  verifiedBoot.plan(inputs, { outcome: "present", state }, route);

const good: VerifiedBootState = {
  model: "Raspberry Pi 5 Model B Rev 1.0",
  signedBits: "0x80000009",
  signedBootEnabled: "yes",
  developmentKeyRevoked: "no",
  otpKeyLocked: "yes",
  customerKeySha256: keyDigest,
  bootImageSha256: imageDigest.toString("hex"),
  eepromVersion: "83b5e5e61a70a93caee65cbd6aea77bdd485e5b0",
  eepromBuildTime: "2024-05-13T15:15:01Z",
};

const nothing: VerifiedBootState = {
  model: "unknown",
  signedBits: "unknown",
  signedBootEnabled: "unknown",
  developmentKeyRevoked: "unknown",
  otpKeyLocked: "unknown",
  customerKeySha256: "unknown",
  bootImageSha256: "unknown",
  eepromVersion: "unknown",
  eepromBuildTime: "unknown",
};

describe("what the probe reads", () => {
  test("a Pi 5 as it is sold", () => {
    using root = pi5();
    expect(stateOf(root)).toEqual({
      ...good,
      signedBits: "0x00000000",
      signedBootEnabled: "no",
      otpKeyLocked: "no",
      customerKeySha256: "unknown",
      bootImageSha256: "unknown",
    });
  });

  test("a Pi 5 with signed boot locked in", () => {
    using root = lockedPi5();
    expect(stateOf(root)).toEqual(good);
  });

  test("a machine without a device tree tells nothing, and that is no error", () => {
    using root = new FakeRoot();
    expect(stateOf(root)).toEqual(nothing);
  });

  test.each([
    ["00000001", "yes", "no", "no"],
    ["00000008", "no", "no", "yes"],
    ["0000000d", "yes", "yes", "yes"],
    ["80000009", "yes", "no", "yes"],
    ["fffffff6", "no", "yes", "no"],
  ])("signed = %s", (hex, signedBootEnabled, developmentKeyRevoked, otpKeyLocked) => {
    using root = pi5();
    root.write(`${bootloader}/signed`, Buffer.from(hex, "hex"));
    expect(stateOf(root)).toMatchObject({
      signedBits: `0x${hex}`,
      signedBootEnabled,
      developmentKeyRevoked,
      otpKeyLocked,
    });
  });

  test.each([
    ["absent", undefined],
    ["empty", ""],
    ["one byte", "09"],
    ["eight bytes", "0000000900000009"],
  ])("signed is unknown when %s, and so is every bit", (_name, hex) => {
    using root = pi5();
    root.remove(`${bootloader}/signed`);
    if (hex !== undefined) root.write(`${bootloader}/signed`, Buffer.from(hex, "hex"));
    expect(stateOf(root)).toMatchObject({
      signedBits: "unknown",
      signedBootEnabled: "unknown",
      developmentKeyRevoked: "unknown",
      otpKeyLocked: "unknown",
    });
  });

  test.each([
    [
      "64 bytes, the second half zero",
      Buffer.concat([imageDigest, Buffer.alloc(32)]),
      imageDigest.toString("hex"),
    ],
    ["32 bytes", imageDigest, imageDigest.toString("hex")],
    ["64 bytes, the second half not zero", Buffer.concat([imageDigest, imageDigest]), "unknown"],
    ["zeros", Buffer.alloc(64), "unknown"],
    ["hexadecimal text", Buffer.from(imageDigest.toString("hex")), "unknown"],
    ["too short", imageDigest.subarray(0, 31), "unknown"],
    ["nothing", Buffer.alloc(0), "unknown"],
  ])("boot_img_sha256: %s", (_name, bytes, expected) => {
    using root = lockedPi5();
    root.write(`${bootloader}/boot_img_sha256`, bytes);
    expect(stateOf(root).bootImageSha256).toBe(expected);
  });

  test("a digest that ends a line of od in the middle, or repeats itself, is read whole", () => {
    using root = lockedPi5();
    const repeated = Buffer.alloc(32, 0xab);
    root.write(`${bootloader}/boot_img_sha256`, Buffer.concat([repeated, Buffer.alloc(32)]));
    expect(stateOf(root).bootImageSha256).toBe(repeated.toString("hex"));
  });

  test.each([
    ["a region larger than the key", Buffer.concat([publicKey, Buffer.alloc(56)]), keyDigest],
    ["no key", Buffer.alloc(264), "unknown"],
    ["erased flash", Buffer.alloc(264, 0xff), "unknown"],
    ["a short region", publicKey.subarray(0, 200), "unknown"],
  ])("the public key: %s", (_name, bytes, expected) => {
    using root = lockedPi5();
    root.write("/sys/bus/nvmem/devices/rmem1/nvmem", bytes);
    expect(stateOf(root).customerKeySha256).toBe(expected);
  });

  test("an alias without its device", () => {
    using root = lockedPi5();
    root.remove("/sys/bus/nvmem/devices");
    expect(stateOf(root).customerKeySha256).toBe("unknown");
  });

  test("names that are no text", () => {
    using root = pi5();
    root.write(`${bootloader}/version`, Buffer.from("83b5\n@ signed\0\x01", "latin1"));
    root.write("/proc/device-tree/model", "\0");
    expect(stateOf(root)).toMatchObject({
      eepromVersion: "unknown",
      model: "unknown",
      signedBits: "0x00000000",
    });
  });

  test("a failed read is an error, not a `no`", () => {
    expect(() => probe.parse({ read: { code: 1, stdout: "", stderr: "od: read error" } })).toThrow(
      UnknownObservation,
    );
    expect(() => probe.parse({})).toThrow(UnknownObservation);
    expect(() => probe.parse({ read: { code: 0, stdout: "zz\n", stderr: "" } })).toThrow(UnknownObservation);
  });
});

describe("what is required", () => {
  test("a locked board is in order", () => {
    expect(planFor(good)).toEqual([]);
    expect(
      planFor(good, { ...locked, customerKeySha256: keyDigest, bootImageSha256: good.bootImageSha256 }),
    ).toEqual([]);
  });

  test("`none` only reports, whatever there is", () => {
    expect(verifiedBoot.desired({ require: "none" })).toEqual({});
    expect(planFor(nothing, { require: "none" })).toEqual([]);
  });

  test.each([
    [
      "signed boot that can be turned off again: the key is not in OTP",
      { signedBits: "0x00000001", otpKeyLocked: "no" },
      "otpKeyLocked is no and has to be yes",
    ],
    [
      "a locked key with images unchecked",
      { signedBits: "0x00000008", signedBootEnabled: "no" },
      "signedBootEnabled is no and has to be yes",
    ],
    ["nothing known", nothing, "otpKeyLocked is unknown and has to be yes"],
  ] as const)("refused: %s", (_name, drift, message) => {
    const state: VerifiedBootState = { ...good, ...drift };
    expect(() => planFor(state)).toThrow(PlanRefused);
    expect(() => planFor(state)).toThrow(message);
  });

  test("the mend is named: the bench, not SSH", () => {
    expect(() =>
      planFor({ ...good, signedBits: "0x00000000", signedBootEnabled: "no", otpKeyLocked: "no" }),
    ).toThrow(
      /can't be set up over SSH: provision the board on the bench with rpi-sb-provisioner or rpiboot/,
    );
    expect(() => planFor(nothing)).toThrow(/the device tree says nothing of signed boot/);
  });

  test("another key or image than expected is refused, and an unknown one too", () => {
    const other = "ab".repeat(32);
    expect(() => planFor(good, { ...locked, customerKeySha256: other })).toThrow(
      `customerKeySha256 is ${keyDigest} and has to be ${other}`,
    );
    expect(() =>
      planFor({ ...good, bootImageSha256: "unknown" }, { ...locked, bootImageSha256: other }),
    ).toThrow(`bootImageSha256 is unknown and has to be ${other}`);
  });
});

test("the law: in order exactly when nothing differs, refused otherwise; never a step", () => {
  let refused = 0;
  for (let seed = 1; seed <= 1000; seed++) {
    const choose = new Choices(seed);
    const state: VerifiedBootState = {
      ...good,
      signedBootEnabled: choose.mostly("yes", "no", "unknown"),
      otpKeyLocked: choose.mostly("yes", "no", "unknown"),
      customerKeySha256: choose.mostly(keyDigest, "unknown"),
      bootImageSha256: choose.mostly(good.bootImageSha256, "unknown"),
    };
    const inputs = {
      require: choose.mostly("signed-boot-locked" as const, "none" as const),
      ...choose.mostly({}, { customerKeySha256: keyDigest }),
      ...choose.mostly({}, { bootImageSha256: good.bootImageSha256 }),
    };
    if (diffState(verifiedBoot.desired(inputs), state).length === 0) {
      expect(planFor(state, inputs)).toEqual([]);
    } else {
      refused++;
      expect(() => planFor(state, inputs), `seed ${seed}`).toThrow(PlanRefused);
    }
  }
  expect(refused).toBeGreaterThan(200);
});

test("there is nothing to take back", () => {
  expect(verifiedBoot.revert(locked, { outcome: "present", state: good })).toEqual([]);
});
