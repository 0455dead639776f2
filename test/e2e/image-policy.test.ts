import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildImage } from "../../cli/image/build.ts";
import { digestOf } from "../../cli/image/oci.ts";
import { pushArchive } from "../../cli/image/push.ts";
import { parseReference } from "../../cli/image/reference.ts";
import { RegistryRepository } from "../../cli/image/registry-client.ts";
import { signArchive } from "../../cli/image/sign.ts";
import { llamaServer } from "../../images/llama-server/recipe.ts";
import type { ImagePolicyInputs } from "../../provider/resources/image-policy-inputs.ts";
import type { SigningKey } from "../../provider/trust/signer.ts";
import { Registry } from "../../testbed/registry.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { bringUp, driftOf, kindOf, onPi, withProvider, type Declared } from "./provider-on-pi.ts";
import { attach, folderOf, makeImage, push, signatureOf, signingKey } from "./signed-images.ts";

/*
 * What the device itself takes and refuses, with podman run by hand: by the user that inference runs as, in a login of its own, and by root.
 */

const kind = kindOf("edgeseal:container:ImagePolicy");
const site = signingKey();
const other = signingKey();

let pi: VirtualPi;
let registry: Registry;
/** The registry as the node names it. */
let host: string;
let policy: Declared;

const repository = "edge/llama";
const signed = await makeImage("signed");
const unsigned = await makeImage("unsigned");
const byOther = await makeImage("signed by another key");
const older = await makeImage("signed before, as the same tag");
const second = await makeImage("signed as tag 2");
const replayed = await makeImage("with the signature of another image");

beforeAll(async () => {
  registry = await Registry.start();
  host = `10.0.2.2:${registry.port}`;
  const name = `${host}/${repository}`;
  for (const image of [older, signed]) {
    await push(registry, repository, "1", image);
    await attach(registry, repository, image, await signatureOf(image.digest, `${name}:1`, site));
  }
  await push(registry, repository, "unsigned", unsigned);
  await push(registry, repository, "other", byOther);
  await attach(registry, repository, byOther, await signatureOf(byOther.digest, `${name}:other`, other));
  await push(registry, repository, "2", second);
  await attach(registry, repository, second, await signatureOf(second.digest, `${name}:2`, site));
  await push(registry, repository, "replayed", replayed);
  await attach(registry, repository, replayed, await signatureOf(signed.digest, `${name}:replayed`, site));
  await push(registry, "elsewhere/llama", "1", signed);
  await attach(
    registry,
    "elsewhere/llama",
    signed,
    await signatureOf(signed.digest, `${host}/elsewhere/llama:1`, site),
  );
  const inputs: ImagePolicyInputs = {
    keys: { site: site.publicPem },
    allow: [
      { image: name, signedBy: ["site"] },
      { image: "registry.example/edge/llama", folder: "/srv/images", signedBy: ["site"] },
    ],
  };
  policy = { kind, inputs };
  pi = await VirtualPi.start({ network: "nat" });
  const inFolder = "registry.example/edge/llama:1";
  await onPi(
    pi,
    [
      "useradd --create-home --shell /bin/bash infer && loginctl enable-linger infer",
      `printf '[[registry]]\\nlocation = "${host}"\\ninsecure = true\\n' >/etc/containers/registries.conf.d/test.conf`,
      copied("/srv/images/signed", folderOf(signed, await signatureOf(signed.digest, inFolder, site))),
      copied("/srv/images/unsigned", folderOf(unsigned)),
      copied("/srv/images/other", folderOf(byOther, await signatureOf(byOther.digest, inFolder, other))),
      copied("/srv/images/replayed", folderOf(replayed, await signatureOf(signed.digest, inFolder, site))),
      copied(
        "/srv/images/renamed",
        folderOf(signed, await signatureOf(signed.digest, "registry.example/x:1", site)),
      ),
      copied("/srv/other/signed", folderOf(signed, await signatureOf(signed.digest, inFolder, site))),
      `echo '${acceptAnything}' >/srv/accept-anything.json`,
    ].join("\n"),
  );
});

afterAll(async () => {
  // They don't exist when their start failed.
  await (pi as VirtualPi | undefined)?.stop();
  await (registry as Registry | undefined)?.stop();
});

const acceptAnything = '{"default":[{"type":"insecureAcceptAnything"}]}';

const copied = (folder: string, files: ReadonlyMap<string, Buffer>): string =>
  [
    `mkdir -p ${folder}`,
    ...[...files].map(
      ([name, bytes]) => `base64 -d >${folder}/${name} <<'X'\n${bytes.toString("base64")}\nX`,
    ),
  ].join("\n");

type Who = "infer" | "root";

/** A script in a login of somebody's. */
const as = (who: Who, script: string): string =>
  `su --login ${who} -c '${script.replaceAll("'", `'\\''`)}' </dev/null`;

/** What somebody gets who pulls these, one after the other: `taken`, or why not. */
async function pulling(who: Who, ...what: readonly string[]): Promise<readonly string[]> {
  const said = await onPi(
    pi,
    as(
      who,
      `for each in ${what.join(" ")}; do
  if said=$(podman pull -q "$each" 2>&1); then echo taken; else printf '%s\\n' "$said" | tail -n 1; fi
done`,
    ),
  );
  return said.trimEnd().split("\n");
}

const tag = (name: string): string => `${host}/${repository}:${name}`;
const digests = async (who: Who): Promise<readonly string[]> =>
  (await onPi(pi, as(who, "podman images --digests --format '{{.Digest}}'"))).trim().split("\n").sort();
const forget = (who: Who): Promise<string> => onPi(pi, as(who, "podman rmi -af >/dev/null 2>&1 || :"));

const noSignature = /A signature was required, but no signature exists/;
const otherKey = /cryptographic signature verification failed: crypto\/rsa: verification error/;
const rejected = /is rejected by policy/;

const drift = (): Promise<readonly string[]> => driftOf(pi, policy);

const userPolicy = "/home/infer/.config/containers/policy.json";
let debians: string;

test("the control: with Debian's own policy everything is taken", async () => {
  debians = await onPi(pi, "cat /etc/containers/policy.json");
  expect(await pulling("infer", tag("unsigned"), tag("other"), "dir:/srv/images/unsigned")).toEqual([
    "taken",
    "taken",
    "taken",
  ]);
  expect(await digests("infer")).toEqual([byOther.digest, unsigned.digest].sort());
  await forget("infer");
});

describe("with the policy in force", () => {
  beforeAll(() => bringUp(pi, policy));

  test.each(["infer", "root"] as const)("%s gets what is signed, and that", async (who) => {
    const { digest } = signed;
    expect(await pulling(who, tag("1"), `${host}/${repository}@${digest}`, "dir:/srv/images/signed")).toEqual(
      ["taken", "taken", "taken"],
    );
    expect(new Set(await digests(who))).toEqual(new Set([digest]));
    await forget(who);
  });

  test.each(["infer", "root"] as const)("%s gets nothing else, and is told why", async (who) => {
    const refused: readonly (readonly [what: string, why: RegExp])[] = [
      [tag("unsigned"), noSignature],
      [tag("other"), otherKey],
      [tag("replayed"), /Signature for digest .* does not match/],
      [`${host}/elsewhere/llama:1`, rejected],
      ["dir:/srv/images/unsigned", noSignature],
      ["dir:/srv/images/other", otherKey],
      ["dir:/srv/images/replayed", /Signature for digest .* does not match/],
      ["dir:/srv/images/renamed", /Signature for identity .* is not accepted/],
      ["dir:/srv/other/signed", rejected],
    ];
    const said = await pulling(who, ...refused.map(([what]) => what));
    expect(said).toEqual(refused.map(([, why]) => expect.stringMatching(why) as string));
    expect(await digests(who)).toEqual([""]);
  });

  test("a tag that was moved is refused: to an image without a signature, and to one that is signed as another tag", async () => {
    await push(registry, repository, "1", unsigned);
    expect(await pulling("infer", tag("1"))).toEqual([expect.stringMatching(noSignature)]);
    await push(registry, repository, "1", second);
    expect(await pulling("infer", tag("1"))).toEqual([
      expect.stringMatching(/Signature for identity .*:2" is not accepted/),
    ]);
    // The control: it is the tag that is refused, not the image.
    expect(await pulling("infer", tag("2"))).toEqual(["taken"]);
    await push(registry, repository, "1", signed);
    await forget("infer");
  });

  test("what it does not stop: a tag moved to an older image that was signed under it; a digest is of one image", async () => {
    await push(registry, repository, "1", older);
    expect(await pulling("infer", tag("1"))).toEqual(["taken"]);
    expect(await digests("infer")).toEqual([older.digest]);
    await forget("infer");
    expect(await pulling("infer", `${host}/${repository}@${signed.digest}`)).toEqual(["taken"]);
    expect(await digests("infer")).toEqual([signed.digest]);
    await push(registry, repository, "1", signed);
    await forget("infer");
  });

  test("what `edgeseal image` builds, signs and packs is taken from its archive and from a registry, by its digest, and runs", async () => {
    const folder = await mkdtemp(join(tmpdir(), "edgeseal-built-"));
    try {
      const [image, archive] = [join(folder, "image"), join(folder, "llama.tar")];
      const { digest } = await buildImage(llamaServer, "amd64", { out: image });
      const openKey = (): Promise<SigningKey> => Promise.resolve(site);
      await signArchive(image, parseReference("registry.example/edge/llama:built"), openKey, archive);
      await signArchive(archive, parseReference(tag("built")), openKey, archive);
      const destination = `${registry.host}/${repository}:built`;
      await pushArchive(archive, { destination, byAnotherName: true });
      // As a person would carry it to a node: one file.
      const bytes = await readFile(archive);
      await new RegistryRepository(registry.host, "archives").pushBlob(bytes);
      await onPi(
        pi,
        `mkdir /srv/images/built && cd /srv/images/built
python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' http://${host}/v2/archives/blobs/${digestOf(bytes)} /srv/built.tar
tar --extract --file /srv/built.tar --no-same-owner`,
      );
      expect(await pulling("infer", "dir:/srv/images/built")).toEqual(["taken"]);
      expect(await digests("infer")).toEqual([digest]);
      const run =
        "podman run --rm --network none --read-only $(podman images --quiet --no-trunc) --version 2>&1";
      expect(await onPi(pi, as("infer", run))).toMatch(/version: /);
      await forget("infer");
      expect(await pulling("infer", tag("built"))).toEqual(["taken"]);
      expect(await digests("infer")).toEqual([digest]);
      await forget("infer");
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("a policy of the user's own is named by a refresh, and set aside", async () => {
    await onPi(pi, as("infer", `mkdir -p .config/containers && cp /srv/accept-anything.json ${userPolicy}`));
    // Why it counts: it stands in the place of the system's.
    expect(await pulling("infer", tag("unsigned"))).toEqual(["taken"]);
    expect(await drift()).toEqual([`userOverrides["${userPolicy}"]`]);
    await bringUp(pi, policy);
    await forget("infer");
    expect(await pulling("infer", tag("unsigned"))).toEqual([expect.stringMatching(noSignature)]);
    expect(await onPi(pi, `cat ${userPolicy}.set-aside-by-edgeseal`)).toBe(`${acceptAnything}\n`);
  });

  test("a policy.json that was edited is named by a refresh, and written anew", async () => {
    await onPi(pi, "cp /srv/accept-anything.json /etc/containers/policy.json");
    expect(await pulling("infer", tag("unsigned"))).toEqual(["taken"]);
    expect(await drift()).toEqual(expect.arrayContaining(["defaultRule"]));
    await bringUp(pi, policy);
    await forget("infer");
    expect(await pulling("infer", tag("unsigned"))).toEqual([expect.stringMatching(noSignature)]);
  });

  test("a key that was exchanged is named by a refresh, and written anew", async () => {
    await onPi(pi, `cat >/etc/edgeseal/image-keys/site.pem <<'X'\n${other.publicPem}X`);
    expect(await pulling("infer", tag("other"))).toEqual(["taken"]);
    expect(await drift()).toEqual([
      'rules["dir:/srv/images"]',
      `rules["docker:${host}/${repository}"]`,
      "foreignKeys",
    ]);
    await bringUp(pi, policy);
    await forget("infer");
    expect(await pulling("infer", tag("other"))).toEqual([expect.stringMatching(otherKey)]);
  });

  test("nor does a boot change what is refused", async () => {
    await pi.reboot();
    expect(await drift()).toEqual([]);
    expect(await pulling("infer", tag("unsigned"), tag("other"), tag("1"))).toEqual([
      expect.stringMatching(noSignature),
      expect.stringMatching(otherKey),
      "taken",
    ]);
    await forget("infer");
  });

  test("what it does not stop: somebody with a shell who names another policy, or takes no image at all", async () => {
    const ways = {
      option: "podman pull -q --signature-policy /srv/accept-anything.json dir:/srv/images/unsigned",
      home: `mkdir -p elsewhere/.config/containers && cp /srv/accept-anything.json elsewhere/.config/containers/policy.json && HOME=$PWD/elsewhere podman pull -q dir:/srv/images/unsigned`,
      build:
        "mkdir -p b && echo x >b/x && printf 'FROM scratch\\nCOPY x /\\n' >b/Containerfile && podman build -q b",
    };
    for (const [name, script] of Object.entries(ways))
      expect(await onPi(pi, as("infer", script)), name).toMatch(/^[0-9a-f]{64}$/m);
    await forget("infer");
  });

  test("taken back, what was there before is there again, and in force", async () => {
    await withProvider(pi, kind, async (device) => {
      const observed = await device.observe(kind, policy.inputs);
      const steps = kind.revert(policy.inputs as never, observed as never);
      expect((await device.apply(kind, policy.inputs, steps)).failure).toBeUndefined();
    });
    expect(
      await onPi(pi, "cat /etc/containers/policy.json; ls /etc/edgeseal /etc/containers/registries.d"),
    ).toBe(`${debians}/etc/containers/registries.d:\n\n/etc/edgeseal:\n`);
    expect(await pulling("infer", tag("unsigned"))).toEqual(["taken"]);
  });
});
