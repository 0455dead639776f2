import { createHmac, generateKeyPairSync, privateDecrypt, constants, createDecipheriv } from "node:crypto";
import { describe, expect, test, type TestContext } from "vitest";
import {
  EndorsementKeyRefused,
  kdfa,
  makeCredential,
  newChallenge,
  objectName,
  readEndorsementKey,
  tpm2ToolsCredential,
  type Credential,
  type EndorsementKey,
} from "../../../provider/trust/credential.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { softwareTpm, type SoftwareTpm } from "./software-tpm.ts";

const bytes = (from: number, to: number): Buffer =>
  Buffer.from(Array.from({ length: to - from }, (_, i) => from + i));
const name = Buffer.concat([Buffer.from("000b", "hex"), bytes(32, 64)]);
const pair = generateKeyPairSync("rsa", { modulusLength: 2048 });

/** TPMT_PUBLIC of an endorsement key of the default template, put together by hand. */
function publicArea(modulus: Buffer): Buffer {
  const head =
    "0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100";
  return Buffer.concat([Buffer.from(head, "hex"), modulus]);
}
const modulus = Buffer.from(pair.publicKey.export({ format: "jwk" }).n ?? "", "base64url");

describe("KDFa", () => {
  test.each([
    // Computed by an independent implementation (Python's hmac).
    ["STORAGE", name, 128, "44d0c54553f7cd6bf17d99c547ec79d6"],
    ["INTEGRITY", Buffer.alloc(0), 256, "bacf689f634ece301e1f1b15b072d9c87db6a69585db42b1a0cb8f73ebe2692e"],
    [
      "STORAGE",
      name,
      512,
      "b1dd543afb1e54cbf885937d8f38ec98ebf5f03f8ba2a8acfd256f809b9c9763c0d0d93427db29ddb3c535094ac57d8d98a59b843e61036894d3d567bcdfb383",
    ],
  ])("%s, %i bits", (label, context, bits, expected) => {
    expect(kdfa(bytes(0, 32), label, context, bits).toString("hex")).toBe(expected);
  });
});

describe("an endorsement key", () => {
  test("is read from TPMT_PUBLIC and from TPM2B_PUBLIC, with one digest", () => {
    const area = publicArea(modulus);
    const sized = Buffer.concat([Buffer.from([0, area.length >> 8, area.length & 0xff].slice(1)), area]);
    for (const given of [area, sized]) {
      const { digest, publicKey } = readEndorsementKey(given);
      expect(digest).toBe(sha256Hex(area));
      expect(publicKey.equals(pair.publicKey)).toBe(true);
    }
    expect(objectName(area).toString("hex")).toBe(`000b${sha256Hex(area)}`);
  });

  const area = publicArea(modulus);
  const changed = (at: number, to: number): Buffer => {
    const copy = Buffer.from(area);
    copy.writeUInt8(to, at);
    return copy;
  };
  test.each([
    ["no bytes", Buffer.alloc(0)],
    ["a byte too few", area.subarray(0, -1)],
    ["a byte too many", Buffer.concat([area, Buffer.alloc(1)])],
    ["another algorithm", changed(1, 0x23)],
    ["a key that may leave the TPM", changed(7, 0xb0)],
    ["a key that signs", changed(5, 0x04 | 0x03)],
    ["another policy", changed(20, 0)],
    ["another exponent", changed(55, 3)],
    ["an even modulus", changed(area.length - 1, 2)],
    ["a modulus of fewer bits", changed(area.length - 256, 0x01)],
  ])("with %s is refused", (_, given) =>
    expect(() => readEndorsementKey(given)).toThrow(EndorsementKeyRefused),
  );
});

describe("a credential", () => {
  const seed = bytes(100, 132);
  const secret = Buffer.from("the secret");
  const { idObject, encryptedSecret } = makeCredential({ publicKey: pair.publicKey }, name, secret, seed);

  test("carries the seed for the endorsement key, under the label IDENTITY with its zero", () => {
    expect(encryptedSecret.readUInt16BE(0)).toBe(256);
    const open = (label: string): Buffer =>
      privateDecrypt(
        {
          key: pair.privateKey,
          padding: constants.RSA_PKCS1_OAEP_PADDING,
          oaepHash: "sha256",
          oaepLabel: Buffer.from(label),
        },
        encryptedSecret.subarray(2),
      );
    expect(open("IDENTITY\0")).toEqual(seed);
    expect(() => open("IDENTITY")).toThrow();
  });

  test("is protected in its integrity together with the name, and encrypted", () => {
    expect(idObject.readUInt16BE(0)).toBe(idObject.length - 2);
    expect(idObject.readUInt16BE(2)).toBe(32);
    const integrity = idObject.subarray(4, 36);
    const identity = idObject.subarray(36);
    const hmac = createHmac("sha256", kdfa(seed, "INTEGRITY", Buffer.alloc(0), 256));
    expect(integrity).toEqual(hmac.update(identity).update(name).digest());
    const decipher = createDecipheriv("aes-128-cfb", kdfa(seed, "STORAGE", name, 128), Buffer.alloc(16));
    expect(Buffer.concat([decipher.update(identity), decipher.final()])).toEqual(
      Buffer.concat([Buffer.from([0, secret.length]), secret]),
    );
    expect(identity.includes(secret)).toBe(false);
  });

  test("is another one each time", () => {
    const again = makeCredential({ publicKey: pair.publicKey }, name, secret);
    expect(again.idObject).not.toEqual(makeCredential({ publicKey: pair.publicKey }, name, secret).idObject);
  });

  test.each([
    ["an empty secret", name, Buffer.alloc(0)],
    ["a secret of 33 bytes", name, Buffer.alloc(33)],
    ["a name of another length", name.subarray(1), secret],
    ["a name of another algorithm", Buffer.concat([Buffer.from("0004", "hex"), name.subarray(2)]), secret],
  ])("is not made for %s", (_, ofName, ofSecret) => {
    expect(() => makeCredential({ publicKey: pair.publicKey }, ofName, ofSecret)).toThrow(TypeError);
  });
});

describe("a challenge", () => {
  const challenge = newChallenge({ publicKey: pair.publicKey }, name);
  test("takes nothing but the answer", () => {
    expect(challenge.isAnswer(Buffer.alloc(32))).toBe(false);
    expect(challenge.isAnswer(Buffer.alloc(0))).toBe(false);
    expect(challenge.isAnswer(Buffer.alloc(33))).toBe(false);
  });
});

describe("a TPM", () => {
  const aTpm = softwareTpm();

  /** The TPM with its endorsement key in ek.ctx, and an object to activate credentials for in srk.ctx. */
  async function withKeys(
    context: TestContext,
  ): Promise<{ tpm: SoftwareTpm; ek: EndorsementKey; srk: Buffer }> {
    const tpm = aTpm(context);
    await tpm.run("tpm2_createek", ..."-G rsa -c ek.ctx -u ek.pub".split(" "));
    await tpm.run("tpm2_createprimary", ..."-C o -G rsa -c srk.ctx".split(" "));
    await tpm.run("tpm2_readpublic", ..."-c srk.ctx -n srk.name".split(" "));
    return { tpm, ek: readEndorsementKey(await tpm.read("ek.pub")), srk: await tpm.read("srk.name") };
  }

  /** Lets the TPM unwrap a credential. */
  async function activate(tpm: SoftwareTpm, credential: Credential): Promise<Buffer> {
    await tpm.write("credential", tpm2ToolsCredential(credential));
    await tpm.run("tpm2_startauthsession", "--policy-session", "-S", "session");
    try {
      await tpm.run("tpm2_policysecret", ..."-S session -c e".split(" "));
      await tpm.run(
        "tpm2_activatecredential",
        ..."-c srk.ctx -C ek.ctx -P session:session -i credential -o answer".split(" "),
      );
    } finally {
      await tpm.run("tpm2_flushcontext", "session");
    }
    return tpm.read("answer");
  }

  test("gives its endorsement key in the expected form, and its name is the digest", async (context) => {
    const { tpm, ek } = await withKeys(context);
    await tpm.run("tpm2_readpublic", ..."-c ek.ctx -n ek.name -f tpmt -o ek.tpmt".split(" "));
    expect(`000b${ek.digest}`).toBe((await tpm.read("ek.name")).toString("hex"));
    expect(objectName(await tpm.read("ek.tpmt"))).toEqual(await tpm.read("ek.name"));
    expect(readEndorsementKey(await tpm.read("ek.tpmt")).digest).toBe(ek.digest);
  });

  test("answers a challenge to it", async (context) => {
    const { tpm, ek, srk } = await withKeys(context);
    const challenge = newChallenge(ek, srk);
    expect(challenge.isAnswer(await activate(tpm, challenge.credential))).toBe(true);
  });

  test("unwraps secrets of 1 byte and of 31, which are no whole blocks of AES", async (context) => {
    const { tpm, ek, srk } = await withKeys(context);
    for (const length of [1, 31]) {
      const secret = bytes(1, 1 + length);
      expect(await activate(tpm, makeCredential(ek, srk, secret))).toEqual(secret);
    }
  });

  test("does not answer a challenge to another TPM, nor one for another object", async (context) => {
    const { tpm, ek, srk } = await withKeys(context);
    const toAnother = newChallenge({ publicKey: pair.publicKey }, srk);
    await expect(activate(tpm, toAnother.credential)).rejects.toThrow(/0x/);
    const forAnother = newChallenge(ek, name);
    await expect(activate(tpm, forAnother.credential)).rejects.toThrow(/0x/);
  });
});
