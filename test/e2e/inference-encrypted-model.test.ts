import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { stringify } from "yaml";
import type { ModelInputs } from "../../provider/resources/model-inputs.ts";
import type { ModelState } from "../../provider/resources/model-observation.ts";
import { model } from "../../provider/resources/model.ts";
import type { TpmOwnershipState } from "../../provider/resources/tpm-ownership-observation.ts";
import { openRecovery } from "../../provider/trust/recovery.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { inputsFor } from "../unit/resources/model-example.ts";
import { testKey } from "../unit/trust/keys.ts";
import { edgesealIn, type Ran } from "./command-line.ts";
import { mountPoint, plainVolume } from "./inference-node.ts";
import { bringUp, endorsementKeyOf, kindOf, observe, onPi, type Declared } from "./provider-on-pi.ts";

/*
 * A model on its way to one node, encrypted by the command line as an operator runs it: that node's TPM opens it, and nothing of it is on what carries it.
 */

const recovery = testKey("recovery");
const ownership: Declared = {
  kind: kindOf("edgeseal:tpm:Ownership"),
  inputs: {
    node: "pi-1",
    recoveryPublicKey: recovery.publicKeyPem,
    maxTries: 32,
    recoveryTime: 600,
    lockoutRecovery: 86_400,
  },
};

// Several chunks of the format, the last one not full.
const content = randomBytes(3_300_000);
const path = (sha256: string): string => `${mountPoint}/models/${sha256}/model.gguf`;

let pi: VirtualPi;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-encrypted-"));
  writeFileSync(join(folder, "model.gguf"), content);
  pi = await VirtualPi.start();
  await plainVolume(pi);
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const owned = (): Promise<TpmOwnershipState> => observe<TpmOwnershipState>(pi, ownership);

function declareSite(endorsementKeySha256: string): void {
  const { host, port, user, identityFile, hostKey } = pi.ssh;
  mkdirSync(join(folder, "stacks"), { recursive: true });
  writeFileSync(join(folder, "recovery.pub.pem"), recovery.publicKeyPem);
  writeFileSync(join(folder, "policy.pub.pem"), testKey("policy").publicKeyPem);
  const node = { name: "pi-1", address: host, port, user, identityFile, hostKey };
  writeFileSync(
    join(folder, "stacks/lab.yaml"),
    stringify({
      site: "lab",
      trust: { policyKey: "../policy.pub.pem", generation: 1, recoveryKey: "../recovery.pub.pem" },
      nodes: [{ ...node, tpm: { endorsementKeySha256 } }],
    }),
  );
}

const encrypt = (): Promise<Ran> =>
  edgesealIn(folder, ["model", "encrypt", "model.gguf", "--for", "pi-1", "--site", "stacks/lab.yaml"]);

/** The model as the site file declares it once it is encrypted. */
const encrypted = async (): Promise<Declared & { readonly inputs: ModelInputs }> => ({
  kind: model,
  inputs: await inputsFor(
    content,
    { mountPoint, directory: `${mountPoint}/models` },
    {
      file: join(folder, "model.gguf.sealed"),
      sealed: readFileSync(join(folder, "model.gguf.sealed.json"), "utf8"),
    },
  ),
});

test("it is encrypted to no TPM but the one that the site pins, which edgeseal owns", async () => {
  const endorsementKeySha256 = await endorsementKeyOf(pi);
  declareSite(endorsementKeySha256);
  const early = await encrypt();
  expect(early.text).toMatch(/has no storage root key.*edgeseal:tpm:Ownership makes it/s);
  expect(early.code).toBe(1);
  await bringUp(pi, ownership);
  declareSite("0".repeat(64));
  const other = await encrypt();
  expect(other.text).toContain(endorsementKeySha256);
  expect(other.code).toBe(1);
  declareSite(endorsementKeySha256);
  const { code, text } = await encrypt();
  expect(code, text).toBe(0);
});

test("nothing of it is in what is carried", () => {
  const carried = readFileSync(join(folder, "model.gguf.sealed"));
  expect(carried.length).toBeGreaterThan(content.length);
  for (let at = 0; at + 16 <= content.length; at += 100_000)
    expect(carried.includes(content.subarray(at, at + 16))).toBe(false);
});

test("the node's TPM opens it, it is judged as every model, and neither the key nor what was sent is left", async () => {
  const declared = await encrypted();
  const { digest } = declared.inputs;
  await bringUp(pi, declared);
  expect(await observe<ModelState>(pi, declared)).toMatchObject({ model: "verified", leftovers: [] });
  const sha256 = digest.slice("sha256:".length);
  expect(await onPi(pi, `sha256sum ${path(sha256)}`)).toBe(`${sha256}  ${path(sha256)}\n`);
  expect(
    await onPi(
      pi,
      `find ${mountPoint} -name '*sealed*'; ls -A /run/edgeseal; tpm2_getcap handles-transient; tpm2_getcap handles-loaded-session`,
    ),
  ).not.toMatch(/sealed|challenge|0x/);
});

test("after the TPM was cleared it opens no more, and the update says what to do; encrypted anew it does", async () => {
  await onPi(pi, `rm -rf ${mountPoint}/models`);
  const { recovery: ciphertexts } = await owned();
  const lockout = await openRecovery(Buffer.from(ciphertexts.lockout ?? "", "base64"), recovery.privateKey, {
    kind: "tpm-auth",
    node: "pi-1",
    subject: "lockout",
  });
  await onPi(pi, `tpm2_clear -Q -c l ${lockout}`);
  await bringUp(pi, ownership);
  await expect(bringUp(pi, await encrypted())).rejects.toThrow(
    /the TPM does not give the key of the model: it was encrypted to another TPM, or this one was cleared since; encrypt it anew/,
  );
  expect(await onPi(pi, `find ${mountPoint} -type f -size +1M -not -name '*.sealed'`)).toBe("");
  const { code, text } = await encrypt();
  expect(code, text).toBe(0);
  await bringUp(pi, await encrypted());
});
