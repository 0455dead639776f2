import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDevices } from "../../provider/device/devices.ts";
import { file, reboot, run } from "../../provider/device/step.ts";
import { tellOfNextBoot } from "../../provider/resources/reboot-inputs.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { ask, interruptEverywhere } from "./interruption.ts";
import { apply, look, seen, sessionTo } from "./steps-on-node.ts";
import { kinds, noteFolder } from "./thirty-kinds.ts";

let node: NamespaceNode;

beforeEach(async () => {
  node = await NamespaceNode.start();
});

afterEach(() => node.stop());

const bootId = async (): Promise<string> => (await node.must("cat /proc/sys/kernel/random/boot_id")).trim();

const step = reboot({ title: "reboot", waitSeconds: 60 });
const lookAtBoot = look("cat /proc/sys/kernel/random/boot_id; ls -A /run/edgeseal 2>/dev/null");
const write = file({ title: "write", path: "/etc/before-reboot", content: "written\n", mode: "0644" });

/** Puts a program in `systemctl`'s place that only says that it succeeded, until the boot ends. */
const deafSystemctl = `printf '#!/bin/sh\\nexit 0\\n' >/run/deaf && chmod 755 /run/deaf && mount --bind /run/deaf "$(readlink -f /usr/bin/systemctl)"`;

describe("the node comes back", () => {
  test("in another boot, and what is read back is read there", async () => {
    await using session = sessionTo(node.connection);
    const before = await bootId();
    const messages: string[] = [];
    const back = node.bootAfterReset();
    const result = await apply(session, [write, step], {
      readback: [lookAtBoot],
      onProgress: (message) => messages.push(message),
    });
    await back;
    expect(result.failure).toBeUndefined();
    expect(result.steps).toEqual([
      { title: "write", outcome: "done" },
      { title: "reboot", outcome: "done" },
    ]);
    const after = await bootId();
    expect(after).not.toBe(before);
    expect(await node.must("cat /etc/before-reboot")).toBe("written\n");
    // The lock went with the boot.
    expect(seen(result)).toBe(`${after}\n`);
    expect(messages.slice(0, 3)).toEqual(["write", "reboot", `waiting for ${node.name} to come back, 0 s`]);
    // The new connection has taken the old one's place.
    expect(session.connected).toBe(true);
  });

  test("after a while: every attempt to get in authenticates, or is refused by a closed port", async () => {
    await using session = sessionTo(node.connection);
    const messages: string[] = [];
    const back = node.bootAfterReset(() => pause(7_000));
    const result = await apply(session, [step], {
      readback: [lookAtBoot],
      onProgress: (message) => messages.push(message),
    });
    await back;
    expect(result.failure).toBeUndefined();
    expect(messages).toContain(`waiting for ${node.name} to come back, 5 s`);
    const log = await node.must("journalctl -b -q -o cat -t sshd -t sshd-session");
    expect(log).not.toMatch(/closed by .*preauth|penalt/);
  });

  test("when it first lets nobody in but root, as every system does early in its boot", async () => {
    // Users are let in once sshd has turned one away.
    await node.must(`cat >/etc/turned-away <<'END'
until journalctl -b -q -o cat -t sshd -t sshd-session | grep 'Access denied'; do sleep 0.2; done
END
mkdir -p /etc/systemd/system/systemd-user-sessions.service.d
printf '[Unit]\nAfter=ssh.service\n[Service]\nExecStartPre=/bin/sh /etc/turned-away\n' >/etc/systemd/system/systemd-user-sessions.service.d/late.conf`);
    await using session = sessionTo(node.connection);
    const back = node.bootAfterReset();
    const result = await apply(session, [step], { readback: [lookAtBoot] });
    await back;
    expect(result.failure).toBeUndefined();
    expect(seen(result)).toBe(`${await bootId()}\n`);
    const log = await node.must("journalctl -b -q -o cat -t sshd -t sshd-session");
    expect(log).toMatch(/Access denied for user edge by PAM/);
    // A penalty is held against us, and never reached the size from which on sshd acts on it.
    expect(log).toMatch(/deferred penalty/);
    expect(log).not.toMatch(/drop connection|active penalty/);
  });

  test("also when its connection ends without a word, and another kernel than the one it was told to start answers", async () => {
    await using session = sessionTo(node.connection);
    await node.must(deafSystemctl);
    const applying = apply(session, [step], {
      readback: [lookAtBoot],
      onProgress: (message) => {
        if (message.endsWith(" 0 s")) void node.powerCut().then(() => node.boot());
      },
    });
    const result = await applying;
    expect(result.failure).toBeUndefined();
    expect(seen(result)).toBe(`${await bootId()}\n`);
  });

  test("and what was known of its other resources is not believed any more, but read anew with it", async () => {
    const [kind] = kinds;
    const inputs = { content: "of this boot\n" };
    if (kind === undefined) throw new Error("no kind");
    await node.must(`mkdir -p ${noteFolder}; printf 'of this boot\\n' >${noteFolder}/fixed-first`);
    const devices = createDevices({ kinds });
    try {
      const device = devices.get(node.connection);
      expect(await device.observe(kind, inputs)).toMatchObject({ outcome: "present" });
      const back = node.bootAfterReset();
      const other = kinds.at(-1) ?? kind;
      const away = Promise.withResolvers<undefined>();
      const applied = device.apply(other, { name: "x", content: "y" }, [step], {
        onProgress: (message) => {
          if (message.startsWith("waiting")) away.resolve(undefined);
        },
      });
      await away.promise;
      // Asked for while the node is away: waits until it is back.
      const later = device.observe(kind, inputs);
      expect((await applied).failure).toBeUndefined();
      await back;
      // /run is empty after a boot.
      expect(await later).toEqual({ outcome: "absent" });
    } finally {
      await devices.close();
    }
  });
});

describe("what is to be done in the new boot", () => {
  const remember = run({
    title: "remember",
    script: "cat /proc/sys/kernel/random/boot_id >/run/after",
  });

  test("is done there, under the node lock, before what is read back is read", async () => {
    await using session = sessionTo(node.connection);
    const before = await bootId();
    const back = node.bootAfterReset();
    const holder = run({ title: "look at the lock", script: "cat /run/edgeseal/holder >>/run/after" });
    const result = await apply(session, [{ ...step, afterwards: [remember, holder] }], {
      readback: [look("cat /run/after")],
    });
    await back;
    expect(result.failure).toBeUndefined();
    expect(result.steps.map(({ title, outcome }) => `${title}: ${outcome}`)).toEqual([
      "reboot: done",
      "remember: done",
      "look at the lock: done",
    ]);
    expect(seen(result)).toContain(await bootId());
    expect(seen(result)).not.toContain(before);
    expect(seen(result)).toContain("tester@bench");
  });

  test("stops where it fails, with the reboot done and the node read back", async () => {
    await using session = sessionTo(node.connection);
    const back = node.bootAfterReset();
    const fail = run({ title: "fail", script: "echo 'no such overlay' >&2; exit 1" });
    const result = await apply(session, [{ ...step, afterwards: [fail, remember] }], {
      readback: [lookAtBoot],
    });
    await back;
    expect(result.steps.map(({ title, outcome }) => `${title}: ${outcome}`)).toEqual([
      "reboot: done",
      "fail: failed",
    ]);
    expect(result.failure).toMatchObject({ kind: "stepFailed", originalMessage: "no such overlay" });
    expect(seen(result)).toContain(await bootId());
  });
});

describe("a second reboot, at the end of what is to be done in the new boot", () => {
  const note = (path: string) =>
    run({ title: `note ${path}`, script: `cat /proc/sys/kernel/random/boot_id >${path}` });
  const told = ({ steps }: Awaited<ReturnType<typeof apply>>): readonly string[] =>
    steps.map(({ title, outcome }) => `${title}: ${outcome}`);
  const twice = {
    ...step,
    afterwards: [note("/etc/first"), { ...step, title: "reboot again", afterwards: [note("/etc/second")] }],
  };

  test("is made there, and what is read back is read in the boot after it", async () => {
    await using session = sessionTo(node.connection);
    const before = await bootId();
    const messages: string[] = [];
    const back = node.bootAfterReset().then(() => node.bootAfterReset());
    const result = await apply(session, [twice], {
      readback: [lookAtBoot],
      onProgress: (message) => messages.push(message),
    });
    await back;
    expect(result.failure).toBeUndefined();
    expect(told(result)).toEqual([
      "reboot: done",
      "note /etc/first: done",
      "reboot again: done",
      "note /etc/second: done",
    ]);
    const boots = [before, (await node.must("cat /etc/first")).trim(), await bootId()];
    expect(new Set(boots).size).toBe(3);
    expect(await node.must("cat /etc/second")).toBe(`${boots[2]}\n`);
    expect(seen(result)).toContain(boots[2]);
    expect(messages.filter((message) => message.endsWith(" 0 s"))).toHaveLength(2);
  });

  test("that is refused leaves the node in the first, where it is read back", async () => {
    await using session = sessionTo(node.connection);
    const back = node.bootAfterReset();
    const refused = { ...step, title: "reboot again", precondition: "echo 'not now' >&2; exit 1" };
    const result = await apply(session, [{ ...step, afterwards: [note("/etc/first"), refused] }], {
      readback: [lookAtBoot],
    });
    await back;
    expect(result.failure).toMatchObject({ kind: "preconditionFailed", originalMessage: "not now" });
    expect(told(result)).toEqual(["reboot: done", "note /etc/first: done", "reboot again: failed"]);
    expect(seen(result)).toContain(await bootId());
  });

  test("that is taken and does not come is seen", async () => {
    await using session = sessionTo(node.connection);
    const back = node.bootAfterReset();
    const deaf = run({ title: "deaf", script: deafSystemctl });
    const again = { ...step, title: "reboot again", waitSeconds: 10 };
    const result = await apply(session, [{ ...step, afterwards: [deaf, again] }], {
      readback: [lookAtBoot],
    });
    await back;
    expect(result.failure?.message).toContain("'reboot again': the node was told to reboot and is still");
    expect(told(result)).toEqual(["reboot: done", "deaf: done", "reboot again: failed"]);
    expect(seen(result)).toContain(await bootId());
  });
});

describe("what is made ready for a reboot", () => {
  const prepare = { script: "echo ready >>/etc/made-ready", undo: "echo undone >>/etc/made-ready" };
  const made = (): Promise<string> => node.must("cat /etc/made-ready 2>/dev/null || :");

  test("is so right before it is asked for", async () => {
    await using session = sessionTo(node.connection);
    const back = node.bootAfterReset();
    expect((await apply(session, [{ ...step, prepare }])).failure).toBeUndefined();
    await back;
    expect(await made()).toBe("ready\n");
  });

  test("is not when something speaks against it", async () => {
    await using session = sessionTo(node.connection);
    await apply(session, [{ ...step, prepare, precondition: "exit 1" }]);
    expect(await made()).toBe("");
  });

  test("is taken back when it is not granted; without it there is no reboot", async () => {
    const before = await bootId();
    await node.must(
      `printf '#!/bin/sh\nexit 1\n' >/run/refusing && chmod 755 /run/refusing && mount --bind /run/refusing "$(readlink -f /usr/bin/systemctl)"`,
    );
    try {
      await using session = sessionTo(node.connection);
      expect((await apply(session, [{ ...step, prepare }])).failure?.kind).toBe("stepFailed");
      expect(await made()).toBe("ready\nundone\n");
      const unready = { script: "echo 'no room' >&2; exit 1", undo: "echo undone >>/etc/made-ready" };
      const result = await apply(session, [{ ...step, prepare: unready }]);
      expect(result.failure).toMatchObject({ kind: "stepFailed", originalMessage: "no room" });
      expect(await made()).toBe("ready\nundone\n");
      expect(await bootId()).toBe(before);
    } finally {
      await node.must("umount /usr/bin/systemctl");
    }
  });
});

describe("there is no reboot", () => {
  const staysUp = async (steps: Parameters<typeof apply>[1]): ReturnType<typeof apply> => {
    const before = await bootId();
    await using session = sessionTo(node.connection);
    const result = await apply(session, steps, { readback: [lookAtBoot] });
    expect(await bootId()).toBe(before);
    // Read back all the same, in the old boot.
    expect(seen(result)).toContain(before);
    expect(await node.must("ls -A /run/edgeseal")).not.toContain("holder");
    return result;
  };

  test("when a step before it fails", async () => {
    const result = await staysUp([run({ title: "fail", script: "exit 1" }), step]);
    expect(result.steps).toEqual([{ title: "fail", outcome: "failed" }]);
  });

  test("when its precondition does not hold", async () => {
    const result = await staysUp([write, { ...step, precondition: "echo 'a backup runs' >&2; exit 1" }]);
    expect(result.failure?.kind).toBe("preconditionFailed");
    expect(result.failure?.message).toContain("a backup runs");
    expect(result.steps.map(({ outcome }) => outcome)).toEqual(["done", "failed"]);
  });

  test("when something inhibits the shutdown, as dpkg does while it runs", async () => {
    await node.must(
      "systemd-run --quiet --unit=busy systemd-inhibit --what=shutdown --mode=block --who=dpkg --why='it unpacks' sleep 600; until systemd-inhibit --list | grep -q unpacks; do sleep 0.1; done",
    );
    try {
      const result = await staysUp([step]);
      expect(result.failure?.kind).toBe("stepFailed");
      expect(result.failure?.message).toMatch(/dpkg .* it unpacks/);
    } finally {
      await node.must("systemctl stop busy");
    }
  });

  test("when the next boot has no approval and sealed volumes would stay locked, unless that is allowed", async () => {
    await node.must(`mkdir -p /etc/edgeseal/volumes /usr/lib/edgeseal; : >/etc/edgeseal/volumes/models.conf
printf '#!/bin/sh\\ncase $1 in --next) ;; *) sha256sum | cut -c 1-64 ;; esac\\n' >/usr/lib/edgeseal/measure
chmod 755 /usr/lib/edgeseal/measure`);
    try {
      const result = await staysUp([write, step]);
      expect(result.failure?.kind).toBe("refused");
      expect(result.failure?.message).toContain("(sealed volumes: models; policy of the next boot: ");
      expect(result.failure?.message).toContain(`edgeseal approve ${node.name}`);

      await using session = sessionTo(node.connection);
      const warnings: string[] = [];
      const onWarning = (message: string): void => void warnings.push(message);
      // A plan that does not reboot: whoever does is told before, and nothing is stopped by it.
      const told = await apply(session, [tellOfNextBoot(), write], { onWarning });
      expect(told).toMatchObject({ steps: [{ outcome: "done" }, { outcome: "done" }] });
      expect(told.failure).toBeUndefined();
      expect(warnings.splice(0)).toEqual([
        expect.stringMatching(
          /: 'see whether the next boot is an approved one': the next boot would not be an approved one, .* would stay locked \(sealed volumes: models; policy of the next boot: [0-9a-f]{64}\); approve it before a reboot/,
        ),
      ]);

      const back = node.bootAfterReset();
      const allowed = { ...step, unapproved: "allow" } as const;
      expect((await apply(session, [allowed], { onWarning })).failure).toBeUndefined();
      await back;
      const locked =
        "the state that the node boots into has no approval on it, so its sealed volumes will stay locked";
      expect(warnings).toEqual([
        expect.stringContaining(
          `${node.name}: 'reboot': ${locked} (sealed volumes: models; policy of the next`,
        ),
      ]);

      // What can't be told is said as well, and keeps nobody from a boot that is allowed.
      await node.must("rm /usr/lib/edgeseal/measure");
      const again = node.bootAfterReset();
      expect((await apply(session, [allowed], { onWarning })).failure).toBeUndefined();
      await again;
      expect(warnings.slice(1)).toEqual([
        expect.stringMatching(
          /it can't be told .* may stay locked \(sealed volumes: models; nothing measures/,
        ),
      ]);
    } finally {
      await node.must("rm -r /etc/edgeseal/volumes /usr/lib/edgeseal");
    }
  });

  test("when the node takes the request and goes on: that is seen, not believed", async () => {
    await node.must(deafSystemctl);
    const result = await staysUp([{ ...step, waitSeconds: 10 }]);
    expect(result.failure?.kind).toBe("timedOut");
    expect(result.failure?.message).toContain("is still in the same boot after 10 s");
    expect(result.steps).toEqual([{ title: "reboot", outcome: "failed" }]);
    await node.must("umount /usr/bin/systemctl");
  });

  test("in the same boot over a new connection neither", async () => {
    await node.must(deafSystemctl);
    await using session = sessionTo(node.connection);
    const applying = apply(session, [{ ...step, waitSeconds: 10 }], {
      onProgress: (message) => {
        // Cuts the plan's connection, and nothing else.
        if (message.endsWith(" 0 s"))
          void node.must("pkill -f '^sshd-session: edge' || pkill -f '^sshd: edge'");
      },
    });
    await expect(applying).rejects.toMatchObject({
      kind: "timedOut",
      message: expect.stringContaining("is still in the same boot after 10 s") as unknown,
    });
    await node.must("umount /usr/bin/systemctl");
  });
});

describe("the node does not come back", () => {
  test("which is an error that says so, and what to look at", async () => {
    await using session = sessionTo(node.connection);
    const gone = new Promise((resolve) => setTimeout(resolve, 12_000));
    const back = node.bootAfterReset(async () => {
      await gone;
    });
    await expect(apply(session, [{ ...step, waitSeconds: 10 }])).rejects.toMatchObject({
      kind: "unreachable",
      shortMessage: "'reboot': the node did not come back within 10 s after it was told to reboot",
      hint: expect.stringContaining("look at its screen or serial console") as unknown,
    });
    await back;
    // Nothing of it is left: the next plan runs as ever.
    expect((await apply(session, [write])).failure).toBeUndefined();
  });

  test("whoever waits can stop waiting at once", async () => {
    await using session = sessionTo(node.connection);
    const stop = new AbortController();
    const back = node.bootAfterReset(() => {
      stop.abort();
      return Promise.resolve();
    });
    await expect(apply(session, [step], { signal: stop.signal })).rejects.toMatchObject({
      kind: "cancelled",
    });
    await back;
    expect(await node.must("ls -A /run/edgeseal 2>/dev/null || :")).toBe("");
  });
});

test("cut off before it, or while the node is away, the next plan goes on from there", async () => {
  let wanted = "";
  // Resets as often as it is told to, until it is switched off at the end.
  const resets = (async (): Promise<never> => {
    for (;;) await node.bootAfterReset();
  })();
  resets.catch(() => undefined);
  const points = await interruptEverywhere(
    {
      reset: async () => {
        await node.must("rm -f /etc/before-reboot");
        wanted = await bootId();
      },
      plan: async (session) => {
        const state = await ask(
          session,
          look("cat /etc/before-reboot 2>/dev/null; cat /proc/sys/kernel/random/boot_id"),
        );
        return [...(state.includes("written") ? [] : [write]), ...(state.includes(wanted) ? [step] : [])];
      },
    },
    node,
  );
  expect(points).toEqual(["before write", "after write", "before reboot", "after reboot"]);
});
