import { Option, type Command } from "commander";
import type { LockChange } from "./image/lock.ts";
import { collected, withSigningKeyOptions, type SigningKeyOptions } from "./keys/signing-key-options.ts";

export function register(program: Command): void {
  const image = program
    .command("image")
    .description("Build, sign, verify and push the inference container's image; docs/supply-chain.md");
  const arch = () =>
    new Option("--arch <arch>", "architecture of the image (default: this machine's)").choices([
      "amd64",
      "arm64",
    ]);
  const mirror = () =>
    new Option("--mirror <url>", "a Debian mirror (default: the one that this machine's apt uses)");
  const json = ["--json", "as JSON, for other programs"] as const;

  image
    .command("lock")
    .description(
      "Pin the image to the packages that the mirror has now: writes images/llama-server/lock-ARCH.txt",
    )
    .addOption(arch().default(undefined, "all"))
    .addOption(mirror())
    .option("--check", "change nothing; exit status 1 when the mirror has other packages than are locked")
    .option(...json)
    .addHelpText(
      "after",
      `
apt verifies Debian's signature of the index and the digest of each package. What it wrote is a change of the image:
review it like code, and commit it.

  edgeseal image lock
  edgeseal image lock --arch arm64 --check`,
    )
    .action(lock);
  image
    .command("build")
    .description(
      "Build the image from its locked packages, without root or a daemon: the same bytes each time",
    )
    .addOption(arch())
    .option("--out <dir>", "folder for the image (default: one in the per-user cache)")
    .addOption(mirror())
    .option(...json)
    .addHelpText(
      "after",
      `
Packages are fetched once, and held against images/llama-server/lock-ARCH.txt. The folder is podman's layout \`dir:\`, with
the bill of materials (CycloneDX 1.6) as sbom.cdx.json in it. SOURCE_DATE_EPOCH, where it is set, is the image's time.

  edgeseal image build --arch arm64
  edgeseal image build --arch arm64 --out llama-arm64 --json | jq -r .digest`,
    )
    .action(build);
  withSigningKeyOptions(
    image
      .command("sign")
      .description(
        "Sign an image with a key of the site's, and write it as one archive, for nodes without a registry too",
      )
      .argument("<image>", "the folder that `build` made, or an archive: its signatures are kept")
      .requiredOption("--as <name>", "what it is signed as: HOST/REPOSITORY:TAG, where nodes will ask for it")
      .requiredOption("--out <archive>", "the archive to write")
      .option(...json),
  )
    .addHelpText(
      "after",
      `
  edgeseal image sign llama-arm64 --as registry.example/edge/llama:2027-01 --key ~/edgeseal-keys/images.key.age --out llama.tar
  edgeseal image sign llama-arm64 --as registry.example/edge/llama:2027-01 --out llama.tar \\
    --key 'pkcs11:token=site;object=images?module-path=/usr/lib/softhsm/libsofthsm2.so' --public-key images.pub.pem`,
    )
    .action(sign);
  image
    .command("verify")
    .description("Verify every byte of an image, and its signature as a node does")
    .argument("<image>", "an archive or a folder")
    .requiredOption(
      "--key <file.pem>",
      "public half of the key that has to have signed; several: one of them",
      collected,
    )
    .option("--as <name>", "the name that it has to be signed as (default: any)")
    .option(...json)
    .addHelpText(
      "after",
      `
Exit status: 0 verified; 1 refused, with everything that is wrong; 2 wrong usage.

  edgeseal image verify llama.tar --key images.pub.pem --as registry.example/edge/llama:2027-01`,
    )
    .action(verify);
  image
    .command("push")
    .description("Put a signed image into a registry, with its signature and bill of materials attached")
    .argument("<archive>", "what `sign` wrote")
    .argument("[destination]", "HOST/REPOSITORY:TAG (default: what it is signed as)")
    .option("--key <file.pem>", "verify it first, with this public half; several: one of them", collected)
    .option(
      "--by-another-name",
      "to a destination that it is not signed as: nodes know the registry by the signed name",
    )
    .option("--plain-http", "without TLS (default: only to a registry on this machine)")
    .option(...json)
    .addHelpText(
      "after",
      `
The signature is attached before the tag is moved, and the digest stays: nothing is compressed or changed on the way.
Logins are those of \`podman login\`, \`skopeo login\` or \`docker login\`, from their files.

  edgeseal image push llama.tar --key images.pub.pem`,
    )
    .action(push);
}

interface BuildOptions {
  readonly arch?: string;
  readonly mirror?: string;
  readonly out?: string;
  readonly check?: true;
  readonly json?: true;
}

async function lock(options: BuildOptions): Promise<void> {
  const [{ lockImage }, { architectureOf, architectures }, { llamaServer }, { carryOut, print, say }] =
    await Promise.all([
      import("./image/lock.ts"),
      import("./image/recipe.ts"),
      import("../images/llama-server/recipe.ts"),
      import("./supply-chain-command.ts"),
    ]);
  const { mirror, check = false } = options;
  await carryOut(async (signal) => {
    const which = options.arch === undefined ? architectures : [architectureOf(options.arch)];
    const results: LockChange[] = [];
    for (const each of which)
      results.push(
        await lockImage(llamaServer, each, { now: new Date(), mirror, signal, check, onProgress: say }),
      );
    if (check && results.some(({ changes }) => changes.length > 0)) process.exitCode = 1;
    print(options, results, () =>
      results.flatMap(({ arch, file, packages, changes }) => [
        changes.length === 0
          ? `${arch}: ${packages} packages, as they are locked`
          : `${arch}: ${changes.length} of ${packages} packages ${check ? "differ from" : "changed in"} ${file}`,
        ...changes.map((change) => `  ${change}`),
      ]),
    );
  });
}

async function build(options: BuildOptions): Promise<void> {
  const [{ buildImage }, { architectureOf }, { llamaServer }, { carryOut, print, say }] = await Promise.all([
    import("./image/build.ts"),
    import("./image/recipe.ts"),
    import("../images/llama-server/recipe.ts"),
    import("./supply-chain-command.ts"),
  ]);
  const { mirror, out } = options;
  await carryOut(async (signal) => {
    const arch = architectureOf(options.arch);
    const built = await buildImage(llamaServer, arch, { mirror, out, signal, onProgress: say });
    print(options, built, () => [
      `${built.image} for ${built.arch}: ${megabytes(built.bytes)} from ${built.packages} packages`,
      `  digest  ${built.digest}`,
      `  image   ${built.folder}`,
      `  SBOM    ${built.sbom}`,
      "next: edgeseal image sign IMAGE --as HOST/REPOSITORY:TAG --key KEY --out ARCHIVE",
    ]);
  });
}

interface SignOptions extends SigningKeyOptions {
  readonly as: string;
  readonly out: string;
  readonly json?: true;
}

async function sign(image: string, options: SignOptions): Promise<void> {
  const [{ signArchive }, { parseReference }, { openSigningKey }, { carryOut, print }] = await Promise.all([
    import("./image/sign.ts"),
    import("./image/reference.ts"),
    import("./keys/signing-key.ts"),
    import("./supply-chain-command.ts"),
  ]);
  await carryOut(async () => {
    const reference = parseReference(options.as);
    const signed = await signArchive(image, reference, () => openSigningKey(options), options.out);
    print(options, signed, () => [
      `signed ${signed.digest}`,
      `  as       ${signed.reference}`,
      `  archive  ${signed.archive} (${megabytes(signed.bytes)})`,
    ]);
  });
}

interface VerifyOptions {
  readonly key: readonly string[];
  readonly as?: string;
  readonly json?: true;
}

async function verify(path: string, options: VerifyOptions): Promise<void> {
  const [
    { readLayout },
    { checkImage },
    { verifyImage },
    { formatReference, parseReference },
    keys,
    { carryOut, print },
  ] = await Promise.all([
    import("./image/archive.ts"),
    import("./image/check.ts"),
    import("./image/verify.ts"),
    import("./image/reference.ts"),
    import("./keys/signing-key.ts"),
    import("./supply-chain-command.ts"),
  ]);
  await carryOut(async () => {
    const reference = options.as === undefined ? undefined : formatReference(parseReference(options.as));
    const publicKeys = await keys.readPublicKeyFiles(options.key);
    const image = checkImage(path, await readLayout(path));
    const verified = verifyImage(path, image, publicKeys, reference);
    const { digest, architecture, sbom } = image;
    print(options, { digest, architecture, ...verified, sbom: sbom !== undefined }, () => [
      `verified ${digest} (${architecture})`,
      `  signed as  ${verified.reference}`,
      `  by         ${verified.signedBy}`,
      `  SBOM       ${sbom === undefined ? "none" : "the one that the image names"}`,
    ]);
  });
}

interface PushOptions {
  readonly key?: readonly string[];
  readonly byAnotherName?: true;
  readonly plainHttp?: true;
  readonly json?: true;
}

async function push(archive: string, destination: string | undefined, options: PushOptions): Promise<void> {
  const [{ pushArchive }, { readPublicKeyFiles }, { carryOut, print, say }] = await Promise.all([
    import("./image/push.ts"),
    import("./keys/signing-key.ts"),
    import("./supply-chain-command.ts"),
  ]);
  const { key, byAnotherName, plainHttp } = options;
  await carryOut(async (signal) => {
    const keys = key === undefined ? undefined : await readPublicKeyFiles(key);
    const pushed = await pushArchive(archive, {
      destination,
      keys,
      byAnotherName,
      plainHttp,
      signal,
      onProgress: say,
    });
    print(options, pushed, () => [
      `pushed ${pushed.destination}`,
      `  digest  ${pushed.digest}`,
      `nodes take it as ${pushed.reference}`,
    ]);
  });
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
