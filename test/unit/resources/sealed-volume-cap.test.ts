import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { zeroPcr } from "../../../provider/trust/pcr.ts";
import { VolumeNode } from "./sealed-volume-node.ts";

/* The cap of PCR 15. That a TPM takes the command is shown on the virtual Pi, at every boot of its tests. */

const program = readFileSync(
  new URL("../../../provider/resources/on-device/cap-pcr15", import.meta.url),
  "utf8",
);

/** TPM2_PCR_Extend of PCR 15 with one SHA-256 digest and an empty password (TPM 2.0 Library, Part 3, 22.2; Part 1, 19.4). */
function extendCommand(digest: string): Buffer {
  const session = Buffer.from("40000009" + "0000" + "00" + "0000", "hex");
  const size = Buffer.alloc(4);
  size.writeUInt32BE(session.length);
  const body = Buffer.concat([
    Buffer.from("00000182" + "0000000f", "hex"),
    size,
    session,
    Buffer.from("00000001" + "000b" + digest, "hex"),
  ]);
  const head = Buffer.from("8002" + "00000000", "hex");
  head.writeUInt32BE(head.length + body.length, 2);
  return Buffer.concat([head, body]);
}

let node: VolumeNode;
beforeEach(() => {
  node = new VolumeNode();
});
afterEach(() => {
  node[Symbol.dispose]();
});

const unit = readFileSync(
  new URL("../../../provider/resources/on-device/edgeseal-cap-pcr15.service", import.meta.url),
  "utf8",
);

const cap = () => node.sh(program);
/** Seconds since the boot: what stands for `sleep` takes ten. */
const uptime = (): number => Number(node.read("/proc/uptime").split(" ")[0]);

test("a TPM with PCR 15 at zeros is sent the extension, in one write; one that does not answer is told of, after three tries", () => {
  const { code, stderr } = cap();
  expect(code).toBe(1);
  expect(stderr).toMatch(
    /^<3>PCR 15 of \/dev\/tpmrm0 could not be extended: sealed keys can be unsealed until the next boot$/,
  );
  const command = extendCommand(sha256Hex("edgeseal cap"));
  expect(command).toHaveLength(65);
  // A plain file, opened anew for each try, has the last one.
  expect(node.bytes("/dev/tpmrm0").equals(command)).toBe(true);
});

test("one that is capped is left alone", () => {
  node.setPcr(15, "ab".repeat(32));
  expect(cap()).toMatchObject({ code: 0, stdout: "PCR 15 of /dev/tpmrm0 is capped\n" });
  expect(node.bytes("/dev/tpmrm0")).toHaveLength(0);
});

test("none at all, and nothing pinned, is no failure and no wait: one that appears later starts the unit again", () => {
  node.remove("/dev/tpmrm0");
  const before = uptime();
  expect(cap()).toMatchObject({ code: 0, stderr: "<4>there is no TPM, so there is nothing to cap" });
  expect(uptime()).toBe(before);
  expect(unit).toMatch(/^WantedBy=(.* )?dev-tpmrm0\.device$/m);
  // And before a root shell on the console, which a failed mount leads to: that leaves the way to sysinit.target.
  expect(unit).toMatch(/^WantedBy=.*\bemergency\.target rescue\.target\b/m);
  expect(unit).toMatch(/^Before=emergency\.service rescue\.service$/m);
  expect(unit).not.toMatch(/^(Requires|BindsTo|Requisite|Condition\w*)=/m);
});

test("each of several TPMs is capped", () => {
  node.write("/dev/tpmrm1", "");
  node.write("/sys/class/tpm/tpm1/pcr-sha256/15", `${zeroPcr}\n`);
  node.setPcr(15, "ab".repeat(32));
  const { code, stdout, stderr } = cap();
  expect(code).toBe(1);
  expect(stdout).toContain("PCR 15 of /dev/tpmrm0 is capped");
  expect(stderr).toContain("PCR 15 of /dev/tpmrm1 could not be extended");
});

describe("where a volume is pinned and no TPM is there yet", () => {
  beforeEach(() => {
    node.remove("/dev/tpmrm0");
    node.write("/etc/edgeseal/volumes/models.pins", "");
  });

  test("it is waited for, and capped", () => {
    const wait = node.read("/bin/sleep");
    node.write("/bin/sleep", `${wait}: >"$ROOT/dev/tpmrm0"\n`);
    const { stdout, stderr } = cap();
    expect(stdout + stderr).toContain("PCR 15 of /dev/tpmrm0");
    expect(node.bytes("/dev/tpmrm0").equals(extendCommand(sha256Hex("edgeseal cap")))).toBe(true);
  });

  test("one that does not come keeps nobody from the node: the wait is bounded, and shorter than what systemd lets it take", () => {
    const before = uptime();
    expect(cap()).toMatchObject({ code: 0, stderr: "<4>there is no TPM, so there is nothing to cap" });
    expect(uptime() - before).toBe(30);
    expect(Number(/^TimeoutStartSec=(\d+)$/m.exec(unit)?.[1])).toBeGreaterThanOrEqual(90);
  });
});
