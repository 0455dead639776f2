import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import type { Connection } from "../../../provider/connection.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import {
  printable,
  remoteCommand,
  requireStarted,
  standardInput,
} from "../../../provider/device/privileged-shell.ts";
import type { ExecResult } from "../../../provider/device/transport.ts";

const root: Connection = { node: "pi-1", address: "192.0.2.1", port: 22, user: "root", hostKey: "" };
const edge: Connection = { ...root, user: "edge" };
const nonce = "0123456789abcdef";

/** What sshd does with a command: the user's login shell runs it with `-c`. */
function login(
  shell: string,
  input: string,
  timeout = 10_000,
): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(shell, ["-c", remoteCommand(root)], {
    input,
    encoding: "utf8",
    timeout,
    env: {
      PATH: "/usr/bin:/bin",
      HOME: "/nonexistent",
      LANG: "de_DE.UTF-8",
      SECRET: "x",
      SSH_CONNECTION: "198.51.100.7 50000 192.0.2.1 22",
    },
  });
  return { code: status, stdout, stderr };
}

describe.each(["/bin/dash", "/bin/bash", "/usr/bin/zsh", "/usr/bin/fish", "/usr/bin/tcsh", "/bin/csh"])(
  "login shell %s",
  (shell) => {
    test.skipIf(!existsSync(shell))("runs the script as it is, in a clean environment", () => {
      const script = `{\nprintf '%s\\n' "it's \\"$((1+1))\\" ! \\\\" 'a\nb'\nenv | sort\n}\n`;
      const result = login(shell, standardInput(script, nonce, 5));
      expect(result.stderr).toBe("");
      expect(result.stdout.split("\n")).toEqual([
        "",
        `@${nonce} started`,
        `it's "2" ! \\`,
        "a",
        "b",
        "HOME=/root",
        "LC_ALL=C",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        expect.stringMatching(/^PWD=/),
        "SSH_CONNECTION=198.51.100.7 50000 192.0.2.1 22",
        "",
      ]);
      expect(result.code).toBe(0);
    });

    test.skipIf(!existsSync(shell))("gives the script's exit status", () => {
      expect(login(shell, standardInput("exit 7", nonce, 5)).code).toBe(7);
    });
  },
);

test("standard input that is cut off in the first line runs nothing", () => {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-cut-"));
  try {
    const input = standardInput(`{\ntouch ${folder}/ran\n}`, nonce, 5);
    for (let length = 0; length < input.length; length += 3) login("/bin/dash", input.slice(0, length));
    expect(readdirSync(folder)).toEqual([]);
    login("/bin/dash", input);
    expect(readdirSync(folder)).toEqual(["ran"]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

function isRunning(pid: string): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

test("the device ends a script at its deadline, with all that it started", async () => {
  const result = login("/bin/dash", standardInput("echo $$; sleep 4711 & echo $!; wait", nonce, 1));
  expect(result.code).toBe(124);
  const pids = result.stdout.split("\n").filter((line) => /^\d+$/.test(line));
  expect(pids).toHaveLength(2);
  // They have been sent their signal; the kernel ends them in its own time, and who adopted them reaps them in its own.
  for (const pid of pids) await vi.waitFor(() => expect(isRunning(pid), `process ${pid} runs`).toBe(false));
});

test("neither the script nor anything of it is on the command line", () => {
  expect(remoteCommand(edge)).toBe(
    `exec /usr/bin/env LC_ALL=C sudo -n -- /bin/sh -c 'read -r line && eval "$line"' edgeseal "$SSH_CONNECTION"`,
  );
  expect(remoteCommand(root)).toBe(
    `exec /bin/sh -c 'read -r line && eval "$line"' edgeseal "$SSH_CONNECTION"`,
  );
});

describe("what refused a root shell is told apart", () => {
  const refused = (result: Partial<ExecResult>): DeviceError => {
    try {
      requireStarted(edge, { code: 1, stdout: "", stderr: "", ...result }, nonce);
    } catch (error) {
      if (error instanceof DeviceError) return error;
      throw error;
    }
    throw new Error("it was taken for started");
  };

  test.each([
    ["sudo: a password is required\n", /sudo asks for a password/, /edge ALL=\(root\) NOPASSWD: \/bin\/sh/],
    ["sudo: sorry, you must have a tty to run sudo\n", /sudo asks for a password/, /NOPASSWD/],
    [
      "Sorry, user edge is not allowed to execute '/bin/sh -c x' as root on pi-1.\n",
      /does not allow/,
      /sudoers\.d/,
    ],
    ["edge is not in the sudoers file.\n", /does not allow/, /sudoers\.d/],
    ["sh: 1: exec: sudo: not found\n", /no sudo/, /install it/],
    ["bash: line 1: exec: sudo: not found\n", /no sudo/, /install it/],
    ["/usr/bin/env: 'sudo': No such file or directory\n", /no sudo/, /install it/],
    ["fish: Unknown command: sudo\n", /no sudo/, /install it/],
  ])("%j", (stderr, message, hint) => {
    const error = refused({ stderr });
    expect(error.kind).toBe("denied");
    expect(error.shortMessage).toMatch(message);
    expect(error.hint).toMatch(hint);
    expect(error.message).toContain(stderr.trim());
  });

  test("a login shell that refuses on standard output", () => {
    expect(refused({ stdout: "This account is currently not available.\n" }).shortMessage).toMatch(
      /may not run commands/,
    );
  });

  test("anything else is quoted, without control characters", () => {
    const error = refused({ stderr: "\u001b[31mgo\r\naway\u0007" });
    expect(error.message).toContain("([31mgo away)");
  });

  test("another exec's marker does not count as started", () => {
    expect(refused({ stdout: "\n@fedcba9876543210 started\n" }).kind).toBe("denied");
  });
});

test("printable text is one line and short", () => {
  expect(printable(`a\n\tb${"x".repeat(1000)}`)).toMatch(/^a bx{296,297}\.\.\.$/);
});
