import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { UserError } from "../../../../cli/errors.ts";
import { encryptModel, type EncryptedModel } from "../../../../cli/model/encrypt.ts";
import { readKeysOfNode } from "../../../../cli/model/read-keys.ts";
import type { Session } from "../../../../provider/device/session.ts";
import { sessionOf } from "../../device/session-of.ts";
import type { TpmKeys } from "../../../../provider/resources/tpm-keys.ts";
import { readEndorsementKey } from "../../../../provider/trust/credential.ts";
import { sha256Hex } from "../../../../provider/trust/digest.ts";
import { sealedManifest } from "../../../../provider/trust/sealed-manifest.ts";
import { storageKeyName } from "../../../../provider/trust/storage-key.ts";
import { siteText } from "../../site/site-text.ts";
import { testKey } from "../../trust/keys.ts";
import { scratchFolder } from "../scratch.ts";

/* What the command refuses and what it writes. That a TPM opens it, and no other, is in test/unit/resources/model-sealed.test.ts. */

const scratch = scratchFolder();

/** Public areas of the default templates, with keys in software: their form is what is judged here. */
const modulus = Buffer.from(
  generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({ format: "jwk" }).n ?? "",
  "base64url",
).toString("hex");
const ek = `0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100${modulus}`;
const srk = "0023000b00030472000000060080004300100003001000207788002099aa";
const digest = sha256Hex(Buffer.from(ek, "hex"));
const keys: TpmKeys = {
  endorsementKey: readEndorsementKey(Buffer.from(ek, "hex")),
  storageKeyName: storageKeyName(Buffer.from(srk, "hex")),
};

describe("the node's keys", () => {
  /** A node that shows them, and the scripts that it was asked. */
  function shows(storage = srk): Session & { readonly asked: string[] } {
    const asked: string[] = [];
    const run: Session["run"] = (script) => {
      asked.push(script);
      const nonce = /@%s %s\\n' ([0-9a-f]{32})/.exec(script)?.[1] ?? "";
      const said = `endorsement-key ${ek}\nstorage-key ${storage}`;
      const framed = `\n@${nonce} begin tpm call\n${said}\n@${nonce} end 0\n\n@${nonce} done\n`;
      return Promise.resolve({ code: 0, stdout: framed, stderr: framed });
    };
    return { ...sessionOf(run), asked };
  }

  function site(pinned?: string): string {
    for (const purpose of ["policy", "recovery"] as const)
      writeFileSync(scratch(`${purpose}.pub.pem`), testKey(purpose).publicKeyPem);
    const trust = "trust: { policyKey: policy.pub.pem, recoveryKey: recovery.pub.pem }\n";
    const tpm = pinned === undefined ? "" : `    tpm: { endorsementKeySha256: ${pinned} }\n`;
    writeFileSync(scratch("site.yaml"), siteText(trust, tpm));
    return scratch("site.yaml");
  }

  const read = (file: string, session: Session, node = "pi-1"): Promise<TpmKeys> =>
    readKeysOfNode(file, node, { signal: new AbortController().signal, session });

  test("are those of the pinned TPM", async () => {
    const session = shows();
    const { endorsementKey, storageKeyName } = await read(site(digest), session);
    expect(endorsementKey.digest).toBe(digest);
    expect(storageKeyName).toEqual(keys.storageKeyName);
    expect(session.asked).toHaveLength(1);
  });

  test("are refused where no TPM is pinned, before the node is asked", async () => {
    const session = shows();
    const refused = read(site(), session);
    await expect(refused).rejects.toThrow(UserError);
    await expect(refused).rejects.toThrow("pins no TPM for pi-1");
    expect(session.asked).toEqual([]);
  });

  test("are refused of another TPM, and of another kind, as a fault of the user's", async () => {
    const other = read(site("ab".repeat(32)), shows());
    await expect(other).rejects.toThrow(UserError);
    await expect(other).rejects.toThrow(`has another TPM: the digest of its endorsement key is ${digest}`);
    await expect(read(site(digest), shows(srk.replace("00030472", "00030460")))).rejects.toThrow(
      "shows a key that nothing can be wrapped for",
    );
    await expect(read(site(digest), shows(), "pi-2")).rejects.toThrow("has no node pi-2");
  });
});

describe("an encrypted model", () => {
  const content = randomBytes(3_000_000);
  beforeEach(() => writeFileSync(scratch("model.gguf"), content));

  const encrypt = (
    onProgress: (message: string) => void = () => undefined,
    signal = new AbortController().signal,
    file = scratch("model.gguf"),
  ): Promise<EncryptedModel> =>
    encryptModel(file, keys, { node: "pi-1", out: scratch("out.sealed"), signal, onProgress });
  const there = (): readonly string[] => readdirSync(scratch()).sort();

  test("is a file and what goes with it, and says what both are", async () => {
    const said: string[] = [];
    const made = await encrypt((message) => said.push(message));
    expect(there()).toEqual(["model.gguf", "out.sealed", "out.sealed.json"]);
    const sealed = readFileSync(made.sealed);
    const manifest = sealedManifest(readFileSync(made.manifest, "utf8"));
    expect(manifest).toMatchObject({
      version: 1,
      node: "pi-1",
      endorsementKeySha256: digest,
      plaintext: { sha256: sha256Hex(content), bytes: content.length },
      ciphertext: { sha256: sha256Hex(sealed), bytes: sealed.length },
    });
    expect(made).toMatchObject({ plaintext: manifest.plaintext, ciphertext: manifest.ciphertext });
    expect(sealed.includes(content.subarray(0, 32))).toBe(false);
    expect(said).toEqual(expect.arrayContaining(["encrypted: 100 %", "read back: 100 %"]));
  });

  test("has another key each time", async () => {
    const first = await encrypt();
    const sealed = readFileSync(first.sealed);
    const { ciphertext } = await encrypt();
    expect(ciphertext).not.toEqual(first.ciphertext);
    // The header is the same, and no chunk is.
    const again = readFileSync(first.sealed);
    expect(again.subarray(0, 60)).toEqual(sealed.subarray(0, 60));
    expect(again.subarray(60, 92)).not.toEqual(sealed.subarray(60, 92));
  });

  test.each(["hashing", "encrypted", "read back"])(
    "is not there when it was interrupted: %s",
    async (when) => {
      const interruption = new AbortController();
      const made = encrypt((message) => {
        if (message.startsWith(when)) interruption.abort();
      }, interruption.signal);
      await expect(made).rejects.toThrow();
      expect(there()).toEqual(["model.gguf"]);
    },
  );

  test("that was there before stays as it was when the next is interrupted", async () => {
    await encrypt();
    const before = [readFileSync(scratch("out.sealed")), readFileSync(scratch("out.sealed.json"))];
    const interruption = new AbortController();
    const made = encrypt((message) => {
      if (message === "encrypted: 100 %") interruption.abort();
    }, interruption.signal);
    await expect(made).rejects.toThrow();
    expect([readFileSync(scratch("out.sealed")), readFileSync(scratch("out.sealed.json"))]).toEqual(before);
  });

  test("is not made of a file that changes meanwhile, of an empty one, or of none", async () => {
    const changing = encrypt((message) => {
      if (message === "encrypted: 30 %") writeFileSync(scratch("model.gguf"), randomBytes(content.length));
    });
    await expect(changing).rejects.toThrow("was changed while it was read");
    writeFileSync(scratch("model.gguf"), "");
    await expect(encrypt()).rejects.toThrow("model.gguf is empty");
    await expect(encrypt(undefined, undefined, scratch("none"))).rejects.toThrow(
      "none can't be read: ENOENT",
    );
    expect(there()).toEqual(["model.gguf"]);
  });
});
