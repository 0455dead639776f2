import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeKeys } from "../../../cli/keys/make-keys.ts";
import { openFromState, type OpenOptions } from "../../../cli/keys/open-recovery.ts";
import { fingerprint } from "../../../provider/trust/public-key.ts";
import { sealRecovery, type RecoveryBinding } from "../../../provider/trust/recovery.ts";
import { testKey } from "../trust/keys.ts";
import { scratchFolder } from "./scratch.ts";

const scratch = scratchFolder();
const recovery = testKey("recovery");
const uuid = "0a1b2c3d-1111-4222-8333-444455556666";
const secret = "5e".repeat(32);

const luks: RecoveryBinding = { kind: "luks", node: "pi-1", subject: uuid };
const sealed = (binding: RecoveryBinding, key = secret): string =>
  sealRecovery(recovery.publicKey, { ...binding, key }).toString("base64");

interface Recorded {
  readonly node?: string;
  /** The name that the node had when the TPM was owned. */
  readonly ownedAs?: string;
  readonly volume?: string;
  readonly ciphertext?: unknown;
  readonly recoveryKey?: string;
}

/** What `pulumi stack export` writes of a site with one node that has a volume and owns its TPM. */
function state({
  node = "pi-1",
  ownedAs = "pi-1",
  volume = "models",
  ciphertext = sealed(luks),
  recoveryKey = fingerprint(recovery.publicKey),
}: Recorded = {}): string {
  const resource = (type: string, inputs: object, outputs: object) => ({
    urn: `urn:pulumi:plant::edgeseal::${type}::x`,
    type,
    inputs: { node, ...inputs },
    outputs: { recoveryKey, ...outputs },
  });
  const resources = [
    resource(
      "edgeseal:storage:SealedVolume",
      { name: volume },
      { recoveryCiphertext: ciphertext, recoveryFor: uuid },
    ),
    resource(
      "edgeseal:tpm:Ownership",
      {},
      {
        recovery: {
          owner: sealed({ kind: "tpm-auth", node: ownedAs, subject: "owner" }, "o".repeat(40)),
          lockout: sealed({ kind: "tpm-auth", node: ownedAs, subject: "lockout" }, "l".repeat(40)),
        },
      },
    ),
  ];
  writeFileSync(scratch("state.json"), JSON.stringify({ version: 3, deployment: { resources } }));
  return scratch("state.json");
}

/** The recovery key behind a command, as a key service has it: openssl decrypts. */
function recoveryKey(key = recovery): string {
  const file = scratch(`${fingerprint(key.publicKey)}.pem`);
  writeFileSync(file, key.privateKeyPem, { mode: 0o600 });
  const words = ["openssl", "pkeyutl", "-decrypt", "-inkey", file];
  const oaep = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"];
  return `command:${JSON.stringify([...words, ...oaep.flatMap((each) => ["-pkeyopt", each])])}`;
}

async function opened(
  what: string,
  options: Partial<OpenOptions> = {},
  { node = "pi-1", isTTY = false } = {},
): Promise<string> {
  let printed = "";
  const output = { isTTY, write: (text: string) => void (printed += text) };
  const given = { state: options.state ?? state(), recoveryKey: recoveryKey(), ...options };
  await openFromState(node, what, given, output);
  return printed;
}

describe("from the state of the stack", () => {
  test("a volume's key comes whole and with nothing behind it, for the disk that was named", async () => {
    expect(await opened("volume/models", { uuid })).toBe(secret);
    expect(await opened("volume/models", { uuid: uuid.toUpperCase() })).toBe(secret);
  });

  test("the TPM's authorizations come likewise", async () => {
    expect(await opened("tpm/owner")).toBe("o".repeat(40));
    expect(await opened("tpm/lockout")).toBe("l".repeat(40));
  });

  test.each<[string, Recorded]>([
    ["another disk's", { ciphertext: sealed({ ...luks, subject: uuid.replace("0a", "0b") }) }],
    ["another node's", { ciphertext: sealed({ ...luks, node: "pi-2" }) }],
    ["the TPM's", { ciphertext: sealed({ kind: "tpm-auth", node: "pi-1", subject: "owner" }) }],
  ])("%s ciphertext in its place gives nothing out, and is named", async (_, recorded) => {
    await expect(opened("volume/models", { uuid, state: state(recorded) })).rejects.toThrow(/it was swapped/);
  });

  test("what a node sent under a former name opens by that, where it is said, and for the same disk only", async () => {
    const renamed = { node: "gate-1" };
    const options = { uuid, state: state(renamed) };
    await expect(opened("volume/models", options, renamed)).rejects.toMatchObject({
      message: expect.stringMatching(/of pi-1, and was given as that of .* of gate-1/) as unknown,
      hint: expect.stringMatching(
        /^if the node was called pi-1 when this was made: --bound-to pi-1 \(/,
      ) as unknown,
    });
    const boundTo = "pi-1";
    expect(await opened("volume/models", { ...options, boundTo }, renamed)).toBe(secret);
    for (const name of ["owner", "lockout"]) {
      await expect(opened(`tpm/${name}`, { state: options.state }, renamed)).rejects.toThrow("was renamed");
      expect(await opened(`tpm/${name}`, { state: options.state, boundTo }, renamed)).toBe(
        name.charAt(0).repeat(40),
      );
    }
    await expect(
      opened("volume/models", { ...options, boundTo, uuid: uuid.replace("0a", "0b") }, renamed),
    ).rejects.toThrow(/it was swapped; nothing was sent/);
    // The look-up stays by the present name.
    await expect(opened("volume/models", { ...options, boundTo: "gate-1" })).rejects.toThrow(
      "no volume/models of pi-1",
    );
  });

  test("a disk that is not the one of the ciphertext is refused, as is none", async () => {
    await expect(opened("volume/models", { uuid: uuid.replace("0a", "0b") })).rejects.toThrow(
      /that of the LUKS volume 0a1b.*given as that of the LUKS volume 0b1b/,
    );
    await expect(opened("volume/models")).rejects.toMatchObject({
      hint: expect.stringContaining("cryptsetup luksUUID") as unknown,
    });
    await expect(opened("tpm/owner", { uuid })).rejects.toThrow("--uuid is for volumes");
  });

  test("what the state does not have is told, with where an earlier one is", async () => {
    await expect(opened("volume/logs", { uuid })).rejects.toThrow("the state has no volume/logs of pi-1");
    await expect(opened("volume/models", { uuid }, { node: "pi-2" })).rejects.toThrow(
      "no volume/models of pi-2",
    );
    // A refresh that saw a new card, and what somebody made a secret of the stack.
    for (const ciphertext of ["", { "4dabf18193072939515e22adb298388d": "secret", ciphertext: "x" }]) {
      await expect(opened("volume/models", { uuid, state: state({ ciphertext }) })).rejects.toMatchObject({
        message: "the state has no recovery ciphertext of volume/models of pi-1",
        hint: expect.stringContaining("--version") as unknown,
      });
    }
    await expect(opened("tpm/endorsement")).rejects.toThrow("'tpm/endorsement' can't be opened");
    writeFileSync(scratch("none.json"), "{}");
    await expect(opened("tpm/owner", { state: scratch("none.json") })).rejects.toThrow(
      "not an exported state",
    );
  });

  test("another recovery key opens nothing", async () => {
    const other = testKey("recovery");
    await expect(opened("tpm/owner", { recoveryKey: recoveryKey(other) })).rejects.toMatchObject({
      name: "KeyUnusable",
    });
    // Where the folder says which it is, both are named before it is asked for.
    const elsewhere = ({ privateKey, publicKeyPem }: ReturnType<typeof testKey>) =>
      ({ in: "elsewhere", spec: "command:false", key: privateKey, publicKeyPem }) as const;
    const { folder } = await makeKeys(scratch("keys"), {
      site: "plant",
      policy: elsewhere(testKey("policy")),
      recovery: elsewhere(other),
      now: new Date("2027-01-15T12:00:00Z"),
    });
    const options = { state: state(), keys: folder };
    await expect(openFromState("pi-1", "tpm/owner", options, { write: () => true })).rejects.toThrow(
      `encrypted to the recovery key ${fingerprint(recovery.publicKey).slice(0, 16)}..., and yours is ${fingerprint(other.publicKey).slice(0, 16)}...`,
    );
  });
});

describe("the secret", () => {
  test("is not shown on a terminal, which is told before a key is asked for", async () => {
    await expect(opened("tpm/owner", { recoveryKey: "command:false" }, { isTTY: true })).rejects.toThrow(
      "a secret is not shown on a terminal",
    );
  });

  test("goes into a new file of one's own, and over no other", async () => {
    const out = scratch("secret");
    expect(await opened("volume/models", { uuid, out }, { isTTY: true })).toBe("");
    expect([readFileSync(out, "utf8"), statSync(out).mode & 0o777]).toEqual([secret, 0o600]);
    await expect(opened("volume/models", { uuid, out })).rejects.toThrow("EEXIST");
  });

  test("goes into no work tree of version control", async () => {
    mkdirSync(scratch("tree/.git"), { recursive: true });
    await expect(opened("tpm/owner", { out: scratch("tree/owner") })).rejects.toThrow(/is in the work tree/);
  });
});

const hasCryptsetup = spawnSync("cryptsetup", ["--version"]).status === 0;

test.skipIf(!hasCryptsetup)(
  "the key opens a LUKS2 header that was made with it, and another does not",
  async () => {
    const disk = scratch("disk");
    writeFileSync(disk, Buffer.alloc(20 * 1024 * 1024));
    const cryptsetup = (input: string, ...words: readonly string[]) =>
      spawnSync("cryptsetup", [...words, disk], { input, encoding: "utf8" });
    // As the node forms a volume.
    const made = cryptsetup(
      secret,
      ...["luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid, "--pbkdf", "pbkdf2"],
      ...["--pbkdf-force-iterations", "1000", "--key-file", "-"],
    );
    expect([made.status, made.stderr]).toEqual([0, ""]);
    const inHand = cryptsetup("", "luksUUID").stdout.trim();
    const trying = ["open", "--test-passphrase", "--key-file", "-"];
    expect(cryptsetup(await opened("volume/models", { uuid: inHand }), ...trying).status).toBe(0);
    expect(cryptsetup("5f".repeat(32), ...trying).status).toBe(2);
  },
);
