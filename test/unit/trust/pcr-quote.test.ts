import { describe, expect, test } from "vitest";
import { generateKeyPairSync } from "node:crypto";
import { extend, zeroPcr } from "../../../provider/trust/pcr.ts";
import { QuoteRefused, verifyPcrQuote } from "../../../provider/trust/pcr-quote.ts";
import { attestOf, signed, type MadeUp } from "./quotes.ts";

const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
const coordinates = pair.publicKey.export({ format: "jwk" });
const attestationKey = {
  name: Buffer.alloc(34),
  x: Buffer.from(coordinates.x ?? "", "base64url"),
  y: Buffer.from(coordinates.y ?? "", "base64url"),
};
const nonce = Buffer.alloc(32, 3);
const value = extend(zeroPcr, "ab".repeat(32));
const expected = { attestationKey, nonce, pcr: 11 };
const quoteOf = (change: Partial<MadeUp> = {}) =>
  signed(pair.privateKey, attestOf({ nonce, value, ...change }));

test("tells the value that was quoted from any other", () => {
  const isQuoted = verifyPcrQuote(quoteOf(), expected);
  expect(isQuoted(value)).toBe(true);
  expect(isQuoted(zeroPcr)).toBe(false);
});

test("takes a selection of another length that says the same", () => {
  expect(verifyPcrQuote(quoteOf({ selection: "00000001000b020008" }), expected)(value)).toBe(true);
});

describe("is refused", () => {
  test.each<[string, Partial<MadeUp>, string]>([
    ["of another question", { nonce: Buffer.alloc(32, 4) }, "another question"],
    ["of no question", { nonce: Buffer.alloc(0) }, "another question"],
    ["that no TPM made", { magic: "ff544348" }, "not made by a TPM"],
    ["that is a certification", { type: "8017" }, "not a quote"],
    ["of another PCR", { selection: "00000001000b03001000" }, "not of PCR 11"],
    ["of PCR 3", { selection: "00000001000b03080000" }, "not of PCR 11"],
    ["of PCR 11 and another", { selection: "00000001000b03010800" }, "not of PCR 11"],
    ["of no PCR", { selection: "00000001000b03000000" }, "not of PCR 11"],
    ["of a selection too short for the PCR", { selection: "00000001000b0108" }, "not of PCR 11"],
    ["of another bank", { selection: "00000001000403000800" }, "not of PCR 11"],
    ["of two banks", { selection: "00000002000b03000800000403000800" }, "not of PCR 11"],
    ["of no bank", { selection: "00000000" }, "not of PCR 11"],
    ["of more banks than there is room for", { selection: "ffffffff000b03000800" }, "ends within a field"],
  ])("a quote %s", (_, change, message) => {
    const read = () => verifyPcrQuote(quoteOf(change), expected);
    expect(read).toThrow(QuoteRefused);
    expect(read).toThrow(message);
  });

  test("one that is cut off, anywhere, or goes on", () => {
    const { attest } = quoteOf();
    for (let length = 0; length < attest.length; length++) {
      const cut = signed(pair.privateKey, attest.subarray(0, length));
      expect(() => verifyPcrQuote(cut, expected), `${length} bytes`).toThrow(QuoteRefused);
    }
    const longer = signed(pair.privateKey, Buffer.concat([attest, Buffer.alloc(1)]));
    expect(() => verifyPcrQuote(longer, expected)).toThrow("1 bytes more");
  });

  test("one by another key, one that was changed, one without a signature", () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const { attest, signature } = quoteOf();
    const changed = attestOf({ nonce, value: zeroPcr });
    for (const quote of [
      signed(privateKey, attest),
      { attest: changed, signature },
      { attest, signature: Buffer.alloc(0) },
      { attest, signature: Buffer.alloc(72, 1) },
    ])
      expect(() => verifyPcrQuote(quote, expected)).toThrow("not signed by the attestation key");
  });

  test("one by a key that is none", () => {
    const none = { ...attestationKey, y: Buffer.from("01", "hex") };
    expect(() => verifyPcrQuote(quoteOf(), { ...expected, attestationKey: none })).toThrow(
      "not a point on P-256",
    );
  });
});
