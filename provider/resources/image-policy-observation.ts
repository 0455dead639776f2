import { Type, type Static } from "typebox";
import { parseDocument } from "yaml";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import { sha256Hex } from "../trust/digest.ts";
import { PublicKeyRefused, readPublicPem } from "../trust/public-key.ts";
import { byteOrder, parseFiles, readFiles, type ConfigFiles } from "./config-files.ts";
import { formerDirectory, formerPolicy, keyFiles, perUser, policyFiles } from "./image-policy-files.ts";
import type { ImagePolicyInputs } from "./image-policy-inputs.ts";
import { oneOf, texts, textsByName } from "./state-schema.ts";

export const imagePolicyState = Type.Object({
  defaultRule: Type.String({
    description:
      "What policy.json says of images that it does not list: `reject`; `insecureAcceptAnything`, as Debian ships it; `missing` without the file and `unreadable` with a bad one, with both of which podman takes no image at all; else the requirements, in JSON.",
  }),
  rules: textsByName(
    "What it asks of the images that it lists, by transport and scope, e.g. `docker:registry.example/edge/llama`: `signed by sha256:...` with the SHA-256 of the public keys (SPKI) that one of has to have signed, and what the signature has to be for; else the requirements, in JSON.",
  ),
  signatureLookup: textsByName(
    "For each part of a registry that it lists, whether podman looks for signatures there: `attached`, or `none`, so that every image of it is refused.",
  ),
  lookupConflicts: texts(
    "Other files in registries.d that say where the signatures of some registry are, or that podman can't read. Two that name one registry keep podman from pulling at all. Sorted.",
  ),
  userOverrides: textsByName(
    "Files and folders of users that podman reads in the place of the system's when that user runs it, by path, with the user.",
  ),
  foreignKeys: texts(
    "Files in edgeseal's folder of keys that are none of `keys`, or have another key in them: a rule that names one lets in what its owner signs. Sorted.",
  ),
  files: textsByName("Mode and owner of the policy, the lookups, the keys and their folders, by path."),
  formerPolicy: oneOf(
    ["kept", "none", "not kept"],
    "The policy.json that was there before edgeseal's: `kept`, for the way back; `none`, there was none; `not kept`, as long as edgeseal's was not written. Reported only.",
  ),
});

export type ImagePolicyState = Static<typeof imagePolicyState>;

/** Files and folders of which nobody but root may change a byte, nor what they are. */
const marked = [
  ...Object.values(policyFiles),
  `${policyFiles.keyDirectory}/*`,
  formerDirectory,
  formerPolicy,
];

export const imagePolicyProbe = (inputs: ImagePolicyInputs): Probe<Observed<ImagePolicyState>> => ({
  id: "edgeseal:container:ImagePolicy",
  parts: {
    content: readFiles([
      policyFiles.policy,
      `${policyFiles.lookupDirectory}/*.yaml`,
      `${policyFiles.keyDirectory}/*`,
    ]),
    marks: `set --
for f in ${marked.join(" ")}; do if [ -e "$f" ] || [ -L "$f" ]; then set -- "$@" "$f"; fi; done
[ $# -eq 0 ] || stat -c '%a %U:%G %F|%n' -- "$@"`,
    // Every account has a home, those without a login, too: a service can be told to run as any of them.
    users: `accounts=$(getent passwd) || exit 1
printf '%s\\n' "$accounts" | while IFS=: read -r user _ _ _ _ home _; do
  for name in ${perUser.join(" ")}; do
    f=\${home%/}/.config/containers/$name
    if [ -e "$f" ] || [ -L "$f" ]; then printf '%s %s\\n' "$user" "$f"; fi
  done
done`,
  },
  parse: (parts) => ({ outcome: "present", state: parseImagePolicy(parts, inputs) }),
});

function parseImagePolicy(
  parts: Readonly<Record<string, PartOutput>>,
  inputs: ImagePolicyInputs,
): ImagePolicyState {
  const files = parseFiles(outputOf(parts, "content"));
  const {
    [formerDirectory]: searched,
    [formerPolicy]: former,
    ...marks
  } = readMarks(outputOf(parts, "marks"));
  const keys = keysIn(files);
  const { defaultRule, rules } = policyMeaning(textOf(files, policyFiles.policy), keys);
  return {
    defaultRule,
    rules,
    signatureLookup: lookupMeaning(textOf(files, policyFiles.lookup), rules),
    lookupConflicts: conflicts(files),
    userOverrides: overrides(outputOf(parts, "users")),
    foreignKeys: foreignTo(keyFiles(inputs), keys),
    files: marks,
    formerPolicy: former !== undefined ? "kept" : searched !== undefined ? "none" : "not kept",
  };
}

const textOf = (files: ConfigFiles, path: string): string | undefined => files.get(path)?.join("\n");

function readMarks(output: string): Record<string, string> {
  const lines = output.split("\n").filter((line) => line !== "");
  return Object.fromEntries(
    lines.map((line): [string, string] => {
      const [, mode, owner, kind, path] = /^([0-7]+) (\S+) ([^|]+)\|(.+)$/.exec(line) ?? [];
      if (mode === undefined || owner === undefined || kind === undefined || path === undefined)
        throw new UnknownObservation(`unexpected answer of stat: '${line.slice(0, 120)}'`);
      return [path, marksOf(mode, owner, kind)];
    }),
  );
}

/** How mode and owner are written in the state; what is no plain file is named. */
export const marksOf = (mode: string, owner: string, kind: string): string =>
  `${mode.padStart(4, "0")} ${owner}${/^regular/.test(kind) ? "" : ` ${kind}`}`;

// --- keys ---

/** What a key file holds, as the digest of the key; two ways to write a key are the same one. */
export function keyDigest(pem: string): string {
  try {
    return `sha256:${sha256Hex(readPublicPem(pem).export({ type: "spki", format: "der" }))}`;
  } catch (error) {
    if (!(error instanceof PublicKeyRefused)) throw error;
    return "no public key";
  }
}

/** The digests of keys, by whatever names them. */
export const keyDigests = (pems: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(pems).map(([name, pem]) => [name, keyDigest(pem)]));

/** Of the keys that were found, by their digests, those that are none of the declared ones, or another key than it. Sorted. */
export function foreignTo(
  pems: Readonly<Record<string, string>>,
  found: Readonly<Record<string, string>>,
): string[] {
  const declared = keyDigests(pems);
  return Object.keys(found)
    .filter((name) => found[name] !== declared[name])
    .sort(byteOrder);
}

/** The digests of the keys that are in edgeseal's folder, by path. */
const keysIn = (files: ConfigFiles): Readonly<Record<string, string>> =>
  Object.fromEntries(
    [...files]
      .filter(([path]) => path.startsWith(`${policyFiles.keyDirectory}/`))
      .map(([path, lines]) => [path, keyDigest(lines.join("\n"))]),
  );

// --- policy.json ---

type Plain = Readonly<Record<string, unknown>>;

const isPlain = (value: unknown): value is Plain =>
  typeof value === "object" && value !== null && !Array.isArray(value);

type Meaning = Pick<ImagePolicyState, "defaultRule" | "rules">;

/**
 * What a policy.json asks for. podman takes no field that it does not know and none twice, and no image then.
 * @param keys digests of keys by the path of their file
 */
export function policyMeaning(text: string | undefined, keys: Readonly<Record<string, string>>): Meaning {
  if (text === undefined) return { defaultRule: "missing", rules: {} };
  const policy = parseStrictly(text);
  const transports = isPlain(policy) ? (policy["transports"] ?? {}) : undefined;
  if (
    !isPlain(policy) ||
    !isPlain(transports) ||
    !Object.values(transports).every(isPlain) ||
    !Object.keys(policy).every((key) => key === "default" || key === "transports") ||
    !Array.isArray(policy["default"])
  )
    return { defaultRule: "unreadable", rules: {} };
  const scopes = Object.entries(transports as Readonly<Record<string, Plain>>).flatMap(([transport, each]) =>
    Object.entries(each).map(([scope, asked]): [string, string] => [
      `${transport}:${scope}`,
      ruleMeaning(asked, keys),
    ]),
  );
  return {
    defaultRule: ruleMeaning(policy["default"], keys),
    rules: Object.fromEntries(scopes.sort(([a], [b]) => byteOrder(a, b))),
  };
}

/** JSON in which no key stands twice; `undefined` for anything else. */
function parseStrictly(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return parseDocument(text, { uniqueKeys: true }).errors.length === 0 ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The one requirement of a scope in words, where it is one of those that are expected. */
function ruleMeaning(asked: unknown, keys: Readonly<Record<string, string>>): string {
  const json = JSON.stringify(asked);
  const only = Array.isArray(asked) && asked.length === 1 ? (asked[0] as unknown) : undefined;
  if (!isPlain(only)) return json;
  const { type, keyPath, keyPaths = [keyPath], signedIdentity, ...more } = only;
  const known = Object.keys(more).length === 0;
  if ((type === "reject" || type === "insecureAcceptAnything") && json === JSON.stringify([{ type }]))
    return type;
  const bothGiven = keyPath !== undefined && "keyPaths" in only;
  const signedFor = identityMeaning(signedIdentity);
  if (type !== "sigstoreSigned" || !known || bothGiven || signedFor === undefined) return json;
  if (!Array.isArray(keyPaths) || !keyPaths.every((path) => typeof path === "string")) return json;
  const signers = keyPaths.map((path) => keys[path] ?? `${path} (not a key of edgeseal's)`);
  return `signed by ${[...new Set(signers)].sort(byteOrder).join(" or ")} for ${signedFor}`;
}

function identityMeaning(identity: unknown): string | undefined {
  if (identity === undefined) return "its own name and tag";
  if (!isPlain(identity)) return undefined;
  const { type, dockerRepository, ...more } = identity;
  if (Object.keys(more).length > 0) return undefined;
  if (type === "matchRepoDigestOrExact" && dockerRepository === undefined) return "its own name and tag";
  return type === "exactRepository" && typeof dockerRepository === "string" ? dockerRepository : undefined;
}

// --- registries.d ---

/** What edgeseal's file says of the registries that are listed. One that can't be read says nothing. */
export function lookupMeaning(
  text: string | undefined,
  rules: Readonly<Record<string, string>>,
): Record<string, string> {
  const registries = text === undefined ? {} : (registriesIn(text) ?? {});
  const listed = Object.keys(rules)
    .filter((rule) => rule.startsWith("docker:"))
    .map((rule) => rule.slice("docker:".length));
  return Object.fromEntries(
    listed.map((scope) => {
      const said = registries[scope];
      return [scope, isPlain(said) && said["use-sigstore-attachments"] === true ? "attached" : "none"];
    }),
  );
}

/** The registries that a file of registries.d names; `undefined` when podman could not read it. */
function registriesIn(text: string): Plain | undefined {
  const document = parseDocument(text, { uniqueKeys: true });
  if (document.errors.length > 0) return undefined;
  const value: unknown = document.toJS() ?? {};
  const registries = isPlain(value) ? (value["docker"] ?? {}) : undefined;
  return isPlain(registries) ? registries : undefined;
}

const conflicts = (files: ConfigFiles): string[] =>
  [...files.keys()]
    .filter((path) => path.startsWith(`${policyFiles.lookupDirectory}/`) && path !== policyFiles.lookup)
    .flatMap((path) => {
      const registries = registriesIn(textOf(files, path) ?? "");
      if (registries === undefined) return [`${path}: can't be read`];
      return Object.keys(registries).map((registry) => `${path}: ${registry}`);
    })
    .sort(byteOrder);

// --- users ---

function overrides(output: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const line of output.split("\n")) {
    if (line === "") continue;
    const space = line.indexOf(" ");
    if (space < 1) throw new UnknownObservation(`unexpected line of users: '${line.slice(0, 120)}'`);
    // Of two users with one home the first is named.
    found[line.slice(space + 1)] ??= line.slice(0, space);
  }
  return found;
}
