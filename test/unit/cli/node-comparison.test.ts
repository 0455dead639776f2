import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import {
  endorsementFault,
  endorsementPart,
  hostPart,
  isExpected,
  judgeAnswer,
  parseCheckLine,
  requireCheckLine,
} from "../../../cli/node-add/comparison.ts";
import { parseHostKeyPin } from "../../../provider/device/host-key.ts";
import { hostKey } from "../site/site-text.ts";

const keyOf = (line: string) => {
  const [type = "", base64 = ""] = line.split(" ");
  return { type, blob: Buffer.from(base64, "base64") };
};
const key = keyOf(hostKey);
const otherKey = keyOf("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxOJZ0vJH8pR2fNrhhtHdPm0nMlyCgHxxdbXfEVPYpR");
const digest = createHash("sha256").update(key.blob).digest("hex");
const endorsementKey = "5e".repeat(32);
const host = hostPart(key);
const endorsement = endorsementPart(endorsementKey) ?? "";

describe("a check line", () => {
  test("is 96 bits of each digest, in groups of four", () => {
    expect(host).toMatch(/^([0-9a-f]{4}-){5}[0-9a-f]{4}$/);
    expect(digest.startsWith(host.replaceAll("-", ""))).toBe(true);
    expect(endorsement).toBe("5e5e-5e5e-5e5e-5e5e-5e5e-5e5e");
  });

  test.each([
    [`${host} ${endorsement}`],
    [`  ${host.toUpperCase()}   ${endorsement.toUpperCase()} `],
    [`${host.replaceAll("-", " ")} ${endorsement.replaceAll("-", "")}`],
  ])("is read however it is grouped: %s", (text) => {
    expect(parseCheckLine(text)).toEqual({
      host: digest.slice(0, 24),
      endorsement: endorsementKey.slice(0, 24),
    });
  });

  test("may say that there is no TPM, or nothing of it", () => {
    expect(parseCheckLine(`${host} no-tpm`)?.endorsement).toBe("none");
    expect(parseCheckLine(host)).toEqual({ host: digest.slice(0, 24), endorsement: undefined });
  });

  test.each([
    ["nothing", ""],
    ["no host key", "no-tpm"],
    ["too short", host.slice(0, -1)],
    ["too long", `${host}0`],
    ["half of a second part", `${host} ${endorsement.slice(0, 14)}`],
    ["a second part and no-tpm", `${host} ${endorsement} no-tpm`],
    ["other letters", host.replace(/^./, "g")],
  ])("is refused when it is %s", (_, text) => {
    expect(parseCheckLine(text)).toBeUndefined();
    expect(() => requireCheckLine(text)).toThrow(/--expect takes the check line/);
  });
});

describe("what is expected", () => {
  const line = { host: digest.slice(0, 24), endorsement: undefined };
  const pin = parseHostKeyPin(hostKey);

  test("holds for that key, and for no other", () => {
    for (const expectation of [{ line }, ...(pin === undefined ? [] : [{ pin }, { pin, line }])]) {
      expect(isExpected(expectation, key)).toBe(true);
      expect(isExpected(expectation, otherKey)).toBe(false);
    }
  });

  test("has to hold in both ways when it is given in two", () => {
    const [both] = pin === undefined ? [] : [{ pin, line: { ...line, host: "0".repeat(24) } }];
    expect(both && isExpected(both, key)).toBe(false);
  });

  test.each([
    ["the same", endorsementKey.slice(0, 24), endorsementKey, undefined],
    ["not said", undefined, endorsementKey, undefined],
    ["none, as expected", "none", "none", undefined],
    ["another", "ab".repeat(12), endorsementKey, /expected abab-.*the device has 5e5e-/],
    ["there, and none was expected", "none", endorsementKey, /expected no-tpm, the device has 5e5e-/],
    ["not there, and one was expected", "ab".repeat(12), "none", /the device has no-tpm/],
    ["not to be read", "ab".repeat(12), undefined, /did not tell its endorsement key/],
  ])("of a TPM that is %s", (_, expected, found, fault) => {
    const told = endorsementFault({ host: "", endorsement: expected }, found);
    if (fault === undefined) expect(told).toBeUndefined();
    else expect(told).toMatch(fault);
  });
});

describe("what is typed", () => {
  const fingerprint = Buffer.from(digest, "hex").toString("base64").replace(/=$/, "");

  test.each([
    ["yes", "compared"],
    [" YES ", "compared"],
    [host, "compared"],
    [`${host} ${endorsement}`, "compared"],
    [fingerprint.slice(0, 16), "compared"],
    [`SHA256:${fingerprint}`, "compared"],
    ["", "no"],
    ["y", "no"],
    ["no", "no"],
    [fingerprint.slice(0, 15), "no"],
    [hostPart(otherKey), "differs"],
    ["~".repeat(16), "differs"],
    [fingerprint.slice(0, 20).toLowerCase(), "differs"],
  ])("%j: %s", (typed, says) => {
    expect(judgeAnswer(typed, key).says).toBe(says);
  });

  test("as a whole check line holds for the TPM as well", () => {
    expect(judgeAnswer(`${host} ${endorsement}`, key)).toMatchObject({
      line: { endorsement: endorsementKey.slice(0, 24) },
    });
  });
});
