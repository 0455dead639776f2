import { afterAll, beforeAll, expect, test } from "vitest";
import { policyPcrDigest } from "../../provider/trust/pcr-policy.ts";
import type { Ran } from "./command-line.ts";
import { SealedNode } from "./sealed-node.ts";

/*
 * `edgeseal update` as an operator runs it, on a node that measures its boots and has a sealed volume: an initramfs that was really built anew, and an update that leaves
 * the volume locked.
 */

let node: SealedNode;

beforeAll(async () => {
  node = await SealedNode.start();
});

// It does not exist when its start failed.
afterAll(() => (node as SealedNode | undefined)?.stop());

const update = async (
  ...args: readonly string[]
): Promise<Ran & { readonly said: Record<string, unknown> }> => {
  const ran = await node.edgeseal("update", "pi-1", ...node.keys, "--yes", "--json", ...args);
  const said = ran.stdout === "" ? {} : (JSON.parse(ran.stdout) as Record<string, unknown>);
  return { ...ran, said };
};

test("with nothing new there is nothing to do", async () => {
  const { code, said, text } = await update();
  expect(code, text).toBe(0);
  expect(said).toMatchObject({ outcome: "nothing-to-do", volumes: { models: true } });
});

test("an initramfs that was built anew is predicted, approved, shipped, booted, and measured as predicted", async () => {
  const before = await node.pcr11();
  // apt keeps the copy before it installs; the initramfs is another one after it.
  await node.root("rm -rf /var/lib/edgeseal/boot && apt-get -y purge less >/dev/null 2>&1");
  expect(await node.root("/usr/lib/edgeseal/keep-boot status")).toMatch(/^phase=none\nkept=[0-9a-f]{64}\n$/);
  await node.root("echo loop >>/etc/initramfs-tools/modules && update-initramfs -u");

  const shown = await update("--dry-run");
  expect(shown.code, shown.text).toBe(4);
  expect(shown.said).toMatchObject({ outcome: "not-approved" });

  const { code, said, text } = await update();
  expect(code, text).toBe(0);
  const after = await node.pcr11();
  expect(after).not.toBe(before);
  expect(said).toMatchObject({
    outcome: "confirmed",
    pcr11: after,
    volumes: { models: true },
    approval: {
      pcr11: after,
      changes: expect.arrayContaining([expect.objectContaining({ name: "initramfs_2712" })]) as unknown,
    },
  });
  await node.expectOpen();
  // What is gone back to from now on.
  expect(await node.root("/usr/lib/edgeseal/keep-boot status")).toBe(
    `phase=none\nkept=${policyPcrDigest(after)}\n`,
  );
  expect(await node.root("ls /etc/systemd/system")).not.toContain("edgeseal-update");
});

const blacklist = "sed -i 's/$/ module_blacklist=dm_crypt/' /boot/firmware/cmdline.txt";
/** Builds an initramfs by which the kernel has no dm-crypt. */
const brokenInitramfs = `cd /etc/initramfs-tools/scripts/init-bottom
printf '#!/bin/sh\ncase $1 in prereqs) exit ;; esac\nmkdir -p /run/modprobe.d\necho install dm_crypt /bin/false >/run/modprobe.d/broken.conf\n' >broken
chmod 755 broken
update-initramfs -u
rm broken`;

// The command line twice: the state that did not hold is approved from the first time on, and is still nothing to go back to.
test.each([
  ["its command line", blacklist],
  ["its command line, once more", blacklist],
  ["its initramfs", brokenInitramfs],
])(
  "an approved update that leaves the volume locked, by %s, is taken back by the node itself, which is then as before",
  async (_, change) => {
    const before = await node.pcr11();
    const commandLine = await node.root("cat /boot/firmware/cmdline.txt");
    await node.root(change);
    const { code, said, text } = await update("--reason", "a kernel without dm-crypt");
    expect(code, text).toBe(7);
    expect(said).toMatchObject({
      outcome: "went-back",
      reason: expect.stringMatching(/^the volume models stays locked: /) as unknown,
    });
    expect(await node.root("cat /boot/firmware/cmdline.txt")).toBe(commandLine);
    expect(await node.pcr11()).toBe(before);
    await node.expectOpen();
    expect(await node.root("/usr/lib/edgeseal/keep-boot status")).toMatch(/^phase=none$/m);
  },
);

test("the power goes while the node goes back: it goes on, and is as before", async () => {
  const before = await node.pcr11();
  await node.root(`${blacklist} && cp /boot/firmware/kernel_2712.img /boot/firmware/another.img`);
  // Held at its first copy, whose name says that the phase is on the disk.
  await node.root(
    `printf '#!/bin/sh\\ncase "$*" in *edgeseal-new*) if [ ! -e /var/lib/cut ]; then touch /var/lib/cut; sync; echo HELD >/dev/console; exec sleep 3600; fi ;; esac\\nexec /bin/cp "$@"\\n' >/usr/sbin/cp && chmod 755 /usr/sbin/cp && sync`,
  );
  const from = node.pi.console.position();
  const updating = update("--reason", "a kernel without dm-crypt, and a file more");
  await node.pi.console.waitFor(/HELD/, { from, timeoutMs: 600_000 });
  await node.pi.powerCut();
  // It goes on with going back, and boots once more, before it lets anybody in.
  await expect(node.pi.boot()).rejects.toThrow("(reset) before it was ready");
  const { code, said, text } = await updating;
  expect(code, text).toBe(7);
  expect(said).toMatchObject({ outcome: "went-back" });
  expect(await node.root("ls /boot/firmware")).not.toMatch(/another\.img|edgeseal-new/);
  expect(await node.pcr11()).toBe(before);
  await node.expectOpen();
});
