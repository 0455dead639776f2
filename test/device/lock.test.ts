import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { file, run, type Step } from "../../provider/device/step.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { apply, look, seen, sessionTo } from "./steps-on-node.ts";

let node: NamespaceNode;

beforeAll(async () => {
  node = await NamespaceNode.start();
});

afterAll(() => node.stop());

beforeEach(() => node.must("rm -rf /tmp/t && mkdir /tmp/t"));

/** A step that says that it runs, and ends when it is told to. */
const held = run({
  title: "hold",
  script: "touch /tmp/t/holding; until [ -e /tmp/t/go ]; do sleep 0.05; done; touch /tmp/t/held",
});
const touch = (name: string): Step => run({ title: name, script: `touch /tmp/t/${name}` });
const until = (condition: string): Promise<string> => node.must(`until ${condition}; do sleep 0.05; done`);
const present = async (name: string): Promise<boolean> =>
  (await node.exec(`test -e /tmp/t/${name}`)).code === 0;

test("the second of two plans is told who changes the node, what for and how long at most; it changes nothing and reads", async () => {
  await using one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  const first = apply(one, [held], { owner: "ada@laptop", purpose: "apply edgeseal:network:Firewall" });
  await until("[ -e /tmp/t/holding ]");

  const second = await apply(other, [touch("second")], { lockWaitSeconds: 0, readback: [look("echo read")] });
  expect(second.failure?.kind).toBe("locked");
  expect(second.failure?.message).toContain(
    "ada@laptop is changing this node: apply edgeseal:network:Firewall",
  );
  expect(second.failure?.message).toMatch(/when that has ended \(\d{2,3} s at most\)/);
  expect(second.steps).toEqual([]);
  expect(seen(second)).toBe("read\n");

  await node.must("touch /tmp/t/go");
  expect((await first).failure).toBeUndefined();
  expect(await present("second")).toBe(false);
});

test("the second of two plans waits for the first", async () => {
  await using one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  const first = apply(one, [held]);
  await until("[ -e /tmp/t/holding ]");
  const second = apply(other, [run({ title: "second", script: "test -e /tmp/t/held" })]);
  // It waits once its script has a shell with the lock's guard in use; only then the first may end.
  await until("[ \"$(pgrep -fc '[t]imeout -k 5 .* /bin/sh -c eval')\" -ge 2 ]");
  await node.must("touch /tmp/t/go");
  expect((await first).failure).toBeUndefined();
  expect((await second).failure).toBeUndefined();
});

test("owner and purpose can't break out of the record", async () => {
  await using one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  const first = apply(one, [held], { owner: "a'b$(touch /tmp/t/pwned)\n0", purpose: '`x` "y"\n' });
  await until("[ -e /tmp/t/holding ]");
  const second = await apply(other, [touch("second")], { lockWaitSeconds: 0 });
  expect(second.failure?.message).toContain(`a'b$(touch /tmp/t/pwned) 0 is changing this node: \`x\` "y"`);
  await node.must("touch /tmp/t/go");
  await first;
  expect(await present("pwned")).toBe(false);
});

test("a plan whose connection is gone keeps the lock until its step has ended, and does no further step", async () => {
  const one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  const first = apply(one, [held, touch("further")]);
  await until("[ -e /tmp/t/holding ]");
  const cut = expect(first).rejects.toMatchObject({ kind: "cancelled" });
  await one.close();
  await cut;

  expect((await apply(other, [touch("second")], { lockWaitSeconds: 0 })).failure?.kind).toBe("locked");
  await node.must("touch /tmp/t/go");
  expect((await apply(other, [touch("second")])).failure).toBeUndefined();
  expect(await present("held")).toBe(true);
  expect(await present("further")).toBe(false);
});

test("a plan that was killed on the device keeps the lock until its step has ended", async () => {
  await using one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  // Expected from the start: it fails while the kill is still being waited for.
  const first = expect(apply(one, [held, touch("further")])).rejects.toMatchObject({ kind: "unknown" });
  await until("[ -e /tmp/t/holding ]");
  // The script itself, not the step: it is the parent of the step's timeout(1).
  await node.must(`step=$(pgrep -f 'exec 9>[&]-' | while read -r p; do tr '\\0' ' ' </proc/$p/cmdline | grep -q '^timeout' && echo $p; done | head -1)
kill -s KILL $(ps -o ppid= -p $step)`);
  await first;
  expect((await apply(other, [touch("second")], { lockWaitSeconds: 0 })).failure?.kind).toBe("locked");
  await node.must("touch /tmp/t/go");
  expect((await apply(other, [touch("second")])).failure).toBeUndefined();
  expect(await present("further")).toBe(false);
});

test("a holder that outlived its expiry is taken over, and fenced when it comes back", async () => {
  await using one = sessionTo(node.connection);
  await using other = sessionTo(node.otherConnection);
  const first = apply(one, [held, touch("further")]);
  await until("[ -e /tmp/t/holding ]");
  await node.must("sed -i 2s/.*/1/ /run/edgeseal/holder");
  const second = await apply(other, [touch("second")], { lockWaitSeconds: 0 });
  expect(second.failure).toBeUndefined();

  await node.must("touch /tmp/t/go");
  const fenced = await first;
  expect(fenced.failure?.kind).toBe("fenced");
  expect(fenced.failure?.message).toContain("somebody else took over the node before 'further'");
  expect(fenced.steps).toEqual([
    { title: "hold", outcome: "done" },
    { title: "further", outcome: "failed" },
  ]);
  expect(await present("further")).toBe(false);
  // Its end did not let go of what is not its own.
  expect((await apply(other, [touch("third")])).failure).toBeUndefined();
});

test("the lock is let go after a plan that failed, and nothing of the plan is left in /run", async () => {
  await using one = sessionTo(node.connection);
  expect((await apply(one, [run({ title: "fail", script: "exit 1" })])).failure?.kind).toBe("stepFailed");
  expect((await apply(one, [touch("next")], { lockWaitSeconds: 0 })).failure).toBeUndefined();
  expect(await node.must("ls -A /run/edgeseal; stat -c %a /run/edgeseal")).toBe("fence\nguard\nlock\n700\n");
});

test("a boot lets go of every lock", async () => {
  const one = sessionTo(node.connection);
  const first = apply(one, [held]);
  first.catch(() => undefined);
  await until("[ -e /tmp/t/holding ]");
  await node.powerCut();
  await one.close();
  await node.boot();
  await node.must("mkdir /tmp/t");
  await using other = sessionTo(node.connection);
  expect(
    (
      await apply(other, [file({ title: "write", path: "/etc/after-boot", content: "", mode: "0644" })], {
        lockWaitSeconds: 0,
      })
    ).failure,
  ).toBeUndefined();
});

test("a full /run stops a plan before its first step", async () => {
  await node.must("mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs /run/edgeseal");
  try {
    await using one = sessionTo(node.connection);
    const result = await apply(one, [touch("none")], { lockWaitSeconds: 30 });
    expect(result.failure?.kind).toBe("stepFailed");
    expect(result.failure?.message).toContain("check that /run on the device is writable and not full");
    expect(await present("none")).toBe(false);
  } finally {
    await node.must("umount /run/edgeseal");
  }
});
