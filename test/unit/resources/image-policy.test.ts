import { generateKeyPairSync } from "node:crypto";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import type { ImagePolicyInputs } from "../../../provider/resources/image-policy-inputs.ts";
import { keyDigest, type ImagePolicyState } from "../../../provider/resources/image-policy-observation.ts";
import { imagePolicy } from "../../../provider/resources/image-policy.ts";
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";

const pem = (key: { export(options: { type: "spki"; format: "pem" }): string | Buffer }): string =>
  key.export({ type: "spki", format: "pem" }).toString();
const rsa = (modulusLength: number, publicExponent = 65537): string =>
  pem(generateKeyPairSync("rsa", { modulusLength, publicExponent }).publicKey);
const ecdsa = (namedCurve: string): string => pem(generateKeyPairSync("ec", { namedCurve }).publicKey);

const site = rsa(2048);
const next = ecdsa("P-256");

const wanted: ImagePolicyInputs = {
  keys: { site, next },
  allow: [
    { image: "registry.example/edge/llama", signedBy: ["site", "next"] },
    { image: "registry.example/edge/llama", folder: "/srv/images", signedBy: ["site"] },
  ],
};

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

/** Debian 13's golang-github-containers-common has this file, and no registries.d. */
const debiansPolicy = `{
    "default": [
        {
            "type": "insecureAcceptAnything"
        }
    ]
}
`;

/** `stat` as root sees it, whoever runs the tests; a file `owner` says who else owns /etc/containers/policy.json. */
const stat = `#!/bin/sh
shift 2
[ "$1" != -- ] || shift
for f; do
  owner=root:root
  case $f in */policy.json) if [ -e "$ROOT/owner" ]; then owner=$(cat "$ROOT/owner"); fi ;; esac
  /usr/bin/stat -c "%a $owner %F|%n" -- "$f"
done
`;

function debianRoot(): FakeRoot {
  const root = new FakeRoot();
  const programs = {
    stat,
    getent:
      '#!/bin/sh\nprintf "root:x:0:0:root:%s/home/root:/bin/bash\\ndaemon:x:1:1::/nonexistent:/usr/sbin/nologin\\ninfer:x:990:990::%s/home/infer:/usr/sbin/nologin\\n" "$ROOT" "$ROOT"\n',
    id: "#!/bin/sh\necho 990\n",
    setpriv:
      '#!/bin/sh\necho "setpriv $1 $2 $3" >>"$ROOT/calls"\nshift 3\n[ ! -e "$ROOT/unwilling" ] || exit 1\nexec "$@"\n',
  };
  for (const [name, script] of Object.entries(programs)) {
    root.write(`/bin/${name}`, script);
    chmodSync(join(root.root, "bin", name), 0o755);
  }
  root.write("/etc/containers/policy.json", debiansPolicy);
  return root;
}

const userPolicy = "/home/infer/.config/containers/policy.json";

function stateOf(root: FakeRoot): ImagePolicyState {
  const observed = root.observe(imagePolicy.observe(wanted));
  if (observed.outcome !== "present") throw new Error("not observed");
  return observed.state;
}

const planFor = (state: ImagePolicyState, inputs = wanted): readonly Step[] =>
  imagePolicy.plan(inputs, { outcome: "present", state }, route);
const differences = (state: ImagePolicyState, inputs = wanted): readonly string[] =>
  diffState(imagePolicy.desired(inputs), state).map(({ path }) => path);

/** Leads a root to what is wanted, and holds that nothing is left to do. */
function bring(root: FakeRoot, inputs = wanted): void {
  for (const step of planFor(stateOf(root), inputs)) root.apply(step);
  expect(differences(stateOf(root), inputs)).toEqual([]);
  expect(planFor(stateOf(root), inputs)).toEqual([]);
}

/** A root on which the policy is in force, and then something is done to it. */
function changed(change: (root: FakeRoot) => void): FakeRoot {
  const root = debianRoot();
  bring(root);
  change(root);
  return root;
}

describe("what the probe reads", () => {
  test("Debian's own", () => {
    using root = debianRoot();
    expect(stateOf(root)).toEqual({
      defaultRule: "insecureAcceptAnything",
      rules: {},
      signatureLookup: {},
      lookupConflicts: [],
      userOverrides: {},
      foreignKeys: [],
      files: {
        "/etc/containers": "0755 root:root directory",
        "/etc/containers/policy.json": "0644 root:root",
      },
      formerPolicy: "not kept",
    });
  });

  test("no podman", () => {
    using root = debianRoot();
    root.remove("/etc/containers");
    expect(stateOf(root)).toMatchObject({ defaultRule: "missing", rules: {}, files: {} });
  });

  test("what edgeseal wrote", () => {
    using root = changed(() => undefined);
    const keys = [keyDigest(site), keyDigest(next)].sort().join(" or ");
    expect(stateOf(root)).toMatchObject({
      defaultRule: "reject",
      rules: {
        "dir:/srv/images": `signed by ${keyDigest(site)} for registry.example/edge/llama`,
        "docker:registry.example/edge/llama": `signed by ${keys} for its own name and tag`,
      },
      signatureLookup: { "registry.example/edge/llama": "attached" },
      formerPolicy: "kept",
    });
    expect(keyDigest(site)).toMatch(/^sha256:[0-9a-f]{64}$/);
  });

  // What podman 5.4 said to each: "invalid policy", and no image was taken.
  test.each([
    ["no JSON", "{"],
    ["a key twice", '{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}'],
    ["a field that podman does not know", '{"Default":[{"type":"reject"}],"default":[{"type":"reject"}]}'],
    ["no default", '{"transports":{}}'],
    ["scopes that are none", '{"default":[{"type":"reject"}],"transports":{"docker":[]}}'],
    ["a list", "[]"],
  ])("a policy with %s is unreadable", (_, text) => {
    using root = debianRoot();
    root.write("/etc/containers/policy.json", text);
    expect(stateOf(root).defaultRule).toBe("unreadable");
  });

  test.each([
    ["two requirements", [{ type: "reject" }, { type: "reject" }]],
    ["none", []],
    ["a reject with more in it", [{ type: "reject", x: 1 }]],
    ["another way to sign", [{ type: "signedBy", keyType: "GPGKeys", keyPath: "/x" }]],
    ["Fulcio", [{ type: "sigstoreSigned", fulcio: {} }]],
    [
      "another identity",
      [{ type: "sigstoreSigned", keyPath: "/x", signedIdentity: { type: "matchRepository" } }],
    ],
    ["two kinds of keys", [{ type: "sigstoreSigned", keyPath: "/x", keyPaths: ["/y"] }]],
  ])("a rule with %s is shown as it is", (_, rule) => {
    using root = debianRoot();
    root.write("/etc/containers/policy.json", JSON.stringify({ default: rule }));
    expect(stateOf(root).defaultRule).toBe(JSON.stringify(rule));
  });

  test("a key elsewhere, one that is none, and two ways to write one key", () => {
    using root = debianRoot();
    const rule = (keyPath: string) => [{ type: "sigstoreSigned", keyPath }];
    const scopes = {
      "a.example": rule("/home/infer/k.pem"),
      "b.example": rule("/etc/edgeseal/image-keys/none.pem"),
      "c.example": rule("/etc/edgeseal/image-keys/site.pem"),
    };
    root.write("/etc/edgeseal/image-keys/none.pem", "x\n");
    root.write("/etc/edgeseal/image-keys/site.pem", `\n${site.trim()}`);
    root.write(
      "/etc/containers/policy.json",
      JSON.stringify({ default: [{ type: "reject" }], transports: { docker: scopes } }),
    );
    expect(stateOf(root).rules).toEqual({
      "docker:a.example": "signed by /home/infer/k.pem (not a key of edgeseal's) for its own name and tag",
      "docker:b.example": "signed by no public key for its own name and tag",
      "docker:c.example": `signed by ${keyDigest(site)} for its own name and tag`,
    });
  });

  test("accounts that can't be told are no empty list", () => {
    using root = debianRoot();
    root.write("/bin/getent", "#!/bin/sh\nexit 2\n");
    expect(() => stateOf(root)).toThrow(UnknownObservation);
  });
});

describe("drift is named by what it means", () => {
  const rule = 'rules["docker:registry.example/edge/llama"]';
  test.each<[string, (root: FakeRoot) => void, readonly string[]]>([
    [
      "a policy that takes everything",
      (root) => root.write("/etc/containers/policy.json", debiansPolicy),
      ["defaultRule"],
    ],
    [
      "one scope more",
      (root) => {
        const policy = JSON.parse(root.read("/etc/containers/policy.json")) as {
          transports: { docker: object };
        };
        Object.assign(policy.transports.docker, { "docker.io": [{ type: "insecureAcceptAnything" }] });
        root.write("/etc/containers/policy.json", JSON.stringify(policy));
      },
      ['rules["docker:docker.io"]'],
    ],
    [
      "another key in the file",
      (root) => root.write("/etc/edgeseal/image-keys/next.pem", ecdsa("P-256")),
      [rule],
    ],
    ["no policy", (root) => root.remove("/etc/containers/policy.json"), ["defaultRule"]],
    [
      "lookups turned off",
      (root) => root.write("/etc/containers/registries.d/edgeseal.yaml", "docker: {}\n"),
      ['signatureLookup["registry.example/edge/llama"]'],
    ],
    [
      "a key more",
      (root) => root.write("/etc/edgeseal/image-keys/x.pem", site),
      ['files["/etc/edgeseal/image-keys/x.pem"]'],
    ],
    ["a user's policy", (root) => root.write(userPolicy, debiansPolicy), [`userOverrides["${userPolicy}"]`]],
    [
      "root's own lookups",
      (root) => root.write("/home/root/.config/containers/registries.d/x.yaml", ""),
      ['userOverrides["/home/root/.config/containers/registries.d"]'],
    ],
    [
      "a link that leads nowhere yet",
      (root) => root.link(userPolicy, "/nowhere"),
      [`userOverrides["${userPolicy}"]`],
    ],
  ])("%s", (_, change, paths) => {
    using root = changed(change);
    expect(differences(stateOf(root))).toEqual(expect.arrayContaining([...paths]));
    bring(root);
  });

  // The fake root writes neither modes nor owners, and through links: test/device has a link mended.
  test.each<[string, (root: FakeRoot) => void]>([
    [
      "a policy that others may write",
      (root) => chmodSync(join(root.root, "etc/containers/policy.json"), 0o666),
    ],
    ["a policy that is another's", (root) => root.write("/owner", "infer:infer")],
    [
      "a link in its place",
      (root) => {
        root.write("/home/infer/p.json", root.read("/etc/containers/policy.json"));
        root.remove("/etc/containers/policy.json");
        root.link("/etc/containers/policy.json", join(root.root, "home/infer/p.json"));
      },
    ],
  ])("%s: its file is written anew", (_, change) => {
    using root = changed(change);
    expect(differences(stateOf(root))).toEqual(['files["/etc/containers/policy.json"]']);
    expect(planFor(stateOf(root)).map((step) => "path" in step && step.path)).toEqual([
      "/etc/containers/policy.json",
    ]);
  });

  test("not by how it is written", () => {
    using root = changed((each) => {
      const policy = JSON.parse(each.read("/etc/containers/policy.json")) as object;
      each.write(
        "/etc/containers/policy.json",
        JSON.stringify(Object.fromEntries(Object.entries(policy).reverse())),
      );
      each.write(
        "/etc/containers/registries.d/edgeseal.yaml",
        "docker:\n    # ours\n    registry.example/edge/llama: { use-sigstore-attachments: true }\n",
      );
    });
    expect(differences(stateOf(root))).toEqual([]);
    expect(planFor(stateOf(root))).toEqual([]);
  });
});

describe("the plan", () => {
  test("writes the keys before the policy that names them, and keeps the former one first", () => {
    using root = debianRoot();
    expect(planFor(stateOf(root)).map(({ title }) => title)).toEqual([
      "make /etc/containers/registries.d, root's alone to change",
      "make /etc/edgeseal, root's alone to change",
      "make /etc/edgeseal/image-keys, root's alone to change",
      "write the public key site.pem",
      "write the public key next.pem",
      "let podman look for signatures in the registries that are allowed",
      "keep the policy that was there before in /var/lib/edgeseal/image-policy",
      "let podman take no image but those that are allowed and signed",
    ]);
  });

  test("allows nothing where nothing is allowed", () => {
    using root = debianRoot();
    const nothing = { keys: {}, allow: [] };
    bring(root, nothing);
    expect(JSON.parse(root.read("/etc/containers/policy.json"))).toEqual({
      default: [{ type: "reject" }],
      transports: { docker: {}, dir: {} },
    });
  });

  test("one key in the form that older podman reads, several in the newer one", () => {
    using root = changed(() => undefined);
    const { transports } = JSON.parse(root.read("/etc/containers/policy.json")) as {
      transports: Record<string, Record<string, unknown>>;
    };
    expect(transports).toEqual({
      docker: {
        "registry.example/edge/llama": [
          {
            type: "sigstoreSigned",
            keyPaths: ["/etc/edgeseal/image-keys/site.pem", "/etc/edgeseal/image-keys/next.pem"],
          },
        ],
      },
      dir: {
        "/srv/images": [
          {
            type: "sigstoreSigned",
            keyPath: "/etc/edgeseal/image-keys/site.pem",
            signedIdentity: { type: "exactRepository", dockerRepository: "registry.example/edge/llama" },
          },
        ],
      },
    });
  });

  test("minds no file that only says what holds where none is named, as the upstream project ships it", () => {
    using root = debianRoot();
    root.write(
      "/etc/containers/registries.d/default.yaml",
      "# This is a default registries.d configuration file.\n\ndefault-docker:\n#  lookaside: https://x\n  lookaside-staging: file:///var/lib/containers/sigstore\n",
    );
    bring(root);
  });

  test("writes a key anew that was exchanged, though no image is signed with it", () => {
    using root = changed(() => undefined);
    const allow = wanted.allow.map((each) => ({ ...each, signedBy: ["site"] }));
    bring(root, { ...wanted, allow });
    root.write("/etc/edgeseal/image-keys/next.pem", ecdsa("P-256"));
    root.write("/etc/edgeseal/image-keys/evil.pem", ecdsa("P-256"));
    expect(stateOf(root).foreignKeys).toEqual(
      ["evil", "next"].map((name) => `/etc/edgeseal/image-keys/${name}.pem`),
    );
    bring(root, { ...wanted, allow });
    expect(root.read("/etc/edgeseal/image-keys/next.pem")).toBe(next);
  });

  test("takes a key out that no image is signed with any more", () => {
    using root = changed(() => undefined);
    bring(root, { keys: { site }, allow: wanted.allow.map((each) => ({ ...each, signedBy: ["site"] })) });
    expect(root.exists("/etc/edgeseal/image-keys/next.pem")).toBe(false);
  });

  test("sets a user's file aside as that user, deletes nothing, and keeps what was set aside before", () => {
    using root = changed((each) => {
      each.write(userPolicy, "second");
      each.write(`${userPolicy}.set-aside-by-edgeseal`, "first");
    });
    bring(root);
    expect(root.calls()).toContain("setpriv --reuid=990 --regid=990 --clear-groups");
    expect(root.read(`${userPolicy}.set-aside-by-edgeseal`)).toBe("second");
    expect(root.read(`${userPolicy}.set-aside-by-edgeseal.~1~`)).toBe("first");
  });

  test("fails, and says so, where the user can't", () => {
    using root = changed((each) => {
      each.write(userPolicy, "x");
      each.write("/unwilling", "");
    });
    const [step] = planFor(stateOf(root));
    expect(() => step && root.apply(step)).toThrow(/infer can't rename it; see who put it there/);
  });

  test.each([
    ["names the same registry", "docker:\n  registry.example/edge/llama:\n    lookaside: https://x\n"],
    [
      "turns lookups off below",
      "docker:\n  registry.example/edge/llama/x:\n    use-sigstore-attachments: false\n",
    ],
    ["can't be read", "docker: [\n"],
    ["names a registry twice", "docker:\n  a.example: {}\n  a.example: {}\n"],
  ])("is refused where another file %s, with its name", (_, text) => {
    using root = debianRoot();
    root.write("/etc/containers/registries.d/other.yaml", text);
    // Once all else holds: a policy that somebody loosened is mended before.
    const steps = planFor(stateOf(root));
    for (const step of steps.slice(0, -1)) root.apply(step);
    expect(stateOf(root).defaultRule).toBe("reject");
    expect(() => {
      root.apply(steps.at(-1) as Step);
    }).toThrow(/registries\.d\/other\.yaml: .*such files say where .*; take out what they say/);
    expect(() => planFor(stateOf(root))).toThrow(PlanRefused);
    expect(() => planFor(stateOf(root))).toThrow(/^\/etc\/containers\/registries\.d\/other\.yaml: /);
    // Folders bring their signatures along.
    bring(root, {
      keys: { site },
      allow: [{ image: "a.example/b", folder: "/srv/images", signedBy: ["site"] }],
    });
  });

  test("is empty exactly when nothing differs", () => {
    using root = changed(() => undefined);
    const good = stateOf(root);
    for (let seed = 0; seed < 500; seed++) {
      const choices = new Choices(seed);
      const pick: Choices["mostly"] = (...values) => choices.mostly(...values);
      const state: ImagePolicyState = {
        ...good,
        defaultRule: pick("reject", "insecureAcceptAnything", "missing", "unreadable"),
        rules: pick(good.rules, {}, { ...good.rules, "docker:": "insecureAcceptAnything" }),
        signatureLookup: pick(good.signatureLookup, {}, { "registry.example/edge/llama": "none" }),
        userOverrides: pick(good.userOverrides, { [userPolicy]: "infer" }),
        foreignKeys: pick<string[]>([], ["/etc/edgeseal/image-keys/next.pem"]),
        files: pick(good.files, {}, { ...good.files, "/etc/edgeseal/image-keys/x.pem": "0644 root:root" }),
        formerPolicy: pick("kept", "none", "not kept"),
      };
      expect(planFor(state).length === 0, `seed ${seed}: ${JSON.stringify(state)}`).toBe(
        differences(state).length === 0,
      );
    }
  });
});

describe("the way back", () => {
  const revert = (root: FakeRoot): void => {
    const steps = imagePolicy.revert(wanted, { outcome: "present", state: stateOf(root) });
    for (const step of steps) root.apply(step);
  };

  test("puts the policy back that was there before, whatever was written since, and leaves a user's file aside", () => {
    using root = changed((each) => each.write(userPolicy, "mine"));
    bring(root);
    root.write("/etc/containers/policy.json", "{}");
    bring(root);
    revert(root);
    expect(root.read("/etc/containers/policy.json")).toBe(debiansPolicy);
    for (const path of [
      "/etc/edgeseal/image-keys",
      "/etc/containers/registries.d/edgeseal.yaml",
      "/var/lib/edgeseal/image-policy",
    ])
      expect(root.exists(path), path).toBe(false);
    expect(root.read(`${userPolicy}.set-aside-by-edgeseal`)).toBe("mine");
    // Once more does nothing.
    revert(root);
    expect(root.read("/etc/containers/policy.json")).toBe(debiansPolicy);
  });

  test("leaves none where there was none, whatever was put there since", () => {
    using root = debianRoot();
    root.remove("/etc/containers/policy.json");
    bring(root);
    root.write("/etc/containers/policy.json", debiansPolicy);
    bring(root);
    revert(root);
    expect(root.exists("/etc/containers/policy.json")).toBe(false);
  });

  test("touches no policy that edgeseal never wrote", () => {
    using root = debianRoot();
    revert(root);
    expect(root.read("/etc/containers/policy.json")).toBe(debiansPolicy);
  });
});

describe("inputs that are refused, with what, where and the mend", () => {
  const one = (entry: Partial<ImagePolicyInputs["allow"][number]>): ImagePolicyInputs => ({
    keys: { site },
    allow: [{ image: "registry.example/edge/llama", signedBy: ["site"], ...entry }],
  });
  const keyed = (key: string): ImagePolicyInputs => ({ keys: { site: key }, allow: [] });

  test.each<[string, ImagePolicyInputs, string, RegExp]>([
    [
      "everything",
      one({ image: "" }),
      "allow[0].image",
      /"" would match every image of every registry; name the repository/,
    ],
    ["everything", one({ image: "*" }), "allow[0].image", /would match every image/],
    ["a wildcard", one({ image: "*.example" }), "allow[0].image", /has a wildcard/],
    ["a transport", one({ image: "docker://a.example/b" }), "allow[0].image", /write "a\.example\/b"/],
    ["a tag", one({ image: "a.example:5000/b:1" }), "allow[0].image", /write "a\.example:5000\/b"/],
    [
      "a digest",
      one({ image: `a.example/b@sha256:${"0".repeat(64)}` }),
      "allow[0].image",
      /write "a\.example\/b"/,
    ],
    ["a tag alone", one({ image: "llama:1" }), "allow[0].image", /names a tag or a host alone/],
    [
      "a short name",
      one({ image: "llama" }),
      "allow[0].image",
      /did you mean "docker\.io\/library\/llama"\?/,
    ],
    [
      "a name of Docker Hub",
      one({ image: "edge/llama" }),
      "allow[0].image",
      /did you mean "docker\.io\/edge\/llama"\?/,
    ],
    [
      "capitals",
      one({ image: "Registry.example/b" }),
      "allow[0].image",
      /does not begin with the host of a registry, in lower case/,
    ],
    [
      "capitals below",
      one({ image: "a.example/Edge" }),
      "allow[0].image",
      /"Edge" in "a\.example\/Edge" can't be a part/,
    ],
    [
      "an empty part",
      one({ image: "a.example//b" }),
      "allow[0].image",
      /"" in "a\.example\/\/b" can't be a part/,
    ],
    [
      "a registry for a folder",
      one({ image: "a.example", folder: "/srv/i" }),
      "allow[0].image",
      /e\.g\. a\.example\/edge\/llama/,
    ],
    ["every folder", one({ folder: "/" }), "allow[0].folder", /would match every folder/],
    ["a relative folder", one({ folder: "srv" }), "allow[0].folder", /no absolute path/],
    ["a slash at the end", one({ folder: "/srv/i/" }), "allow[0].folder", /write "\/srv\/i"/],
    ["a way up", one({ folder: "/srv/../i" }), "allow[0].folder", /has \.\. in it/],
    [
      "another key",
      one({ signedBy: ["sit"] }),
      "allow[0].signedBy[0]",
      /no key "sit" in `keys`; did you mean "site"\?/,
    ],
    [
      "an image twice",
      { keys: { site }, allow: [...one({}).allow, ...one({}).allow] },
      "allow[1].image",
      /"registry\.example\/edge\/llama" is that of allow\[0\] again/,
    ],
    [
      "a folder twice",
      { keys: { site }, allow: [...one({ folder: "/srv/i" }).allow, ...one({ folder: "/srv/i" }).allow] },
      "allow[1].folder",
      /is that of allow\[0\] again/,
    ],
    [
      "RSA-1024, which podman would take",
      keyed(rsa(1024)),
      'keys["site"]',
      /this one is RSA of 1024 bits with exponent 65537/,
    ],
    ["a small exponent", keyed(rsa(2048, 3)), 'keys["site"]', /with exponent 3/],
    ["P-521", keyed(ecdsa("P-521")), 'keys["site"]', /is on secp521r1/],
    [
      "Ed25519",
      keyed(pem(generateKeyPairSync("ed25519").publicKey)),
      'keys["site"]',
      /is of the kind ed25519/,
    ],
    ["no PEM", keyed("AAAA"), 'keys["site"]', /expected one public key in PEM/],
    [
      "a private key",
      keyed("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
      'keys["site"]',
      /this is a private key/,
    ],
  ])("%s", (_, inputs, path, message) => {
    const problems = imagePolicy.check?.(inputs) ?? [];
    expect(problems.map((each) => each.path)).toEqual([path]);
    expect(problems[0]?.message).toMatch(message);
  });

  test.each([
    one({}),
    one({ image: "registry.example" }),
    one({ image: "localhost:5000/llama" }),
    one({ image: "registry:5000/edge" }),
    one({ image: "10.0.2.2:5000/a/b_c--d.e" }),
    one({ folder: "/srv/images" }),
    { keys: { a: rsa(3072), b: rsa(4096), c: ecdsa("P-384") }, allow: [] },
    wanted,
  ])("the control: %j", (inputs) => {
    expect(imagePolicy.check?.(inputs)).toEqual([]);
  });
});
