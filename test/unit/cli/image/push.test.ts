import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { UserError } from "../../../../cli/errors.ts";
import { digestOf, imageOf, layoutOf, type Descriptor } from "../../../../cli/image/oci.ts";
import { pushArchive } from "../../../../cli/image/push.ts";
import { parseReference } from "../../../../cli/image/reference.ts";
import { signatureAnnotation, signatureFile, signImage } from "../../../../cli/image/signature.ts";
import { testKey } from "../../trust/keys.ts";
import { scratchFolder } from "../scratch.ts";

/*
 * What is pushed, in which order, and how a login is answered. Debian's registry takes it in test/e2e/image-policy.test.ts, and podman from there.
 */

const scratch = scratchFolder();
const site = testKey();
const image = imageOf(Buffer.from("layer"), Buffer.from("{}"), {
  arch: "amd64",
  program: "/x",
  created: new Date(0),
  labels: {},
});

interface Answer {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly text?: Buffer | string;
}

/** A registry in memory that writes down what it was asked. */
class MemoryRegistry {
  readonly asked: string[] = [];
  readonly manifests = new Map<string, Buffer>();
  readonly blobs = new Map<string, Buffer>();
  /** `authorization` that it wants, and how it asks for it. */
  wants: { readonly authorization: string; readonly challenge: string } | undefined;
  /** Of the token service. */
  wantsOfTokens = "";
  /** What it makes of a manifest. */
  change = (manifest: Buffer): Buffer => manifest;
  readonly #server: Server = createServer((request, response) => void this.#answer(request, response));

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { status, headers, text } = this.#judge(request, await buffer(request));
    response.writeHead(status, headers).end(request.method === "HEAD" ? undefined : text);
  }

  #judge({ method, headers: { authorization }, url = "" }: IncomingMessage, body: Buffer): Answer {
    const { pathname, searchParams } = new URL(url, "http://registry");
    if (pathname === "/token") {
      this.asked.push(`token ${searchParams.get("scope") ?? ""}`);
      return authorization === this.wantsOfTokens
        ? { status: 200, text: JSON.stringify({ token: "t0ken" }) }
        : { status: 401 };
    }
    if (this.wants !== undefined && authorization !== this.wants.authorization)
      return { status: 401, headers: { "www-authenticate": this.wants.challenge } };
    const [, what = "", reference = ""] = /^\/v2\/edge\/llama\/(manifests|blobs)\/(.+)$/.exec(pathname) ?? [];
    const store = what === "manifests" ? this.manifests : this.blobs;
    if (method === "POST")
      return { status: 202, headers: { location: "/v2/edge/llama/blobs/uploads/1?state=x" } };
    if (method === "PUT") {
      const name = searchParams.get("digest") ?? reference;
      this.asked.push(`${what} ${name.replace(/[0-9a-f]{64}/, (hex) => hex.slice(0, 4))}`);
      store.set(name, what === "manifests" ? this.change(body) : body);
      return { status: 201 };
    }
    const found = store.get(reference);
    return found === undefined ? { status: 404 } : { status: 200, text: found };
  }
}

let registry: MemoryRegistry;
let host: string;
const environment = { ...process.env };
beforeEach(async () => {
  registry = new MemoryRegistry();
  host = await registry.start();
  process.env["REGISTRY_AUTH_FILE"] = scratch("auth.json");
});
afterEach(async () => {
  process.env = { ...environment };
  await registry.stop();
});

const name = (tag = "1"): string => `${host}/edge/llama:${tag}`;

/** The image as a folder, signed for these names. */
async function signed(...names: readonly string[]): Promise<string> {
  const files = layoutOf(image, Buffer.from("{}"));
  for (const [index, each] of names.entries()) {
    const signature = await signImage(site, image.digest, parseReference(each));
    files.set(`signature-${index + 1}`, signatureFile(signature));
  }
  mkdirSync(scratch("image"), { recursive: true });
  for (const [file, bytes] of files) writeFileSync(scratch("image", file), bytes);
  return scratch("image");
}

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return `${(error as UserError).message}\n${String((error as UserError).hint)}`;
  }
  return "";
}

const short = (digest: string): string => digest.slice(0, "sha256:".length + 4);
const tagOf = (suffix: string): string => `${short(image.digest).replace(":", "-")}.${suffix}`;

describe("pushing", () => {
  test("puts the tag last, after the signature, and leaves the manifest as it is", async () => {
    const pushed = await pushArchive(await signed(name()));
    expect(pushed).toEqual({ destination: name(), reference: name(), digest: image.digest, signatures: 1 });
    const manifests = registry.asked.filter((each) => each.startsWith("manifests "));
    expect(manifests).toEqual([
      `manifests ${short(image.digest)}`,
      `manifests ${tagOf("sig")}`,
      `manifests ${tagOf("sbom")}`,
      "manifests 1",
    ]);
    expect(registry.manifests.get("1")).toEqual(image.manifest);
    for (const [digest, bytes] of image.blobs) expect(registry.blobs.get(digest)).toEqual(bytes);
  });

  test("the same again uploads no blob twice; a second signature stands beside the first", async () => {
    const layers = (): readonly Descriptor[] => {
      const bytes = registry.manifests.get(`${image.digest.replace(":", "-")}.sig`) ?? Buffer.from("{}");
      return (JSON.parse(bytes.toString()) as { layers: Descriptor[] }).layers;
    };
    await pushArchive(await signed(name()));
    const blobs = registry.asked.filter((each) => each.startsWith("blobs ")).length;
    await pushArchive(await signed(name()));
    expect(registry.asked.filter((each) => each.startsWith("blobs "))).toHaveLength(blobs);
    expect(layers()).toHaveLength(1);
    await pushArchive(await signed(name("2")));
    expect(layers()).toHaveLength(2);
    for (const { annotations, digest } of layers()) {
      expect(annotations?.[signatureAnnotation]).toMatch(/^[A-Za-z0-9+/]+=*$/);
      expect(registry.blobs.has(digest)).toBe(true);
    }
  });

  test("to another name than the signed one is refused, unless somebody says so", async () => {
    const path = await signed("registry.example/edge/llama:1");
    expect(await refusal(pushArchive(path, { destination: name() }))).toMatch(
      /is signed for registry\.example\/edge\/llama:1: from .* nodes would refuse it\n.*--by-another-name/,
    );
    expect(registry.asked).toEqual([]);
    const pushed = await pushArchive(path, { destination: name(), byAnotherName: true });
    expect(pushed).toMatchObject({ destination: name(), reference: "registry.example/edge/llama:1" });
  });

  test("of an image without a signature, or by none of the keys, is refused before anything is sent", async () => {
    expect(await refusal(pushArchive(await signed()))).toMatch(/has no signature/);
    const keys = new Map([["other.pub.pem", testKey().publicKey]]);
    expect(await refusal(pushArchive(await signed(name()), { keys }))).toMatch(/none of the given keys/);
    expect(await refusal(pushArchive(await signed(name(), name("2"))))).toMatch(/signed for several names/);
    expect(registry.asked).toEqual([]);
  });

  test("to a registry that changes manifests ends before the tag is there", async () => {
    registry.change = (manifest) => Buffer.concat([manifest, Buffer.from("\n")]);
    expect(await refusal(pushArchive(await signed(name())))).toMatch(/changed the manifest/);
    expect(registry.manifests.has("1")).toBe(false);
  });

  test("to a registry that is not there says so", async () => {
    const gone = host;
    await registry.stop();
    expect(await refusal(pushArchive(await signed(`${gone}/edge/llama:1`)))).toMatch(
      /can't be reached: .*ECONNREFUSED/,
    );
  });
});

describe("a login", () => {
  const stored = Buffer.from("user:secret").toString("base64");
  const storeLogin = (): void =>
    writeFileSync(scratch("auth.json"), JSON.stringify({ auths: { [host]: { auth: stored } } }));

  test("that podman stored is used, for basic authentication", async () => {
    registry.wants = { authorization: `Basic ${stored}`, challenge: 'Basic realm="r"' };
    expect(await refusal(pushArchive(await signed(name())))).toMatch(/wants a login\npodman login 127/);
    storeLogin();
    expect(await pushArchive(await signed(name()))).toMatchObject({ digest: image.digest });
  });

  test("is turned into a token, where the registry has a service for them", async () => {
    const realm = `http://${host}/token`;
    registry.wants = { authorization: "Bearer t0ken", challenge: `Bearer realm="${realm}",service="s"` };
    registry.wantsOfTokens = `Basic ${stored}`;
    const told = await refusal(pushArchive(await signed(name())));
    expect(told).toMatch(/gives no token .*401.*\nlog in first: podman login/);
    storeLogin();
    expect(await pushArchive(await signed(name()))).toMatchObject({ digest: image.digest });
    expect(registry.asked).toContain("token repository:edge/llama:pull,push");
    expect(told).not.toContain("secret");
  });
});

test("digests of what is attached are those of its bytes", async () => {
  await pushArchive(await signed(name()));
  for (const [digest, bytes] of registry.blobs) expect(digestOf(bytes)).toBe(digest);
});
