import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { Connection } from "../../../provider/connection.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import { createIdentities } from "../../../provider/device/identity.ts";

const base: Connection = { node: "pi-1", address: "192.0.2.1", port: 22, user: "edge", hostKey: "" };
const loadIdentity = (connection: Connection) => createIdentities().of(connection);
let folder: string;
let plain: string;
let encrypted: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-identity-"));
  plain = join(folder, "plain");
  encrypted = join(folder, "encrypted");
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", plain]);
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "passphrase", "-f", encrypted]);
});
afterAll(() => rmSync(folder, { recursive: true }));

async function refusal(connection: Partial<Connection>): Promise<DeviceError> {
  try {
    await loadIdentity({ ...base, ...connection });
  } catch (error) {
    if (error instanceof DeviceError) return error;
    throw error;
  }
  throw new Error("it was accepted");
}

describe("a private key", () => {
  test("is taken with and without its last line feed, and with carriage returns", async () => {
    const text = readFileSync(plain, "utf8");
    for (const privateKey of [text, text.trimEnd(), text.replaceAll("\n", "\r\n")]) {
      expect(await loadIdentity({ ...base, privateKey })).toMatchObject({
        type: "publickey",
        from: "privateKey",
      });
    }
  });

  test("that is broken is never quoted, in no part of the error", async () => {
    const lines = readFileSync(plain, "utf8").split("\n");
    const secret = lines[1] ?? "";
    for (const privateKey of [
      lines.slice(1).join("\n"),
      lines.slice(0, 3).join("\n"),
      secret,
      lines.join(" "),
      `${secret}\u0000`,
    ]) {
      const error = await refusal({ privateKey });
      expect(error.kind).toBe("refused");
      expect(error.message).toMatch(/pi-1: the private key from privateKey can't be read/);
      const all = JSON.stringify([error.message, error.stack, error.cause, error.originalMessage]);
      for (let at = 0; at + 12 <= secret.length; at += 4)
        expect(all).not.toContain(secret.slice(at, at + 12));
    }
  });

  test("that is encrypted is refused with the mend", async () => {
    const error = await refusal({ privateKey: readFileSync(encrypted, "utf8") });
    expect(error.message).toMatch(/is encrypted; load it into an ssh agent/);
  });

  test("is not the public half", async () => {
    expect((await refusal({ privateKey: readFileSync(`${plain}.pub`, "utf8") })).message).toMatch(
      /is a public key/,
    );
  });
});

describe("an identity file", () => {
  test("is found below the home folder", async () => {
    const identityFile = `~/${relative(homedir(), plain)}`;
    expect(await loadIdentity({ ...base, identityFile })).toMatchObject({ from: `identityFile ${plain}` });
  });

  test("that is not there is named, with the mend", async () => {
    const error = await refusal({ identityFile: join(folder, "missing") });
    expect(error.message).toMatch(/identityFile .*missing can't be read \(ENOENT\); there is no such file/);
  });

  test.each([0o644, 0o640, 0o604])("that others can read (mode %o) is refused", async (mode) => {
    const open = join(folder, `open-${mode}`);
    copyFileSync(plain, open);
    chmodSync(open, mode);
    const error = await refusal({ identityFile: open });
    expect(error.message).toContain(`mode 0${mode.toString(8)}`);
    expect(error.hint).toBe(`chmod 600 ${open}`);
  });

  test("that holds something else is not quoted", async () => {
    const file = join(folder, "something");
    writeFileSync(file, "a secret of another kind", { mode: 0o600 });
    expect((await refusal({ identityFile: file })).message).not.toContain("secret");
  });
});

describe("a command", () => {
  const key = { type: "publickey", from: "identityCommand" };

  test("prints the key, whatever it says besides on standard error", async () => {
    const identityCommand = `echo unlocked >&2; cat '${plain}'`;
    expect(await loadIdentity({ ...base, identityCommand })).toMatchObject(key);
    // It comes before a file, and after a key that is given.
    expect(await loadIdentity({ ...base, identityCommand, identityFile: "/nowhere" })).toMatchObject(key);
    const privateKey = readFileSync(plain, "utf8");
    expect(await loadIdentity({ ...base, identityCommand: "false", privateKey })).toMatchObject({
      from: "privateKey",
    });
  });

  test("is asked once for all nodes and connections, whatever comes of it; each error names its own node", async () => {
    const asked = join(folder, "asked");
    for (const ending of [`cat '${plain}'`, "exit 3", "echo locked"]) {
      const identityCommand = `echo . >>'${asked}'; ${ending}`;
      const identities = createIdentities();
      const of = (node: string): Promise<unknown> => identities.of({ ...base, node, identityCommand });
      const both = await Promise.allSettled(["pi-1", "pi-2"].map(of));
      for (const [index, each] of both.entries())
        if (each.status === "rejected") expect(String(each.reason)).toContain(`pi-${index + 1}: the `);
      await of("pi-1").catch(() => undefined);
      expect(readFileSync(asked, "utf8")).toBe(".\n");
      rmSync(asked);
    }
  });

  test.each([
    ["echo a-secret; echo a-secret >&2; exit 3", /ended with exit status 3; run it in a shell/],
    ["echo a-secret >&2", /printed nothing/],
    ["echo a-secret", /the private key from identityCommand can't be read/],
    ["kill -9 $$", /was killed/],
    ["cat /dev/zero", /printed more than 65536 bytes, which is no private key/],
  ])("that gives none is refused, and nothing that it said is quoted: %s", async (identityCommand, what) => {
    const error = await refusal({ identityCommand });
    expect(error).toMatchObject({ kind: "refused" });
    expect(error.message).toMatch(what);
    expect(JSON.stringify([error.message, error.stack, error.originalMessage])).not.toContain("a-secret");
  });

  // One that nobody waited for yet has no program any more.
  const ended = (pid: string): Promise<void> =>
    vi.waitFor(() => expect(existsSync(`/proc/${readFileSync(pid, "utf8").trim()}/exe`)).toBe(false));

  test("that leaves something running in the background is not waited for, and that is ended", async () => {
    const pid = join(folder, "left");
    const identityCommand = `sleep 600 & echo $! >'${pid}'; cat '${plain}'`;
    expect(await loadIdentity({ ...base, identityCommand })).toMatchObject(key);
    await ended(pid);
  });

  test.each([
    ["that waits", "sleep 600 & echo $! >PID; wait"],
    [
      "whose output something else holds open",
      'setsid sh -c "echo \\$\\$ >PID; exec sleep 3" & until [ -s PID ]; do sleep 0.02; done',
    ],
  ])("%s is given up when the operation is cancelled", async (_, command) => {
    const pid = join(folder, "pid");
    const cancel = new AbortController();
    const identityCommand = command.replaceAll("PID", `'${pid}'`);
    const asking = createIdentities().of({ ...base, identityCommand }, cancel.signal);
    await vi.waitFor(() => expect(readFileSync(pid, "utf8")).toMatch(/\n/));
    const before = performance.now();
    cancel.abort();
    await expect(asking).rejects.toMatchObject({ kind: "cancelled" });
    expect(performance.now() - before).toBeLessThan(2_000);
    if (command.startsWith("sleep")) await ended(pid);
    rmSync(pid);
  });

  test("goes on for the others when one of those that wait is cancelled", async () => {
    const go = join(folder, "go");
    const identityCommand = `until [ -e '${go}' ]; do sleep 0.05; done; cat '${plain}'`;
    const identities = createIdentities();
    const cancel = new AbortController();
    const first = identities.of({ ...base, identityCommand }, cancel.signal);
    const second = identities.of({ ...base, node: "pi-2", identityCommand });
    cancel.abort();
    await expect(first).rejects.toMatchObject({ kind: "cancelled" });
    writeFileSync(go, "");
    expect(await second).toMatchObject(key);
  });
});

describe("without a key", () => {
  test("the agent that the connection names comes before that of the environment", async () => {
    vi.stubEnv("SSH_AUTH_SOCK", "/run/env-agent");
    try {
      expect(await loadIdentity(base)).toMatchObject({ type: "agent", agent: "/run/env-agent" });
      expect(await loadIdentity({ ...base, agent: "/run/own-agent" })).toMatchObject({
        agent: "/run/own-agent",
      });
    } finally {
      vi.unstubAllEnvs();
    }
  });

  test("and without an agent it says what to give", async () => {
    vi.stubEnv("SSH_AUTH_SOCK", "");
    try {
      expect((await refusal({})).message).toMatch(
        /no key to log in with; give the connection an `identityFile`, an `identityCommand`/,
      );
    } finally {
      vi.unstubAllEnvs();
    }
  });
});
