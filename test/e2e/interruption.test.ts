import { expect, test } from "vitest";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import {
  bringUp,
  cutsOf,
  killProviderAt,
  kindOf,
  nameOf,
  onPi,
  planFor,
  type Cut,
  type Declared,
} from "./provider-on-pi.ts";

/*
 * The provider killed before and after every step, where no namespace will do: the firewall under commit-confirm, with a real systemd, timer and kernel; and swap that is
 * in use, zram with its backing file included.
 *
 * Under emulation a plan takes long, so the plan that follows a cut is itself cut off, at the next point: it has to get past the one before first. What it finds is looked at
 * each time: it has to be what was there before, or exactly the rest of the plan. The plan after the last cut runs to its end.
 */

const fresh = (): Promise<VirtualPi> => VirtualPi.start();

function firewallTo(address: string, confirmSeconds: number): Declared {
  return {
    kind: kindOf("edgeseal:network:Firewall"),
    inputs: {
      // From where QEMU lets us in.
      management: ["10.0.2.0/24", "10.0.3.0/24"],
      sshPort: 22,
      dns: ["10.0.2.3"],
      ntp: ["10.0.2.2"],
      allow: [{ name: "api", to: address, protocol: "tcp", ports: [443] }],
      egress: "allowlist",
      forward: "drop",
      logPerMinute: 10,
      confirmSeconds,
    },
  };
}

/** The most that the inputs are used with here: it is never waited for when all is well. */
const ampleSeconds = 120;

const isOver = ({ phase, when }: Cut): boolean => phase === "confirm" && when === "after";
const inWindow = (cut: Cut): boolean => (cut.phase === "apply" || cut.phase === "confirm") && !isOver(cut);

/** What a node shows of its firewall. */
interface Look {
  /** Everything of ours that is in force now or would be after a boot: rules, files, boot unit. The revert that stands by is no part of it. */
  readonly inForce: string;
  readonly foreign: string;
  /** The device's record of the last change that it took back. */
  readonly lastRevert: string;
}

/** Waits until the device has decided about an unconfirmed change, by itself, and looks. */
async function look(pi: VirtualPi): Promise<Look> {
  const output = await onPi(
    pi,
    `state=/var/lib/edgeseal
while [ -e $state/pending ] || [ -e $state/reverting ]; do sleep 0.2; done
cat $state/last-revert 2>/dev/null
echo ---
nft list table inet someone_else
echo ---
nft -s list table inet edgeseal 2>/dev/null || echo 'no table'
systemctl show -P LoadState -P ActiveState -P NeedDaemonReload edgeseal-firewall.service
find /etc/edgeseal /etc/systemd/system ! -type d '(' -path '/etc/edgeseal/*' -o -path '*/nftables.service.d/*' -o -name 'edgeseal-firewall*' -o -name '*.edgeseal-new' ')' \
  -printf '%p %m %u:%g %l\n' -exec sha256sum {} + 2>/dev/null | sort`,
  );
  const [lastRevert = "", foreign = "", inForce = ""] = output.split("---\n");
  return { inForce, foreign, lastRevert };
}

/** The points of a change on a node of its own, and when each step of it began and (as `""`) when all was done without a cut, in seconds from the start of its window on. */
async function uncut(
  firewall: Declared,
): Promise<{ readonly cuts: readonly Cut[]; readonly times: ReadonlyMap<string, number> }> {
  await using pi = await fresh();
  const cuts = cutsOf(await planFor(pi, firewall));
  const beganMs = new Map<string, number>();
  await bringUp(pi, firewall, (title) => beganMs.set(title, performance.now()));
  beganMs.set("", performance.now());
  const opening = cuts.find(inWindow)?.title ?? "";
  const openedMs = beganMs.get(opening) ?? expect.fail(`the change has no step '${opening}'`);
  return { cuts, times: new Map([...beganMs].map(([title, ms]) => [title, (ms - openedMs) / 1000])) };
}

/**
 * How long the window of a change that is cut off has to be: time enough to come to the cut, by what an uncut change took on this machine just before. Emulation needs a few
 * seconds when it has the machine for itself, and a minute when not.
 */
function windowFor({ when, title, phase }: Cut, times: ReadonlyMap<string, number>): number {
  const seconds = (when === "before" && phase === "apply" ? times.get(title) : undefined) ?? times.get("");
  return Math.min(ampleSeconds, Math.max(10, Math.ceil(2 * (seconds ?? 0) + 4)));
}

/**
 * Kills the provider at a cut, and holds that the device goes back by itself to what it had before.
 * @returns what the node shows then
 */
async function cutFirewall(
  pi: VirtualPi,
  cut: Cut,
  to: string,
  windowSeconds: number,
  before: Look,
): Promise<Look> {
  const name = nameOf(cut);
  expect(before.inForce).not.toContain(to);
  expect(before.foreign).toContain("192.0.2.66");
  await killProviderAt(cut, pi, firewallTo(to, windowSeconds));

  const after = await look(pi);
  if (isOver(cut)) expect(after.inForce, "in force once it was confirmed").toContain(to);
  else expect(after.inForce, `in force after a plan was cut off ${name}`).toBe(before.inForce);
  if (inWindow(cut)) {
    expect(after.lastRevert, `the record of a revert, cut off ${name}`).not.toBe(before.lastRevert);
    expect(after.lastRevert).toContain("title=put the firewall in force\n");
  } else {
    expect(after.lastRevert, `the record of a revert, cut off ${name}`).toBe(before.lastRevert);
  }
  expect(after.foreign, "somebody else's table").toBe(before.foreign);
  return after;
}

test("the firewall, whose provider is killed before and after each step, leaves a fresh node as it was, and the next plan protects it", async () => {
  const [first, second] = ["203.0.113.5", "198.51.100.7"];
  const { cuts, times } = await uncut(firewallTo(first, ampleSeconds));
  expect(cuts.filter(inWindow).length).toBeGreaterThanOrEqual(10);
  expect(cuts.length).toBeGreaterThanOrEqual(20);

  await using pi = await fresh();
  let seen = await look(pi);
  expect(seen.inForce, "the control: a fresh node").toBe("no table\nnot-found\ninactive\nno\n");
  for (const cut of cuts) seen = await cutFirewall(pi, cut, first, windowFor(cut, times), seen);

  // The last cut came after the confirmation: there is nothing left to do.
  expect(await planFor(pi, firewallTo(first, ampleSeconds))).toEqual([]);
  await bringUp(pi, firewallTo(second, ampleSeconds));
  const end = await look(pi);
  expect(end.inForce).toContain(second);
  expect(end.inForce).not.toContain(first);
  expect(end.foreign).toBe(seen.foreign);
}, 1_800_000);

test("swap in use, cut off before and after each step, is off and gone after the next plan", async () => {
  const swap: Declared = {
    kind: kindOf("edgeseal:memory:Swap"),
    inputs: { mode: "off", leftoverFiles: "remove" },
  };
  await using pi = await fresh();
  const swaps = (): Promise<string> =>
    onPi(
      pi,
      `tail -n +2 /proc/swaps | cut -d' ' -f1 | sort
for f in /swapfile /var/swap; do [ ! -e "$f" ] || echo "$f is there"; done
cat /sys/block/zram*/backing_dev /sys/block/loop*/loop/backing_file 2>/dev/null | grep -v none || :`,
    );
  expect(await swaps(), "the control: a fresh node").toBe(
    "/dev/zram0\n/swapfile\n/swapfile is there\n/var/swap is there\n/dev/loop0\n/var/swap\n",
  );
  const steps = await planFor(pi, swap);
  expect(steps.length).toBeGreaterThanOrEqual(8);
  const ofLiveAreas = steps.filter(({ title }) => /^(turn off swap|reset zram0)/.test(title));
  expect(ofLiveAreas).toHaveLength(3);

  // Each time one step further: a plan is made of what the one before it left. It may say in other words what is left to do, since turning an area off has systemd undo what
  // the area was made of; it is never longer, and what was off and gone stays so.
  let [left, there] = [steps, await swaps()];
  for (let cutOff = 0; left.length > 0;) {
    const cut = cutsOf(left)[cutOff] ?? expect.fail("a plan that was run to its end is not done");
    const what = `after a plan was cut off ${nameOf(cut)}`;
    await killProviderAt(cut, pi, swap);
    const [rest, now] = [await planFor(pi, swap), await swaps()];
    expect(rest.length, `steps ${what}`).toBeLessThanOrEqual(left.length);
    if (cutOff === 0) expect(now, `swap ${what}`).toBe(there);
    expect(there.split("\n"), `swap ${what}`).toEqual(expect.arrayContaining(now.split("\n")));
    // Some steps, such as for a folder, are in the plan as long as what they serve is not done.
    cutOff = rest.length < left.length ? 1 : cutOff + 1;
    [left, there] = [rest, now];
  }
  expect(await swaps(), "what is left of swap").toBe("");
  await bringUp(pi, swap);
});
