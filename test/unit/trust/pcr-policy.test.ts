import { createPublicKey, verify } from "node:crypto";
import { describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import {
  policyPcrDigest,
  signPcrPolicy,
  systemdSignature,
  verifiesPcrPolicy,
} from "../../../provider/trust/pcr-policy.ts";
import { extend, zeroPcr } from "../../../provider/trust/pcr.ts";
import { fingerprint, PublicKeyRefused, readPublicKey } from "../../../provider/trust/public-key.ts";
import { KeyUnusable } from "../../../provider/trust/signer.ts";
import { testKey } from "./keys.ts";
import { softwareTpm } from "./software-tpm.ts";

/** A signature that was made before this code was, with the program that systemd 257 was tried with. */
const known = {
  pcr11: extend(zeroPcr, sha256Hex("a")),
  pol: "dd8330b7b0eacacf49d90958d09a69f94e13d1e1a280f3e008b1288a74d84fde",
  // openssl rsa -pubin -RSAPublicKey_out -outform DER | sha256sum
  pkfp: "5caf07013dfc62e4c7035c71c6c25154ad0d553694ef6182c26c5e780b07c093",
  sig: "a7VLClEb9PYwU7KngXL1E+wyLG783H+xsXK3yxtUmlpNasoLALgasT7dDIV74S9r/S2n9RhJItoIMXsEi1B2lXZybCXyqfwdDTBgVO49+3PqRFOrsfwE16txHmmIgsLeqb7kn4BSqQgIuLM3M92HXok69yGJ6q9wV+C7WpqVg2N++uyWgtRYqZLDqCD8luFK98kff+TYTfQehP+C4aCk8ZFf6KPFYXLLMFYGV+8/hQs/VLuh1LlNN/LVswiXwqkTm+OKK8+yBLzFDMJ4jYX49wQeF9DTSU2Dp3JaQbl1gM8G0etx8sghGhx82c9q8q8lon2QJgaLIrHz0CI7/6607Q==",
  publicKeyPem: `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA6iSmC6WzMfXthl1AvjE9
Ol4CsWUAe4wpzFYnw8sqxz1RUOgniU+5AGH0er6Dhg3zQksVF93ChWSzbGjxTcSE
E0yXxQsK5443REeOlcFg21jC7RzvlrjgyCv70dtIkTAlQrt0CgndG5h6FwxCJ4kA
4G+lIfhyQPD4cFc+RnlAR4EnKjYRe9ewE5ffsxbWNJsqty+TZqOUmxySs1/v85r+
uNQT2AAGeAtIXs+l0kYGfx6TIMkh7PwgYSyhvwOdn6Ee3S0eduX9kyOKWj7hAvrh
ig/Z5go+lRPzNQfTevgrZoddi7XAGKXEQ2FjG46xHFThdUtnFyVwqVo0iTfEDuQI
JQIDAQAB
-----END PUBLIC KEY-----
`,
};

describe("the policy digest", () => {
  test.each([
    // tpm2_createpolicy --policy-pcr -l sha256:N on swtpm.
    [11, known.pcr11, known.pol],
    [15, zeroPcr, "7e247a603cd1052cabc095741b8ee2f7458aabeee960b8ec97d7f090171a039a"],
    [7, zeroPcr, "8b5682d81b29435d08d79278150611dc7e5923b2fefcce684a09577b40130a8b"],
  ])("of PCR %i is what a TPM computed", (pcr, value, digest) => {
    expect(policyPcrDigest(value, pcr)).toBe(digest);
  });

  test("is of PCR 11 where no other is named", () => {
    expect(policyPcrDigest(known.pcr11)).toBe(known.pol);
    expect(policyPcrDigest(known.pcr11, 12)).not.toBe(known.pol);
  });
});

describe("the fingerprint", () => {
  test("is that of the PKCS#1 form, as systemd has it", () => {
    expect(fingerprint(readPublicKey(known.publicKeyPem, "policy"))).toBe(known.pkfp);
  });
});

describe("a public key", () => {
  const { publicKeyPem, privateKeyPem } = testKey();
  test.each([
    ["a private key", privateKeyPem, /is a private key; give its public half/],
    ["a private key after the public one", publicKeyPem + privateKeyPem, /is a private key/],
    ["two keys", publicKeyPem + publicKeyPem, /expected one public key in PEM/],
    ["text", "hello", /expected one public key in PEM/],
    [
      "rubbish in the right frame",
      "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
      /does not hold/,
    ],
    [
      "RSA of 3072 bits",
      testKey("policy", 3072).publicKeyPem,
      /RSA of 2048 bits .* this one is RSA of 3072 bits/,
    ],
    [
      "an elliptic curve key",
      "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----",
      /this one is ed25519/,
    ],
  ])("that is %s is refused", (_, pem, message) => {
    expect(() => readPublicKey(pem, "policy")).toThrow(PublicKeyRefused);
    expect(() => readPublicKey(pem, "policy")).toThrow(message);
  });

  test("of a recovery key has 4096 bits", () => {
    expect(() => readPublicKey(publicKeyPem, "recovery")).toThrow(
      /the recovery key has to be RSA of 4096 bits/,
    );
  });
});

describe("a signed policy", () => {
  const key = testKey();

  test("that systemd took is one that we take", () => {
    expect(verifiesPcrPolicy(readPublicKey(known.publicKeyPem, "policy"), known)).toBe(true);
  });

  test("is over the 32 bytes of the policy digest", async () => {
    const policy = await signPcrPolicy(key, known.pcr11);
    expect(policy.pol).toBe(known.pol);
    const message = Buffer.from(known.pol, "hex");
    expect(
      verify("sha256", message, createPublicKey(key.publicKeyPem), Buffer.from(policy.sig, "base64")),
    ).toBe(true);
    expect(verifiesPcrPolicy(key.publicKey, policy)).toBe(true);
  });

  test("does not verify for another value, another digest, another key, or a changed signature", async () => {
    const policy = await signPcrPolicy(key, known.pcr11);
    const other = extend(known.pcr11, known.pcr11);
    expect(verifiesPcrPolicy(key.publicKey, { ...policy, pcr11: other })).toBe(false);
    expect(verifiesPcrPolicy(key.publicKey, { ...policy, pcr11: other, pol: policyPcrDigest(other) })).toBe(
      false,
    );
    expect(verifiesPcrPolicy(testKey().publicKey, policy)).toBe(false);
    const flipped = Buffer.from(policy.sig, "base64");
    flipped.writeUInt8(flipped.readUInt8(100) ^ 1, 100);
    expect(verifiesPcrPolicy(key.publicKey, { ...policy, sig: flipped.toString("base64") })).toBe(false);
  });

  test("has systemd's form", async () => {
    const policy = await signPcrPolicy(key, known.pcr11);
    const pkfp = fingerprint(key.publicKey);
    expect(systemdSignature(pkfp, [policy])).toEqual({
      sha256: [{ pcrs: [11], pkfp, pol: policy.pol, sig: policy.sig }],
    });
  });

  test.each([
    [
      "of another key",
      () => (message: Uint8Array) => testKey().privateKey.sign(message),
      /is not one of the public key/,
    ],
    [
      "of another length",
      () => () => Promise.resolve(Buffer.alloc(64)),
      /has 64 bytes, where one of this key has 256/,
    ],
    ["that is empty", () => () => Promise.resolve(Buffer.alloc(0)), /has 0 bytes/],
  ])("is refused when what came back is a signature %s", async (_, sign, message) => {
    const privateKey = { name: "the token", sign: sign() };
    const signing = signPcrPolicy({ privateKey, publicKey: key.publicKey }, known.pcr11);
    await expect(signing).rejects.toThrow(KeyUnusable);
    await expect(signing).rejects.toThrow(message);
    await expect(signing).rejects.toThrow("the token");
  });
});

describe("a TPM", () => {
  const aTpm = softwareTpm();

  test("accepts the signature as an authorization of the state it is in, and of no other", async (context) => {
    const tpm = aTpm(context);
    const key = testKey();
    const approved = extend(zeroPcr, sha256Hex("approved"));
    const { pol, sig } = await signPcrPolicy(key, approved);
    await tpm.write("public.pem", key.publicKeyPem);
    await tpm.write("pol", Buffer.from(pol, "hex"));
    await tpm.write("sig", Buffer.from(sig, "base64"));
    await tpm.run("tpm2_loadexternal", ..."-C o -G rsa -u public.pem -c key.ctx -n key.name".split(" "));
    await tpm.run(
      "tpm2_verifysignature",
      ..."-c key.ctx -g sha256 -m pol -s sig -f rsassa -t ticket".split(" "),
    );

    const authorize = async (): Promise<void> => {
      await tpm.run("tpm2_startauthsession", "-S", "session", "--policy-session");
      try {
        await tpm.run("tpm2_policypcr", ..."-S session -l sha256:11".split(" "));
        await tpm.run("tpm2_policyauthorize", ..."-S session -i pol -n key.name -t ticket".split(" "));
      } finally {
        await tpm.run("tpm2_flushcontext", "session");
      }
    };
    await expect(authorize(), "PCR 11 is still zeros").rejects.toThrow();
    await tpm.run("tpm2_pcrextend", `11:sha256=${sha256Hex("approved")}`);
    await authorize();
    await tpm.run("tpm2_pcrextend", `11:sha256=${sha256Hex("more")}`);
    await expect(authorize(), "PCR 11 went on").rejects.toThrow();
  });
});
