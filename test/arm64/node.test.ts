import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDemo } from "../../cli/demo/demo.ts";
import { judgeReport } from "../../cli/demo/judged-report.ts";
import { inForce } from "../../cli/demo/main-job/apply.ts";
import { endorsementKeyOnConsole, makeKeys, pulumiUp } from "../../cli/demo/operator.ts";
import { nothingToDo, refresh } from "../../cli/demo/refresh.ts";
import { keyedSite } from "../../cli/demo/site.ts";
import { readSite, said } from "../../cli/pulumi.ts";
import { reportFindings } from "../../cli/report-lines.ts";
import type { Control } from "../../policies/control.ts";
import { onDevice } from "../../provider/resources/managed-files.ts";
import type { SeccompProfileInputs } from "../../provider/resources/seccomp-profile-inputs.ts";
import type { SeccompProfileState } from "../../provider/resources/seccomp-profile-observation.ts";
import { seccompProfile } from "../../provider/resources/seccomp-profile.ts";
import type { VerifiedBootState } from "../../provider/resources/verified-boot-properties.ts";
import { verifiedBoot } from "../../provider/resources/verified-boot.ts";
import { arm64 } from "../../testbed/profile.ts";
import { inContainer, makePerlRoot } from "../e2e/perl-container.ts";
import { bringUp, observe, onPi, type Declared } from "../e2e/provider-on-pi.ts";
import { lockedBoard, lockedState, unlockedState } from "./locked-board.ts";

/*
 * One node with a Pi's architecture, on a board with signed boot locked in, as its device tree says; and at the end on another. Each test stands on those before it: a boot takes a minute of
 * a processor's time.
 */

let node: Awaited<ReturnType<typeof openDemo>>;

beforeAll(async () => {
  node = await openDemo(
    { signal: new AbortController().signal, say: (line) => process.stdout.write(`${line}\n`) },
    { profile: arm64, signedBoot: lockedBoard },
  );
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (node as typeof node | undefined)?.[Symbol.asyncDispose]();
});

const root = (script: string): Promise<string> => onPi(node.pi, script);
const lookAtBoot = (): Promise<VerifiedBootState> =>
  observe<VerifiedBootState>(node.pi, { kind: verifiedBoot, inputs: { require: "none" } });
/** What would be measured of the device tree: the digest, as the measuring program makes it of the one that is there. */
async function measuredTree(): Promise<string> {
  const stdin = onDevice("measure");
  const { stdout, stderr } = await node.pi.exec("sudo -n sh -s -- --next", { stdin });
  return /^11\tdevicetree\t\t([0-9a-f]{64})\t$/m.exec(stdout)?.[1] ?? expect.fail(stdout + stderr);
}
const pcr16 = (): Promise<string> => root("cat /sys/class/tpm/tpm0/pcr-sha256/16");

test("it is an aarch64 that calls itself a Raspberry Pi 5", async () => {
  expect(await root("uname -m; dpkg --print-architecture")).toBe("aarch64\narm64\n");
  expect(await root("tr '\\0' '\\n' </proc/device-tree/compatible")).toBe(
    "raspberrypi,5-model-b\nbrcm,bcm2712\nlinux,dummy-virt\n",
  );
});

describe("signed boot", () => {
  test("is read from the running kernel's device tree as it was put there, the key from the memory that the tree names", async () => {
    expect(await lookAtBoot()).toEqual(lockedState);
  });

  test("its properties have the byte layouts of a Pi 5", async () => {
    const bytes = await root(
      `cd /proc/device-tree/chosen/bootloader
for each in signed build-timestamp tryboot; do od -An -v -tx1 $each; done
wc -c <boot_img_sha256`,
    );
    expect(bytes).toBe(" 80 00 00 09\n 66 42 2e 75\n 00 00 00 00\n64\n");
  });
});

let firstTree: string;

test("what is measured of its device tree is digested, without what each boot has anew", async () => {
  firstTree = await measuredTree();
  expect(await root("ls /proc/device-tree/chosen")).toMatch(/^bootargs\n(.*\n)*bootloader$/m);
});

test("the kernel drives the TPM, which is outside of the node", async () => {
  expect(await root("cat /sys/class/tpm/tpm0/tpm_version_major")).toBe("2\n");
  expect(await pcr16()).toMatch(/^0+\n$/);
  await root(`tpm2_pcrextend 16:sha256=${"ab".repeat(32)}`);
  expect(await pcr16()).not.toMatch(/^0+\n$/);
});

describe("the seccomp profile", () => {
  const inputs: SeccompProfileInputs = { name: "inference", variant: "llama-server", additionalSyscalls: [] };
  const profile: Declared = { kind: seccompProfile, inputs };
  const path = "/etc/edgeseal/seccomp/inference.json";

  test("is accepted: the kernel refuses what is tried, and does not without the profile", async () => {
    await bringUp(node.pi, profile);
    expect(await observe<SeccompProfileState>(node.pi, profile)).toMatchObject({
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
    await makePerlRoot(node.pi);
    // mkdirat(2), which is 34 on aarch64; AT_FDCWD is -100.
    const program = `my $p = "/made"; print syscall(34, -100, $p, 0755) == 0 ? "made" : $!;`;
    expect(await inContainer(node.pi, path, program)).toBe("Operation not permittedstatus 0\n");
    expect(await inContainer(node.pi, "unconfined", program)).toBe("madestatus 0\n");
  });
});

describe("a site's whole way", () => {
  /** What this site passes without the demo's waivers. */
  const controls: readonly Control["id"][] = ["1.verified-boot", "1.tpm", "3.scratch-in-memory"];

  test("pulumi up brings the node to its state, rebooting it on trial, and each control is judged on what was read back", async () => {
    const endorsementKeySha256 = await endorsementKeyOnConsole(node);
    await makeKeys(node);
    const template = await readSite(join(node.checkout, "stacks/demo.yaml"));
    const { customerKeySha256, bootImageSha256 } = lockedState;
    await node.pulumi.site(
      "demo",
      keyedSite(template, node.pi, controls, {
        boot: { require: "signed-boot-locked", customerKeySha256, bootImageSha256 },
        firmware: { reboot: "ifNeeded" },
        scratch: { reboot: "ifNeeded" },
        tpm: { endorsementKeySha256 },
        // Its program is in the initramfs, where this node has no TPM yet (docs/arm64.md).
        measuredBoot: null,
      }),
    );
    await pulumiUp(node, "succeeds");
    await inForce(node);
    expect(await root("cat /proc/cmdline")).toContain("cgroup_enable=memory");
    judgeReport(node, reportFindings(await node.pulumi.export("demo"), new Date()), controls);
    // Boots later, with another command line.
    expect(await measuredTree()).toBe(firstTree);
  });

  test("another pulumi up changes nothing, and a refresh finds no drift", () => nothingToDo(node));

  test("its disks and its TPM on a board as it comes from the shop: all else is in force, a refresh names what is not, and pulumi up refuses the board", async () => {
    await node.pi.powerOff();
    node.pi.replaceBoard();
    await node.pi.boot();
    expect(await lookAtBoot()).toEqual(unlockedState);
    expect(await measuredTree()).not.toBe(firstTree);
    await inForce(node);
    expect((await refresh(node)).drifted.toSorted()).toEqual(
      ["bootImageSha256", "customerKeySha256", "otpKeyLocked", "signedBootEnabled"].map(
        (property) => `VerifiedBoot.${property}`,
      ),
    );
    const up = await node.pulumi.run(["up", "--yes", "--stack", "demo"], { signal: node.signal });
    expect(up.code).not.toBe(0);
    expect(said(up)).toContain("otpKeyLocked is no and has to be yes");
    expect(said(up)).toContain("signed boot can't be set up over SSH");
  });
});

test("the TPM was reset, and told before it lost power", async () => {
  expect(await pcr16()).toMatch(/^0+\n$/);
  // TPMA_STARTUP_CLEAR.orderly
  expect(await root("tpm2_getcap properties-variable")).toMatch(/orderly: +1/);
});
