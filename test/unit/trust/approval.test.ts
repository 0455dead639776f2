import { verify } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { Approval } from "../../../provider/trust/approval-schema.ts";
import {
  ApprovalRefused,
  approveState,
  formatApproval,
  parseApproval,
  signApproval,
  signatureFile,
  verifyApproval,
} from "../../../provider/trust/approval.ts";
import { canonicalJson } from "../../../provider/trust/canonical-json.ts";
import { pcr11Of } from "../../../provider/trust/event-log.ts";
import { policyPcrDigest } from "../../../provider/trust/pcr-policy.ts";
import { fingerprint } from "../../../provider/trust/public-key.ts";
import { testKey } from "./keys.ts";
import { measurement, type Boot } from "./measurement.ts";

const key = testKey();
const another = testKey();
const now = "2027-01-15T12:00:00Z";
const expected = { node: "pi-1", generation: 1, publicKeyPem: key.publicKeyPem };

const state = (boot: Boot = {}, by = key) =>
  approveState(by, { events: measurement(boot).log.events, reason: "first boot", now });

const first = await signApproval(key, {
  node: "pi-1",
  generation: 1,
  states: [await state(), await state({ cmdline: "root=PARTUUID=1-02 quiet" })],
});

const problems = (approval: unknown, wanted = expected) =>
  verifyApproval(approval, wanted).map(({ path, message }) => `${path}: ${message}`);

/** The document with something in its first state changed. */
const withState = (change: Partial<Approval["states"][number]>): Approval => ({
  ...first,
  states: first.states.map((each, index) => (index === 0 ? { ...each, ...change } : each)),
});

describe("an approval", () => {
  test("that was just signed has no problems", () => expect(problems(first)).toEqual([]));

  test("without states has none either: it withdraws all", async () => {
    expect(problems(await signApproval(key, { node: "pi-1", generation: 1, states: [] }))).toEqual([]);
  });

  test("is signed over its name and its canonical form, without the signature", () => {
    const { signature, ...rest } = first;
    const message = Buffer.from(`edgeseal approval v1\n${canonicalJson(rest)}`);
    expect(verify("sha256", message, key.publicKey, Buffer.from(signature, "base64"))).toBe(true);
  });

  test("keeps what is approved: the value, its policy digest and the events, without details", () => {
    const events = measurement().log.events.map(({ type, name, digest }) => ({ type, name, digest }));
    expect(first.states[0]).toMatchObject({
      pcr11: pcr11Of(events),
      pol: policyPcrDigest(pcr11Of(events)),
      events,
    });
  });

  test("gives systemd's signature file", () => {
    const [one, two] = first.states;
    const pkfp = fingerprint(key.publicKey);
    expect(signatureFile(first)).toEqual({
      sha256: [
        { pcrs: [11], pkfp, pol: one?.pol, sig: one?.sig },
        { pcrs: [11], pkfp, pol: two?.pol, sig: two?.sig },
      ],
    });
  });
});

describe("the text", () => {
  const text = formatApproval(first);

  test("is read back as it was written", () => {
    expect(parseApproval(text)).toEqual(first);
    expect(problems(parseApproval(text))).toEqual([]);
  });

  test("has an event a line, so that a review shows which changed", () => {
    const lines = text.split("\n").filter((line) => line.includes('"config.txt"'));
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatch(/^ {8}\{ "type": "file", "name": "config.txt", "digest": "[0-9a-f]{64}" \},$/);
  });

  test("may be formatted otherwise: white space and order of fields are not signed", () => {
    const reversed = Object.fromEntries(Object.entries(first).toReversed());
    expect(problems(parseApproval(`\r\n${JSON.stringify(reversed, undefined, "\t")}`))).toEqual([]);
  });

  test("with names that look like its own lines is read back", async () => {
    const files = { 'a", "digest": "b\n': "x", "\\": "y", é: "z" };
    const odd = await signApproval(key, { node: "pi-1", generation: 1, states: [await state({ files })] });
    expect(parseApproval(formatApproval(odd))).toEqual(odd);
  });

  const refusals = (given: string): readonly string[] => {
    try {
      parseApproval(given);
    } catch (error) {
      if (error instanceof ApprovalRefused)
        return error.problems.map(({ path, message }) => `${path}: ${message}`);
      throw error;
    }
    return [];
  };

  test("with a field twice is refused", () => {
    expect(refusals(text.replace('"node": "pi-1"', '"node": "pi-2", "node": "pi-1"'))).toEqual([
      expect.stringMatching(/can be read in two ways/),
    ]);
  });

  test("is refused with every fault of its form, each with its path", () => {
    const { node: _, ...rest } = withState({ pcr11: "ABC", approvedAt: "yesterday", reason: "a\u202eb" });
    const faults = refusals(
      JSON.stringify({ ...rest, version: 2, nodes: "pi-1", generation: 0, signature: "AAAA" }),
    );
    expect(faults).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/^nodes: unknown field; did you mean 'node'\?/),
        expect.stringMatching(/^node: required, but not given/),
        expect.stringMatching(/^version: expected 1/),
        expect.stringMatching(/^generation: .* >= 1/),
        expect.stringMatching(/^states\[0\]\.pcr11: /),
        expect.stringMatching(/^states\[0\]\.approvedAt: /),
        expect.stringMatching(/^states\[0\]\.reason: /),
        expect.stringMatching(/^signature: /),
      ]),
    );
    expect(faults).toHaveLength(8);
  });

  test.each(["[]", "null", '"approved"'])("%s is refused", (given) => {
    expect(refusals(given)).toEqual([expect.stringContaining("expected a JSON object")]);
  });
});

describe("a problem is", () => {
  test("an approval of another node", () => {
    expect(problems(first, { ...expected, node: "pi-2" })).toEqual([
      expect.stringMatching(
        /^node: this is the approval of pi-1, and is used for pi-2.*run `edgeseal approve pi-2`/,
      ),
    ]);
  });

  test("a renamed copy of it: nothing of it is signed for that node", () => {
    expect(problems({ ...first, node: "pi-2" }, { ...expected, node: "pi-2" })).toEqual([
      expect.stringMatching(/^signature: not a signature of the policy key over this document/),
      expect.stringMatching(/^states\[0\]\.events: it is the log of pi-1, not of pi-2/),
      expect.stringMatching(/^states\[1\]\.events: it is the log of pi-1/),
    ]);
  });

  test("a state moved from another node's approval", async () => {
    const foreign = await signApproval(key, {
      node: "pi-2",
      generation: 1,
      states: [await state({ node: "pi-2" })],
    });
    expect(problems({ ...first, states: [...first.states, ...foreign.states] })).toEqual([
      expect.stringMatching(/^signature: /),
      expect.stringMatching(/^states\[2\]\.events: it is the log of pi-2/),
    ]);
  });

  test("a signature by another key", () => {
    expect(problems(first, { ...expected, publicKeyPem: another.publicKeyPem })).toEqual([
      expect.stringMatching(
        /^policyKey: signed by another key: .* run `edgeseal approve pi-1` with the current/,
      ),
    ]);
  });

  test("a signature by another key that claims to be by this one", async () => {
    const forged = await signApproval(another, {
      node: "pi-1",
      generation: 1,
      states: [await state({}, another)],
    });
    expect(problems({ ...forged, policyKey: fingerprint(key.publicKey) })).toEqual([
      expect.stringMatching(/^states\[0\]\.sig: not a signature of the policy key over this state/),
      expect.stringMatching(/^signature: /),
    ]);
  });

  test("a revoked generation, and one that the site does not know yet", () => {
    expect(problems(first, { ...expected, generation: 2, publicKeyPem: another.publicKeyPem })).toEqual([
      expect.stringMatching(/^generation: of generation 1 of the policy key, which generation 2 revoked/),
    ]);
    expect(problems({ ...first, generation: 3 })).toEqual([
      expect.stringMatching(/^generation: of generation 3 .* the site's current one is 1/),
      expect.stringMatching(/^signature: /),
    ]);
  });

  test("a revoked generation that claims to be the current one", () => {
    const wanted = { ...expected, generation: 2, publicKeyPem: another.publicKeyPem };
    expect(problems({ ...first, generation: 2 }, wanted)).toEqual([
      expect.stringMatching(/^policyKey: signed by another key/),
    ]);
    const claimed = { ...first, generation: 2, policyKey: fingerprint(another.publicKey) };
    expect(problems(claimed, wanted)).toEqual([
      expect.stringMatching(/^states\[0\]\.sig: /),
      expect.stringMatching(/^states\[1\]\.sig: /),
      expect.stringMatching(/^signature: /),
    ]);
  });

  test("anything that was changed after it was signed", () => {
    const other = pcr11Of(measurement({ cmdline: "init=/bin/sh" }).log.events);
    const [one, two] = first.states;
    expect(problems(withState({ reason: "no reason" }))).toEqual([expect.stringMatching(/^signature: /)]);
    expect(problems({ ...first, states: [one] })).toEqual([expect.stringMatching(/^signature: /)]);
    expect(problems({ ...first, states: [two, one] })).toEqual([expect.stringMatching(/^signature: /)]);
    expect(problems(withState({ pcr11: other, pol: policyPcrDigest(other) }))).toEqual([
      expect.stringMatching(/^states\[0\]\.sig: /),
      expect.stringMatching(/^signature: /),
      expect.stringMatching(/^states\[0\]\.events: these events lead to .*, not to the approved value/),
    ]);
    expect(problems(withState({ pol: policyPcrDigest(other) }))).toEqual([
      expect.stringMatching(/^signature: /),
      expect.stringMatching(/^states\[0\]\.pol: not the policy digest of this value/),
    ]);
    expect(problems(withState({ sig: two?.sig ?? "" }))).toEqual([
      expect.stringMatching(/^states\[0\]\.sig: /),
      expect.stringMatching(/^signature: /),
    ]);
  });

  test("another spelling of a signature's base64, which systemd might not take", () => {
    const { sig = "" } = first.states[0] ?? {};
    const last = sig.at(-3) ?? "";
    const next = String.fromCharCode(last.charCodeAt(0) + 1);
    const spelt = `${sig.slice(0, -3)}${next}==`;
    expect(Buffer.from(spelt, "base64")).toEqual(Buffer.from(sig, "base64"));
    expect(problems(withState({ sig: spelt }))).toContainEqual(expect.stringMatching(/^states\[0\]\.sig: /));
  });

  test("a time that does not exist", () => {
    expect(problems(withState({ approvedAt: "2027-02-30T25:00:00Z" }))).toContainEqual(
      expect.stringMatching(/^states\[0\]\.approvedAt: there is no such time/),
    );
  });
});

describe("what the key itself would not sign", () => {
  const sign = (states: Approval["states"]) => signApproval(key, { node: "pi-1", generation: 1, states });

  test("is a state twice", async () => {
    await expect(sign([await state(), await state()])).rejects.toThrow(
      /states\[1\]\.pcr11: the same value as in states\[0\]/,
    );
  });

  test("is a state with a failure in it", async () => {
    const events = measurement().log.events;
    const failed = { type: "failed", name: "cmdline", digest: "0".repeat(64) } as const;
    const approved = await approveState(key, { events: [...events, failed], reason: "x", now });
    await expect(sign([approved])).rejects.toThrow(/cmdline could not be measured/);
  });

  test("is a state of another node", async () => {
    await expect(sign([await state({ node: "pi-2" })])).rejects.toThrow(/the log of pi-2, not of pi-1/);
  });

  test("is a reason of two lines, or none", async () => {
    const events = measurement().log.events;
    for (const reason of ["", "one\ntwo"]) {
      await expect(sign([await approveState(key, { events, reason, now })])).rejects.toThrow(/reason: /);
    }
  });
});
