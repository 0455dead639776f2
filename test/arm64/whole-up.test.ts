import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openDemo } from "../../cli/demo/demo.ts";
import { judgeReport } from "../../cli/demo/judged-report.ts";
import { inForce } from "../../cli/demo/main-job/apply.ts";
import { endorsementKeyOnConsole, makeKeys, pulumiUp } from "../../cli/demo/operator.ts";
import { noDrift, nothingToDo, refresh } from "../../cli/demo/refresh.ts";
import { keyedSite } from "../../cli/demo/site.ts";
import { onNode } from "../../cli/demo/step.ts";
import { readSite, said } from "../../cli/pulumi.ts";
import { reportFindings } from "../../cli/report-lines.ts";
import type { Control } from "../../policies/control.ts";
import { arm64 } from "../../testbed/profile.ts";
import { lockedBoard, lockedState } from "./locked-board.ts";

/*
 * A site's whole way on a node with a Pi's architecture, on a board with signed boot locked in: the demo's site, its boot files and temporary files declared too, and the TPM pinned that
 * its console shows. Each test stands on those before it.
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

/** What this site passes without the demo's waivers. */
const controls: readonly Control["id"][] = ["1.verified-boot", "1.tpm", "3.scratch-in-memory"];

const minutes = 60_000;

test(
  "pulumi up brings it to its state, rebooting it on trial, and each control is judged on what was read back",
  async () => {
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
    expect(await onNode(node, "cat /proc/cmdline")).toContain("cgroup_enable=memory");
    judgeReport(node, reportFindings(await node.pulumi.export("demo"), new Date()), controls);
  },
  60 * minutes,
);

test(
  "another pulumi up changes nothing, and a refresh finds no drift",
  () => nothingToDo(node),
  30 * minutes,
);

test(
  "all of it is in force after a boot",
  async () => {
    await node.pi.powerCut();
    await node.pi.boot();
    await inForce(node);
    await noDrift(node);
  },
  30 * minutes,
);

test(
  "its disks and its TPM on another board, without fuses: a refresh says so, and pulumi up refuses it",
  async () => {
    await node.pi.powerOff();
    node.pi.replaceBoard();
    await node.pi.boot();
    expect((await refresh(node)).drifted.toSorted()).toEqual(
      ["bootImageSha256", "customerKeySha256", "otpKeyLocked", "signedBits", "signedBootEnabled"].map(
        (property) => `VerifiedBoot.${property}`,
      ),
    );
    const up = await node.pulumi.run(["up", "--yes", "--stack", "demo"], { signal: node.signal });
    expect(up.code).not.toBe(0);
    expect(said(up)).toContain("otpKeyLocked is no and has to be yes");
    expect(said(up)).toContain("signed boot can't be set up over SSH");
  },
  30 * minutes,
);
