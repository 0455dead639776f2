import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { managedFiles, type MeasuredBootFile } from "../../../provider/resources/measured-boot-files.ts";
import { parseEventLog, pcr11Of } from "../../../provider/trust/event-log.ts";
import { policyPcrDigest, systemdSignature } from "../../../provider/trust/pcr-policy.ts";
import { fingerprint, readPublicKey } from "../../../provider/trust/public-key.ts";
import { testKey } from "../trust/keys.ts";
import { bootFiles, FakeTpm, MeasuredNode, onDevice, systemFiles } from "./measure-fixture.ts";

const hook = "/usr/lib/edgeseal/apt-hook";
const installed = (name: MeasuredBootFile): { readonly path: string; readonly content: string } => {
  const found = managedFiles("pi-1").find((each) => each.name === name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
};

/** A node with two sealed volumes, and the program where the hook looks for it. */
function aNode(): MeasuredNode {
  const node = new MeasuredNode({ ...systemFiles, ...bootFiles });
  const program = join(node.root, "usr/lib/edgeseal/measure");
  mkdirSync(dirname(program), { recursive: true });
  copyFileSync(onDevice("measure"), program);
  node.write(hook, installed("aptHook").content);
  for (const name of ["logs", "models"]) node.write(`/etc/edgeseal/volumes/${name}.conf`, "");
  node.tool("logger", `printf '%s\\n' "$*" >>"${node.root}/args"; cat >>"${node.root}/journal"`);
  return node;
}

/** What apt runs once dpkg is done. */
function afterDpkg(node: MeasuredNode): { readonly warning: string; readonly journal: string } {
  const { status, stdout, stderr } = spawnSync("sh", [join(node.root, hook), node.root], {
    env: { PATH: node.path },
    encoding: "utf8",
  });
  expect([status, stdout]).toEqual([0, ""]);
  const journal = node.list("/").includes("journal") ? node.read("/journal") : "";
  node.remove("/journal");
  return { warning: stderr, journal };
}

/** Approves the state that the next boot will have now, beside another one, by this policy key. */
async function approveNext(node: MeasuredNode, spaces?: number, by = "ab".repeat(32)): Promise<void> {
  const { stdout } = await node.measure(["--next"]);
  const policies = [pcr11Of(parseEventLog(stdout).events), "0".repeat(64)].map((pcr11) => ({
    pcr11,
    pol: policyPcrDigest(pcr11),
    sig: "c2ln",
  }));
  node.write(
    "/etc/edgeseal/trust/approvals.json",
    JSON.stringify(systemdSignature(by, policies), null, spaces),
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

  test("nothing is said where nothing is sealed, whatever is approved", async () => {
    using node = aNode();
    node.remove("/etc/edgeseal/volumes");
    await approveNext(node);
    node.write("/boot/firmware/kernel_2712.img", "a new kernel");
    expect(afterDpkg(node)).toEqual({ warning: "", journal: "" });
  });

  test("without any approval the volumes would stay locked", () => {
    using node = aNode();
    expect(afterDpkg(node).warning).toContain("these sealed volumes would stay locked: logs models\n");
  });

  test("an approval by another policy key than a volume is sealed to opens nothing of it", async () => {
    using node = aNode();
    const [former, current] = [testKey("policy"), testKey("policy")];
    const of = ({ publicKeyPem }: typeof former): string =>
      fingerprint(readPublicKey(publicKeyPem, "policy"));
    const sealedTo = (name: string, { publicKeyPem }: typeof former): void =>
      node.write(
        `/etc/edgeseal/volumes/${name}.pins`,
        `uuid=x\nfact tokens.0.tpm2_pubkey ${Buffer.from(publicKeyPem).toString("base64")}\n`,
      );
    sealedTo("logs", former);
    sealedTo("models", current);
    await approveNext(node, undefined, of(current));
    expect(afterDpkg(node).warning)
      .toBe(`edgeseal: the next boot is approved by another policy key than these volumes are sealed to, which would stay locked: logs
edgeseal: seal them to that one before a reboot, at the operator's: edgeseal volume recover pi-1
`);
    sealedTo("logs", current);
    expect(afterDpkg(node).warning).toBe("");
  });

  test("a change of what the next boot measures is told, by name, with the mend, and in the journal", async () => {
    using node = aNode();
    expect((await node.extend(new FakeTpm())).code).toBe(0);
    await approveNext(node);
    node.write("/boot/firmware/initramfs_2712", "a new initramfs");
    node.write("/boot/firmware/overlays/README", "other overlays");
    node.write("/boot/firmware/kernel8.img", "one more");
    node.remove("/boot/firmware/bcm2712-rpi-5-b.dtb");
    const expected = `edgeseal: the next boot would not be an approved one, and these sealed volumes would stay locked: logs models
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

describe("after an initramfs was built", () => {
  /** What update-initramfs runs, with what a distribution copies an image by; `env` is what it was run in. */
  const afterUpdate = (node: MeasuredNode, env: Readonly<Record<string, string>> = {}): string => {
    const folder = "/etc/initramfs/post-update.d";
    const { path, content } = installed("warn");
    expect(dirname(path)).toBe(folder);
    node.write(path, content.replaceAll("/usr/lib/edgeseal/apt-hook", `${node.root}/run-hook`));
    node.write("/run-hook", `#!/bin/sh\nexec sh ${node.root}${hook} ${node.root}\n`);
    node.write(
      `${folder}/z50-raspi-firmware`,
      `#!/bin/sh\ncp "$2" ${node.root}/boot/firmware/initramfs_2712\n`,
    );
    node.write("/boot/initrd.img-6.12", "a new initramfs");
    for (const each of [path, "/run-hook", `${folder}/z50-raspi-firmware`])
      chmodSync(join(node.root, each), 0o755);
    // As initramfs-tools calls it.
    const words = ["--exit-on-error", "--arg=6.12", `--arg=${node.root}/boot/initrd.img-6.12`];
    const { status, stderr } = spawnSync("run-parts", [...words, join(node.root, folder)], {
      env: { PATH: node.path, ...env },
      encoding: "utf8",
    });
    expect(status).toBe(0);
    return stderr;
  };

  test("by hand, it is told of what is on the boot partition by then", async () => {
    using node = aNode();
    expect((await node.extend(new FakeTpm())).code).toBe(0);
    await approveNext(node);
    expect(afterUpdate(node)).toContain(
      "stay locked: logs models\nedgeseal:   changed: file initramfs_2712\n",
    );
    await approveNext(node);
    expect(afterUpdate(node)).toBe("");
  });

  test("under apt, its own hook tells it", async () => {
    using node = aNode();
    await approveNext(node);
    expect(afterUpdate(node, { DPKG_FRONTEND_LOCKED: "true" })).toBe("");
    expect(afterDpkg(node).warning).toContain("stay locked: logs models\n");
  });

  test("it fails nothing where the rest was taken away", () => {
    using node = aNode();
    node.remove(hook);
    expect(() => afterUpdate(node)).not.toThrow();
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
