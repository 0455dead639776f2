import { afterAll, beforeAll, expect, test } from "vitest";
import { createDevices } from "../../provider/device/devices.ts";
import { diffState } from "../../provider/diff.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import type { ScratchInputs } from "../../provider/resources/scratch-inputs.ts";
import type { ScratchState } from "../../provider/resources/scratch-observation.ts";
import { scratch } from "../../provider/resources/scratch.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { testEveryInterruption } from "./interruption.ts";

/*
 * One node's life with its scratch in memory: systemd, journald, bash and sudo are real, and so is a boot. What is on the plain disk is looked at without what is mounted over it.
 */

const kind = scratch as unknown as ResourceKind;
const inputs: ScratchInputs = {
  tmpMiB: 64,
  varTmpMiB: 96,
  journal: "volatile",
  syslog: "off",
  historyFiles: "remove",
  leftovers: "remove",
  reboot: "never",
  rebootUnapproved: "refuse",
};

let node: NamespaceNode;

/** A node of namespaces comes up with a /tmp that no board has: gone before anything uses it, so that systemd mounts its own. */
const ownTmp = `cat >/etc/systemd/system/testbed-tmp.service <<'END'
[Unit]
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target systemd-tmpfiles-setup.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'umount -l /tmp && systemctl start tmp.mount'
[Install]
WantedBy=sysinit.target
END
systemctl enable testbed-tmp.service`;

beforeAll(async () => {
  node = await NamespaceNode.start();
  await node.must(ownTmp);
});

afterAll(() => (node as NamespaceNode | undefined)?.stop());

/** What a run of the provider sees, with connections of its own. */
async function look(of = inputs): Promise<ScratchState & { readonly differs: readonly string[] }> {
  const devices = createDevices({ kinds: [kind] });
  try {
    const observed = await devices.get(node.connection).observe<ScratchState>(kind, of);
    if (observed.outcome === "absent") throw new Error("not observed");
    const differs = diffState(scratch.desired(of), observed.state).map(({ path }) => path);
    return { ...observed.state, differs };
  } finally {
    await devices.close();
  }
}

/** What `pulumi up` does; returns the titles of its steps. */
async function up(of = inputs): Promise<readonly string[]> {
  const devices = createDevices({ kinds: [kind] });
  try {
    const device = devices.get(node.connection);
    const observed = await device.observe<ScratchState>(kind, of);
    const steps = scratch.plan(of, observed, await device.route());
    if (steps.length === 0) return [];
    const { failure, observed: after } = await device.apply<ScratchState>(kind, of, steps);
    if (failure !== undefined) throw failure;
    if (after.outcome === "absent") throw new Error("nothing was read back");
    expect(diffState(scratch.desired(of), after.state), "what did not take effect").toEqual([]);
    expect(scratch.plan(of, after, await device.route()), "what is left to do").toEqual([]);
    return steps.map(({ title }) => title);
  } finally {
    await devices.close();
  }
}

/** What removing the resource does. */
async function takeBack(): Promise<void> {
  const devices = createDevices({ kinds: [kind] });
  try {
    const device = devices.get(node.connection);
    const observed = await device.observe<ScratchState>(kind, inputs);
    const { failure } = await device.apply(kind, inputs, scratch.revert(inputs, observed));
    expect(failure).toBeUndefined();
  } finally {
    await devices.close();
  }
}

/** Somebody types a prompt, a program writes it to temporary files, a service logs it: as root and as the login user. */
const leak = (marker: string): Promise<string> =>
  node.must(`set -e
for user in root edge; do
  home=$(getent passwd "$user" | cut -d : -f 6)
  printf 'echo typed-%s\\nexit\\n' ${marker} >/run/typed
  chmod 644 /run/typed
  # As /etc/pam.d/login, su and sshd have it; its ~/.bashrc wants a history of its own.
  grep -q own_history "$home/.bashrc" || echo 'HISTFILE=~/.own_history; PROMPT_COMMAND="history -a"' >>"$home/.bashrc"
  su - "$user" -c "script -qec 'bash -i' /dev/null </run/typed" >/dev/null
  su "$user" -c "cd; script -qec 'bash --norc -i' /dev/null </run/typed" >/dev/null
  rm /run/typed
  su - "$user" -c "echo ${marker} >/var/tmp/${marker}-$user; echo ${marker} >/tmp/${marker}-$user"
done
systemd-run --quiet --wait --collect echo "logged ${marker}"
journalctl --sync
sync`);

/** The files of the node's plain disk that have the marker, without what is mounted over it. */
const onDisk = async (marker: string): Promise<readonly string[]> => {
  const found = await node.must(
    `unshare --mount --propagation private sh -c 'mount --bind / /mnt && cd /mnt && { grep -rlaF ${marker} --exclude-dir=proc . || [ $? = 1 ]; }'`,
  );
  return found
    .split("\n")
    .filter((line) => line !== "")
    .sort();
};

test("the control: on a fresh node the marker is on the disk, by each of these ways", async () => {
  await leak("PROMPT-BEFORE");
  const found = await onDisk("PROMPT-BEFORE");
  expect(found).toContain("./var/tmp/PROMPT-BEFORE-root");
  expect(found).toContain("./root/.own_history");
  expect(found).toContain("./home/edge/.bash_history");
  expect(found.filter((path) => path.startsWith("./var/log/journal/"))).not.toEqual([]);
});

test("an update turns off what it can, and says that a boot is due for what is in use", async () => {
  const before = await look();
  expect(before.mounts["/var/tmp"]).toMatch(/^overlay on /);
  expect(before.diskUsers.join("\n")).toContain("/var/tmp: systemd-logind.service");
  expect(before.journalIn).toEqual([expect.stringMatching(/^\/var\/log\/journal \(on /)]);
  expect(before.leftovers).toEqual(["/var/log/journal"]);
  expect(Object.keys(before.historyFiles)).toContain("/home/edge/.bash_history");

  await up();
  const after = await look();
  expect(after).toMatchObject({
    pendingReboot: true,
    differs: [],
    journalIn: ["/run/log/journal"],
    historyFiles: {},
    leftovers: [],
  });
  expect(after.mounts["/tmp"]).toBe("tmpfs 64 MiB nodev noexec nosuid");
  expect(after.mounts["/var/tmp"]).toMatch(/^overlay on /);
  expect(await node.must("cat /var/tmp/PROMPT-BEFORE-root"), "what may be in use stays").toBe(
    "PROMPT-BEFORE\n",
  );
});

test("after the boot both are in memory, and what lies below is found and removed", async () => {
  await node.reboot();
  const booted = await look();
  expect(booted.mounts).toEqual({
    "/tmp": "tmpfs 64 MiB nodev noexec nosuid",
    "/var/tmp": "tmpfs 96 MiB nodev noexec nosuid",
  });
  expect(booted).toMatchObject({
    pendingReboot: false,
    diskUsers: [],
    leftovers: ["/var/tmp"],
    differs: ["leftovers"],
  });
  expect(await up()).toEqual(["remove what is left of /var/tmp on the disk"]);
  // A history with a name of somebody's own is nobody else's to find.
  expect(await onDisk("PROMPT-BEFORE")).toEqual(["./home/edge/.own_history", "./root/.own_history"]);
});

test("now nothing of the marker reaches the disk, whoever types, writes and logs it", async () => {
  await leak("PROMPT-AFTER");
  expect(await onDisk("PROMPT-AFTER")).toEqual([]);
  expect(await node.must("cat /var/tmp/PROMPT-AFTER-root")).toBe("PROMPT-AFTER\n");
  expect(await node.must("journalctl --no-pager | grep -c 'logged PROMPT-AFTER'")).not.toBe("0\n");
  expect(await node.must("stat -c '%F %a' /dev/null"), "what histories are sent to").toBe(
    "character special file 666\n",
  );
});

test("what is put there is not executed, and does not fill the memory", async () => {
  const outcome = await node.exec(
    "printf '#!/bin/sh\\n' >/var/tmp/x; chmod 755 /var/tmp/x; /var/tmp/x; echo $?; head -c 200M /dev/zero >/var/tmp/fill; echo $?; rm /var/tmp/x /var/tmp/fill",
  );
  expect(outcome.stdout).toBe("126\n1\n");
});

test("sudo takes its file, and hands on what turns histories off", async () => {
  expect(await node.must("visudo -c")).toContain("/etc/sudoers.d/edgeseal-histories: parsed OK");
  expect(await node.must("su - edge -c 'sudo -n env'")).toContain("PYTHON_HISTORY=/dev/null\n");
  expect(await node.must("su - edge -c 'sudo -n -i env'")).toContain("LESSHISTFILE=-\n");
});

test.each([
  [
    "a size changed by hand",
    "mount -o remount,size=10m,exec /tmp",
    ["mountDifferences"],
    ["give /tmp 64 MiB of memory, nodev, nosuid and noexec"],
  ],
  [
    "memory taken away by hand, with nothing that uses the disk below",
    "umount -l /var/tmp; echo late >/var/tmp/late",
    ["mountDifferences"],
    ["mount /var/tmp in memory", "remove what is left of /var/tmp on the disk"],
  ],
  [
    "a unit disabled",
    "systemctl disable var-tmp.mount",
    ["mountUnits"],
    ["have the next boot start tmp.mount and var-tmp.mount"],
  ],
  [
    "bash's history on again, with something in it",
    "sed -i /PROMPT_COMMAND/d /etc/bash.bashrc; echo hello >/root/.bash_history",
    ["bashHistory", 'historyFiles["/root/.bash_history"]'],
    ["turn bash's history off", "remove a history file"],
  ],
  [
    "the environment edited",
    "sed -i s,PYTHON_HISTORY=.*,PYTHON_HISTORY=/root/h, /etc/environment",
    ["historyVariables.PYTHON_HISTORY"],
    ["turn the histories of other programs off"],
  ],
  [
    "journald told to keep its journal on the disk",
    "rm /etc/systemd/journald.conf.d/zz-edgeseal.conf; mkdir -p /var/log/journal; systemctl restart systemd-journald; journalctl --flush",
    ["journalSetting", "journalIn", "leftovers", 'files["/etc/systemd/journald.conf.d/zz-edgeseal.conf"]'],
    [
      "make the directory /etc/systemd/journald.conf.d",
      "write /etc/systemd/journald.conf.d/zz-edgeseal.conf",
      "let journald take up its settings",
      "remove the journal that was kept in /var/log/journal",
    ],
  ],
  [
    "a second log",
    `cp /bin/sleep /usr/sbin/rsyslogd
printf '[Service]\\nType=exec\\nExecStart=/usr/sbin/rsyslogd infinity\\n[Install]\\nWantedBy=multi-user.target\\n' >/usr/lib/systemd/system/rsyslog.service
systemctl daemon-reload; systemctl enable --now rsyslog.service; echo prompt >/var/log/syslog`,
    ["syslogUnits", "syslogProcesses", "syslogFiles"],
    [
      "keep units from starting that write the log to files: rsyslog.service",
      "stop rsyslogd",
      "remove a file of syslog in /var/log",
    ],
  ],
])("drift: %s is named, and mended by just its steps", async (_name, change, differs, titles) => {
  await node.must(change);
  expect([...(await look()).differs].sort()).toEqual([...differs].sort());
  expect(await up()).toEqual(titles);
  expect((await look()).differs).toEqual([]);
});

test("a smaller size than what is in there is refused by name", async () => {
  await node.must("head -c 40M /dev/zero >/tmp/big");
  await expect(up({ ...inputs, tmpMiB: 32 })).rejects.toThrow("which is more than 32 MiB");
  await node.must("rm /tmp/big");
  await up();
});

test("a journal on something that is no sealed volume is refused, and stays in memory", async () => {
  await node.must("mkdir -p /srv/logs");
  const sealed = { ...inputs, journal: { directory: "/srv/logs/journal" } };
  await expect(up(sealed)).rejects.toThrow("which is no open sealed volume");
  expect((await look(sealed)).journalIn).toEqual(["/run/log/journal"]);
  await node.reboot();
  const locked = await look(sealed);
  expect(locked.journalIn, "also at a boot").toEqual(["/run/log/journal"]);
  expect(locked.differs).toEqual(["journalIn", "journalLink"]);
  await up();
});

test("cut off before and after each step, it is in its desired state after the next plan", async () => {
  // As a node comes, but for what only a boot takes away: one mount is too small, and the other one is gone, with something on the disk below.
  const reset = async (): Promise<void> => {
    await takeBack();
    // Started this often, a service is one that systemd starts no more.
    await node.must(`set -e
mount -o remount,size=10m,exec /tmp
if findmnt -t tmpfs /var/tmp >/dev/null; then umount -l /var/tmp; fi
mkdir -p /var/log/journal
systemctl reset-failed
systemctl restart systemd-journald.service
journalctl --flush
systemctl enable --quiet --now rsyslog.service
for f in /var/tmp/late /root/.bash_history /var/log/syslog; do echo prompt >$f; done`);
  };
  const cuts = await testEveryInterruption(kind, inputs, node, { reset });
  for (const title of [
    "write /etc/sudoers.d/edgeseal-histories",
    "give /tmp 64 MiB of memory, nodev, nosuid and noexec",
    "mount /var/tmp in memory",
    "stop rsyslogd",
    "let journald take up its settings",
    "remove a history file",
  ])
    expect(cuts).toEqual(expect.arrayContaining([`before ${title}`, `after ${title}`]));
}, 900_000);

test("a reboot that is allowed ends with everything in effect", async () => {
  // Disabled would not do: services with a private /var/tmp require what is to be mounted there.
  await node.must("rm /etc/systemd/system/var-tmp.mount");
  await node.reboot();
  await node.must("echo PROMPT-LATE >/var/tmp/late");
  const back = node.bootAfterReset();
  const titles = await up({ ...inputs, reboot: "ifNeeded" });
  await back;
  expect(titles.at(-1)).toBe("reboot, so that /tmp and /var/tmp are in memory for everything that runs");
  expect(await onDisk("PROMPT-LATE")).toEqual([]);
});

test("reverted, the system has its own way again", async () => {
  await takeBack();
  await node.reboot();
  const after = await look();
  expect(after).toMatchObject({
    files: {},
    bashHistory: "on",
    historyVariables: {},
    journalSetting: "unset",
  });
  expect(after.mounts["/var/tmp"]).toMatch(/^overlay on /);
});
