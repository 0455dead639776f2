import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { mkdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseEventLog, pcr11Of } from "../../../provider/trust/event-log.ts";
import { policyPcrDigest, systemdSignature } from "../../../provider/trust/pcr-policy.ts";
import { bootFiles, FakeTpm, MeasuredNode, onDevice, systemFiles } from "./measure-fixture.ts";

/** A node with the program where the hook looks for it. */
function aNode(): MeasuredNode {
  const node = new MeasuredNode({ ...systemFiles, ...bootFiles });
  const program = join(node.root, "usr/lib/edgeseal/measure");
  mkdirSync(dirname(program), { recursive: true });
  copyFileSync(onDevice("measure"), program);
  node.tool("logger", `printf '%s\\n' "$*" >>"${node.root}/args"; cat >>"${node.root}/journal"`);
  return node;
}

/** What apt runs once dpkg is done. */
function afterDpkg(node: MeasuredNode): { readonly warning: string; readonly journal: string } {
  const { status, stdout, stderr } = spawnSync("sh", [onDevice("apt-hook"), node.root], {
    env: { PATH: node.path },
    encoding: "utf8",
  });
  expect([status, stdout]).toEqual([0, ""]);
  const journal = node.list("/").includes("journal") ? node.read("/journal") : "";
  node.remove("/journal");
  return { warning: stderr, journal };
}

/** Approves the state that the next boot will have now, beside another one. */
async function approveNext(node: MeasuredNode, spaces?: number): Promise<void> {
  const { stdout } = await node.measure(["--next"]);
  const policies = [pcr11Of(parseEventLog(stdout).events), "0".repeat(64)].map((pcr11) => ({
    pcr11,
    pol: policyPcrDigest(pcr11),
    sig: "c2ln",
  }));
  node.write(
    "/etc/edgeseal/trust/approvals.json",
    JSON.stringify(systemdSignature("ab".repeat(32), policies), null, spaces),
  );
}

describe("after dpkg", () => {
  test.each([undefined, 2])(
    "nothing is said of an approved state (approvals written with %s spaces)",
    async (spaces) => {
      using node = aNode();
      await approveNext(node, spaces);
      expect(afterDpkg(node)).toEqual({ warning: "", journal: "" });
    },
  );

  test("nothing is said where nobody approves states", () => {
    using node = aNode();
    expect(afterDpkg(node)).toEqual({ warning: "", journal: "" });
  });

  test("a change of what the next boot measures is told, by name, with the mend, and in the journal", async () => {
    using node = aNode();
    expect((await node.extend(new FakeTpm())).code).toBe(0);
    await approveNext(node);
    node.write("/boot/firmware/initramfs_2712", "a new initramfs");
    node.write("/boot/firmware/overlays/README", "other overlays");
    node.write("/boot/firmware/kernel8.img", "one more");
    node.remove("/boot/firmware/bcm2712-rpi-5-b.dtb");
    const expected = `edgeseal: the next boot would not be an approved one: its sealed volumes would stay locked.
edgeseal:   changed: file initramfs_2712
edgeseal:   changed: tree overlays
edgeseal:   gone:    file bcm2712-rpi-5-b.dtb
edgeseal:   new:     file kernel8.img
edgeseal: approve it before a reboot, at the operator's: edgeseal update pi-1
`;
    expect(afterDpkg(node)).toEqual({ warning: expected, journal: expected });
    expect(node.read("/args").split("\n")[0]).toBe("-t edgeseal -p user.warning");
    // It stays so with the next run, and ends with the approval.
    expect(afterDpkg(node).warning).toBe(expected);
    await approveNext(node);
    expect(afterDpkg(node).warning).toBe("");
  });

  test("what changed can't be named in a boot that was not measured", async () => {
    using node = aNode();
    await approveNext(node);
    node.write("/boot/firmware/kernel_2712.img", "a new kernel");
    expect(afterDpkg(node).warning.split("\n")).toHaveLength(3);
  });

  test("a state that can't be told is not an approved one", async () => {
    using node = aNode();
    await approveNext(node);
    node.write("/boot/firmware/two\nlines", "x");
    expect(afterDpkg(node).warning).toContain("would not be an approved one");
    node.remove("/usr/lib/edgeseal/measure");
    expect(afterDpkg(node).warning).toContain("would not be an approved one");
  });
});

test("apt is told to run it, and never fails for it", () => {
  const conf = readFileSync(onDevice("apt.conf"), "utf8");
  const { stdout, status } = spawnSync(
    "apt-config",
    ["-c", onDevice("apt.conf"), "dump", "DPkg::Post-Invoke"],
    {
      encoding: "utf8",
    },
  );
  expect(status).toBe(0);
  const command = "if [ -x /usr/lib/edgeseal/apt-hook ]; then /usr/lib/edgeseal/apt-hook; fi || true";
  expect(stdout).toContain(`DPkg::Post-Invoke:: "${command}";`);
  expect(conf).toContain(command);
});
