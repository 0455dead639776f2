import { generateKeyPairSync, sign as signBytes, type KeyObject } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { packTar } from "modern-tar";
import { describe, expect, test } from "vitest";
import { UserError } from "../../../../cli/errors.ts";
import { packArchive, readLayout, unpackArchive } from "../../../../cli/image/archive.ts";
import { checkImage } from "../../../../cli/image/check.ts";
import { digestOf, hexOf, imageOf, layoutOf, sbomName } from "../../../../cli/image/oci.ts";
import { parseReference } from "../../../../cli/image/reference.ts";
import { signArchive } from "../../../../cli/image/sign.ts";
import { parseSignatureFile, signatureFile, signImage } from "../../../../cli/image/signature.ts";
import { verifyImage } from "../../../../cli/image/verify.ts";
import type { SigningKey } from "../../../../provider/trust/signer.ts";
import { testKey } from "../../trust/keys.ts";
import { scratchFolder } from "../scratch.ts";

const scratch = scratchFolder();
const created = new Date("2027-01-15T12:00:00Z");
const reference = parseReference("registry.example/edge/llama:1");
const site = testKey();
const other = testKey();
const keys = new Map([["images.pub.pem", site.publicKey]]);

const image = imageOf(Buffer.from("layer"), Buffer.from("{}"), {
  arch: "arm64",
  program: "/usr/bin/server",
  created,
  labels: { "org.opencontainers.image.title": "server" },
});
const layout = (): Map<string, Buffer> => layoutOf(image, Buffer.from("{}"));
const open = (key: SigningKey) => (): Promise<SigningKey> => Promise.resolve(key);

function folder(files: ReadonlyMap<string, Buffer> = layout()): string {
  mkdirSync(scratch("image"));
  for (const [name, bytes] of files) writeFileSync(scratch("image", name), bytes);
  return scratch("image");
}

/** The lines of what a user is told. */
async function refused(work: () => unknown): Promise<readonly string[]> {
  try {
    await work();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message.split("\n");
  }
  return [];
}

const ecKey = (namedCurve: string): SigningKey => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve });
  return {
    publicKey,
    privateKey: { name: "ec", sign: (message) => Promise.resolve(signBytes("sha256", message, privateKey)) },
  };
};

describe("signing", () => {
  test("gives one archive that verifies, whatever it was signed from, with what it was", async () => {
    const archive = scratch("llama.tar");
    const signed = await signArchive(folder(), reference, open(site), archive);
    expect(signed).toMatchObject({
      digest: image.digest,
      reference: "registry.example/edge/llama:1",
      signatures: 1,
    });
    const checked = checkImage(archive, await readLayout(archive));
    expect(checked).toMatchObject({ digest: image.digest, architecture: "arm64", created });
    expect(verifyImage(archive, checked, keys, "registry.example/edge/llama:1")).toEqual({
      signedBy: "images.pub.pem",
      reference: "registry.example/edge/llama:1",
    });
    // The payload is that of containers/image, field by field.
    const { payload } = parseSignatureFile((await readLayout(archive)).get("signature-1") ?? Buffer.alloc(0));
    expect(payload.toString()).toBe(
      `{"critical":{"identity":{"docker-reference":"registry.example/edge/llama:1"},"image":{"docker-manifest-digest":"${image.digest}"},"type":"cosign container image signature"},"optional":null}`,
    );
  });

  test("the same again changes nothing; another name or key is one signature more", async () => {
    const archive = scratch("llama.tar");
    await signArchive(folder(), reference, open(site), archive);
    const once = readFileSync(archive);
    await signArchive(archive, reference, open(site), archive);
    expect(readFileSync(archive)).toEqual(once);
    await signArchive(archive, parseReference("127.0.0.1:5000/llama:1"), open(site), archive);
    const { signatures } = await signArchive(archive, reference, open(other), archive);
    expect(signatures).toBe(3);
    const checked = checkImage(archive, await readLayout(archive));
    expect(verifyImage(archive, checked, new Map([["other", other.publicKey]])).signedBy).toBe("other");
    expect(verifyImage(archive, checked, keys, "127.0.0.1:5000/llama:1").signedBy).toBe("images.pub.pem");
  });

  test.each(["P-256", "P-384"])("with ECDSA on %s verifies as well", async (curve) => {
    const key = ecKey(curve);
    await signArchive(folder(), reference, open(key), scratch("a.tar"));
    const checked = checkImage("a", await readLayout(scratch("a.tar")));
    expect(verifyImage("a", checked, new Map([["ec", key.publicKey]])).signedBy).toBe("ec");
  });

  test("what was changed is not signed, and nobody is asked for a passphrase", async () => {
    const files = layout();
    files.set(hexOf(digestOf(Buffer.from("layer"))), Buffer.from("Layer"));
    let opened = false;
    const openKey = (): Promise<SigningKey> => {
      opened = true;
      return Promise.resolve(site);
    };
    expect(await refused(() => signArchive(folder(files), reference, openKey, scratch("a.tar")))).toEqual([
      expect.stringMatching(/ was changed: its digest is sha256:/),
    ]);
    expect(opened).toBe(false);
    expect(readdirSync(scratch())).toEqual(["image"]);
  });

  test("a key that returns another signature leaves no archive", async () => {
    const lying = { publicKey: site.publicKey, privateKey: other.privateKey };
    await expect(signArchive(folder(), reference, open(lying), scratch("a.tar"))).rejects.toThrow(
      /not one of/,
    );
    expect(readdirSync(scratch())).toEqual(["image"]);
  });
});

describe("an image is refused", () => {
  const [layer = "", config = ""] = [digestOf(Buffer.from("layer")), ...image.blobs.keys()].map(hexOf);
  const manifest = (change: (of: Record<string, unknown>) => void): Buffer => {
    const value = JSON.parse(image.manifest.toString()) as Record<string, unknown>;
    change(value);
    return Buffer.from(JSON.stringify(value));
  };

  test.each<[string, (files: Map<string, Buffer>) => unknown, readonly RegExp[]]>([
    [
      "without a manifest and of another version, both told",
      (files) => [files.delete("manifest.json"), files.delete("version")],
      [/`version` is missing/, /no manifest\.json/],
    ],
    [
      "with a layer that is gone",
      (files) => files.delete(layer),
      [/there is no [0-9a-f]{64}, which the manifest names/],
    ],
    [
      "with layer and configuration changed, both told",
      (files) => [files.set(layer, Buffer.from("x")), files.set(config, Buffer.from("{}"))],
      [/was changed/, /was changed/],
    ],
    [
      "with another bill of materials",
      (files) => files.set(sbomName, Buffer.from("{ }")),
      [/sbom\.cdx\.json was changed/],
    ],
    [
      "without its bill of materials",
      (files) => files.delete(sbomName),
      [/names a bill of materials, and there is no/],
    ],
    [
      "with a file that nobody named",
      (files) => files.set("extra", Buffer.from("x")),
      [/extra is no part of the image/],
    ],
    [
      "with a manifest that can be read in two ways",
      (files) =>
        files.set(
          "manifest.json",
          Buffer.from(image.manifest.toString().replace("{", '{"schemaVersion":2,')),
        ),
      [/manifest\.json: can be read in two ways/],
    ],
    [
      "with a manifest of another kind",
      (files) =>
        files.set(
          "manifest.json",
          manifest((of) => (of["mediaType"] = "application/vnd.oci.image.index.v1+json")),
        ),
      [/manifest\.json: mediaType/],
    ],
    [
      "with a size that is another one",
      (files) =>
        files.set(
          "manifest.json",
          manifest((of) => ((of["layers"] as { size: number }[])[0] ?? { size: 0 }).size++),
        ),
      [/has 5 bytes, and the manifest says 6/],
    ],
    [
      "with a configuration of other layers",
      (files) => {
        const changed = Buffer.from(
          (files.get(config) ?? Buffer.alloc(0)).toString().replace(layer, "0".repeat(64)),
        );
        files.delete(config);
        files.set(hexOf(digestOf(changed)), changed);
        files.set(
          "manifest.json",
          manifest((of) => {
            of["config"] = {
              mediaType: "application/vnd.oci.image.config.v1+json",
              digest: digestOf(changed),
              size: changed.length,
            };
          }),
        );
      },
      [/of other layers than its manifest/],
    ],
  ])("%s", async (_, change, expected) => {
    const files = layout();
    change(files);
    const told = await refused(() => checkImage("image", files));
    expect(told).toHaveLength(expected.length);
    for (const [index, pattern] of expected.entries()) expect(told[index]).toMatch(pattern);
  });

  const signed = async (
    key: SigningKey,
    as = reference,
    digest = image.digest,
  ): Promise<Map<string, Buffer>> =>
    layout().set("signature-1", signatureFile(await signImage(key, digest, as)));
  const verifying = (
    files: ReadonlyMap<string, Buffer>,
    as?: string,
    with_: ReadonlyMap<string, KeyObject> = keys,
  ) => refused(() => verifyImage("image", checkImage("image", files), with_, as));

  test("without a signature", async () => {
    expect(await verifying(layout())).toEqual(["image has no signature"]);
  });

  test("signed by another key, for another name, or another image: each reason told", async () => {
    expect(await verifying(await signed(other))).toEqual([
      expect.stringMatching(/signature-1: it is by none of the given keys \(images\.pub\.pem\)$/),
    ]);
    expect(await verifying(await signed(site), "registry.example/edge/llama:2")).toEqual([
      expect.stringMatching(/it is for another name: registry\.example\/edge\/llama:1, not .*:2$/),
    ]);
    expect(await verifying(await signed(site, reference, digestOf(Buffer.from("x"))))).toEqual([
      expect.stringMatching(/it is of another image: sha256:/),
    ]);
    expect(
      await verifying(await signed(other, reference, digestOf(Buffer.from("x"))), "a.example/b:1"),
    ).toEqual([
      expect.stringMatching(
        /none of the given keys .*; it is of another image: .*; it is for another name: /,
      ),
    ]);
  });

  test("with a signature of which a bit, or the payload, was changed", async () => {
    const good = await signImage(site, image.digest, reference);
    const bytes = Buffer.from(good.signature);
    bytes.writeUInt8(bytes.readUInt8(9) ^ 1, 9);
    const payload = Buffer.from(good.payload.toString().replace(":1", ":2"));
    for (const changed of [
      { ...good, signature: bytes },
      { ...good, payload },
    ])
      expect(await verifying(layout().set("signature-1", signatureFile(changed)))).toEqual([
        expect.stringMatching(/by none of the given keys/),
      ]);
  });

  test("with a file that is no signature, though another fits", async () => {
    const files = (await signed(site)).set("signature-2", Buffer.from("\0sigstore-json\n{}"));
    expect(await verifying(files)).toEqual([expect.stringMatching(/signature-2: .*required/)]);
    files.set("signature-2", Buffer.from("GPG"));
    expect(await verifying(files)).toEqual([expect.stringMatching(/no signature of the kind/)]);
  });
});

describe("an archive", () => {
  const entry = (name: string, type: "file" | "symlink" | "directory" = "file") => ({
    header: {
      name,
      size: type === "file" ? 1 : 0,
      type,
      ...(type === "symlink" ? { linkname: "/etc/passwd" } : {}),
    },
    ...(type === "file" ? { body: "x" } : {}),
  });
  test.each([
    ["a path", [entry("../escape")], /has a file '\.\.\/escape' in it/],
    ["a link", [entry("version", "symlink")], /'version' in it, which is no file but a symlink/],
    ["a folder", [entry("version/", "directory")], /no file but a directory/],
    ["a name twice", [entry("version"), entry("version")], /has version in it twice/],
  ])("with %s is refused", async (_, entries, message) => {
    const tar = Buffer.from(await packTar(entries));
    expect(await refused(() => unpackArchive("a.tar", tar))).toEqual([expect.stringMatching(message)]);
  });

  test("that ends too early, or is none, is refused", async () => {
    const whole = await packArchive(layout(), created);
    expect(await refused(() => unpackArchive("a.tar", whole.subarray(0, 1800)))).not.toEqual([]);
    expect(await refused(() => unpackArchive("a.tar", Buffer.from("x".repeat(2000))))).toEqual([
      expect.stringMatching(/no tar archive, or is damaged/),
    ]);
  });
});

describe("a name", () => {
  test("says where an image is", () => {
    expect(parseReference("127.0.0.1:5000/a/b-c__d:2027.01")).toEqual({
      host: "127.0.0.1:5000",
      repository: "a/b-c__d",
      tag: "2027.01",
    });
  });

  test.each([
    "llama:1",
    "edge/llama:1",
    "registry.example/llama",
    `registry.example/llama:1@sha256:${"0".repeat(64)}`,
    "registry.example/LLama:1",
    "https://registry.example/llama:1",
    "registry.example/llama:",
    "registry.example//llama:1",
  ])("'%s' is refused", (text) => expect(() => parseReference(text)).toThrow(UserError));
});
