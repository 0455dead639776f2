import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { UserError } from "../errors.ts";
import { digestOf, mediaType } from "./oci.ts";

/*
 * As much of the OCI distribution API (distribution-spec 1.1) as it takes to put an image into a registry, byte by byte as it is.
 */

export interface RegistryOptions {
  /** Speak HTTP without TLS. @default only to a registry on this machine's loopback */
  readonly plainHttp?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** One repository of a registry. */
export class RegistryRepository {
  readonly #host: string;
  readonly #repository: string;
  readonly #base: string;
  readonly #signal: AbortSignal | undefined;
  #authorization: string | undefined;

  constructor(host: string, repository: string, { plainHttp, signal }: RegistryOptions = {}) {
    this.#host = host;
    this.#repository = repository;
    const loopback = /^(localhost|127(\.\d+){3})(:\d+)?$/.test(host);
    this.#base = `${(plainHttp ?? loopback) ? "http" : "https"}://${host}`;
    this.#signal = signal;
  }

  /** Uploads a blob that is not there yet. */
  async pushBlob(bytes: Buffer): Promise<void> {
    const digest = digestOf(bytes);
    const there = await this.#request("HEAD", `blobs/${digest}`);
    if (there.ok) return;
    const begun = await this.#request("POST", "blobs/uploads/");
    const location = begun.headers.get("location");
    if (begun.status !== 202 || location === null) throw await this.#refused("take an upload", begun);
    const target = new URL(location, this.#base);
    target.searchParams.set("digest", digest);
    const done = await this.#request("PUT", target, {
      body: bytes,
      headers: { "content-type": "application/octet-stream" },
    });
    if (done.status !== 201) throw await this.#refused(`take the blob ${digest}`, done);
  }

  /** Puts a manifest under a tag or its digest. The registry has to give it the digest that it has. */
  async pushManifest(reference: string, manifest: Buffer): Promise<void> {
    const response = await this.#request("PUT", `manifests/${reference}`, {
      body: manifest,
      headers: { "content-type": mediaType.manifest },
    });
    if (response.status !== 201) throw await this.#refused(`take the manifest of ${reference}`, response);
    const back = await this.manifest(reference);
    if (back === undefined || !back.equals(manifest)) {
      throw new UserError(`${this.#host} changed the manifest of ${this.#repository}:${reference}`, {
        hint: "signatures are of the digest: take a registry that leaves images as they are",
      });
    }
  }

  /** What a tag or digest leads to; `undefined` when there is nothing. */
  async manifest(reference: string): Promise<Buffer | undefined> {
    const response = await this.#request("GET", `manifests/${reference}`, {
      headers: { accept: mediaType.manifest },
    });
    if (response.status === 404) return undefined;
    if (!response.ok) throw await this.#refused(`show ${reference}`, response);
    return Buffer.from(await response.arrayBuffer());
  }

  /** A blob. */
  async blob(digest: string): Promise<Buffer> {
    const response = await this.#request("GET", `blobs/${digest}`);
    if (!response.ok) throw await this.#refused(`show ${digest}`, response);
    const bytes = Buffer.from(await response.arrayBuffer());
    if (digestOf(bytes) !== digest) throw new UserError(`${this.#host} has another blob as ${digest}`);
    return bytes;
  }

  async #request(
    method: string,
    where: string | URL,
    init: { readonly body?: Buffer; readonly headers?: Record<string, string> } = {},
  ): Promise<Response> {
    const url = where instanceof URL ? where : new URL(`/v2/${this.#repository}/${where}`, this.#base);
    const send = (): Promise<Response> => {
      // A location may lead elsewhere, to a store of blobs that has no business with the credentials.
      const own = url.origin === new URL(this.#base).origin && this.#authorization !== undefined;
      return fetch(url, {
        method,
        headers: { ...init.headers, ...(own ? { authorization: this.#authorization } : {}) },
        ...(init.body === undefined ? {} : { body: new Uint8Array(init.body) }),
        ...(this.#signal === undefined ? {} : { signal: this.#signal }),
      }).catch((error: unknown) => {
        this.#signal?.throwIfAborted();
        const { cause } = error as Error;
        const reason = cause instanceof Error ? cause.message : (error as Error).message;
        throw new UserError(`${this.#base} can't be reached: ${reason}`, {
          cause: error,
          hint: this.#base.startsWith("https:")
            ? "a registry without TLS takes --plain-http; one with a private certification authority NODE_EXTRA_CA_CERTS=FILE.pem"
            : "is it running?",
        });
      });
    };
    const response = await send();
    if (response.status !== 401 || this.#authorization !== undefined) return response;
    this.#authorization = await authorization(
      this.#host,
      response.headers.get("www-authenticate") ?? "",
      `repository:${this.#repository}:pull,push`,
      this.#signal,
    );
    return send();
  }

  async #refused(what: string, response: Response): Promise<UserError> {
    const text = (await response.text().catch(() => "")).slice(0, 500);
    return new UserError(
      `${this.#base} does not ${what} in ${this.#repository}: ${response.status} ${response.statusText}${text === "" ? "" : `\n${text}`}`,
      response.status === 401 || response.status === 403
        ? { hint: `log in first: podman login ${this.#host} (or docker, or skopeo)` }
        : {},
    );
  }
}

/** Answers a challenge (RFC 9110, 11; distribution, "Token Authentication Specification") with what `podman login` stored. @throws UserError */
async function authorization(
  host: string,
  challenge: string,
  scope: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  const basic = await storedCredentials(host);
  if (/^basic\b/i.test(challenge) && basic !== undefined) return `Basic ${basic}`;
  const parameters = new Map(
    [...challenge.matchAll(/(\w+)="([^"]*)"/g)].map(([, name = "", value = ""]) => [name, value]),
  );
  const realm = parameters.get("realm");
  if (!/^bearer\b/i.test(challenge) || realm === undefined) {
    throw new UserError(`${host} wants a login`, {
      hint: `podman login ${host} (or docker, or skopeo); what they keep in a credential helper is not read`,
    });
  }
  const url = new URL(realm);
  const service = parameters.get("service");
  if (service !== undefined) url.searchParams.set("service", service);
  url.searchParams.set("scope", scope);
  const response = await fetch(url, {
    headers: basic === undefined ? {} : { authorization: `Basic ${basic}` },
    ...(signal === undefined ? {} : { signal }),
  });
  const answer = (await response.json().catch(() => ({}))) as { token?: unknown; access_token?: unknown };
  const token = answer.token ?? answer.access_token;
  if (!response.ok || typeof token !== "string") {
    throw new UserError(`${host} gives no token for ${scope}: ${response.status} ${response.statusText}`, {
      hint: `log in first: podman login ${host} (or docker, or skopeo)`,
    });
  }
  return `Bearer ${token}`;
}

/** `USER:PASSWORD` in base64, from where podman, skopeo and docker keep it (containers-auth.json(5)). */
async function storedCredentials(host: string): Promise<string | undefined> {
  const { REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR, DOCKER_CONFIG } = process.env;
  const files = [
    REGISTRY_AUTH_FILE,
    XDG_RUNTIME_DIR && join(XDG_RUNTIME_DIR, "containers/auth.json"),
    join(homedir(), ".config/containers/auth.json"),
    join(DOCKER_CONFIG ?? join(homedir(), ".docker"), "config.json"),
  ];
  for (const file of files) {
    if (!file) continue;
    const text = await readFile(file, "utf8").catch(() => "{}");
    try {
      const { auths } = JSON.parse(text) as { auths?: Record<string, { auth?: string }> };
      const found = auths?.[host]?.auth;
      if (found !== undefined && found !== "") return found;
    } catch (error) {
      throw new UserError(`${file} is not valid JSON: ${(error as Error).message}`);
    }
  }
  return undefined;
}
