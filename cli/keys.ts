import type { Command } from "commander";
import { UserError } from "./errors.ts";
import type { OpenOptions } from "./keys/open-recovery.ts";
import type { PrivateHalf } from "./keys/make-keys.ts";
import { newPassphrase, withPassphraseOptions, type PassphraseOptions } from "./keys/passphrase.ts";

const keyForm = "pkcs11:URI or command:PROGRAM, in place of an encrypted file";

export function register(program: Command): void {
  const keys = program
    .command("keys")
    .description("Make, show and rotate a site's keys; private halves stay in a folder of yours");
  withPassphraseOptions(
    keys
      .command("new")
      .description("Make a site's keys in a new folder, outside of any work tree of version control")
      .argument("<dir>", "the folder")
      .option("--site <name>", "the site's name (default: the folder's)")
      .option("--policy-key <key>", `where the policy key's private half is: ${keyForm}`)
      .option("--policy-public-key <file.pem>", "its public half")
      .option("--recovery-key <key>", `where the recovery key's private half is: ${keyForm}`)
      .option("--recovery-public-key <file.pem>", "its public half"),
  )
    .option("--recovery-passphrase-file <file>", "another passphrase for the recovery key")
    .action(makeNew);
  withPassphraseOptions(
    keys
      .command("add")
      .description("Add a key that signs images and models to a folder of keys")
      .argument("<dir>", "the folder")
      .argument("<name>", "what it is called, such as images-2027"),
  ).action(add);
  withPassphraseOptions(
    keys
      .command("show")
      .description("Show the keys of a folder, which of them are revoked, and what is wrong with them")
      .argument("<dir>", "the folder")
      .option("--prove", "use each private half once, and check it against the public one")
      .option("--recovery-passphrase-file <file>", "the passphrase of the recovery key, where it is another")
      .option("--json", "as JSON, for other programs"),
  ).action(show);
  withPassphraseOptions(
    keys
      .command("rotate")
      .description(
        "Make the next generation of the policy key, which revokes the current one; old keys are kept",
      )
      .argument("<dir>", "the folder")
      .option("--policy-key <key>", `where the new private half is: ${keyForm}`)
      .option("--policy-public-key <file.pem>", "its public half"),
  ).action(rotate);
  withPassphraseOptions(
    keys
      .command("open")
      .description(
        "Decrypt what a node sent for safe keeping, from the state of the stack: for a disk or a TPM whose system card is gone",
      )
      .argument("<node>", "the node's name in its site")
      .argument("<what>", "volume/NAME, tpm/owner or tpm/lockout")
      .requiredOption("--state <export.json>", "what `pulumi stack export` wrote")
      .option("--uuid <uuid>", "of a volume: the LUKS UUID of the disk in hand (cryptsetup luksUUID DEVICE)")
      .option("--bound-to <node>", "the name that the node had when the secret was made (default: the node)")
      .option("--keys <dir>", "the folder with the site's keys")
      .option("--recovery-key <key>", "the recovery key's private half: FILE, pkcs11:URI or command:PROGRAM")
      .option(
        "--out <file>",
        "write it to this new file, mode 0600 (default: standard output, unless that is a terminal)",
      ),
  ).action(openSecret);
}

interface NewOptions extends PassphraseOptions {
  readonly site?: string;
  readonly policyKey?: string;
  readonly policyPublicKey?: string;
  readonly recoveryKey?: string;
  readonly recoveryPublicKey?: string;
  readonly recoveryPassphraseFile?: string;
}

async function makeNew(folder: string, options: NewOptions): Promise<void> {
  const [{ makeKeys, siteNameOf }, { requireOutsideVersionControl }, { withUserFaults }] = await Promise.all([
    import("./keys/make-keys.ts"),
    import("./keys/outside-version-control.ts"),
    import("./user-fault.ts"),
  ]);
  await withUserFaults(async () => {
    // Before anybody thinks of a passphrase.
    await requireOutsideVersionControl(folder);
    const site = options.site ?? siteNameOf(folder);
    const policy = await privateHalf("policy", options.policyKey, options.policyPublicKey, () =>
      newPassphrase("the policy key", options),
    );
    const recovery = await privateHalf("recovery", options.recoveryKey, options.recoveryPublicKey, () =>
      recoveryPassphrase(policy, options),
    );
    const { folder: made, index } = await makeKeys(folder, { site, policy, recovery, now: new Date() });
    console.log(`made the keys of site ${site} in ${made}`);
    console.log(`  policy key, generation 1  ${index.policy[0]?.fingerprint ?? ""}`);
    console.log(`  recovery key              ${index.recovery.fingerprint}`);
    console.log("next:");
    console.log(
      "  - copy the *.pub.pem files to where your site file names them, and commit them: they are public",
    );
    console.log(
      "  - keep a backup of the folder, and the passphrases apart from it: without the recovery key,",
    );
    console.log(
      "    a volume whose TPM is gone is lost; without the policy key, no new state can be approved",
    );
  });
}

async function add(folder: string, name: string, options: PassphraseOptions): Promise<void> {
  const [{ addSigningKey, requireSigningKeyName }, { readKeyStore }, { withUserFaults }] = await Promise.all([
    import("./keys/make-keys.ts"),
    import("./keys/key-store.ts"),
    import("./user-fault.ts"),
  ]);
  await withUserFaults(async () => {
    requireSigningKeyName(await readKeyStore(folder), name);
    const half = { in: "file", passphrase: await newPassphrase(`the key ${name}`, options) } as const;
    const { store, key } = await addSigningKey(folder, { name, half, now: new Date() });
    console.log(`made the key ${name} in ${store.folder}  ${key.fingerprint}`);
    console.log("next:");
    console.log(`  - copy ${key.publicKey} to where your site file names it, and commit it: it is public`);
    console.log(
      `  - edgeseal image sign IMAGE --as HOST/REPOSITORY:TAG --key ${store.folder}/${key.privateKey} --out ARCHIVE`,
    );
  });
}

/** The recovery key is needed seldom, and by others perhaps: it may have a passphrase of its own. */
async function recoveryPassphrase(policy: PrivateHalf, options: NewOptions): Promise<string> {
  if (options.recoveryPassphraseFile !== undefined) {
    return newPassphrase("the recovery key", { passphraseFile: options.recoveryPassphraseFile });
  }
  const given = options.passphraseFile !== undefined || options.passphraseFd !== undefined;
  if (policy.in !== "file") return newPassphrase("the recovery key", options);
  // An inherited descriptor can be read once.
  if (given) return policy.passphrase;
  return (await newPassphrase("the recovery key", {}, "Enter alone: the same")) ?? policy.passphrase;
}

async function privateHalf(
  purpose: "policy" | "recovery",
  spec: string | undefined,
  publicKeyFile: string | undefined,
  passphrase: () => Promise<string>,
): Promise<PrivateHalf> {
  if (spec === undefined && publicKeyFile === undefined)
    return { in: "file", passphrase: await passphrase() };
  if (spec === undefined || publicKeyFile === undefined) {
    throw new UserError(`--${purpose}-key and --${purpose}-public-key belong together`);
  }
  if (!/^(pkcs11|command):/.test(spec)) {
    throw new UserError(`--${purpose}-key takes ${keyForm}: got '${spec}'`, {
      hint: "without it, a new key is made and put into an encrypted file",
    });
  }
  const [{ openPrivateKey }, { readFile }] = await Promise.all([
    import("./keys/open-private-key.ts"),
    import("node:fs/promises"),
  ]);
  const publicKeyPem = await readFile(publicKeyFile, "utf8").catch((error: unknown) => {
    throw new UserError(`${publicKeyFile} can't be read: ${(error as Error).message}`);
  });
  return { in: "elsewhere", spec, key: await openPrivateKey(spec), publicKeyPem };
}

interface ShowCommandOptions extends PassphraseOptions {
  readonly prove?: true;
  readonly recoveryPassphraseFile?: string;
  readonly json?: true;
}

async function show(folder: string, options: ShowCommandOptions): Promise<void> {
  const [{ readKeyStore }, { keyLines, shownKeys, unnamedFiles }, { withUserFaults }] = await Promise.all([
    import("./keys/key-store.ts"),
    import("./keys/show.ts"),
    import("./user-fault.ts"),
  ]);
  await withUserFaults(async () => {
    const store = await readKeyStore(folder);
    const keys = await shownKeys(store, { ...options, prove: options.prove ?? false });
    const unnamed = await unnamedFiles(store);
    if (options.json) {
      console.log(
        JSON.stringify(
          { site: store.index.site, folder: store.folder, keys, unnamedFiles: unnamed },
          undefined,
          2,
        ),
      );
    } else {
      for (const line of keyLines(store, keys, process.stdout.columns || 160)) console.log(line);
      for (const { key, problems } of keys) for (const problem of problems) console.log(`${key}: ${problem}`);
      if (unnamed.length > 0) console.log(`files that keys.json does not name: ${unnamed.join(", ")}`);
    }
    if (keys.some(({ problems }) => problems.length > 0)) process.exitCode = 1;
  });
}

async function openSecret(node: string, what: string, options: OpenOptions): Promise<void> {
  const [{ openFromState }, { withUserFaults }] = await Promise.all([
    import("./keys/open-recovery.ts"),
    import("./user-fault.ts"),
  ]);
  await withUserFaults(() => openFromState(node, what, options));
}

interface RotateOptions extends PassphraseOptions {
  readonly policyKey?: string;
  readonly policyPublicKey?: string;
}

async function rotate(folder: string, options: RotateOptions): Promise<void> {
  const [{ rotatePolicyKey }, { currentGeneration, readKeyStore }, { withUserFaults }] = await Promise.all([
    import("./keys/make-keys.ts"),
    import("./keys/key-store.ts"),
    import("./user-fault.ts"),
  ]);
  await withUserFaults(async () => {
    const next = currentGeneration(await readKeyStore(folder)).generation + 1;
    const policy = await privateHalf("policy", options.policyKey, options.policyPublicKey, () =>
      newPassphrase(`generation ${next} of the policy key`, options),
    );
    const { store, revoked, setAside } = await rotatePolicyKey(folder, { policy, now: new Date() });
    const current = currentGeneration(store);
    console.log(`made generation ${current.generation} of the policy key  ${current.fingerprint}`);
    console.log(`generation ${revoked.generation} is revoked           ${revoked.fingerprint}`);
    if (setAside.length > 0) {
      console.log(`files of a rotation that did not come to its end were set aside: ${setAside.join(", ")}`);
    }
    console.log("next:");
    console.log(`  - commit ${current.publicKey}, and name it in the site file`);
    console.log("  - approve each node's state with the new key: edgeseal approve NODE");
    console.log(
      `  - edgeseal volume recover NODE: only when it has taken the old key's slot from the volumes is generation ${revoked.generation} really out`,
    );
  });
}
