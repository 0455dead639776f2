import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newNonce } from "../../provider/device/batch.ts";
import { armSteps, lastRevertProbe, pendingProbe } from "../../provider/device/commit-confirm.ts";
import { parsePlanOutput } from "../../provider/device/plan-output.ts";
import { stepsOf, type PlanResult } from "../../provider/device/plan-runner.ts";
import { renderConfirmation } from "../../provider/device/plan-script.ts";
import { renderStep } from "../../provider/device/render.ts";
import { quote } from "../../provider/device/shell-quote.ts";
import { file, run } from "../../provider/device/step.ts";
import { NamespaceNode, network } from "../../testbed/namespace/node.ts";
import { firewallChange, lockout, open, rulesPath } from "./firewall-change.ts";
import { apply, look, seen, sessionTo } from "./steps-on-node.ts";

let node: NamespaceNode;
let session: ReturnType<typeof sessionTo>;

beforeEach(async () => {
  node = await NamespaceNode.start();
  session = sessionTo(node.connection);
});

afterEach(async () => {
  await session.close();
  await node.stop();
});

const rules = async (): Promise<string> => (await node.exec("nft list table inet change 2>&1")).stdout;
const until = (condition: string): Promise<string> => node.must(`until ${condition}; do sleep 0.05; done`);
/** Waits until a revert has had its last word. A node's network is plumbed from outside: after a boot its sshd may be quicker. */
const settled = (): Promise<string> =>
  until(
    "! [ -e /var/lib/edgeseal/pending ] && ! [ -e /var/lib/edgeseal/reverting ] && ! [ -e /var/lib/edgeseal/done ]",
  );
const state = (): Promise<string> => node.must("ls -A /var/lib/edgeseal");
const lastOf = (result: PlanResult): ReturnType<typeof lastRevertProbe.parse> =>
  lastRevertProbe.parse(result.readback.get(lastRevertProbe.id) ?? {});

describe("a change that lets us in", () => {
  test("is confirmed over one new connection, in two execs, and leaves nothing armed", async () => {
    await apply(session, []);
    const before = await node.sshdCounts();
    const result = await apply(session, [open], {
      readback: [look("nft list table inet change"), pendingProbe],
    });
    expect(result.failure).toBeUndefined();
    expect(result.steps.map(({ title }) => title).slice(-2)).toEqual(["write the rules", "load them"]);
    expect(seen(result)).toContain("accept");
    expect(pendingProbe.parse(result.readback.get(pendingProbe.id) ?? {})).toBeUndefined();

    const after = await node.sshdCounts();
    expect(after.connections - before.connections).toBe(1);
    expect(after.execs - before.execs).toBe(2);
    expect(await state()).toBe("confirmed\nrevert\n");
    expect(await node.must("systemctl list-timers --all --no-legend 'edgeseal-*'")).toBe("");
    expect(await node.must("ls -A /var/lib/edgeseal/confirmed")).not.toContain("saved");
    await node.reboot();
    expect(await node.must(`cat ${rulesPath}`)).toContain("accept");
    expect((await node.exec("journalctl -b -u edgeseal-revert -o cat")).stdout).not.toContain("taking back");
  });

  test("is confirmed also when it cuts the old connection", async () => {
    const cutting = firewallChange("", {
      apply: [
        run({
          title: "drop the old connection only",
          script: `set -- $SSH_CONNECTION
nft "add table inet change; add chain inet change input { type filter hook input priority 0; }; add rule inet change input tcp sport $2 drop"`,
        }),
      ],
    });
    const result = await apply(session, [cutting], { readback: [look("nft list table inet change")] });
    expect(result.failure).toBeUndefined();
    expect(seen(result)).toContain("drop");
    await settled();
    expect(await rules()).toContain("drop");
  });
});

describe("a revert that somebody changed", () => {
  test.each([
    [
      "by a drop-in for every unit of ours",
      "d=/etc/systemd/system/edgeseal-.service.d; mkdir -p $d; printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > $d/x.conf",
      "edgeseal-.service.d/x.conf",
    ],
    [
      "by a drop-in for all services",
      "d=/etc/systemd/system/service.d; mkdir -p $d; printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > $d/x.conf",
      "does not run /var/lib/edgeseal/revert",
    ],
    [
      "by a unit file that hides it",
      "d=/etc/systemd/system.control; mkdir -p $d; printf '[Service]\\nExecStart=/bin/true\\n' > $d/edgeseal-revert.service; systemctl daemon-reload",
      "/etc/systemd/system.control/edgeseal-revert.service",
    ],
  ])("%s is not relied on: nothing is done, and the message says why", async (_, tamper, why) => {
    await node.must(tamper);
    const result = await apply(session, [lockout], { readback: [] });
    expect(result.failure?.kind).toBe("stepFailed");
    expect(result.failure?.message).toContain("enable the revert at boot");
    expect(result.failure?.message).toContain(why);
    expect(await rules()).not.toContain("drop");
    expect((await apply(session, [])).failure).toBeUndefined();
  });

  test("is relied on when a drop-in for all services leaves it as it is", async () => {
    await node.must(
      "d=/etc/systemd/system/service.d; mkdir -p $d; printf '[Service]\\nTimeoutStopSec=20\\n' > $d/x.conf",
    );
    expect((await apply(session, [open])).failure).toBeUndefined();
  });
});

describe("a change that locks us out", () => {
  test("is taken back by the device, and the plan fails and says so", async () => {
    expect((await apply(session, [open])).failure).toBeUndefined();
    const result = await apply(session, [lockout], {
      readback: [look("nft list table inet change"), lastRevertProbe],
    });
    expect(result.failure?.kind).toBe("rolledBack");
    expect(result.failure?.message).toContain(
      "'load the rules' could not be confirmed over a new connection, so the device took it back; it is back to: the rules before",
    );
    expect(seen(result)).toContain("accept");
    expect(lastOf(result)).toMatchObject({
      title: "load the rules",
      rollbackTo: "the rules before",
      reason: "it was not confirmed in time",
    });
    expect(await node.must(`cat ${rulesPath}`)).toContain("accept");
    expect(await state()).toBe("last-revert\nrevert\n");
    expect(await node.must("journalctl -u edgeseal-revert -o cat")).toContain("taken back");
    // The way on: the next change goes through.
    expect((await apply(session, [open])).failure).toBeUndefined();
  });

  test("is taken back before the network at the next boot, when power fails in its window", async () => {
    await apply(session, [open]);
    const applying = apply(session, [firewallChange("  tcp dport 22 drop", { windowSeconds: 600 })]);
    const cut = expect(applying).rejects.toMatchObject({ kind: "cancelled" });
    await until("[ -e /var/lib/edgeseal/pending/applied ]");
    await node.powerCut();
    await session.close();
    await cut;
    await node.boot();
    await settled();
    expect(await node.must("cat /var/lib/edgeseal/last-revert")).toContain(
      "reason=the device was started again before it was confirmed",
    );
    expect(await node.must(`cat ${rulesPath}`)).toContain("accept");
    expect(await state()).toBe("last-revert\nrevert\n");
    const at = async (unit: string, property: string): Promise<number> =>
      Number(await node.must(`systemctl show -P ${property} ${unit}`));
    const reverted = await at("edgeseal-revert.service", "InactiveEnterTimestampMonotonic");
    expect(reverted).toBeGreaterThan(0);
    expect(await at("network-pre.target", "ActiveEnterTimestampMonotonic")).toBeGreaterThan(reverted);
    await using again = sessionTo(node.connection);
    expect((await apply(again, [open])).failure).toBeUndefined();
  });

  test("is taken back at an orderly reboot in its window, too", async () => {
    const applying = apply(session, [firewallChange("  tcp dport 22 drop", { windowSeconds: 600 })]);
    const cut = expect(applying).rejects.toMatchObject({ kind: "cancelled" });
    await until("[ -e /var/lib/edgeseal/pending/applied ]");
    await session.close();
    await cut;
    await node.reboot();
    await settled();
    expect(await node.must("cat /var/lib/edgeseal/last-revert")).toContain("started again");
    expect((await node.exec(`test -e ${rulesPath}`)).code).toBe(1);
  });

  test("is taken back when the provider is killed in its window", async () => {
    await apply(session, [open]);
    const provider = spawn(
      process.execPath,
      [
        "--disable-warning=ExperimentalWarning",
        join(import.meta.dirname, "killed-provider.ts"),
        JSON.stringify(node.connection),
        JSON.stringify(["0:confirm", "before"]),
      ],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    let errors = "";
    provider.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    const [, signal] = (await once(provider, "close")) as [number | null, string | null];
    expect(errors).toBe("");
    expect(signal).toBe("SIGKILL");

    // In the window: whoever looks is told, and whoever wants to change is kept out.
    const meanwhile = await apply(session, [run({ title: "another", script: "touch /tmp/another" })], {
      readback: [pendingProbe],
    });
    expect(meanwhile.failure?.kind).toBe("locked");
    expect(meanwhile.failure?.message).toMatch(
      /a change waits for its confirmation: 'load the rules'; .* takes it back in \d s \(to: the rules before\)/,
    );
    expect(pendingProbe.parse(meanwhile.readback.get(pendingProbe.id) ?? {})).toMatchObject({
      title: "load the rules",
    });
    expect((await node.exec("test -e /tmp/another")).code).toBe(1);

    expect(await rules()).toContain("second");
    await settled();
    expect(await rules()).toContain("accept");
    expect(await rules()).not.toContain("second");
    expect((await apply(session, [open])).failure).toBeUndefined();
  });
});

describe("what is put back", () => {
  test("is content, mode and owner, a symbolic link, or that nothing was there", async () => {
    await node.must(
      `cd /etc; printf 'one\\n' >put-a; chmod 640 put-a; chown root:adm put-a; ln -s put-a put-l`,
    );
    const change = firewallChange("  tcp dport 22 drop", {
      files: ["/etc/put-a", "/etc/put-l", "/etc/put-new"],
      apply: ["a", "l", "new"]
        .map((name) =>
          file({ title: `write ${name}`, path: `/etc/put-${name}`, content: "two\n", mode: "0600" }),
        )
        .concat(run({ title: "fail", script: "exit 5" }) as never),
    });
    const result = await apply(session, [change], {
      readback: [look("cd /etc; stat -c '%n %F %a %U:%G' put-*; cat put-a; readlink put-l")],
    });
    expect(result.failure?.kind).toBe("stepFailed");
    expect(result.failure?.message).toContain(
      "the change was taken back at once; the node is back to: the rules before",
    );
    expect(seen(result)).toBe(
      "put-a regular file 640 root:adm\nput-l symbolic link 777 root:root\none\nput-a\n",
    );
    expect(await state()).toBe("last-revert\nrevert\n");
  });

  test("is nothing, when the change was not even begun", async () => {
    const unsaved = firewallChange("", { save: "echo 'can not save' >&2; exit 1" });
    const result = await apply(session, [unsaved], { readback: [look(`ls ${rulesPath} 2>&1`)] });
    expect(result.failure?.shortMessage).toBe("'save the rules before' failed with exit status 1");
    expect(seen(result)).toContain("No such file");
    expect((await node.exec("test -e /var/lib/edgeseal/pending")).code).toBe(1);
  });

  test("a step that outlasts the window is cut off before the revert, so that it can't write after it", async () => {
    const slow = firewallChange("", {
      apply: [
        run({ title: "dawdle", script: `sleep 20; echo late >${rulesPath}` }),
        run({ title: "never", script: "touch /tmp/never" }),
      ],
    });
    const result = await apply(session, [slow], { readback: [look(`ls ${rulesPath} /tmp/never 2>&1`)] });
    expect(result.failure?.kind).toBe("timedOut");
    expect(result.failure?.message).toContain("back to: the rules before");
    expect(seen(result)?.match(/No such file/g)).toHaveLength(2);
  });
});

test("a revert that fails is tried again, keeps other changes out, and ends at last", async () => {
  const stubborn = firewallChange("  counter", {
    apply: [run({ title: "fail", script: "exit 5" })],
    restore: "test -e /etc/mended",
  });
  const result = await apply(session, [stubborn]);
  expect(result.failure?.kind).toBe("stepFailed");
  expect(result.failure?.message).toContain(
    "taking the change back (to: the rules before) has not succeeded yet: its restore ended with exit status 1",
  );

  const next = await apply(session, [run({ title: "next", script: "touch /tmp/next" })]);
  expect(next.failure?.kind).toBe("locked");
  expect(next.failure?.message).toContain("an unconfirmed change can't be taken back: 'load the rules'");
  expect(next.failure?.message).toContain("journalctl -u edgeseal-revert");

  await node.powerCut();
  await session.close();
  await node.boot();
  expect(await state()).toContain("reverting");
  await node.must("touch /etc/mended");
  // Nobody does anything: the unit's own retry.
  await settled();
  await using again = sessionTo(node.connection);
  expect((await apply(again, [run({ title: "next", script: "true" })])).failure).toBeUndefined();
});

test("a window whose timer was lost is closed by the next plan", async () => {
  const applying = apply(session, [open], {
    breakpoint: { at: "0:confirm", when: "before", reached: () => void session.close() },
  });
  await expect(applying).rejects.toMatchObject({ kind: "cancelled" });
  await node.must("systemctl stop 'edgeseal-window-*.timer'; echo 1 >/var/lib/edgeseal/pending/deadline");
  await using again = sessionTo(node.connection);
  const next = await apply(again, [run({ title: "next", script: "touch /tmp/next" })]);
  expect(next.failure?.kind).toBe("locked");
  expect(next.failure?.message).toContain(
    "an unconfirmed change was found and taken back: 'load the rules'; the node is back to: the rules before",
  );
  expect(await rules()).toContain("No such file");
  expect((await apply(again, [run({ title: "next", script: "true" })])).failure).toBeUndefined();
});

describe("the confirmation", () => {
  const options = (changeNonce: string): Parameters<typeof renderConfirmation>[2] => ({
    nonce: newNonce(),
    changeNonce,
    owner: "o",
    purpose: "p",
    lockWaitSeconds: 10,
  });

  /** Arms and applies by hand, as if over that connection. */
  const armed = async (changeNonce: string): Promise<void> => {
    for (const step of [...armSteps(open, changeNonce), ...open.apply]) {
      const { script, stdinBase64 } = renderStep(step);
      await node.must(
        `export SSH_CONNECTION='${network.operator} 1000 ${network.node} 22'; printf %s '${stdinBase64}' | base64 -d | /bin/sh -c ${quote(script)}`,
      );
    }
    await node.must("touch /var/lib/edgeseal/pending/applied");
  };

  const confirmation = (
    changeNonce: string,
    port: number,
  ): { script: string; read: (stdout: string) => unknown } => {
    const given = options(changeNonce);
    return {
      script: `export SSH_CONNECTION='${network.operator} ${port} ${network.node} 22'\n${renderConfirmation([open], [], given).script}`,
      read: (stdout) => parsePlanOutput(stdout, given.nonce).confirmation,
    };
  };

  test("does not count over the connection that made the change, nor for another change", async () => {
    const nonce = newNonce();
    await armed(nonce);
    const same = confirmation(nonce, 1000);
    expect(same.read(await node.must(same.script))).toBe("same-connection");
    const other = confirmation(newNonce(), 1001);
    expect(other.read(await node.must(other.script))).toBe("other");
    expect(await state()).toContain("pending");
    const right = confirmation(nonce, 1001);
    expect(right.read(await node.must(right.script))).toBe("confirmed");
    // Asked again, because the answer was lost on its way, it says so again.
    const again = confirmation(nonce, 1002);
    expect(again.read(await node.must(again.script))).toBe("confirmed");
  });

  test("and the revert never both win", async () => {
    const wins = { confirmed: 0, reverted: 0 };
    for (let round = 0; round < 16; round++) {
      await node.must(`nft delete table inet change 2>/dev/null; rm -f ${rulesPath}`);
      const nonce = newNonce();
      await armed(nonce);
      await node.must("echo 0 >/var/lib/edgeseal/pending/deadline");
      const { script, read } = confirmation(nonce, 1001);
      const [confirmed] = await Promise.all([
        node.must(script).then(read),
        node.must(`sleep 0.0${round % 8}; sh /var/lib/edgeseal/revert`),
      ]);
      expect(confirmed).toMatch(/^(confirmed|reverted)$/);
      wins[confirmed as keyof typeof wins]++;
      const inForce = confirmed === "confirmed";
      expect((await rules()).includes("counter")).toBe(inForce);
      expect((await node.exec(`test -e ${rulesPath}`)).code === 0).toBe(inForce);
      await node.must("systemctl stop 'edgeseal-window-*.timer'");
    }
    expect(wins.confirmed + wins.reverted).toBe(16);
  });
});

test("the list of points of a plan names everything that the device does", () => {
  expect(
    stepsOf([run({ title: "first", script: "" }), open]).map(({ id, title }) => `${id} ${title}`),
  ).toEqual([
    "0 first",
    "1:arm:0 make /var/lib/edgeseal",
    "1:arm:1 install the revert",
    "1:arm:2 install the revert at boot",
    "1:arm:3 enable the revert at boot",
    "1:arm:4 save the rules before",
    "1:arm:5 start the window",
    "1:apply:0 write the rules",
    "1:apply:1 load them",
    "1:confirm confirm: load the rules",
  ]);
});
