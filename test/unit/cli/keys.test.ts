import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import * as keys from "../../../cli/keys.ts";
import {
  addSigningKey,
  makeKeys,
  rotatePolicyKey,
  siteNameOf,
  type PrivateHalf,
} from "../../../cli/keys/make-keys.ts";
import {
  currentGeneration,
  privateKeySpec,
  publicKeyPem,
  readKeyStore,
  type KeyIndex,
} from "../../../cli/keys/key-store.ts";
import { openPrivateKey } from "../../../cli/keys/open-private-key.ts";
import { openSigningKey } from "../../../cli/keys/signing-key.ts";
import { keyLines, shownKeys, unnamedFiles } from "../../../cli/keys/show.ts";
import { fingerprint, readPublicKey, verifies } from "../../../provider/trust/public-key.ts";
import { testKey } from "../trust/keys.ts";
import { scratchFolder } from "./scratch.ts";

const scratch = scratchFolder();
const passphrase = "correct horse battery";
/** scrypt's real work factor would take seconds for each key. */
const inFile: PrivateHalf = { in: "file", passphrase, workFactor: 4 };
const now = new Date("2027-01-15T12:00:00.123Z");

/** A 4096-bit key takes seconds to find: one for the tests that don't look at it. */
const recoveryKey = testKey("recovery");
const recovery: PrivateHalf = {
  in: "elsewhere",
  spec: "command:recover",
  key: recoveryKey.privateKey,
  publicKeyPem: recoveryKey.publicKeyPem,
};

const made = () => makeKeys(scratch("keys"), { site: "plant", policy: inFile, recovery, now });
const passphraseFile = (text = `${passphrase}\n`): string => {
  writeFileSync(scratch("passphrase"), text, { mode: 0o600 });
  return scratch("passphrase");
};
const mode = (...parts: readonly string[]): string => (statSync(scratch(...parts)).mode & 0o777).toString(8);

describe("a key that signs images and models", () => {
  const images = { name: "images-2027", half: inFile, now };

  test("is added beside the others, and shown, and proven to work", async () => {
    await made();
    const { store, key } = await addSigningKey(scratch("keys"), images);
    expect(store.index.signing).toEqual([{ name: "images-2027", ...key }]);
    expect(mode("keys", "images-2027.key.age")).toBe("600");
    const read = await readKeyStore(scratch("keys"));
    expect(read.index).toEqual(store.index);
    expect(await unnamedFiles(read)).toEqual([]);
    const shown = await shownKeys(read, { prove: true, passphraseFile: passphraseFile() });
    expect(shown.find((each) => each.key === "signing, images-2027")).toMatchObject({
      problems: [],
      state: "current",
    });
    const options = { key: scratch("keys", "images-2027.key.age"), passphraseFile: passphraseFile() };
    const signing = await openSigningKey(options);
    expect(signing.publicKey.asymmetricKeyDetails?.modulusLength).toBe(3072);
    expect(
      verifies(signing.publicKey, Buffer.from("x"), await signing.privateKey.sign(Buffer.from("x"))),
    ).toBe(true);
  });

  test("is never written over, and has no name that is another key's", async () => {
    await made();
    await addSigningKey(scratch("keys"), images);
    const before = readFileSync(scratch("keys", "images-2027.key.age"));
    await expect(addSigningKey(scratch("keys"), images)).rejects.toThrow(/has a key images-2027 already/);
    for (const name of ["policy-1", "recovery", "../x", "Images", ""])
      await expect(addSigningKey(scratch("keys"), { ...images, name })).rejects.toThrow(/can't be called/);
    expect(readFileSync(scratch("keys", "images-2027.key.age"))).toEqual(before);
  });

  test("stays when the policy key is rotated", async () => {
    await made();
    await addSigningKey(scratch("keys"), images);
    const { store } = await rotatePolicyKey(scratch("keys"), { policy: inFile, now });
    expect(store.index.signing).toHaveLength(1);
  });

  test("needs its public half: beside it, or named", async () => {
    await expect(openSigningKey({ key: "command:sign" })).rejects.toThrow(
      /public half of command:sign is not known/,
    );
    await expect(openSigningKey({ key: scratch("a.key.age") })).rejects.toThrow(/a\.pub\.pem can't be read/);
    writeFileSync(scratch("a.pub.pem"), testKey("policy", 1024).publicKeyPem);
    await expect(openSigningKey({ key: scratch("a.key.age") })).rejects.toThrow(
      /RSA key of 2048 to 4096 bits/,
    );
  });
});

describe("new keys", () => {
  test("are an encrypted private half, a public half, and an index, for the user's eyes only", async () => {
    const store = await made();
    expect(readdirSync(scratch("keys")).sort()).toEqual([
      "keys.json",
      "policy-1.key.age",
      "policy-1.pub.pem",
      "recovery.pub.pem",
    ]);
    expect(mode("keys")).toBe("700");
    expect(mode("keys", "policy-1.key.age")).toBe("600");
    expect(mode("keys", "keys.json")).toBe("600");
    expect(readFileSync(scratch("keys", "policy-1.key.age"), "utf8")).not.toContain("PRIVATE KEY");
    expect(store.index).toEqual({
      version: 1,
      site: "plant",
      policy: [
        {
          generation: 1,
          fingerprint: fingerprint(
            readPublicKey(readFileSync(scratch("keys", "policy-1.pub.pem"), "utf8"), "policy"),
          ),
          publicKey: "policy-1.pub.pem",
          privateKey: "policy-1.key.age",
          createdAt: "2027-01-15T12:00:00Z",
        },
      ],
      recovery: {
        fingerprint: fingerprint(recoveryKey.publicKey),
        publicKey: "recovery.pub.pem",
        privateKey: "command:recover",
        createdAt: "2027-01-15T12:00:00Z",
      },
    });
    expect(await readKeyStore(scratch("keys"))).toEqual(store);
  });

  test("open with the passphrase, and do what they are for", async () => {
    const store = await made();
    const key = await openPrivateKey(privateKeySpec(store, currentGeneration(store)), {
      passphraseFile: passphraseFile(),
    });
    const publicKey = readPublicKey(await publicKeyPem(store, currentGeneration(store), "policy"), "policy");
    const { verify } = await import("node:crypto");
    expect(verify("sha256", Buffer.from("x"), publicKey, await key.sign(Buffer.from("x")))).toBe(true);
  });

  test("go into an empty folder that is there, and into no other", async () => {
    mkdirSync(scratch("keys"), { mode: 0o755 });
    await made();
    expect(mode("keys")).toBe("700");
    await expect(made()).rejects.toThrow(/is not empty: keys are never written over/);
    writeFileSync(scratch("file"), "");
    const keysInFile = makeKeys(scratch("file"), { site: "x", policy: inFile, recovery, now });
    await expect(keysInFile).rejects.toThrow(/is there, and is no folder/);
  });

  test("are not made in a work tree, and leave nothing there", async () => {
    mkdirSync(scratch("repo", ".git"), { recursive: true });
    symlinkSync(scratch("repo"), scratch("link"));
    for (const folder of [scratch("repo", "keys"), scratch("link", "keys")]) {
      const making = makeKeys(folder, { site: "x", policy: inFile, recovery, now });
      await expect(making).rejects.toThrow(/is in the work tree/);
    }
    expect(readdirSync(scratch("repo"))).toEqual([".git"]);
  });

  test("leave nothing behind when making them fails half-way", async () => {
    const broken: PrivateHalf = { ...recovery, key: testKey("recovery").privateKey };
    await expect(
      makeKeys(scratch("keys"), { site: "x", policy: inFile, recovery: broken, now }),
    ).rejects.toThrow();
    expect(readdirSync(scratch())).toEqual([]);
  });

  test("elsewhere are taken when they are the other half of what is given", async () => {
    const pair = testKey();
    const elsewhere = (key: PrivateHalf & { in: "elsewhere" }) =>
      makeKeys(scratch("keys"), { site: "x", policy: key, recovery, now });
    const right = {
      in: "elsewhere",
      spec: "command:sign",
      key: pair.privateKey,
      publicKeyPem: pair.publicKeyPem,
    } as const;
    await expect(elsewhere({ ...right, publicKeyPem: testKey().publicKeyPem })).rejects.toThrow(
      /is not one of the public key/,
    );
    await expect(elsewhere({ ...right, publicKeyPem: recoveryKey.publicKeyPem })).rejects.toThrow(
      /RSA of 2048 bits/,
    );
    const store = await elsewhere(right);
    expect(privateKeySpec(store, currentGeneration(store))).toBe("command:sign");
  });
});

describe("rotating", () => {
  test("makes the next generation, keeps the old one and names it revoked", async () => {
    const before = await made();
    const later = new Date("2027-02-01T00:00:00Z");
    const { store, revoked } = await rotatePolicyKey(scratch("keys"), { policy: inFile, now: later });
    expect(revoked).toEqual(currentGeneration(before));
    expect(store.index.policy).toEqual([
      { ...currentGeneration(before), revokedAt: "2027-02-01T00:00:00Z" },
      expect.objectContaining({
        generation: 2,
        privateKey: "policy-2.key.age",
        publicKey: "policy-2.pub.pem",
      }),
    ]);
    expect(store.index.policy[1]?.fingerprint).not.toBe(store.index.policy[0]?.fingerprint);
    expect(readdirSync(scratch("keys"))).toEqual(
      expect.arrayContaining(["policy-1.key.age", "policy-1.pub.pem"]),
    );
    expect(await readKeyStore(scratch("keys"))).toEqual(store);
    expect(await unnamedFiles(store)).toEqual([]);
  });

  test("that was cut off before its end is done again, and destroys no key", async () => {
    await made();
    writeFileSync(scratch("keys", "policy-2.key.age"), "half a key");
    const { store, setAside } = await rotatePolicyKey(scratch("keys"), { policy: inFile, now });
    expect(currentGeneration(store).generation).toBe(2);
    expect(setAside).toEqual([expect.stringMatching(/^policy-2\.key\.age\.unused-[0-9a-f]{8}$/)]);
    expect(readFileSync(scratch("keys", setAside[0] ?? ""), "utf8")).toBe("half a key");
    expect(await unnamedFiles(store)).toEqual(setAside);
  });

  test("takes no key that there is already", async () => {
    const pair = testKey();
    const policy = {
      in: "elsewhere",
      spec: "command:sign",
      key: pair.privateKey,
      publicKeyPem: pair.publicKeyPem,
    } as const;
    await makeKeys(scratch("keys"), { site: "x", policy, recovery, now });
    await expect(rotatePolicyKey(scratch("keys"), { policy, now })).rejects.toThrow(
      /a new generation needs a new key/,
    );
    expect((await readKeyStore(scratch("keys"))).index.policy).toHaveLength(1);
  });

  test("is refused once the folder is in a work tree", async () => {
    await made();
    mkdirSync(scratch(".git"));
    await expect(rotatePolicyKey(scratch("keys"), { policy: inFile, now })).rejects.toThrow(
      /is in the work tree/,
    );
  });
});

describe("the index", () => {
  const changed = async (change: (index: KeyIndex) => object): Promise<string> => {
    const { index } = await made();
    writeFileSync(scratch("keys", "keys.json"), JSON.stringify(change(index)));
    const error: unknown = await readKeyStore(scratch("keys")).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  };

  test("is refused with every fault", async () => {
    const message = await changed((index) => ({ ...index, version: 2, extra: 1 }));
    expect(message).toMatch(/version: expected 1/);
    expect(message).toMatch(/extra: unknown field/);
  });

  test.each<[string, (index: KeyIndex) => object, RegExp]>([
    [
      "a file outside of the folder",
      (index) => ({ ...index, recovery: { ...index.recovery, privateKey: "../x.key.age" } }),
      /recovery\.privateKey/,
    ],
    [
      "a gap in the generations",
      (index) => ({ ...index, policy: index.policy.map((each) => ({ ...each, generation: 2 })) }),
      /policy\[0\]\.generation: expected 1, got 2/,
    ],
    [
      "no current generation",
      (index) => ({ ...index, policy: index.policy.map((each) => ({ ...each, revokedAt: "x" })) }),
      /every generation but the last one is revoked/,
    ],
    ["no generation at all", (index) => ({ ...index, policy: [] }), /policy: /],
  ])("is refused with %s", async (_, change, message) => expect(await changed(change)).toMatch(message));

  test("is refused in a folder that others can enter", async () => {
    await made();
    chmodSync(scratch("keys"), 0o750);
    await expect(readKeyStore(scratch("keys"))).rejects.toThrow(/open to other users \(mode 750\)/);
  });

  test("is missed, and the mend is told", async () => {
    mkdirSync(scratch("empty"), { mode: 0o700 });
    await expect(readKeyStore(scratch("empty"))).rejects.toThrow(/has no keys.json/);
    await expect(readKeyStore(scratch("none"))).rejects.toThrow(/there is no folder/);
  });

  test("does not go with an exchanged public half", async () => {
    const store = await made();
    writeFileSync(scratch("keys", "policy-1.pub.pem"), testKey().publicKeyPem);
    await expect(publicKeyPem(store, currentGeneration(store), "policy")).rejects.toThrow(
      /is not the key that keys\.json names/,
    );
  });
});

describe("showing", () => {
  test("tells each key and its state, and proves the current ones when asked to", async () => {
    const pair = testKey();
    const broken = {
      in: "elsewhere",
      spec: "command:false",
      key: pair.privateKey,
      publicKeyPem: pair.publicKeyPem,
    } as const;
    await makeKeys(scratch("keys"), { site: "plant", policy: broken, recovery, now });
    const { store } = await rotatePolicyKey(scratch("keys"), { policy: inFile, now });
    const options = { passphraseFile: passphraseFile(), prove: true };
    const shown = await shownKeys(store, options);
    expect(shown.map(({ key, state, problems }) => [key, state, problems.length])).toEqual([
      // Revoked: not proved.
      ["policy, generation 1", "revoked", 0],
      ["policy, generation 2", "current", 0],
      ["recovery", "current", 1],
    ]);
    expect(shown[2]?.problems[0]).toMatch(/^the command recover: there is no such program/);
    const lines = keyLines(store, shown, 200).join("\n");
    expect(lines).toMatch(/policy, generation 1 +revoked 2027-01-15T12:00:00Z +[0-9a-f]{64}/);
    expect(lines).toMatch(
      /policy, generation 2 +current +[0-9a-f]{64} +2027-01-15T12:00:00Z +encrypted file/,
    );
  });

  test("tells a private half that is gone, or that others can read", async () => {
    const store = await made();
    chmodSync(scratch("keys", "policy-1.key.age"), 0o644);
    const [policy] = await shownKeys(store, { prove: true });
    expect(policy?.problems).toEqual([expect.stringMatching(/can be read by other users; chmod 600/)]);
    execFileSync("rm", [scratch("keys", "policy-1.key.age")]);
    const [gone] = await shownKeys(store, { prove: true });
    expect(gone?.problems).toEqual([expect.stringMatching(/is not there; take it from a backup/)]);
  });
});

test("a site has the name of the folder, where that can be one", () => {
  expect(siteNameOf("/home/me/plant-1/")).toBe("plant-1");
  expect(() => siteNameOf("/home/me/My Keys")).toThrow(/can't be a site's/);
});

describe("commands", () => {
  let printed: string[];
  beforeEach(() => {
    printed = [];
    vi.spyOn(console, "log").mockImplementation((line: string) => void printed.push(line));
    process.exitCode = undefined;
  });
  afterEach(() => {
    vi.restoreAllMocks();
    process.exitCode = undefined;
  });

  async function run(...words: string[]): Promise<number> {
    const program = new Command().exitOverride();
    keys.register(program);
    await program.parseAsync(words, { from: "user" });
    return Number(process.exitCode ?? 0);
  }

  test("new, rotate and show, with a passphrase from a file", { timeout: 120_000 }, async () => {
    const file = passphraseFile();
    expect(await run("keys", "new", scratch("plant"), "--passphrase-file", file)).toBe(0);
    expect(printed[0]).toBe(`made the keys of site plant in ${scratch("plant")}`);
    expect(await run("keys", "rotate", scratch("plant"), "--passphrase-file", file)).toBe(0);
    printed = [];
    expect(await run("keys", "show", scratch("plant"), "--json", "--prove", "--passphrase-file", file)).toBe(
      0,
    );
    expect(JSON.parse(printed.join("\n"))).toMatchObject({
      site: "plant",
      keys: [
        { key: "policy, generation 1", state: "revoked", problems: [] },
        { key: "policy, generation 2", state: "current", problems: [] },
        { key: "recovery", state: "current", problems: [] },
      ],
      unnamedFiles: [],
    });
    const everything = readdirSync(scratch("plant")).map((name) =>
      readFileSync(scratch("plant", name), "utf8"),
    );
    expect(everything.join("") + printed.join("")).not.toContain(passphrase);
  });

  test.each([
    ["a work tree, before a passphrase is asked for", ["keys", "new", "REPO/keys"], /is in the work tree/],
    [
      "a short passphrase",
      ["keys", "new", "plant", "--passphrase-file", "SHORT"],
      /fewer than 12 characters/,
    ],
    [
      "an empty passphrase",
      ["keys", "new", "plant", "--passphrase-file", "EMPTY"],
      /the first line of .* is empty/,
    ],
    [
      "a passphrase file that others can read",
      ["keys", "new", "plant", "--passphrase-file", "OPEN"],
      /can be read by other users/,
    ],
    [
      "a passphrase file that is not there",
      ["keys", "new", "plant", "--passphrase-file", "NONE"],
      /can't be read: ENOENT/,
    ],
    [
      "two sources of a passphrase",
      ["keys", "new", "plant", "--passphrase-file", "EMPTY", "--passphrase-fd", "3"],
      /not both/,
    ],
    [
      "no number of a descriptor",
      ["keys", "new", "plant", "--passphrase-fd", "/dev/stdin"],
      /the number of a file descriptor/,
    ],
    [
      "a token's key without its public half",
      ["keys", "new", "plant", "--policy-key", "pkcs11:x"],
      /belong together/,
    ],
    [
      "a private key in a file in place of a new one",
      ["keys", "new", "plant", "--policy-key", "EMPTY", "--policy-public-key", "EMPTY"],
      /takes pkcs11:URI or command:PROGRAM/,
    ],
  ])("refuse %s", async (_, words, message) => {
    mkdirSync(scratch("REPO", ".git"), { recursive: true });
    writeFileSync(scratch("SHORT"), "short\n", { mode: 0o600 });
    writeFileSync(scratch("EMPTY"), "\nsecond line\n", { mode: 0o600 });
    writeFileSync(scratch("OPEN"), "correct horse battery\n", { mode: 0o644 });
    const placed = words.map((word) => (/^([A-Z]+(\/keys)?|plant)$/.test(word) ? scratch(word) : word));
    await expect(run(...placed)).rejects.toThrow(UserError);
    await expect(run(...placed)).rejects.toThrow(message);
    expect(readdirSync(scratch())).not.toContain("plant");
  });
});

/** `script` (bsdutils, essential in Debian) gives a program a terminal. What is typed is answered to prompts as they come. */
async function onTerminal(
  words: readonly string[],
  answers: readonly [RegExp, string][],
): Promise<{ code: number; screen: string }> {
  const main = fileURLToPath(new URL("../../../cli/main.ts", import.meta.url));
  const command = [process.execPath, main, ...words].map((word) => `'${word}'`).join(" ");
  const child = spawn("script", ["-q", "-e", "-c", command, "/dev/null"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const left = [...answers];
  let screen = "";
  let seen = 0;
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    screen += chunk;
    const [next] = left;
    const match = next === undefined ? null : next[0].exec(screen.slice(seen));
    if (next === undefined || match === null) return;
    seen += match.index + match[0].length;
    left.shift();
    child.stdin.write(next[1]);
  });
  const [code] = (await once(child, "close")) as [number];
  return { code, screen };
}

describe("at a terminal", { timeout: 120_000 }, () => {
  test("the passphrase is asked for twice, and is not shown", async () => {
    const { code, screen } = await onTerminal(
      ["keys", "new", scratch("plant")],
      [
        [/New passphrase for the policy key: /, `${passphrase}\r`],
        [/The same again: /, `${passphrase}\r`],
        [/recovery key \(Enter alone: the same\): /, "\r"],
      ],
    );
    expect(screen).toContain("made the keys of site plant");
    expect(screen).not.toContain("correct");
    expect(code).toBe(0);
    await openPrivateKey(scratch("plant", "recovery.key.age"), { passphraseFile: passphraseFile() });
  });

  test("a slip is noticed, and nothing is written", async () => {
    const { code, screen } = await onTerminal(
      ["keys", "new", scratch("plant")],
      [
        [/New passphrase for the policy key: /, `${passphrase}\r`],
        [/The same again: /, `${passphrase}!\r`],
      ],
    );
    expect(screen).toContain("the two passphrases differ");
    expect(code).toBe(1);
    expect(readdirSync(scratch())).toEqual([]);
  });

  test("Ctrl-C ends it with 130", async () => {
    const { code } = await onTerminal(["keys", "new", scratch("plant")], [[/New passphrase/, "abc\u0003"]]);
    expect(code).toBe(130);
    expect(readdirSync(scratch())).toEqual([]);
  });
});
