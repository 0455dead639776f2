import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { SeccompProfileInputs } from "../../provider/resources/seccomp-profile-inputs.ts";
import type { SeccompProfileState } from "../../provider/resources/seccomp-profile-observation.ts";
import { seccompProfile } from "../../provider/resources/seccomp-profile.ts";
import type { VerifiedBootState } from "../../provider/resources/verified-boot-properties.ts";
import { verifiedBoot } from "../../provider/resources/verified-boot.ts";
import { arm64 } from "../../testbed/profile.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { inContainer, makePerlRoot } from "../e2e/perl-container.ts";
import { bringUp, endorsementKeyOf, observe, onPi, type Declared } from "../e2e/provider-on-pi.ts";
import { lockedBoard, lockedState, unlockedState } from "./locked-board.ts";

/* A node with a Pi's architecture, on a board that a device tree describes. */

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start({
    profile: arm64,
    signedBoot: lockedBoard,
    onProgress: (line) => process.stdout.write(`${line}\n`),
  });
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
});

const look = (): Promise<VerifiedBootState> =>
  observe<VerifiedBootState>(pi, {
    kind: verifiedBoot,
    inputs: { require: "none" },
  });

test("it is an aarch64 that calls itself a Raspberry Pi 5", async () => {
  expect(await onPi(pi, "uname -m; dpkg --print-architecture")).toBe("aarch64\narm64\n");
  expect(await onPi(pi, "tr '\\0' '\\n' </proc/device-tree/compatible")).toBe(
    "raspberrypi,5-model-b\nbrcm,bcm2712\nlinux,dummy-virt\n",
  );
});

describe("signed boot", () => {
  test("is read from the running kernel's device tree as it was put there, the key from the memory that the tree names", async () => {
    expect(await look()).toEqual(lockedState);
  });

  test("its properties have the byte layouts of a Pi 5", async () => {
    const bytes = await onPi(
      pi,
      `cd /proc/device-tree/chosen/bootloader
for each in signed build-timestamp tryboot; do od -An -v -tx1 $each; done
wc -c <boot_img_sha256`,
    );
    expect(bytes).toBe(" 80 00 00 09\n 66 42 2e 75\n 00 00 00 00\n64\n");
  });
});

describe("the TPM", () => {
  test("is one outside of the node: what is extended is gone after a boot, and what is persistent is not", async () => {
    const before = await endorsementKeyOf(pi);
    await onPi(
      pi,
      `tpm2_pcrextend 16:sha256=${"ab".repeat(32)}
cd $(mktemp -d) && tpm2_createprimary -Q -C o -c primary && tpm2_evictcontrol -Q -C o -c primary 0x81000042`,
    );
    expect(await onPi(pi, "cat /sys/class/tpm/tpm0/pcr-sha256/16")).not.toMatch(/^0+$/);
    await pi.reboot();
    expect(await onPi(pi, "cat /sys/class/tpm/tpm0/pcr-sha256/16")).toMatch(/^0+\n$/);
    expect(await onPi(pi, "tpm2_getcap handles-persistent")).toContain("0x81000042");
    expect(await endorsementKeyOf(pi)).toBe(before);
  });

  test("lost no power without being told", async () => {
    // TPMA_STARTUP_CLEAR.orderly
    expect(await onPi(pi, "tpm2_getcap properties-variable")).toMatch(/orderly: +1/);
  });

  test("another one in its place has another endorsement key", async () => {
    const before = await endorsementKeyOf(pi);
    await pi.powerOff();
    await pi.replaceTpm();
    await pi.boot();
    expect(await endorsementKeyOf(pi)).not.toBe(before);
  });
});

describe("the seccomp profile", () => {
  const inputs: SeccompProfileInputs = { name: "inference", variant: "llama-server", additionalSyscalls: [] };
  const profile: Declared = { kind: seccompProfile, inputs };
  const path = "/etc/edgeseal/seccomp/inference.json";

  test("is accepted: the kernel refuses what is tried, and does not without the profile", async () => {
    await bringUp(pi, profile);
    expect(await observe<SeccompProfileState>(pi, profile)).toMatchObject({
      defaultAction: "EPERM",
      dangerousCalls: [],
      trial: "done",
      letThrough: ["openat-read", "socket-unix"],
      undecided: [],
      architecture: "aarch64",
      proof: "proven on aarch64",
      containerSeccomp: "no container runs",
    });
  });

  test("in a container that podman starts with it a denied call fails, and succeeds without it", async () => {
    await makePerlRoot(pi);
    // mkdirat(2), which is 34 on aarch64; AT_FDCWD is -100.
    const program = `my $p = "/made"; print syscall(34, -100, $p, 0755) == 0 ? "made" : $!;`;
    expect(await inContainer(pi, path, program)).toBe("Operation not permittedstatus 0\n");
    expect(await inContainer(pi, "unconfined", program)).toBe("madestatus 0\n");
  });
});

test("on a board as it comes from the shop, the same disks tell that nothing is signed", async () => {
  await pi.powerOff();
  pi.replaceBoard();
  await pi.boot();
  expect(await look()).toEqual(unlockedState);
});
