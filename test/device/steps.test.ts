import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { renderStep } from "../../provider/device/render.ts";
import { quote } from "../../provider/device/shell-quote.ts";
import {
  debianPackage,
  directory,
  file,
  kernelModule,
  remove,
  run,
  sysctl,
  unit,
  type Step,
} from "../../provider/device/step.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { apply, look, seen, sessionTo } from "./steps-on-node.ts";

let node: NamespaceNode;
let session: ReturnType<typeof sessionTo>;

beforeAll(async () => {
  node = await NamespaceNode.start();
  session = sessionTo(node.connection);
});

afterAll(async () => {
  await session.close();
  await node.stop();
});

const done = async (...steps: Step[]): Promise<void> => {
  const result = await apply(session, steps);
  expect(result.failure).toBeUndefined();
  expect(result.steps.map(({ outcome }) => outcome)).toEqual(steps.map(() => "done"));
};

const failure = async (...steps: Step[]): Promise<{ readonly kind: string; readonly message: string }> => {
  const result = await apply(session, steps);
  if (result.failure === undefined) throw new Error("the plan succeeded");
  return result.failure;
};

const stat = (path: string): Promise<string> => node.must(`stat -c '%F %a %U:%G %i %Y' ${quote(path)}`);
const leftovers = (directoryPath: string): Promise<string> =>
  node.must(`find ${quote(directoryPath)} -xdev -name '*edgeseal-new*'`);

describe("a file step", () => {
  const path = "/etc/step-file.conf";

  test.each([
    ["quotes and dollars", `it's "$HOME" \`id\` \\n %s\n`],
    ["no line feed at the end", "abc"],
    ["nothing", ""],
    ["other scripts and control characters", "zażółć 漢字 \u0001\u001b[0m\r\n\tEDGESEAL\n"],
    ["a megabyte", "0123456789abcdef".repeat(65_536)],
  ])("writes exactly %s", async (_, content) => {
    await done(file({ title: "write", path, content, mode: "0640", owner: "root:adm" }));
    expect(await node.must(`base64 -w 0 ${path}`)).toBe(Buffer.from(content).toString("base64"));
    expect(await stat(path)).toMatch(/^regular( empty)? file 640 root:adm /);
    expect(await leftovers("/etc")).toBe("");
  });

  test("leaves a file alone that is as it should be", async () => {
    const step = file({ title: "write", path, content: "same\n", mode: "0644" });
    await done(step);
    await node.must(`touch -d @1000000000 ${path}`);
    const before = await stat(path);
    await done(step, file({ ...step, owner: "0:0" }));
    expect(await stat(path)).toBe(before);
  });

  test.each([
    ["mode", { mode: "0600" }],
    ["owner", { owner: "edge:edge" }],
    ["content", { content: "other\n" }],
  ])("replaces a file whose %s differs", async (_, change) => {
    const step = file({ title: "write", path, content: "same\n", mode: "0644" });
    await done(step);
    const before = await stat(path);
    await done(file({ ...step, ...change }));
    expect(await stat(path)).not.toBe(before);
  });

  test("replaces a symbolic link and leaves its target alone", async () => {
    await node.must("echo precious >/etc/target && ln -sfn /etc/target /etc/a-link");
    await done(file({ title: "write", path: "/etc/a-link", content: "ours\n", mode: "0644" }));
    expect(await node.must("stat -c %F /etc/a-link; cat /etc/a-link /etc/target")).toBe(
      "regular file\nours\nprecious\n",
    );
  });

  test("follows a link that only root can change, on the way to the file", async () => {
    await node.must("mkdir -p /etc/real.d && ln -sfn real.d /etc/linked.d");
    await done(file({ title: "write", path: "/etc/linked.d/x", content: "x", mode: "0644" }));
    expect(await node.must("cat /etc/real.d/x")).toBe("x");
  });

  test("does not follow a link that a user made, on the way to the file", async () => {
    await node.must("su edge -c 'ln -sfn /etc /home/edge/trap; mkdir -p /home/edge/own'");
    expect(
      (
        await failure(
          file({ title: "write", path: "/home/edge/trap/shadow-copy", content: "x", mode: "0644" }),
        )
      ).message,
    ).toContain("/home/edge/trap is a symbolic link that not only root can change: not followed");
    expect((await node.exec("test -e /etc/shadow-copy")).code).toBe(1);
    await done(
      file({ title: "write", path: "/home/edge/own/x", content: "x", mode: "0600", owner: "edge:edge" }),
    );
    expect(await stat("/home/edge/own/x")).toContain("600 edge:edge");
  });

  test("does not write through a link that lies in wait under the temporary name", async () => {
    await node.must(
      "mkdir -p /etc/waiting; echo precious >/etc/precious; ln -sfn /etc/precious /etc/waiting/.x.edgeseal-new",
    );
    await done(file({ title: "write", path: "/etc/waiting/x", content: "x", mode: "0600" }));
    expect(await node.must("cat /etc/precious /etc/waiting/x; ls -A /etc/waiting")).toBe("precious\nxx\n");
  });

  test("says which directory is missing", async () => {
    const error = await failure(
      file({ title: "write", path: "/etc/not/here/x.conf", content: "x", mode: "0644" }),
    );
    expect(error.kind).toBe("stepFailed");
    expect(error.message).toContain("the directory /etc/not does not exist");
  });

  test("refuses a directory in the file's place", async () => {
    await node.must("mkdir -p /etc/in-the-way/deep");
    const error = await failure(
      file({ title: "write", path: "/etc/in-the-way", content: "x", mode: "0644" }),
    );
    expect(error.message).toContain("/etc/in-the-way is a directory");
    await node.must("test -d /etc/in-the-way/deep");
  });

  test("on a full disk leaves the old file and nothing else", async () => {
    await node.must(
      "mkdir -p /mnt/small && mount -t tmpfs -o size=64k tmpfs /mnt/small && echo old >/mnt/small/x && head -c 40000 /dev/zero >/mnt/small/fill",
    );
    const error = await failure(
      file({ title: "write", path: "/mnt/small/x", content: "n".repeat(60_000), mode: "0644" }),
    );
    expect(error.kind).toBe("stepFailed");
    expect(error.message).toContain("No space left on device");
    expect(await node.must("cat /mnt/small/x; ls -A /mnt/small")).toBe("old\nfill\nx\n");
    await node.must("umount /mnt/small");
  });

  test("on a read-only /etc says so", async () => {
    await node.must("mount --bind /etc /etc && mount -o remount,bind,ro /etc");
    try {
      const error = await failure(file({ title: "write", path: "/etc/ro.conf", content: "x", mode: "0644" }));
      expect(error.message).toContain("Read-only file system");
      expect(error.message).toContain("'write' failed");
    } finally {
      await node.must("umount /etc");
    }
  });

  test("has mode and owner before content, and drops content that was cut off", async () => {
    await node.must("printf old >/etc/cut && chmod 644 /etc/cut");
    const { script } = renderStep(
      file({ title: "write", path: "/etc/cut", content: "secret, whole", mode: "0600", owner: "edge:adm" }),
    );
    // The script reads from a pipe that stays open with half of the content in it.
    const halfWay = await node.must(`cd /tmp; rm -f in; mkfifo in
/bin/sh -c ${quote(script)} <in 2>err & exec 5>in
printf 'secret,' >&5
until [ -s /etc/.cut.edgeseal-new ]; do sleep 0.02; done
stat -c '%a %U:%G' /etc/.cut.edgeseal-new; cat /etc/cut; echo
exec 5>&-
wait $! || echo "code $?"
cat err /etc/cut`);
    expect(halfWay).toBe("600 edge:adm\nold\ncode 1\nthe content of /etc/cut did not arrive whole\nold");
    expect(await leftovers("/etc")).toBe("");
  });
});

describe("a remove step", () => {
  test("removes a file, a link and an empty directory, and is content when there is nothing", async () => {
    await node.must("touch /etc/rm-a; ln -sfn /etc/passwd /etc/rm-l; mkdir -p /etc/rm-d");
    const paths = ["/etc/rm-a", "/etc/rm-l", "/etc/rm-d", "/etc/rm-never", "/no/such/place"];
    await done(...paths.map((path) => remove({ title: `remove ${path}`, path })));
    expect(await node.must("ls -d /etc/rm-* 2>/dev/null || :")).toBe("");
    await node.must("test -s /etc/passwd");
  });

  test("does not remove a directory with something in it", async () => {
    await node.must("mkdir -p /etc/full && touch /etc/full/x");
    expect((await failure(remove({ title: "remove", path: "/etc/full" }))).message).toContain("not empty");
    await node.must("test -e /etc/full/x");
  });
});

describe("a directory step", () => {
  test("makes it, corrects it, leaves it alone", async () => {
    const step = directory({ title: "make", path: "/etc/made.d", mode: "0750", owner: "root:adm" });
    await done(step);
    expect(await stat("/etc/made.d")).toContain("directory 750 root:adm");
    await node.must("chmod 777 /etc/made.d; touch /etc/made.d/kept");
    await done(step);
    expect(await stat("/etc/made.d")).toContain("directory 750 root:adm");
    await node.must("test -e /etc/made.d/kept");
  });

  test("refuses a link or a file in its place", async () => {
    await node.must("ln -sfn /tmp /etc/dir-link; touch /etc/dir-file");
    expect(
      (await failure(directory({ title: "make", path: "/etc/dir-link", mode: "0755" }))).message,
    ).toContain("is a symbolic link, not a directory");
    expect(
      (await failure(directory({ title: "make", path: "/etc/dir-file", mode: "0755" }))).message,
    ).toContain("is not a directory");
  });
});

describe("a unit step", () => {
  const unitFile = (name: string, text: string): Step =>
    file({ title: `write ${name}`, path: `/etc/systemd/system/${name}`, content: text, mode: "0644" });
  const oneshot = (command: string): string =>
    `[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=${command}\n[Install]\nWantedBy=multi-user.target\n`;
  const state = async (name: string): Promise<string> =>
    (await node.exec(`systemctl is-enabled ${name}; systemctl is-active ${name}`)).stdout.replaceAll(
      "\n",
      " ",
    );

  test("enables and starts, disables and stops, masks and unmasks", async () => {
    const name = "step-unit.service";
    const set = (wanted: Partial<Parameters<typeof unit>[0]>): Step =>
      unit({ title: "set", unit: name, ...wanted });
    await done(
      unitFile(name, oneshot("/bin/true")),
      set({ enabled: true, active: true, masked: false, daemonReload: true }),
    );
    expect(await state(name)).toBe("enabled active ");
    await done(set({ enabled: false, active: false }));
    expect(await state(name)).toBe("disabled inactive ");
    await done(set({ enabled: true, active: true }), set({ enabled: true, active: true }));
    await done(remove({ title: "remove it", path: `/etc/systemd/system/${name}` }));
    await done(set({ masked: true, active: false, daemonReload: true }));
    expect(await state(name)).toBe("masked inactive ");
    await done(set({ masked: false }));
    expect(await state(name)).not.toContain("masked");
  });

  test("is content with a unit that does not exist, when it is to be off", async () => {
    await done(unit({ title: "off", unit: "no-such.service", enabled: false, active: false }));
  });

  test("fails when enabling has no effect", async () => {
    await done(unitFile("static.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n"));
    const error = await failure(
      unit({ title: "enable", unit: "static.service", enabled: true, daemonReload: true }),
    );
    expect(error.message).toContain("static.service is not enabled but 'static'");
  });

  test("fails when a service does not come up, and says how it ended", async () => {
    await done(unitFile("broken.service", oneshot("/bin/sh -c 'exit 7'")));
    const error = await failure(
      unit({ title: "start", unit: "broken.service", active: true, daemonReload: true }),
    );
    expect(error.message).toContain("broken.service did not become active");
    expect(error.message).toContain("ExecMainStatus=7");
  });
});

describe("a sysctl step", () => {
  test("writes, reads back, and compares lists whatever separates them", async () => {
    await done(
      sysctl({ title: "set", key: "net.ipv4.ip_local_port_range", value: "20000 30000" }),
      sysctl({ title: "set", key: "net.ipv4.ip_local_port_range", value: "20000\t30000" }),
      sysctl({ title: "set", key: "net.ipv4.conf.eth0.forwarding", value: "1" }),
      sysctl({ title: "set", key: "net/ipv4/conf/lo/forwarding", value: "1" }),
    );
    expect(
      await node.must(
        "cd /proc/sys/net/ipv4; cat ip_local_port_range conf/eth0/forwarding conf/lo/forwarding",
      ),
    ).toBe("20000\t30000\n1\n1\n");
  });

  test("says what the kernel refused, or does not have", async () => {
    expect(
      (await failure(sysctl({ title: "set", key: "net.ipv4.ip_forward", value: "many" }))).message,
    ).toContain("the kernel refused 'many' for net.ipv4.ip_forward");
    expect((await failure(sysctl({ title: "set", key: "net.no.such", value: "1" }))).message).toContain(
      "this kernel has no parameter net.no.such",
    );
  });

  test("fails when the value did not take", async () => {
    // The kernel takes 2 for this one and reads as 1.
    const error = await failure(sysctl({ title: "set", key: "net.ipv4.ip_forward", value: "01" }));
    expect(error.message).toContain("net.ipv4.ip_forward was set and still reads '1'");
  });
});

describe("a module step", () => {
  test("is content with a module that is not loaded, and says what can't be loaded", async () => {
    await done(kernelModule({ title: "unload", module: "no-such-module", loaded: false }));
    const error = await failure(kernelModule({ title: "load", module: "no-such-module", loaded: true }));
    expect(error.message).toContain("no-such-module");
  });
});

describe("a package step", () => {
  beforeAll(async () => {
    // A package archive of one package, on the node itself.
    await node.must(`set -e
mkdir -p /srv/archive /tmp/pkg/DEBIAN && cd /tmp/pkg
printf 'Package: step-package\\nVersion: 1\\nArchitecture: all\\nMaintainer: test <test@example.org>\\nDescription: test\\n' >DEBIAN/control
printf '#!/bin/sh\\n[ ! -e /etc/step-package-breaks ]\\n' >DEBIAN/postinst; chmod 755 DEBIAN/postinst
dpkg-deb -b . /srv/archive/step-package.deb >/dev/null
cd /srv/archive
{ cat /tmp/pkg/DEBIAN/control; printf 'Filename: ./step-package.deb\\nSize: %s\\nSHA256: %s\\n' $(stat -c %s step-package.deb) $(sha256sum step-package.deb | cut -d' ' -f1); } >Packages
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/archive ./' >/etc/apt/sources.list`);
  });

  const installed = async (): Promise<string> =>
    (await node.exec("dpkg-query -W -f '${db:Status-Status}' step-package")).stdout;

  test("installs, after a package list update when needed, and removes", async () => {
    await done(debianPackage({ title: "install", package: "step-package", installed: true }));
    expect(await installed()).toBe("installed");
    await done(debianPackage({ title: "install", package: "step-package", installed: true }));
    await done(debianPackage({ title: "remove", package: "step-package", installed: false }));
    expect(await installed()).not.toBe("installed");
    await done(debianPackage({ title: "remove", package: "step-package", installed: false }));
  });

  test("goes on where an installation broke off", async () => {
    const install = debianPackage({ title: "install", package: "step-package", installed: true });
    await node.must("touch /etc/step-package-breaks");
    expect((await failure(install)).message).toContain("step-package");
    expect(await installed()).toBe("half-configured");
    await node.must("rm /etc/step-package-breaks");
    await done(install);
    expect(await installed()).toBe("installed");
  });

  test("names a package that no archive has", async () => {
    const error = await failure(
      debianPackage({ title: "install", package: "no-such-package", installed: true }),
    );
    expect(error.message).toContain("Unable to locate package no-such-package");
  });
});

describe("a run step", () => {
  test("gets its standard input whole, and nobody else's", async () => {
    const text = `${"line\n".repeat(40_000)}end`;
    await done(
      run({ title: "read", script: "cat >/tmp/got", stdin: text }),
      run({ title: "read nothing", script: "cat >/tmp/nothing" }),
      run({ title: "does not read", script: "exit 0", stdin: text }),
    );
    expect(await node.must("cat /tmp/got")).toBe(text);
    expect(await node.must("cat /tmp/nothing")).toBe("");
  });

  test("stops the plan when it fails; what comes after is not run, and the node is read back", async () => {
    const result = await apply(
      session,
      [
        run({ title: "one", script: "echo 1 >/tmp/order" }),
        run({ title: "two", script: 'for i in $(seq 1 50); do echo "trouble $i" >&2; done; exit 3' }),
        run({ title: "three", script: "echo 3 >>/tmp/order" }),
      ],
      { readback: [look("cat /tmp/order")] },
    );
    expect(result.steps).toEqual([
      { title: "one", outcome: "done" },
      { title: "two", outcome: "failed" },
    ]);
    expect(seen(result)?.trim()).toBe("1");
    expect(result.failure?.kind).toBe("stepFailed");
    expect(result.failure?.shortMessage).toBe("'two' failed with exit status 3");
    expect(result.failure?.originalMessage?.split("\n")).toEqual(
      Array.from({ length: 20 }, (_, at) => `trouble ${at + 31}`),
    );
  });

  test("is not done when its precondition does not hold", async () => {
    const result = await apply(
      session,
      [
        run({
          title: "erase",
          script: "rm -f /tmp/kept",
          precondition: "echo 'has a signature' >&2; test -e /tmp/absent",
        }),
        run({ title: "after", script: "touch /tmp/after" }),
      ],
      { readback: [look("ls /tmp/after 2>&1 || :")] },
    );
    expect(result.failure?.kind).toBe("preconditionFailed");
    expect(result.failure?.message).toContain("has a signature");
    expect(seen(result)).toContain("No such file");
    await done(
      run({ title: "with one that holds", script: "touch /tmp/held", precondition: "test -d /tmp" }),
    );
    await node.must("test -e /tmp/held");
  });

  test("that hangs is killed with its children, also those that ignore TERM", async () => {
    const started = performance.now();
    const result = await apply(session, [
      run({
        title: "hang",
        script: `(trap '' TERM; while :; do sleep 1; done) & sh -c 'trap "" TERM; sleep 4217'`,
        timeoutSeconds: 1,
      }),
    ]);
    expect(result.failure?.kind).toBe("timedOut");
    expect(result.failure?.message).toContain("'hang' did not end within 1 s and was killed");
    expect(performance.now() - started).toBeLessThan(15_000);
    expect((await node.exec("pgrep -f '[s]leep 4217|exec 9>[&]-'")).stdout).toBe("");
  });

  test("leaves no process of its group behind, and a daemon that it leaves does not hold the plan", async () => {
    const started = performance.now();
    await done(
      run({
        title: "leave",
        script:
          "sleep 4218 & setsid sleep 4219 & until pgrep -fx 'sleep 4219' >/dev/null; do sleep 0.05; done",
      }),
      run({ title: "next", script: "exit 0" }),
    );
    expect(performance.now() - started).toBeLessThan(10_000);
    expect((await node.exec("pgrep -fx 'sleep 4218'")).stdout).toBe("");
    // The daemon holds no lock either.
    await done(run({ title: "again", script: "exit 0" }));
    await node.must("pkill -fx 'sleep 4219'");
  });

  test("may print without end: nothing fills up", async () => {
    const error = await failure(
      run({
        title: "chatter",
        script: "head -c 300000000 /dev/zero | tr '\\0' x; echo; echo last words; exit 1",
      }),
    );
    expect(error.message).toContain("last words");
    expect(error.message.length).toBeLessThan(9_500);
    expect(await node.must("ls -A /run/edgeseal")).toBe("fence\nguard\nlock\n");
  });

  test("can't forge what the plan says", async () => {
    await done(
      run({
        title: "forge",
        script: "ls -l /proc/$PPID/fd >/dev/null; printf '\\n@%032d done\\n' 0; printf x >&2",
      }),
      file({ title: "write", path: "/etc/forged", content: "@0 done\n", mode: "0644" }),
    );
  });
});

describe("secrets", () => {
  const canary = "canary-7f3e9a1c5d";

  /** Every process's arguments and environment, sampled until the file is there; prints how often the canary was found. */
  const watch = (until: string): Promise<string> =>
    node.must(`c=canary-7f3e; c=\${c}9a1c5d; found=0
while ! [ -e ${until} ]; do
  for p in /proc/[0-9]*; do
    if tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -qF "$c" || tr '\\0' ' ' <$p/environ 2>/dev/null | grep -qF "$c"; then found=$((found + 1)); fi
  done
done 2>/dev/null
echo $found`);

  test("never show in arguments or environment", async () => {
    await node.must("rm -f /tmp/over");
    const watching = watch("/tmp/over");
    await done(
      run({ title: "use", script: "cat >/tmp/secret; sleep 1; cat /tmp/secret >/dev/null", stdin: canary }),
      file({ title: "write", path: "/etc/secret", content: canary, mode: "0600" }),
      run({ title: "stop watching", script: "touch /tmp/over" }),
    );
    expect(await watching).toBe("0\n");
    expect(await node.must("cat /tmp/secret /etc/secret")).toBe(canary + canary);
  });

  test("would be found there (the control of the test above)", async () => {
    await node.must("rm -f /tmp/over");
    const watching = watch("/tmp/over");
    await done(
      run({ title: "leak", script: `sh -c 'sleep 1; : ${canary}'` }),
      run({ title: "stop watching", script: "touch /tmp/over" }),
    );
    expect(Number(await watching)).toBeGreaterThan(0);
  });

  test("do not come back in error messages", async () => {
    const error = await failure(
      run({
        title: "quote",
        script: 's=$(cat); printf \'bad key: %s\\n%s\\n\' "$s" "$(printf %s "$s" | base64)" >&2; exit 1',
        stdin: canary,
      }),
    );
    expect(error.message).toContain("bad key: [secret]");
    expect(error.message).not.toContain(canary);
    expect(error.message).not.toContain(Buffer.from(canary).toString("base64"));
  });
});
