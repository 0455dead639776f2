import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, test, vi, type TestContext } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import * as imageCommands from "../../../cli/image.ts";
import { digestOf, hexOf, imageOf, layoutOf } from "../../../cli/image/oci.ts";
import { encryptPrivateKey } from "../../../cli/keys/encrypted-file.ts";
import * as modelCommands from "../../../cli/model.ts";
import { scratchFolder } from "./scratch.ts";
import { softToken } from "./soft-token.ts";

const scratch = scratchFolder();
const name = "registry.example/edge/llama:1";
const image = imageOf(Buffer.from("layer"), Buffer.from("{}"), {
  arch: "amd64",
  program: "/x",
  created: new Date(0),
  labels: {},
});

let printed: string[];
beforeEach(() => {
  printed = [];
  vi.spyOn(console, "log").mockImplementation((line: string) => void printed.push(line));
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  mkdirSync(scratch("image"));
  for (const [file, bytes] of layoutOf(image, Buffer.from("{}")))
    writeFileSync(scratch("image", file), bytes);
  writeFileSync(scratch("model.gguf"), "weights");
});
afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

const run = async (...words: readonly string[]): Promise<string> => {
  const program = new Command().exitOverride();
  imageCommands.register(program);
  modelCommands.register(program);
  for (const group of program.commands)
    for (const each of group.commands) each.exitOverride().configureOutput({ writeErr: () => undefined });
  printed = [];
  await program.parseAsync(words, { from: "user" });
  return printed.join("\n");
};

/** A key in an encrypted file, and the options that name it. */
async function fileKey(): Promise<readonly string[]> {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(scratch("images.pub.pem"), publicKey.export({ type: "spki", format: "pem" }));
  writeFileSync(scratch("images.key.age"), await encryptPrivateKey(privateKey, "correct horse", 4), {
    mode: 0o600,
  });
  writeFileSync(scratch("passphrase"), "correct horse\n", { mode: 0o600 });
  return ["--key", scratch("images.key.age"), "--passphrase-file", scratch("passphrase")];
}

/** A key that OpenSSL holds, as a key service would. */
function commandKey(type: "rsa" | "ec"): readonly string[] {
  const { publicKey, privateKey } =
    type === "rsa"
      ? generateKeyPairSync("rsa", { modulusLength: 3072 })
      : generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(scratch("images.pub.pem"), publicKey.export({ type: "spki", format: "pem" }));
  writeFileSync(scratch("service.pem"), privateKey.export({ type: "pkcs8", format: "pem" }));
  const command = ["openssl", "dgst", "-sha256", "-sign", scratch("service.pem")];
  return ["--key", `command:${JSON.stringify(command)}`, "--public-key", scratch("images.pub.pem")];
}

/** A key in a PKCS#11 token. */
function tokenKey(context: TestContext): readonly string[] {
  const { spec, publicKey } = softToken(context, scratch);
  writeFileSync(scratch("images.pub.pem"), publicKey.export({ type: "spki", format: "pem" }));
  return ["--key", spec, "--public-key", scratch("images.pub.pem")];
}

describe.each<[string, (context: TestContext) => Promise<readonly string[]>]>([
  ["a file", fileKey],
  ["a command with an RSA key", () => Promise.resolve(commandKey("rsa"))],
  ["a command with an ECDSA key", () => Promise.resolve(commandKey("ec"))],
  ["a key in a PKCS#11 token", (context) => Promise.resolve(tokenKey(context))],
])("signed with %s", (_, key) => {
  const publicHalf = (): readonly string[] => ["--key", scratch("images.pub.pem")];

  test("an image verifies", async (context) => {
    const archive = scratch("llama.tar");
    const signed = await run(
      "image",
      "sign",
      scratch("image"),
      "--as",
      name,
      "--out",
      archive,
      "--json",
      ...(await key(context)),
    );
    expect(JSON.parse(signed)).toMatchObject({
      archive,
      digest: image.digest,
      reference: name,
      signatures: 1,
    });
    const verified = await run("image", "verify", archive, "--as", name, "--json", ...publicHalf());
    expect(JSON.parse(verified)).toEqual({
      digest: image.digest,
      architecture: "amd64",
      signedBy: scratch("images.pub.pem"),
      reference: name,
      sbom: true,
    });
    expect(await run("image", "verify", archive, ...publicHalf())).toContain(
      `verified ${image.digest} (amd64)`,
    );
  });

  test("a model verifies", async (context) => {
    const about = ["--name", "small", "--origin", "here", "--licence", "MIT"];
    await run("model", "sign", scratch("model.gguf"), ...about, ...(await key(context)));
    const verified = await run("model", "verify", scratch("model.gguf"), "--json", ...publicHalf());
    expect(JSON.parse(verified)).toMatchObject({
      name: "small",
      bytes: 7,
      signedBy: scratch("images.pub.pem"),
    });
  });
});

test("several public halves may be given, of which one has to have signed", async () => {
  const archive = scratch("llama.tar");
  await run("image", "sign", scratch("image"), "--as", name, "--out", archive, ...(await fileKey()));
  const other = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey;
  writeFileSync(scratch("other.pem"), other.export({ type: "spki", format: "pem" }));
  const verify = (...keys: readonly string[]): Promise<string> =>
    run("image", "verify", archive, ...keys.flatMap((each) => ["--key", scratch(each)]));
  await expect(verify("other.pem")).rejects.toThrow(/by none of the given keys/);
  expect(await verify("other.pem", "images.pub.pem")).toContain("images.pub.pem");
});

test("a wrong passphrase, or a key of which the public half is not known, leaves nothing behind", async () => {
  const key = await fileKey();
  writeFileSync(scratch("passphrase"), "another one\n", { mode: 0o600 });
  const signing = (...options: readonly string[]): Promise<string> =>
    run("image", "sign", scratch("image"), "--as", name, "--out", scratch("llama.tar"), ...options);
  await expect(signing(...key)).rejects.toThrow(UserError);
  await expect(signing("--key", "pkcs11:token=a;object=b?module-path=/m.so")).rejects.toThrow(
    /public half of pkcs11:token=a;object=b is not known/,
  );
  await expect(signing("--key", scratch("images.key.age"), "--as", "llama")).rejects.toThrow(
    /does not say where/,
  );
  expect(readdirSync(scratch()).filter((each) => each.includes("llama"))).toEqual([]);
});

test("an archive that is not what was signed is refused by verify, whatever the key", async () => {
  await run(
    "image",
    "sign",
    scratch("image"),
    "--as",
    name,
    "--out",
    scratch("llama.tar"),
    ...(await fileKey()),
  );
  const bytes = readFileSync(scratch("llama.tar"));
  const at = bytes.indexOf("layer\0");
  bytes.write("Layer", at);
  writeFileSync(scratch("llama.tar"), bytes);
  const verifying = run("image", "verify", scratch("llama.tar"), "--key", scratch("images.pub.pem"));
  await expect(verifying).rejects.toThrow(`${hexOf(digestOf(Buffer.from("layer")))} was changed`);
});

test.each([
  ["image", "verify", "x.tar"],
  ["image", "sign", "x", "--out", "y", "--key", "z"],
  ["image", "build", "--arch", "riscv64"],
  ["model", "verify", "x"],
  ["model", "sign", "x"],
])("%s %s without what it needs is wrong usage", async (...words) => {
  await expect(run(...words)).rejects.toMatchObject({
    code: expect.stringMatching(/^commander\./) as string,
  });
});
