import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { edgeseal, makeKeys, succeeded } from "../operator.ts";
import { holds, type DemoContext, type DemoStep } from "../step.ts";
import { repository, signedFile, type Signed } from "./site.ts";

const passphrase = ["--passphrase-file", "../passphrase"] as const;
const signingKey = ["--key", "../keys/images.key.age", ...passphrase] as const;

export const sign: DemoStep = {
  title: "What will be served is built and signed",
  proves:
    "an image from Debian's packages as locked, the same bytes each time, and a model, each signed with a key of the site that no node has; what was changed afterwards does not verify",
  async run(context) {
    await makeKeys(context);
    succeeded(
      context,
      "edgeseal keys add makes a key that signs images and models",
      await edgeseal(context, "keys", "add", "../keys", "images", ...passphrase),
    );
    const image = await signImage(context);
    const model = await signModel(context);
    const signed: Signed = {
      publicKey: await readFile(join(context.pulumi.folder, "keys/images.pub.pem"), "utf8"),
      ...image,
      ...model,
    };
    await writeFile(signedFile(context), JSON.stringify(signed));
  },
};

/** Runs a command with `--json`, and gives what it told. */
async function told(
  context: DemoContext,
  claim: string,
  ...words: readonly string[]
): Promise<Readonly<Record<string, unknown>>> {
  const result = await context.pulumi.edgeseal([...words, "--json"], { signal: context.signal });
  succeeded(context, claim, result);
  return JSON.parse(result.stdout) as Readonly<Record<string, unknown>>;
}

async function signImage(context: DemoContext): Promise<Pick<Signed, "imageDigest" | "archive">> {
  const built = await told(context, "edgeseal image build", "image", "build", "--out", "../image");
  const again = await told(context, "and again, elsewhere", "image", "build", "--out", "../image-again");
  const digest = String(built["digest"]);
  holds(context, again["digest"] === digest, `both are ${digest}`, String(again["digest"]));
  const name = `${repository}:demo`;
  await told(
    context,
    `edgeseal image sign, as ${name}`,
    ...["image", "sign", "../image", "--as", name, "--out", "../image.tar", ...signingKey],
  );
  const verify = ["image", "verify", "../image.tar", "--key", "../keys/images.pub.pem"] as const;
  succeeded(context, "edgeseal image verify", await edgeseal(context, ...verify, "--as", name));
  const other = await context.pulumi.edgeseal([...verify, "--as", `${repository}:other`], {
    signal: context.signal,
  });
  holds(
    context,
    other.code === 1,
    "it does not verify as another tag than the one it was signed as",
    `exit status ${other.code}`,
  );
  return { imageDigest: digest, archive: "../../image.tar" };
}

async function signModel(context: DemoContext): Promise<Pick<Signed, "modelDigest" | "model" | "statement">> {
  // Whoever runs the demo uses the model for nothing else, and is told of its terms.
  const fetched = await told(
    context,
    "edgeseal model fetch gemma-3-270m",
    ...["model", "fetch", "gemma-3-270m", "--accept-terms"],
  );
  context.say(`      its terms of use, which go wherever it goes: ${String(fetched["terms"])}`);
  const file = String(fetched["file"]);
  const statement = "../model.dsse.json";
  await told(context, "edgeseal model sign", ...["model", "sign", file, "--out", statement, ...signingKey]);
  const verify = ["model", "verify", file, "--key", "../keys/images.pub.pem", "--statement"] as const;
  succeeded(context, "edgeseal model verify", await edgeseal(context, ...verify, statement));
  const forged = join(context.pulumi.folder, "forged.dsse.json");
  const text = await readFile(join(context.pulumi.folder, "model.dsse.json"), "utf8");
  await writeFile(
    forged,
    text.replace(/"sig": "(.)/, (_, first) => `"sig": "${first === "A" ? "B" : "A"}`),
  );
  const refused = await context.pulumi.edgeseal([...verify, forged], { signal: context.signal });
  holds(
    context,
    refused.code === 1,
    "with one letter of the signature changed it does not verify",
    `exit status ${refused.code}`,
  );
  return {
    modelDigest: `sha256:${String(fetched["sha256"])}`,
    model: file,
    statement: "../../model.dsse.json",
  };
}
