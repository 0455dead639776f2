import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import type { Duplex } from "node:stream";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { readEndorsementKey } from "../../../provider/trust/credential.ts";
import { hostKey } from "../site/site-text.ts";
import { softwareTpm } from "../trust/software-tpm.ts";
import { scratchFolder } from "./scratch.ts";

const program = fileURLToPath(new URL("../../../cli/node-add/first-contact", import.meta.url));
const scratch = scratchFolder();

const put = (path: string, content: string): void => {
  mkdirSync(dirname(scratch(path)), { recursive: true });
  writeFileSync(scratch(path), content);
};

const sha256 = (bytes: Buffer | string): string => createHash("sha256").update(bytes).digest("hex");
const blob = Buffer.from(hostKey.split(" ")[1] ?? "", "base64");
const inGroups = (hex: string): string => hex.slice(0, 24).match(/.{4}/g)?.join("-") ?? "";

/** A public area of the default template, and another key's. */
const area = (byte: number): string =>
  `0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100${"c1".repeat(255)}${byte.toString(16).padStart(2, "0")}`;

const readPublic = "80010000000e0000017381010001";
const noHandle = "80010000000a0000018b";

type Answer = (command: string) => string | undefined;

/** A TPM that answers in hex. */
const answering =
  (answer: Answer, commands: string[] = []) =>
  (tpm: Duplex): void => {
    tpm.on("data", (bytes: Buffer) => {
      commands.push(bytes.toString("hex"));
      const given = answer(bytes.toString("hex"));
      if (given === undefined) tpm.end();
      else tpm.write(Buffer.from(given, "hex"));
    });
  };

const withSize = (tag: string, rest: string): string =>
  `${tag}${(rest.length / 2 + 6).toString(16).padStart(8, "0")}${rest}`;
const persistent = (publicArea: string): string => withSize("8001", `00000000013a${publicArea}0022000b`);
const created = (publicArea: string): string =>
  withSize("8002", `0000000080ffffff00000200013a${publicArea}0037000000`);

/** Runs the program on the fixture. */
async function run(
  serve?: (tpm: Duplex) => void,
): Promise<{ code: number; lines: Record<string, string>; stderr: string }> {
  const child = spawn("sh", [program, "--root", scratch("."), "--tpm", "-"], {
    stdio: ["ignore", "pipe", "pipe", "pipe"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  const tpm = child.stdio[3] as unknown as Duplex;
  tpm.on("error", () => undefined);
  serve?.(tpm);
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    new Promise<number>((resolve) => child.once("exit", (status) => resolve(status ?? -1))),
  ]);
  tpm.destroy();
  const lines = Object.fromEntries(
    stdout
      .trimEnd()
      .split("\n")
      .map((line): [string, string] => [line.slice(0, 13).trim(), line.slice(13)]),
  );
  return { code, lines, stderr };
}

const aDevice = (): void => {
  put("etc/ssh/ssh_host_ed25519_key.pub", `${hostKey} root@pi\n`);
  put("sys/class/tpm/tpm0/tpm_version_major", "2\n");
};

describe("the host key", () => {
  test("is shown with its fingerprint, and as the first half of the check line", async () => {
    put("etc/ssh/ssh_host_ed25519_key.pub", `${hostKey} root@pi\n`);
    const { code, lines, stderr } = await run();
    expect([code, stderr]).toEqual([0, ""]);
    expect(lines).toEqual({
      "host key": "ssh-ed25519",
      fingerprint: `SHA256:${Buffer.from(sha256(blob), "hex").toString("base64").replace(/=$/, "")}`,
      TPM: "none that the kernel drives",
      check: `${inGroups(sha256(blob))} no-tpm`,
    });
  });

  test("of several types is the one that is asked for first over the network", async () => {
    put("etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQM= root@pi\n");
    put("etc/ssh/ssh_host_ecdsa_key.pub", "ecdsa-sha2-nistp256 AAAA root@pi\n");
    expect((await run()).lines["host key"]).toBe("ecdsa-sha2-nistp256");
    put("etc/ssh/ssh_host_ed25519_key.pub", `${hostKey} root@pi\n`);
    expect((await run()).lines["host key"]).toBe("ssh-ed25519");
  });

  test("that is missing leaves nothing to compare", async () => {
    const { code, lines } = await run();
    expect(code).toBe(1);
    expect(lines["host key"]).toMatch(/^none: install and start sshd/);
    expect(lines).not.toHaveProperty("check");
  });
});

describe("the endorsement key", () => {
  test("that is persistent is read, and nothing is derived", async () => {
    aDevice();
    const commands: string[] = [];
    const { lines, stderr } = await run(answering(() => persistent(area(1)), commands));
    const digest = sha256(Buffer.from(area(1), "hex"));
    expect(stderr).toBe("");
    expect(lines["EK digest"]).toBe(digest);
    expect(lines["check"]).toBe(`${inGroups(sha256(blob))} ${inGroups(digest)}`);
    expect(commands).toEqual([readPublic]);
  });

  test.each([
    ["not there", noHandle],
    ["of another template", persistent(`0023${area(1).slice(4)}`)],
  ])(
    "whose place is %s is derived from the default template, by one command of its length",
    async (_, first) => {
      aDevice();
      const commands: string[] = [];
      const { lines } = await run(
        answering((command) => (command === readPublic ? first : created(area(3))), commands),
      );
      expect(lines["EK digest"]).toBe(sha256(Buffer.from(area(3), "hex")));
      const [, create = ""] = commands;
      expect(create).toMatch(/^8002000001630000013140 *00000b0000000940000009/);
      expect(create.length / 2).toBe(0x163);
      expect(commands).toHaveLength(2);
    },
  );

  test.each([
    ["refuses", "80020000000a00000922", /response code 00000922/],
    ["gives another kind of key", created(`0023${area(1).slice(4)}`), /does not derive/],
    ["is gone", undefined, /response code none|takes no command/],
  ])(
    "of a TPM that %s is told not to be read, and the check line is of the host key alone",
    async (_, answer, why) => {
      aDevice();
      const { code, lines } = await run(answering((command) => (command === readPublic ? noHandle : answer)));
      expect(code).toBe(0);
      expect(lines["EK digest"]).toMatch(why);
      expect(lines["check"]).toBe(inGroups(sha256(blob)));
    },
  );

  test("is not asked of a TPM 1.2", async () => {
    aDevice();
    put("sys/class/tpm/tpm0/tpm_version_major", "1\n");
    const { lines } = await run();
    expect(lines["TPM"]).toBe("of version 1, which edgeseal does not use");
    expect(lines["check"]).toBe(inGroups(sha256(blob)));
  });
});

describe("a TPM in software", () => {
  const start = softwareTpm();

  test("derives the key that tpm2-tools derive, and gives it from its place once it is persistent", async (context) => {
    const tpm = start(context);
    aDevice();
    const serve = (end: Duplex): void => {
      const socket = connect(join(tpm.folder, "socket"));
      end.pipe(socket).pipe(end);
    };
    const derived = (await run(serve)).lines["EK digest"];
    await tpm.run("tpm2_createek", ..."-G rsa -c ek.ctx -u ek.pub".split(" "));
    const { digest } = readEndorsementKey(await tpm.read("ek.pub"));
    expect(derived).toBe(digest);
    await tpm.run("tpm2_evictcontrol", ..."-Q -C o -c ek.ctx 0x81010001".split(" "));
    expect((await run(serve)).lines["EK digest"]).toBe(digest);
  });
});
