import { afterAll, beforeAll, expect, test } from "vitest";
import { crashTest } from "../../cli/demo/main-job/fresh-node.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, kindOf, onPi, type Declared } from "./provider-on-pi.ts";

/*
 * Core dumps with a real kernel and systemd. What the crashed process's exit status says is no evidence: the kernel calls it "core dumped" as well when it handed the
 * dump to a program that threw it away. What counts is whether there is a file.
 */

const coreDumps: Declared = {
  kind: kindOf("edgeseal:memory:CoreDumps"),
  inputs: { mode: "off", storedDumps: "remove" },
};

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
});

// It does not exist when its start failed.
afterAll(() => (pi as VirtualPi | undefined)?.stop());

/** Seconds of the device's clock that are given to a dump that should come, and to one that should not: systemd-coredump takes about one of them here. */
const seconds = { toCome: 120, notToCome: 10 };

const dumps = async (forSeconds: number): Promise<number> =>
  Number(/^dumps: (\d+)$/m.exec(await onPi(pi, crashTest(forSeconds)))?.[1] ?? Number.NaN);

const stored = (): Promise<string> => onPi(pi, "find /var/lib/systemd/coredump -type f");

/**
 * The second line, should somebody set the pattern back: whether a service and a login that ask for cores get any. The kernel itself writes the file then, before the process
 * is gone, so there is nothing to wait for.
 */
async function dumpsWithPlainPattern(): Promise<string> {
  return onPi(
    pi,
    `cd /var/tmp && mkdir -p crashes && chmod 1777 crashes
echo 'ulimit -c unlimited 2>/dev/null; kill -SEGV $$' >crashes/crash
pattern=$(cat /proc/sys/kernel/core_pattern)
echo '/var/tmp/crashes/%u' >/proc/sys/kernel/core_pattern
systemd-run --quiet --wait --collect --property=User=nobody /bin/sh /var/tmp/crashes/crash || :
su --login edge --command '/bin/sh /var/tmp/crashes/crash' 2>/dev/null || :
printf '%s\n' "$pattern" >/proc/sys/kernel/core_pattern
for user in nobody edge; do
  if [ -e "crashes/$(id -u "$user")" ]; then echo "$user: dumped"; else echo "$user: nothing"; fi
done
rm -r crashes`,
  );
}

test("the control: on a fresh node what crashes leaves a dump, by whichever way", async () => {
  expect(await dumps(seconds.toCome)).toBeGreaterThan(0);
  expect(await stored()).toMatch(/core\.sh\./);
  expect(await dumpsWithPlainPattern()).toBe("nobody: dumped\nedge: dumped\n");
});

test("with core dumps off nothing is left by what crashes, and nothing is left of what crashed before", async () => {
  await bringUp(pi, coreDumps);
  expect(await stored()).toBe("");
  expect(await dumps(seconds.notToCome)).toBe(0);
  expect(await dumpsWithPlainPattern()).toBe("nobody: nothing\nedge: nothing\n");
});

test("nor after a reboot, with systemd-coredump's socket masked", async () => {
  await pi.reboot();
  expect(await onPi(pi, "systemctl is-enabled systemd-coredump.socket || :")).toBe("masked\n");
  expect(await onPi(pi, "systemctl show -P ActiveState systemd-coredump.socket")).toBe("inactive\n");
  expect(await dumps(seconds.notToCome)).toBe(0);
  expect(await dumpsWithPlainPattern()).toBe("nobody: nothing\nedge: nothing\n");
  expect(await stored()).toBe("");
});
