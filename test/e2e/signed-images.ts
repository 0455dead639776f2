import { execFileSync } from "node:child_process";
import { generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256Hex } from "../../provider/trust/digest.ts";

/*
 * Images, signatures in the form that podman verifies (cosign's "simple signing", attached in a registry by the tag `sha256-HEX.sig`), and a registry that
 * serves them, as much of it as a pull asks for (OCI distribution specification, 1.1).
 */

const manifestType = "application/vnd.oci.image.manifest.v1+json";
const payloadType = "application/vnd.dev.cosign.simplesigning.v1+json";

const digestOf = (bytes: Buffer): string => `sha256:${sha256Hex(bytes)}`;
const jsonOf = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

/** A manifest and what it is of. */
export interface TestImage {
  readonly digest: string;
  readonly manifest: Buffer;
  /** By digest. */
  readonly blobs: ReadonlyMap<string, Buffer>;
}

/** A key as images are signed with: the policy keys' kind. */
export interface SigningKey {
  readonly publicPem: string;
  readonly privateKey: KeyObject;
}

export function signingKey(): SigningKey {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { publicPem: publicKey.export({ type: "spki", format: "pem" }).toString(), privateKey };
}

interface Layer {
  readonly mediaType: string;
  readonly bytes: Buffer;
  readonly annotations?: Readonly<Record<string, string>>;
}

function imageOf({ bytes, ...layer }: Layer): TestImage {
  const config = jsonOf({
    architecture: "amd64",
    os: "linux",
    config: {},
    rootfs: { type: "layers", diff_ids: [digestOf(bytes)] },
  });
  const described = (of: Buffer) => ({ digest: digestOf(of), size: of.length });
  const manifest = jsonOf({
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: "application/vnd.oci.image.config.v1+json", ...described(config) },
    layers: [{ ...layer, ...described(bytes) }],
  });
  const blobs = new Map([config, bytes].map((each) => [digestOf(each), each]));
  return { digest: digestOf(manifest), manifest, blobs };
}

/** An image of one file. */
export function makeImage(text: string): TestImage {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-image-"));
  try {
    writeFileSync(join(folder, "text"), text);
    const bytes = execFileSync("tar", ["-C", folder, "--owner=0", "--group=0", "-c", "text"]);
    return imageOf({ mediaType: "application/vnd.oci.image.layer.v1.tar", bytes });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Signature {
  readonly payload: Buffer;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A signature that says: the image with this digest is this repository and tag. */
export function signatureOf(digest: string, reference: string, { privateKey }: SigningKey): Signature {
  const payload = jsonOf({
    critical: {
      identity: { "docker-reference": reference },
      image: { "docker-manifest-digest": digest },
      type: "cosign container image signature",
    },
    optional: null,
  });
  const signature = sign("sha256", payload, privateKey).toString("base64");
  return { payload, annotations: { "dev.cosignproject.cosign/signature": signature } };
}

/** An image as a folder (containers-transports(5), `dir:`), the one form without a registry that can hold a signature. */
export function folderOf(image: TestImage, signature?: Signature): ReadonlyMap<string, Buffer> {
  const blobs = [...image.blobs].map(([digest, bytes]) => [digest.slice("sha256:".length), bytes] as const);
  const files = new Map<string, Buffer>([
    ...blobs,
    ["manifest.json", image.manifest],
    ["version", Buffer.from("Directory Transport Version: 1.1\n")],
  ]);
  if (signature !== undefined) {
    const { payload, annotations } = signature;
    const body = jsonOf({ mimeType: payloadType, payload: payload.toString("base64"), annotations });
    files.set("signature-1", Buffer.concat([Buffer.from("\0sigstore-json\n"), body]));
  }
  return files;
}

/** A registry on this machine's loopback. */
export class TestRegistry {
  readonly #server: Server;
  /** By `REPOSITORY/TAG` and `REPOSITORY/DIGEST`. */
  readonly #manifests = new Map<string, Buffer>();
  readonly #blobs = new Map<string, Buffer>();

  private constructor() {
    this.#server = createServer((request, response) => {
      const [, repository = "", kind, reference = ""] =
        /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(request.url ?? "") ?? [];
      const found =
        kind === "blobs" ? this.#blobs.get(reference) : this.#manifests.get(`${repository}/${reference}`);
      if (found === undefined) {
        response.writeHead(request.url === "/v2/" ? 200 : 404).end("{}");
        return;
      }
      response.writeHead(200, {
        "content-type": kind === "blobs" ? "application/octet-stream" : manifestType,
        "content-length": found.length,
        "docker-content-digest": digestOf(found),
      });
      response.end(request.method === "HEAD" ? undefined : found);
    });
  }

  static async start(): Promise<TestRegistry> {
    const registry = new TestRegistry();
    await new Promise<void>((resolve) => registry.#server.listen(0, "127.0.0.1", resolve));
    return registry;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Puts an image under a tag, whatever was there before. */
  push(repository: string, tag: string, image: TestImage): void {
    for (const reference of [tag, image.digest])
      this.#manifests.set(`${repository}/${reference}`, image.manifest);
    for (const [digest, bytes] of image.blobs) this.#blobs.set(digest, bytes);
  }

  /** Attaches a signature to the image with a digest, in the place of the one that was there. */
  attach(repository: string, digest: string, { payload, annotations }: Signature): void {
    const tag = `${digest.replace(":", "-")}.sig`;
    this.push(repository, tag, imageOf({ mediaType: payloadType, bytes: payload, annotations }));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
