import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  cipherOf,
  enrolledPolicyKey,
  flatten,
  headerDifferences,
  readHeader,
  readMetadata,
} from "../../../provider/resources/sealed-volume-header.ts";
import { fingerprint, readPublicKey } from "../../../provider/trust/public-key.ts";
import { realHeader } from "./luks-headers/real.ts";
import { enrolledKey, luksJson } from "./sealed-volume-example.ts";

type Metadata = Record<string, Record<string, Record<string, unknown>>>;
const metadata = (): Metadata => JSON.parse(luksJson) as Metadata;

const program = readFileSync(
  new URL("../../../provider/resources/on-device/unlock-volumes", import.meta.url),
  "utf8",
);

/** One of the awk programs in the unlock program, by the variable that it is in. */
const awkProgram = (name: string): string =>
  new RegExp(`^${name}='\n([\\s\\S]*?)'$`, "m").exec(program)?.[1] ?? expect.fail(`no awk program ${name}`);

function awk(name: string, input: string, files: readonly string[] = []): string {
  const { status, stdout, stderr } = spawnSync("awk", [awkProgram(name), ...files], {
    input,
    encoding: "utf8",
  });
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return stdout;
}

/** What the unlock program says of two lists of facts. */
function saidOnDevice(pinned: readonly string[], found: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-facts-"));
  try {
    const files = [pinned, found].map((facts, index) => {
      const path = join(folder, String(index));
      writeFileSync(path, facts.map((fact) => `${fact}\n`).join(""));
      return path;
    });
    return awk("difference", "", files).trim();
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const factsOf = (json: unknown, epoch = 5): string[] =>
  ["header.epoch " + String(epoch), ...flatten(json, "")].sort();

describe("the JSON of a real header", () => {
  test("gives slots, token and segment", () => {
    const read = readMetadata(metadata());
    expect(read.keySlots).toEqual([
      { slot: "0", type: "luks2", pbkdf: "pbkdf2", keyBits: 512 },
      { slot: "1", type: "luks2", pbkdf: "pbkdf2", keyBits: 512 },
    ]);
    expect(read.tokens).toEqual([
      {
        token: "0",
        type: "systemd-tpm2",
        keySlots: ["1"],
        pcrs: [15],
        bank: "sha256",
        signedPcrs: [11],
        policyKey: fingerprint(readPublicKey(enrolledKey, "policy")),
        sealedToZeros: true,
      },
    ]);
    expect(cipherOf(read)).toBe("aes-xts-plain64");
    expect(enrolledPolicyKey(read)).toBe(fingerprint(readPublicKey(enrolledKey, "policy")));
  });

  test.each([
    ["another policy hash", { "tpm2-policy-hash": "00".repeat(32) }],
    ["no PCR by value", { "tpm2-pcrs": [] }],
    ["another PCR by value", { "tpm2-pcrs": [7] }],
    ["another bank", { "tpm2-pcr-bank": "sha1" }],
    ["no signed PCR", { tpm2_pubkey_pcrs: [] }],
    ["no key", { tpm2_pubkey: "" }],
  ])("is not taken for sealed to PCR 15 at zeros with %s", (_what, change) => {
    const json = metadata();
    Object.assign(json["tokens"]?.["0"] ?? {}, change);
    expect(readMetadata(json).tokens[0]?.sealedToZeros).toBe(false);
  });

  test.each([
    ["nothing", {}],
    ["other types everywhere", { keyslots: [], tokens: { "0": "x" }, segments: 1 }],
    ["null", null],
  ])("that holds %s is read without a fault", (_what, json) => {
    expect(() => readMetadata(json)).not.toThrow();
    expect(cipherOf(readMetadata(json))).toBe("");
  });
});

describe("the bytes of a real header", () => {
  test("say the same as its JSON", () => {
    const read = readHeader(realHeader());
    // And some that are in the bytes only.
    expect(read?.facts.filter((fact) => !fact.startsWith("header."))).toEqual(flatten(metadata(), "").sort());
    expect(read?.metadata).toEqual(readMetadata(metadata()));
    expect(read?.uuid).toMatch(/^[0-9a-f-]{36}$/);
    expect(read?.facts).toContain("header.label edgeseal-models");
    expect(read?.metadata.keySlots).toHaveLength(2);
    expect(read?.metadata.tokens[0]).toMatchObject({ type: "systemd-tpm2", sealedToZeros: true });
    expect(read?.facts).toContain(`header.uuid ${read?.uuid ?? ""}`);
  });

  test.each([
    ["a flipped bit in the JSON", 5000],
    ["a flipped bit in a field", 30],
    ["another version", 7],
    ["another magic", 0],
    ["another size", 12],
    ["another checksum algorithm", 72],
  ])("with %s are no header", (_what, at) => {
    const bytes = realHeader();
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    expect(readHeader(bytes)).toBeUndefined();
  });

  test("of the second copy count where the first is none, as a power cut may leave it", () => {
    const first = realHeader();
    const second = realHeader();
    second.write("SKUL", 0, "latin1");
    second.fill(0, 448, 512);
    createHash("sha256").update(second).digest().copy(second, 448);
    const torn = Buffer.from(first).fill(0, 5000, 6000);
    expect(readHeader(Buffer.concat([torn, second]))).toEqual(readHeader(first));
    expect(readHeader(Buffer.concat([torn, torn]))).toBeUndefined();
    // Another place is no place for it.
    expect(readHeader(Buffer.concat([second, torn]))).toBeUndefined();
  });

  test("that are too few are no header", () => {
    expect(readHeader(realHeader().subarray(0, 4096))).toBeUndefined();
    expect(readHeader(Buffer.alloc(0))).toBeUndefined();
  });
});

describe("facts, here and in the unlock program", () => {
  test.each([
    ["a real header", luksJson],
    [
      "nesting, empty things, numbers and escapes",
      '{"a":{"b":[1,-2.5,{"c":true}],"d":{},"e":[]},"f":"x \\"y\\" \\\\ z","g":null}',
    ],
    ["an empty object", "{}"],
  ])("are the same for %s", (_what, json) => {
    const here = flatten(JSON.parse(json), "");
    const there = awk("flatten", json)
      .split("\n")
      .filter((line) => line !== "");
    expect([...there].sort()).toEqual([...here].sort());
  });
});

describe("differences, here and in the unlock program", () => {
  const changed = (change: (json: Metadata) => void): Metadata => {
    const json = metadata();
    change(json);
    return json;
  };
  const cases: Readonly<
    Record<string, { readonly json: unknown; readonly epoch?: number; readonly said: string }>
  > = {
    "nothing differs": { json: metadata(), said: "" },
    "a null cipher": {
      json: changed((json) => {
        Object.assign(json["segments"]?.["0"] ?? {}, { encryption: "cipher_null-ecb" });
      }),
      said: "segment 0: encryption is cipher_null-ecb, pinned aes-xts-plain64",
    },
    "another key slot": {
      json: changed((json) => {
        Object.assign(json["keyslots"] ?? {}, { "2": json["keyslots"]?.["0"] });
      }),
      epoch: 6,
      said: "header: header.epoch is 6, pinned 5; key slot 2 (luks2) was added",
    },
    "a foreign token": {
      json: changed((json) => {
        Object.assign(json["tokens"] ?? {}, { "1": { type: "clevis", keyslots: ["1"] } });
      }),
      said: "token 1 (clevis) was added",
    },
    "an older header": {
      json: changed((json) => {
        delete json["keyslots"]?.["1"];
        delete json["tokens"]?.["0"];
        Object.assign(json["digests"]?.["0"] ?? {}, { keyslots: ["0"] });
      }),
      epoch: 3,
      said: "digest 0: keyslots.1 is gone, pinned 1; header: header.epoch is 3, pinned 5; key slot 1 (luks2) is gone; token 0 (systemd-tpm2) is gone; header: tokens {} was added",
    },
  };

  test.each(Object.entries(cases))("%s", (_what, { json, epoch = 5, said }) => {
    const pinned = factsOf(metadata());
    const found = factsOf(json, epoch);
    const there = saidOnDevice(pinned, found);
    expect(headerDifferences(pinned, found).join("; ")).toBe(there);
    const parts = (text: string): string[] => text.replaceAll("the header", "header").split("; ").sort();
    expect(parts(there)).toEqual(parts(said));
  });

  test("of another volume are cut short", () => {
    const other = JSON.parse(
      luksJson
        .replaceAll(/"salt":"./g, '"salt":"_')
        .replaceAll("sha256", "sha1")
        .replaceAll("luks1", "x")
        .replaceAll("aes-xts-plain64", "cipher_null-ecb")
        .replaceAll("pbkdf2", "argon2id"),
    ) as unknown;
    const pinned = factsOf(metadata());
    const found = factsOf(other, 9);
    const there = saidOnDevice(pinned, found);
    expect(there).toMatch(/; and \d+ more$/);
    expect(headerDifferences(pinned, found).join("; ")).toBe(there);
  });
});
