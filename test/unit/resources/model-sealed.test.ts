import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, type TestContext } from "vitest";
import { encryptModel } from "../../../cli/model/encrypt.ts";
import type { Session } from "../../../provider/device/session.ts";
import { sessionOf } from "../device/session-of.ts";
import type { Step } from "../../../provider/device/step.ts";
import { modelProblems, type ModelInputs } from "../../../provider/resources/model-inputs.ts";
import type { ModelState } from "../../../provider/resources/model-observation.ts";
import { model } from "../../../provider/resources/model.ts";
import { ChallengeFailed } from "../../../provider/resources/tpm-challenge.ts";
import { readTpmKeys, type TpmKeys } from "../../../provider/resources/tpm-keys.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { sealedManifest, sealedManifestText } from "../../../provider/trust/sealed-manifest.ts";
import { softwareTpm, type SoftwareTpm } from "../trust/software-tpm.ts";
import { inputsFor, mountVolume } from "./model-example.ts";
import { TpmRoot } from "./tpm-root.ts";

/* A model that is encrypted to one node: made with the public keys of its TPM, opened by that TPM, and by no other. */

const place = { mountPoint: "/var/models", directory: "/var/models/models" };
const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const content = randomBytes(1_500_000);

let root: TpmRoot;
let folder: string;
beforeEach(() => {
  root = new TpmRoot();
  mountVolume(root);
  root.write("/run/.keep", "");
  folder = mkdtempSync(join(tmpdir(), "edgeseal-sealed-"));
});
afterEach(() => {
  root[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

const tpmOf = softwareTpm();
const otherTpmOf = softwareTpm();

const storageKey = "-C o -G ecc256:aes128cfb -c srk.ctx -a".split(" ");
const attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
const evict = (handle: string, file: string): string[] => `-C o -c ${file} ${handle}`.split(" ");

/** A TPM as edgeseal owns it, in the node. @returns the digest of its endorsement key */
async function own(tpm: SoftwareTpm): Promise<string> {
  await tpm.run("tpm2_clear", "-c", "p");
  await tpm.run("tpm2_createek", ..."-G rsa -c ek.ctx -u ek.pub".split(" "));
  await tpm.run("tpm2_evictcontrol", ...evict("0x81010001", "ek.ctx"));
  await tpm.run("tpm2_createprimary", ...storageKey, attributes);
  await tpm.run("tpm2_evictcontrol", ...evict("0x81000001", "srk.ctx"));
  return sha256Hex((await tpm.read("ek.pub")).subarray(2));
}

async function owned(context: TestContext): Promise<{ readonly tpm: SoftwareTpm; readonly digest: string }> {
  const tpm = tpmOf(context);
  root.insert(tpm);
  return { tpm, digest: await own(tpm) };
}

function session(): Session {
  const run: Session["run"] = (script) => {
    const { code, stdout, stderr } = root.sh(script);
    return Promise.resolve({ code, stdout, stderr: `${stderr}\n` });
  };
  return sessionOf(run);
}

/** Encrypts the model, as the command does. */
async function encrypted(keys: TpmKeys, plain = content): Promise<ModelInputs> {
  const [file, out] = [join(folder, "model.gguf"), join(folder, "model.gguf.sealed")] as const;
  writeFileSync(file, plain);
  const { signal } = new AbortController();
  const { sealed, manifest } = await encryptModel(file, keys, {
    node: "pi-1",
    out,
    signal,
    onProgress: () => undefined,
  });
  rmSync(file);
  return inputsFor(content, place, { file: sealed, sealed: readFileSync(manifest, "utf8") });
}

function planFor(inputs: ModelInputs): readonly Step[] {
  const observed = root.observe(model.observe(inputs));
  return model.plan(inputs, observed, route);
}

function applyTo(step: Step): void {
  if (step.kind === "upload") {
    expect(sha256Hex(readFileSync(step.source))).toBe(step.sha256);
    copyFileSync(step.source, join(root.root, step.path));
  } else root.apply(step);
}

const bring = (inputs: ModelInputs): void => planFor(inputs).forEach(applyTo);
const stateOf = (inputs: ModelInputs): ModelState => {
  const observed = root.observe(model.observe(inputs));
  if (observed.outcome === "absent") throw new Error("not observed");
  return observed.state;
};
const arrived = (): readonly string[] =>
  readdirSync(join(root.root, "var/models")).filter((name) => name !== "lost+found");
const leftInMemory = (): readonly string[] => readdirSync(join(root.root, "run/edgeseal"));
const loadedIn = async (tpm: SoftwareTpm): Promise<string> =>
  (await tpm.run("tpm2_getcap", "handles-transient")) +
  (await tpm.run("tpm2_getcap", "handles-loaded-session"));

const staged = `.edgeseal-model.llama.${sha256Hex(content)}`;
const anew =
  "the TPM does not give the key of the model: it was encrypted to another TPM, or this one was cleared since";

describe("a model that is encrypted to a node", () => {
  test("arrives encrypted, is opened by its TPM, and is judged as every model", async (context) => {
    const { tpm, digest } = await owned(context);
    const inputs = await encrypted(await readTpmKeys(session(), { pinned: digest }));
    expect(modelProblems(inputs)).toEqual([]);
    const steps = planFor(inputs);
    expect(steps.slice(0, 2).map(({ title }) => title)).toEqual([
      "send the model llama, encrypted",
      "decrypt the model llama with the key that the node's TPM gives",
    ]);
    expect(steps[0]).toMatchObject({
      bytes: content.length + 60 + 2 * 16,
      path: `/var/models/${staged}.sealed`,
    });
    for (const step of steps) {
      applyTo(step);
      // Before the node has judged it, nothing has the model's name.
      if (step.title.startsWith("decrypt")) expect(arrived()).toEqual([staged]);
    }
    expect(stateOf(inputs)).toMatchObject({ model: "verified", leftovers: [] });
    expect(planFor(inputs)).toEqual([]);
    expect(arrived()).toEqual(["models"]);
    expect(leftInMemory()).toEqual([]);
    expect((await loadedIn(tpm)).trim()).toBe("");
  });

  test("is opened with an endorsement key that is not persistent, too", async (context) => {
    const { tpm, digest } = await owned(context);
    await tpm.run("tpm2_evictcontrol", ..."-C o -c 0x81010001".split(" "));
    const inputs = await encrypted(await readTpmKeys(session(), { pinned: digest }));
    bring(inputs);
    expect(stateOf(inputs).model).toBe("verified");
    expect((await loadedIn(tpm)).trim()).toBe("");
  });

  test("is not opened by another TPM", async (context) => {
    const { digest } = await owned(context);
    const inputs = await encrypted(await readTpmKeys(session(), { pinned: digest }));
    const other = otherTpmOf(context);
    await own(other);
    root.insert(other);
    expect(() => bring(inputs)).toThrow(anew);
    expect(arrived()).toEqual([`${staged}.sealed`]);
    expect(leftInMemory()).toEqual([]);
    expect((await loadedIn(other)).trim()).toBe("");
    // The control: back in its node, it opens what has arrived.
    root.insert(tpmOf(context));
    bring(inputs);
    expect(stateOf(inputs).model).toBe("verified");
  });

  test("is not opened after its TPM was cleared, though the endorsement key is the same", async (context) => {
    const { tpm, digest } = await owned(context);
    const inputs = await encrypted(await readTpmKeys(session(), { pinned: digest }));
    expect(await own(tpm)).toBe(digest);
    expect(() => bring(inputs)).toThrow(anew);
    expect(arrived()).toEqual([`${staged}.sealed`]);
    // Encrypted anew, it is.
    const again = await encrypted(await readTpmKeys(session(), { pinned: digest }));
    bring(again);
    expect(stateOf(again)).toMatchObject({ model: "verified", leftovers: [] });
  });

  test("is not opened without a storage root key, nor with the key of another file", async (context) => {
    const { tpm, digest } = await owned(context);
    const keys = await readTpmKeys(session(), { pinned: digest });
    const other = sealedManifest((await encrypted(keys)).sealed ?? "");
    const inputs = await encrypted(keys);
    const manifest = { ...sealedManifest(inputs.sealed ?? ""), credential: other.credential };
    expect(() => bring({ ...inputs, sealed: sealedManifestText(manifest) })).toThrow("chunk 0 does not open");
    expect(arrived()).toEqual([`${staged}.sealed`]);
    await tpm.run("tpm2_evictcontrol", ..."-C o -c 0x81000001".split(" "));
    expect(() => bring(inputs)).toThrow("the TPM has no storage root key at 0x81000001");
    await tpm.run("tpm2_evictcontrol", ...evict("0x81000001", "srk.ctx"));
    bring(inputs);
    expect(stateOf(inputs).model).toBe("verified");
  });

  test("is refused when it is another one, though whoever made it had the node's public keys", async (context) => {
    const { digest } = await owned(context);
    const keys = await readTpmKeys(session(), { pinned: digest });
    const { sealed = "", ...evil } = await encrypted(keys, randomBytes(content.length));
    expect(modelProblems({ ...evil, sealed })).toEqual([
      { path: "sealed", message: expect.stringContaining("it is for the model sha256:") as string },
    ]);
    const told = {
      ...sealedManifest(sealed),
      plaintext: { sha256: sha256Hex(content), bytes: content.length },
    };
    const lied = { ...evil, sealed: sealedManifestText(told) };
    expect(modelProblems(lied)).toEqual([]);
    expect(() => bring(lied)).toThrow("its header is for another model than the statement");
    expect(root.exists(place.directory)).toBe(false);
  });

  test("is told from what is no such text", async () => {
    const inputs = await inputsFor(content, place);
    expect(modelProblems({ ...inputs, sealed: "{}" }).map(({ path }) => path)).toContain("sealed.credential");
    expect(modelProblems({ ...inputs, sealed: "x" }).map(({ path }) => path)).toEqual(["sealed"]);
  });
});

describe("the public keys of a node's TPM", () => {
  const faultOf = (pinned: string): Promise<unknown> =>
    readTpmKeys(session(), { pinned }).then(
      () => "read",
      (error: unknown) => (error instanceof ChallengeFailed ? error.fault : error),
    );

  test("are taken of the pinned TPM alone, and nothing stays on the node", async (context) => {
    const { tpm, digest } = await owned(context);
    const keys = await readTpmKeys(session(), { pinned: digest });
    await tpm.run("tpm2_readpublic", ..."-c 0x81000001 -n name".split(" "));
    expect(keys.storageKeyName).toEqual(await tpm.read("name"));
    expect(keys.endorsementKey.digest).toBe(digest);
    expect(await faultOf("ab".repeat(32))).toBe("otherTpm");
    expect(leftInMemory()).toEqual([]);
  });

  test("are not taken where the storage root key is missing, or could be in another TPM, too", async (context) => {
    const { tpm, digest } = await owned(context);
    await tpm.run("tpm2_evictcontrol", ..."-C o -c 0x81000001".split(" "));
    await expect(readTpmKeys(session(), { pinned: digest })).rejects.toThrow("has no storage root key");
    await tpm.run("tpm2_createprimary", ...storageKey, "sensitivedataorigin|userwithauth|restricted|decrypt");
    await tpm.run("tpm2_evictcontrol", ...evict("0x81000001", "srk.ctx"));
    expect(await faultOf(digest)).toBe("badKey");
  });

  test("are not there without a TPM", async () => {
    root.remove("/sys/class/tpm");
    expect(await faultOf("ab".repeat(32))).toBe("noTpm");
  });
});
