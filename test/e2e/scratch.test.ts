import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { onDevice } from "../../provider/resources/managed-files.ts";
import type { ScratchInputs } from "../../provider/resources/scratch-inputs.ts";
import type { ScratchState } from "../../provider/resources/scratch-observation.ts";
import { scratch } from "../../provider/resources/scratch.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kindOf, observe, onPi, type Declared } from "./provider-on-pi.ts";

/*
 * What somebody types, writes to temporary files and logs is looked for on the disks of a node that was shut down in good order, which is when histories and journals are written.
 */

const declared = (own: Partial<ScratchInputs> = {}): Declared => ({
  kind: scratch,
  inputs: {
    tmpMiB: 64,
    varTmpMiB: 384,
    journal: "volatile",
    syslog: "off",
    historyFiles: "remove",
    leftovers: "remove",
    reboot: "ifNeeded",
    rebootUnapproved: "refuse",
    ...own,
  } satisfies ScratchInputs,
});

const look = (pi: VirtualPi, of = declared()): Promise<ScratchState> => observe<ScratchState>(pi, of);

const ways = ["tmp", "varTmp", "journal", "bash", "bashOfRoot", "python"] as const;
type Markers = Readonly<Record<(typeof ways)[number], string>>;

const markers = (): Markers =>
  Object.fromEntries(ways.map((way) => [way, `${way}-${randomBytes(12).toString("hex")}`])) as Markers;

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
  // What is in memory could else be found on the disk as swap.
  await bringUp(pi, {
    kind: kindOf("edgeseal:memory:Swap"),
    inputs: { mode: "off", leftoverFiles: "remove" },
  });
});

afterAll(() => (pi as VirtualPi | undefined)?.stop());

/** Sends each marker its own way. A marker is in two halves until it is there: sudo logs the command that is run. */
async function send(wanted: Markers): Promise<void> {
  const word = (way: keyof Markers): string => `${wanted[way].slice(0, 12)}''${wanted[way].slice(12)}`;
  const typed = (user: string, program: string, line: string): string =>
    `printf '%s\\n' ${line} >/run/typed; chmod 644 /run/typed; su - ${user} -c "TERM=xterm script -qec '${program}' /dev/null </run/typed" >/dev/null; rm /run/typed`;
  await onPi(
    pi,
    `set -e
printf '%s\\n' ${word("tmp")} >/tmp/prompt
printf '%s\\n' ${word("varTmp")} >/var/tmp/prompt
printf '%s\\n' ${word("journal")} | systemd-cat -t prompt
${typed("edge", "bash -i", `"echo "${word("bash")} exit`)}
${typed("root", "bash -i", `"echo "${word("bashOfRoot")} exit`)}
${typed("edge", "python3 -q", `'"'${word("python")}'"' "exit()"`)}
journalctl --sync
sync`,
  );
}

/** The ways by which a marker came to the node's disks. It is off then. */
async function onDisks(wanted: Markers): Promise<readonly string[]> {
  const found = await pi.foundOnDisks(ways.map((way) => Buffer.from(wanted[way])));
  return ways.filter((_, index) => found[index]);
}

const before = markers();
const after = markers();

test("the control: on a node without it every way but Debian's own /tmp leads to the disk", async () => {
  await send(before);
  await pi.powerOff();
  expect(await onDisks(before)).toEqual(ways.filter((way) => way !== "tmp"));
  await pi.boot();
});

test("an update reboots the node, and then it is in effect", async () => {
  const found = await look(pi);
  expect(found.mounts["/var/tmp"]).toMatch(/^ext4 on /);
  expect(found.journalIn).toEqual([expect.stringMatching(/^\/var\/log\/journal \(on /)]);
  expect(Object.keys(found.historyFiles).sort()).toEqual([
    "/home/edge/.bash_history",
    "/home/edge/.python_history",
    "/root/.bash_history",
  ]);
  await bringUp(pi, declared());
  expect(await look(pi)).toMatchObject({
    mounts: { "/tmp": "tmpfs 64 MiB nodev noexec nosuid", "/var/tmp": "tmpfs 384 MiB nodev noexec nosuid" },
    pendingReboot: false,
    journalIn: ["/run/log/journal"],
    historyFiles: {},
    leftovers: [],
  });
});

test("no marker is found on the disks any more, whichever way it went", async () => {
  await send(after);
  expect(await onPi(pi, "cat /var/tmp/prompt")).toBe(`${after.varTmp}\n`);
  expect(await onPi(pi, "journalctl --no-pager -t prompt -o cat")).toContain(after.journal);
  await pi.powerOff();
  expect(await onDisks(after)).toEqual([]);
  await pi.boot();
});

test("an initramfs is built in a /var/tmp that nothing is executed in, by the system and by edgeseal, and boots", async () => {
  await onPi(pi, "echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/zz-fast");
  await onPi(pi, `cat >/run/rebuild <<'END'\n${onDevice("initramfs-rebuild")}\nEND\nsh /run/rebuild`);
  const fill = await onPi(
    pi,
    `most=0; update-initramfs -u >/run/out 2>&1 & while kill -0 $! 2>/dev/null; do
now=$(df --output=used -m /var/tmp | tail -n 1); [ "$now" -le "$most" ] || most=$now; sleep 0.5; done
wait $! || { cat /run/out; exit 1; }; cat /run/out; echo "most: $most"`,
  );
  expect(fill).not.toMatch(/cannot|denied|noexec|failed/i);
  expect(Number(/most: +(\d+)/.exec(fill)?.[1]), fill).toBeLessThan(384);
  await pi.reboot();
  expect((await look(pi)).mounts["/var/tmp"]).toBe("tmpfs 384 MiB nodev noexec nosuid");
});

describe("the journal on a sealed volume", () => {
  const sealed = declared({ journal: { directory: "/srv/logs/journal" }, reboot: "never" });
  const kept = `kept-${randomBytes(12).toString("hex")}`;
  const unlocked = `locked-${randomBytes(12).toString("hex")}`;
  const log = (text: string): Promise<string> =>
    onPi(
      pi,
      `printf '%s\\n' ${text.slice(0, 12)}''${text.slice(12)} | systemd-cat -t prompt; journalctl --sync; sync`,
    );

  test("comes to the volume once that is open, and is there after a boot", async () => {
    // Stands for the volume and its unit, with the same order at boot; its key is beside it.
    const unit = onDevice("edgeseal-volumes.service")
      .replace(/^ConditionPathExistsGlob=.*$/m, "")
      .replace(/^ExecStart=.*$/m, "ExecStart=/bin/sh /etc/open-logs");
    await onPi(
      pi,
      `set -e
head -c 32 /dev/urandom >/etc/logs.key
cat >/etc/open-logs <<'END'
set -e
cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --key-file /etc/logs.key /dev/disk/by-id/virtio-model edgeseal-logs
blkid /dev/mapper/edgeseal-logs >/dev/null || mkfs.ext4 -q /dev/mapper/edgeseal-logs 65536
mkdir -p /srv/logs
mount -o nodev,nosuid,noexec /dev/mapper/edgeseal-logs /srv/logs
END
cat >/etc/systemd/system/edgeseal-volumes.service <<'END'
${unit}
END
systemctl enable edgeseal-volumes.service
systemctl start edgeseal-volumes.service`,
    );
    await bringUp(pi, sealed);
    await log(kept);
    await pi.reboot();
    expect(await look(pi, sealed)).toMatchObject({
      journalIn: ["/srv/logs/journal"],
      journalLink: "/srv/logs/journal",
    });
    expect(await onPi(pi, "journalctl --no-pager -b -1 -t prompt -o cat")).toContain(kept);
    expect(await onPi(pi, "systemctl list-units --failed --no-legend")).toBe("");
  });

  test("is in memory while the volume stays locked, never on the plain root", async () => {
    await onPi(
      pi,
      "systemctl disable edgeseal-volumes.service; mkdir -p /mnt/root; mount --bind / /mnt/root; mkdir -p /mnt/root/srv/logs/journal",
    );
    await pi.reboot();
    expect((await look(pi, sealed)).journalIn).toEqual(["/run/log/journal"]);
    await log(unlocked);
    await expect(bringUp(pi, sealed)).rejects.toThrow("which is no open sealed volume");
    await pi.powerOff();
    const found = await pi.foundOnDisks([kept, unlocked].map((each) => Buffer.from(each)));
    expect(found).toEqual([false, false]);
  });
});
