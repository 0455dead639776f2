import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { sealedManifestText } from "../../../provider/trust/sealed-manifest.ts";
import { siteKey, statementOn } from "../resources/model-example.ts";
import { testKey } from "../trust/keys.ts";
import { faults, hostKey, parse } from "./site-text.ts";

/* A model that is encrypted to its node, as a site file names it. */

const content = Buffer.alloc(300_000, "model");
const sealedFor = (node: string, plain = content): string =>
  sealedManifestText({
    version: 1,
    node,
    endorsementKeySha256: "ab".repeat(32),
    plaintext: { sha256: sha256Hex(plain), bytes: plain.length },
    ciphertext: { sha256: "cd".repeat(32), bytes: plain.length + 76 },
    credential: Buffer.concat([Buffer.from("badcc0de000000010044", "hex"), Buffer.alloc(326)]).toString(
      "base64",
    ),
  });

let folder: string;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "edgeseal-sealed-"));
  writeFileSync(join(folder, "m.dsse.json"), await statementOn(content));
  for (const purpose of ["policy", "recovery"] as const)
    writeFileSync(join(folder, `${purpose}.pub.pem`), testKey(purpose).publicKeyPem);
});
afterEach(() => rmSync(folder, { recursive: true }));

const file = (): string => join(folder, "plant.yaml");
const site = `site: plant
trust: { policyKey: policy.pub.pem, recoveryKey: recovery.pub.pem }
nodes:
  - name: pi-1
    address: 192.0.2.1
    hostKey: ${hostKey}
    firewall: { management: [192.0.2.0/24] }
    volumes: { models: { device: /dev/disk/by-id/nvme-a, mountPoint: /srv/models } }
    inference:
      image: registry.example/edge/llama@sha256:${"a".repeat(64)}
      memoryMaxMiB: 1024
      nodeMemoryMiB: 2048
      model:
        digest: sha256:${sha256Hex(content)}
        statement: m.dsse.json
        file: m.gguf.sealed
        sealed: m.gguf.sealed.json
        keys: { site: ${JSON.stringify(siteKey.pem)} }
`;
const told = (sealed: string): readonly string[] => {
  writeFileSync(join(folder, "m.gguf.sealed.json"), sealed);
  return faults(site, file()).map((line) => line.replace(`${file()}:`, ""));
};

describe("`sealed` of a served model", () => {
  test("is read, from the folder of the site file on, and comes to the resource as text", () => {
    const sealed = sealedFor("pi-1");
    expect(told(sealed)).toEqual([]);
    const [node] = parse(site, file()).nodes;
    expect(node?.blocks.model).toMatchObject({ sealed, file: join(folder, "m.gguf.sealed") });
  });

  test("is a fault where it is not there", () => {
    expect(faults(site, file())).toEqual([
      expect.stringMatching(
        /^.*:17:9: .*m\.gguf\.sealed\.json can't be read: ENOENT.*`edgeseal model encrypt` writes it/,
      ),
    ]);
  });

  test.each([
    ["for another node", () => sealedFor("pi-2"), "it is encrypted to the TPM of pi-2"],
    ["of another model", () => sealedFor("pi-1", Buffer.from("x")), "it is for the model sha256:"],
    ["no such text", () => "x", "JSON"],
  ])("is a fault at its line where it is %s", (_, sealed, message) => {
    const lines = told(sealed());
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^17:9: /);
    expect(lines[0]).toContain(message);
  });
});
