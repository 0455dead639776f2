import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { KeyUnusable, type PrivateKey } from "../../provider/trust/signer.ts";
import { readSecretFile } from "./passphrase.ts";
import { runProgram } from "./run-program.ts";

/*
 * A private key in a PKCS#11 token, named by a URI (RFC 7512) and used through OpenSC's pkcs11-tool:
 *   pkcs11:token=edgeseal;object=policy?module-path=/usr/lib/softhsm/libsofthsm2.so
 */

/** A parsed URI. */
export interface Pkcs11Uri {
  /** The URI without what it says of a PIN. */
  readonly name: string;
  /** Path of the token's module (driver). */
  readonly module: string;
  /** Arguments of pkcs11-tool that find the key. */
  readonly find: readonly string[];
  /** File with the PIN. `undefined`: pkcs11-tool asks on the terminal, or the token has a keypad. */
  readonly pinFile: string | undefined;
}

export const isPkcs11 = (spec: string): boolean => spec.startsWith("pkcs11:");

const mend = "expected pkcs11:token=LABEL;object=LABEL?module-path=FILE[&pin-source=file:FILE] (RFC 7512)";

/** @throws KeyUnusable */
export function parsePkcs11Uri(spec: string): Pkcs11Uri {
  const refuse = (what: string): KeyUnusable => new KeyUnusable(`the PKCS#11 URI ${what}`, { hint: mend });
  const [path = "", query = "", ...more] = spec.slice("pkcs11:".length).split("?");
  if (more.length > 0) throw refuse("has two question marks");
  const attributes = attributesOf(path, ";", refuse);
  const queries = attributesOf(query, "&", refuse);
  if (queries.has("pin-value"))
    throw refuse(
      "has a PIN in it, which an argument shows to everybody on the machine; use pin-source=file:FILE",
    );
  for (const key of [...attributes.keys(), ...queries.keys()]) {
    if (!["token", "object", "id", "slot-id", "type", "module-path", "pin-source"].includes(key)) {
      throw refuse(`has the attribute ${key}, which edgeseal does not know`);
    }
  }
  const type = attributes.get("type")?.toString() ?? "private";
  if (type !== "private") throw refuse(`names an object of type ${type}, where a private key is needed`);
  const module = queries.get("module-path")?.toString();
  if (module === undefined) throw refuse("has no module-path: the file of the token's PKCS#11 module");
  const find = (["token", "slot-id", "object", "id"] as const).flatMap((key) => {
    const value = attributes.get(key);
    if (value === undefined) return [];
    return [options[key], key === "id" ? value.toString("hex") : value.toString()];
  });
  if (!attributes.has("object") && !attributes.has("id"))
    throw refuse("has neither object nor id: which key?");
  const source = queries.get("pin-source")?.toString();
  const pinFile = source?.startsWith("file:") === true ? filePath(source) : source;
  return { name: `pkcs11:${path}`, module, find, pinFile };
}

const options = { token: "--token-label", "slot-id": "--slot", object: "--label", id: "--id" } as const;

/** RFC 7512 writes `file:/path` as well as `file:///path`. */
const filePath = (uri: string): string =>
  uri.startsWith("file://") ? fileURLToPath(uri) : decodeURIComponent(uri.slice("file:".length));

function attributesOf(
  text: string,
  separator: string,
  refuse: (what: string) => KeyUnusable,
): ReadonlyMap<string, Buffer> {
  const attributes = new Map<string, Buffer>();
  for (const pair of text.split(separator).filter((each) => each !== "")) {
    const [key = "", value, ...more] = pair.split("=");
    const bytes = value === undefined || more.length > 0 ? undefined : unescapeBytes(value);
    if (bytes === undefined) throw refuse(`has a part that is not NAME=VALUE in percent-encoding`);
    if (attributes.has(key)) throw refuse(`has ${key} twice`);
    attributes.set(key, bytes);
  }
  return attributes;
}

/** An id may be any bytes, so this is not decodeURIComponent. */
function unescapeBytes(text: string): Buffer | undefined {
  if (!/^(?:[^%\0-\x20\x7f]|%[0-9A-Fa-f]{2})*$/.test(text)) return undefined;
  return Buffer.concat(
    (text.match(/%..|[^%]+/g) ?? []).map((part) =>
      part.startsWith("%") ? Buffer.from(part.slice(1), "hex") : Buffer.from(part),
    ),
  );
}

/** The variable that carries a PIN to pkcs11-tool, which takes one in no other way when it can't ask. */
const pinVariable = "EDGESEAL_PKCS11_PIN";

/**
 * The key behind a URI.
 * @param program Only for tests. @default pkcs11-tool
 * @throws KeyUnusable for a URI that is none.
 */
export function pkcs11Key(spec: string, program = "pkcs11-tool"): PrivateKey {
  const uri = parsePkcs11Uri(spec);
  const use = (mechanism: readonly string[], data: Uint8Array): Promise<Buffer> =>
    callTool(program, uri, mechanism, data);
  return {
    name: uri.name,
    sign: (message) => use(["--sign", "--mechanism", "SHA256-RSA-PKCS"], message),
    decrypt: (ciphertext) =>
      use(
        ["--decrypt", "--mechanism", "RSA-PKCS-OAEP", "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256"],
        ciphertext,
      ),
  };
}

async function callTool(
  program: string,
  { name, module, find, pinFile }: Pkcs11Uri,
  mechanism: readonly string[],
  data: Uint8Array,
): Promise<Buffer> {
  const pin = pinFile === undefined ? undefined : (await readSecretFile(pinFile)).split(/\r?\n/, 1)[0];
  // Standard input is where pkcs11-tool asks for the PIN, and standard output is where it talks: so the data goes by files, in a folder that only we can enter and, since
  // what was decrypted is a key, in memory.
  const memory = [process.env["XDG_RUNTIME_DIR"], "/dev/shm"].find(
    (each) => each !== undefined && existsSync(each),
  );
  const folder = await mkdtemp(join(memory ?? tmpdir(), "edgeseal-pkcs11-"));
  const [input, output] = [join(folder, "input"), join(folder, "output")];
  try {
    await writeFile(input, data, { mode: 0o600 });
    const words = [
      ...["--module", module, ...find, "--login"],
      ...(pin === undefined ? [] : ["--pin", `env:${pinVariable}`]),
      ...[...mechanism, "--input-file", input, "--output-file", output],
    ];
    await runProgram(`${program} for ${name}`, [program, ...words], {
      stdout: "talk",
      ...(pin === undefined ? {} : { env: { [pinVariable]: pin } }),
    });
    return await readFile(output);
  } catch (error) {
    if (error instanceof KeyUnusable) {
      throw new KeyUnusable(error.message, {
        cause: error,
        hint: "pkcs11-tool is in Debian's package opensc; above is what it said of the token",
      });
    }
    throw error;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
