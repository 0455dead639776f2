import { afterEach, beforeEach, describe, expect, test, type TestContext } from "vitest";
import { constants, createDecipheriv, createHash, generateKeyPairSync, privateDecrypt } from "node:crypto";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { Session } from "../../../provider/device/session.ts";
import { sessionOf } from "../device/session-of.ts";
import { challengeTpm, ChallengeFailed } from "../../../provider/resources/tpm-challenge.ts";
import { kdfa } from "../../../provider/trust/credential.ts";
import { extend, zeroPcr } from "../../../provider/trust/pcr.ts";
import { attestOf, signed } from "../trust/quotes.ts";
import { softwareTpm, type SoftwareTpm } from "../trust/software-tpm.ts";
import { TpmRoot } from "./tpm-root.ts";

let root: TpmRoot;
beforeEach(() => {
  root = new TpmRoot();
  root.write("/run/.keep", "");
});
afterEach(() => root[Symbol.dispose]());

/** What is done to what the node answers, in the order of the calls. */
type Meddler = (stdout: string, call: number) => string;

/** A session with the node; what it answers can be exchanged on the way. */
function sessionWith(meddle: Meddler = (stdout) => stdout): Session & { readonly asked: string[] } {
  const asked: string[] = [];
  const run: Session["run"] = (script) => {
    asked.push(script);
    const { code, stdout, stderr } = root.sh(script);
    return Promise.resolve({ code, stdout: meddle(stdout, asked.length), stderr: `${stderr}\n` });
  };
  return { ...sessionOf(run), asked };
}

const faultOf = (challenge: Promise<unknown>): Promise<unknown> =>
  challenge.then(
    () => "answered",
    (error: unknown) => (error instanceof ChallengeFailed ? error.fault : error),
  );

/** A challenge whose state is approved: no test has extended PCR 11 unless it says so. */
const asked = (pinned: string | undefined) => ({ pinned, approvedPcr11: ["ab".repeat(32), zeroPcr] });

const left = (): readonly string[] =>
  root.exists("/run/edgeseal") ? readdirSync(join(root.root, "run/edgeseal")) : [];

describe("a TPM", () => {
  const tpmOf = softwareTpm();
  const otherTpmOf = softwareTpm();
  /** Only a power cycle sets PCR 11 back, so that this one is for one test. */
  const extendedTpmOf = softwareTpm();
  const withTpm = async (context: TestContext): Promise<{ tpm: SoftwareTpm; digest: string }> => {
    const tpm = tpmOf(context);
    root.insert(tpm);
    await tpm.run("tpm2_clear", "-c", "p");
    return { tpm, digest: await digestOf(tpm) };
  };
  /** As a person reads it on the console. */
  const digestOf = async (tpm: SoftwareTpm): Promise<string> => {
    await tpm.run("tpm2_createek", ..."-G rsa -c console.ctx -u console.pub".split(" "));
    const area = (await tpm.read("console.pub")).subarray(2);
    return createHash("sha256").update(area).digest("hex");
  };
  const loaded = async (tpm: SoftwareTpm): Promise<string> =>
    (await tpm.run("tpm2_getcap", "handles-transient")) +
    (await tpm.run("tpm2_getcap", "handles-loaded-session")) +
    (await tpm.run("tpm2_getcap", "handles-saved-session"));

  test("that is pinned answers, by a key that is made for it, and nothing is left in it or on the node", async (context) => {
    const { tpm, digest } = await withTpm(context);
    const session = sessionWith();
    expect(await challengeTpm(session, asked(digest))).toEqual({
      endorsementKeySha256: digest,
      pcr11: zeroPcr,
    });
    expect(session.asked).toHaveLength(2);
    expect(left()).toEqual([]);
    expect((await loaded(tpm)).trim()).toBe("");
  });

  test("answers with its persistent endorsement key, too", async (context) => {
    const { tpm, digest } = await withTpm(context);
    await tpm.run("tpm2_createek", ..."-G rsa -c ek.ctx".split(" "));
    await tpm.run("tpm2_evictcontrol", ..."-C o -c ek.ctx 0x81010001".split(" "));
    root.write("/bin/tpm2_createek", "#!/bin/sh\necho 'not again' >&2\nexit 1\n");
    root.sh('chmod 755 "$ROOT/bin/tpm2_createek"');
    expect(await challengeTpm(sessionWith(), asked(digest))).toEqual({
      endorsementKeySha256: digest,
      pcr11: zeroPcr,
    });
    expect((await loaded(tpm)).trim()).toBe("");
  });

  test("that is locked out answers, since nothing is used that it protects so", async (context) => {
    const { tpm, digest } = await withTpm(context);
    const limits = (tries: number) =>
      `--setup-parameters --max-tries=${tries} --recovery-time=1000 --lockout-recovery-time=1000`.split(" ");
    await tpm.run("tpm2_dictionarylockout", ...limits(1));
    await tpm.run("tpm2_createprimary", ..."-C o -p right -c guarded.ctx".split(" "));
    await expect(tpm.run("tpm2_create", ..."-C guarded.ctx -P wrong".split(" "))).rejects.toThrow();
    expect(await tpm.run("tpm2_getcap", "properties-variable")).toMatch(/^ *inLockout: *1$/m);
    expect(await challengeTpm(sessionWith(), asked(digest))).toEqual({
      endorsementKeySha256: digest,
      pcr11: zeroPcr,
    });
    await tpm.run("tpm2_dictionarylockout", "--clear-lockout");
    await tpm.run("tpm2_dictionarylockout", ...limits(32));
  });

  test("that is another one is refused, both named, and is asked nothing", async (context) => {
    await withTpm(context);
    const other = otherTpmOf(context);
    const pinned = await digestOf(other);
    const session = sessionWith();
    const challenge = challengeTpm(session, asked(pinned));
    await expect(challenge).rejects.toThrow(
      new RegExp(`has another TPM: .* is [0-9a-f]{64}, and ${pinned} is pinned`),
    );
    expect(await faultOf(challenge)).toBe("otherTpm");
    expect(session.asked.some((script) => script.includes("\nanswer_challenge'"))).toBe(false);
    expect(left()).toEqual([]);
  });

  test("does not answer for another TPM whose endorsement key the node shows", async (context) => {
    const { tpm } = await withTpm(context);
    const other = otherTpmOf(context);
    const pinned = await digestOf(other);
    const shown = (await other.read("console.pub")).toString("hex");
    const session = sessionWith((stdout) =>
      stdout.replace(/^endorsement-key .*$/m, `endorsement-key ${shown}`),
    );
    const challenge = challengeTpm(session, asked(pinned));
    await expect(challenge).rejects.toThrow("the TPM did not unwrap the challenge");
    expect(await faultOf(challenge)).toBe("notAnswered");
    expect(left()).toEqual([]);
    expect((await loaded(tpm)).trim()).toBe("");
  });

  test("does not answer for a key in software that the node shows as its attestation key", async (context) => {
    const { digest } = await withTpm(context);
    const { x = "", y = "" } = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({
      format: "jwk",
    });
    const hex = (coordinate: string): string => Buffer.from(coordinate, "base64url").toString("hex");
    const shown = `0023000b00050472000000100018000b000300100020${hex(x)}0020${hex(y)}`;
    const session = sessionWith((stdout) =>
      stdout.replace(/^attestation-key .*$/m, `attestation-key ${shown}`),
    );
    expect(await faultOf(challengeTpm(session, asked(digest)))).toBe("notAnswered");
  });

  test("whose attestation key could leave it is asked nothing", async (context) => {
    const { digest } = await withTpm(context);
    const session = sessionWith((stdout) => stdout.replace("0023000b00050472", "0023000b00040472"));
    expect(await faultOf(challengeTpm(session, asked(digest)))).toBe("badKey");
    expect(left()).toEqual([]);
  });

  test("gives an answer that is good for one question: the recorded one is refused", async (context) => {
    const { digest } = await withTpm(context);
    let recorded = "";
    const record = sessionWith((stdout) => {
      recorded = /^answer .*$/m.exec(stdout)?.[0] ?? recorded;
      return stdout;
    });
    await challengeTpm(record, asked(digest));
    expect(recorded).toMatch(/^answer [0-9a-f]{64}$/);
    const replay = sessionWith((stdout) => stdout.replace(/^answer .*$/m, recorded));
    expect(await faultOf(challengeTpm(replay, asked(digest)))).toBe("wrongAnswer");
    expect(
      await faultOf(
        challengeTpm(
          sessionWith((stdout) => stdout.replace(/^answer .*$/m, "")),
          asked(digest),
        ),
      ),
    ).toBe("wrongAnswer");
  });

  describe("quotes PCR 11, and", () => {
    const field = (name: string, stdout: string): string =>
      new RegExp(`^${name} .*$`, "m").exec(stdout)?.[0] ?? "";
    /** Has a TPM quote with a key of its own that anybody can have made. */
    const quoteOf = async (
      tpm: SoftwareTpm,
      pcrs: string,
      nonce: string,
    ): Promise<(stdout: string) => string> => {
      await tpm.run("tpm2_createprimary", ..."-C o -c own.primary".split(" "));
      await tpm.run(
        "tpm2_create",
        ..."-C own.primary -G ecc256:ecdsa-sha256:null -u own.pub -r own.priv -a".split(" "),
        "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda",
      );
      await tpm.run("tpm2_load", ..."-C own.primary -u own.pub -r own.priv -c own.ctx".split(" "));
      await tpm.run(
        "tpm2_quote",
        ...`-c own.ctx -l ${pcrs} -q ${nonce} -m own.quote -s own.sig -f plain`.split(" "),
      );
      const [attest, signature] = [await tpm.read("own.quote"), await tpm.read("own.sig")];
      return (stdout) =>
        stdout
          .replace(/^quote .*$/m, `quote ${attest.toString("hex")}`)
          .replace(/^signature .*$/m, `signature ${signature.toString("hex")}`);
    };

    test("with another value than an approved one it is refused, whatever the system says that it is", async (context) => {
      const tpm = extendedTpmOf(context);
      root.insert(tpm);
      const digest = await digestOf(tpm);
      const event = "cd".repeat(32);
      await tpm.run("tpm2_pcrextend", `11:sha256=${event}`);
      root.write("/sys/class/tpm/tpm0/pcr-sha256/11", `${zeroPcr.toUpperCase()}\n`);
      const challenge = challengeTpm(sessionWith(), asked(digest));
      await expect(challenge).rejects.toThrow(/nobody approved the state .* its TPM signed/);
      expect(await faultOf(challenge)).toBe("otherState");
      expect(left()).toEqual([]);
      // The twin: the same state, approved.
      const pcr11 = extend(zeroPcr, event);
      expect(await challengeTpm(sessionWith(), { pinned: digest, approvedPcr11: [zeroPcr, pcr11] })).toEqual({
        endorsementKeySha256: digest,
        pcr11,
      });
    });

    test("where nothing is approved, nothing is good enough", async (context) => {
      const { digest } = await withTpm(context);
      expect(await faultOf(challengeTpm(sessionWith(), { pinned: digest, approvedPcr11: [] }))).toBe(
        "otherState",
      );
    });

    test("a quote of an earlier question is refused", async (context) => {
      const { digest } = await withTpm(context);
      let recorded: readonly string[] = [];
      await challengeTpm(
        sessionWith((stdout) => {
          recorded = [field("quote", stdout), field("signature", stdout)];
          return stdout;
        }),
        asked(digest),
      );
      const [attest = "", signature = ""] = recorded;
      expect(attest).toMatch(/^quote ff5443478018/);
      const replay = (stdout: string): string =>
        stdout.replace(/^quote .*$/m, attest).replace(/^signature .*$/m, signature);
      expect(await faultOf(challengeTpm(sessionWith(replay), asked(digest)))).toBe("badQuote");
    });

    test("a quote of another PCR by the same key is refused", async (context) => {
      const { digest } = await withTpm(context);
      const session = sessionWith();
      const elsewhere: Session = {
        ...session,
        run: (script, options) => session.run(script.replace("-l sha256:11", "-l sha256:12"), options),
      };
      const challenge = challengeTpm(elsewhere, asked(digest));
      await expect(challenge).rejects.toThrow("not of PCR 11 of the SHA-256 bank alone");
      expect(await faultOf(challenge)).toBe("badQuote");
    });

    test("a quote for this question by another key, of another TPM in the approved state, is refused", async (context) => {
      const { digest } = await withTpm(context);
      const other = otherTpmOf(context);
      const session = sessionWith();
      const relayed: Session = {
        ...session,
        run: async (script, options) => {
          const answered = await session.run(script, options);
          const nonce = /\nnonce=([0-9a-f]{64})/.exec(script)?.[1];
          if (nonce === undefined) return answered;
          return { ...answered, stdout: (await quoteOf(other, "sha256:11", nonce))(answered.stdout) };
        },
      };
      const challenge = challengeTpm(relayed, asked(digest));
      await expect(challenge).rejects.toThrow("not signed by the attestation key");
      expect(await faultOf(challenge)).toBe("badQuote");
    });

    test("no quote at all is refused", async (context) => {
      const { digest } = await withTpm(context);
      const without = sessionWith((stdout) => stdout.replace(/^(quote|signature) .*$/gm, ""));
      expect(await faultOf(challengeTpm(without, asked(digest)))).toBe("badQuote");
    });
  });

  test("with an endorsement authorization that nobody here knows says so", async (context) => {
    const { tpm, digest } = await withTpm(context);
    await tpm.run("tpm2_changeauth", "-c", "endorsement", "theirs");
    const challenge = challengeTpm(sessionWith(), asked(digest));
    await expect(challenge).rejects.toThrow("is an endorsement authorization set?");
    expect(await faultOf(challenge)).toBe("failed");
    expect(left()).toEqual([]);
    await tpm.run("tpm2_clear", "-c", "p");
  });

  test("with something else at the place of the endorsement key is refused", async (context) => {
    const { tpm, digest } = await withTpm(context);
    await tpm.run("tpm2_createprimary", ..."-C e -G rsa -c x.ctx".split(" "));
    await tpm.run("tpm2_evictcontrol", ..."-C o -c x.ctx 0x81010001".split(" "));
    expect(await faultOf(challengeTpm(sessionWith(), asked(digest)))).toBe("failed");
    expect(left()).toEqual([]);
  });
});

test("without a pin, a program without a TPM answers as well: what such a challenge is worth", async () => {
  const pair = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const modulus = Buffer.from(pair.publicKey.export({ format: "jwk" }).n ?? "", "base64url").toString("hex");
  const ek = `0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100${modulus}`;
  const own = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x = "", y = "" } = own.publicKey.export({ format: "jwk" });
  const point = [x, y].map((each) => `0020${Buffer.from(each, "base64url").toString("hex")}`).join("");
  const ak = `0023000b00050472000000100018000b00030010${point}`;
  /** What TPM2_ActivateCredential does, by whoever has the private key. */
  const activate = (blob: Buffer): Buffer => {
    const idObject = blob.subarray(10, 10 + blob.readUInt16BE(8));
    const wrapped = blob.subarray(10 + idObject.length + 2);
    const seed = privateDecrypt(
      {
        key: pair.privateKey,
        padding: constants.RSA_PKCS1_OAEP_PADDING,
        oaepHash: "sha256",
        oaepLabel: Buffer.from("IDENTITY\0"),
      },
      wrapped,
    );
    const name = Buffer.concat([
      Buffer.from("000b", "hex"),
      createHash("sha256").update(Buffer.from(ak, "hex")).digest(),
    ]);
    const decipher = createDecipheriv("aes-128-cfb", kdfa(seed, "STORAGE", name, 128), Buffer.alloc(16));
    return Buffer.concat([decipher.update(idObject.subarray(34)), decipher.final()]).subarray(2);
  };
  /** The TPM's word for PCR 11, without a TPM. */
  const quoted = (script: string): string => {
    const nonce = Buffer.from(/\nnonce=([0-9a-f]+)/.exec(script)?.[1] ?? "", "hex");
    const { attest, signature } = signed(own.privateKey, attestOf({ nonce, value: zeroPcr }));
    return `quote ${attest.toString("hex")}\nsignature ${signature.toString("hex")}`;
  };
  const impostor: Session = {
    ...sessionWith(),
    run: (script) => {
      const nonce = /@%s %s\\n' ([0-9a-f]{32})/.exec(script)?.[1] ?? "";
      const credential = /\ncredential=([A-Za-z0-9+/=]+)/.exec(script)?.[1];
      const said =
        credential === undefined
          ? `endorsement-key ${ek}\nattestation-key ${ak}\nfolder challenge.ABCDEFGH`
          : `answer ${activate(Buffer.from(credential, "base64")).toString("hex")}\n${quoted(script)}`;
      const framed = `\n@${nonce} begin tpm call\n${said}\n@${nonce} end 0\n\n@${nonce} done\n`;
      return Promise.resolve({ code: 0, stdout: framed, stderr: framed });
    },
  };
  const digest = createHash("sha256").update(Buffer.from(ek, "hex")).digest("hex");
  expect(await challengeTpm(impostor, asked(undefined))).toEqual({
    endorsementKeySha256: digest,
    pcr11: zeroPcr,
  });
  expect(await faultOf(challengeTpm(impostor, asked("ab".repeat(32))))).toBe("otherTpm");
});

describe("a node", () => {
  test("without a TPM 2.0 says so", async () => {
    root.write("/sys/class/tpm/tpm0/tpm_version_major", "1\n");
    expect(await faultOf(challengeTpm(sessionWith(), asked(undefined)))).toBe("noTpm");
    root.remove("/sys/class/tpm");
    expect(await faultOf(challengeTpm(sessionWith(), asked(undefined)))).toBe("noTpm");
  });

  test("without tpm2-tools says so", async () => {
    const session: Session = {
      ...sessionWith(),
      run: (script) => {
        const { code, stdout, stderr } = root.sh(script.replaceAll('command -v "$tool"', "false"));
        return Promise.resolve({ code, stdout, stderr: `${stderr}\n` });
      },
    };
    expect(await faultOf(challengeTpm(session, asked(undefined)))).toBe("noTools");
  });

  test.each([
    ["a folder that leads elsewhere", "folder challenge.../../etc"],
    ["no folder", ""],
  ])("that names %s is not asked again", async (_, folder) => {
    const session = sessionWith((stdout) =>
      stdout.replace(/^@(\w+) end \d+$/m, `endorsement-key 00\nattestation-key 00\n${folder}\n@$1 end 0`),
    );
    root.remove("/sys/class/tpm");
    expect(await faultOf(challengeTpm(session, asked(undefined)))).toBe("failed");
    expect(session.asked).toHaveLength(1);
  });
});
