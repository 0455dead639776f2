import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import { quote } from "../device/shell-quote.ts";
import type { Observed } from "../resource.ts";
import { parseEnvelope, StatementRefused, unverifiedStatement } from "../trust/model-statement.ts";
import { parseFiles, readFiles } from "./config-files.ts";
import { foreignTo, keyDigest, marksOf } from "./image-policy-observation.ts";
import {
  directoriesBelow,
  judgeFunction,
  leftoverPatterns,
  modelFolder,
  modelKeyDirectory,
  modelKeyPath,
  modelParts,
  unitPatterns,
} from "./model-files.ts";
import type { ModelInputs } from "./model-inputs.ts";
import { oneOf, texts, textsByName } from "./state-schema.ts";

export const modelState = Type.Object({
  volume: oneOf(["mounted", "not mounted"], "Whether something is mounted at `mountPoint`."),
  digest: Type.String({
    description: "Digest of the model that is in place; `none` before the first.",
  }),
  model: Type.String({
    description:
      "What the node says of the model that is to be in place: `verified`, its content has the digest and a key that may sign vouches for it; `missing`; `corrupted`, with the digest that the content has, or that it can't be read to its end; or what is wrong with what vouches for it.",
  }),
  former: textsByName("The other models in the directory, by digest, and the same of them. Reported only."),
  inUse: texts("Digests of models that a unit of edgeseal's names. Sorted. Reported only."),
  surplus: texts("Former models beyond those that are to be kept, and that no unit names. Sorted."),
  leftovers: texts("What runs that were cut off have left on the volume. Sorted."),
  otherModels: texts("Names of other models that have the same directory. Sorted."),
  keys: textsByName(
    "Digests of the public keys that may sign models on the node, by name: `sha256:` and the SHA-256 of the key (SPKI); `no public key` for a file that is none.",
  ),
  foreignKeys: texts(
    "Those of them that are none of the inputs' `keys`, or are another key than it: whoever has one can sign a model that is started. Follows from `keys`. Sorted.",
  ),
  files: textsByName("Mode and owner of the model, its folders, the keys and their folders, by path."),
});

export type ModelState = Static<typeof modelState>;

/** What hashing takes at least, on a slow card. */
const slowestBytesPerSecond = 20_000_000;

/** Seconds that reading a model through may take. */
export const readingSeconds = (bytes: number): number => 30 + Math.ceil(bytes / slowestBytesPerSecond);

/**
 * Reads every model in the directory through, once: what is on the disk counts, and a time stamp would not tell of a sector that went bad. Openssl and sha256sum run on the device.
 */
export function modelProbe(inputs: ModelInputs): Probe<Observed<ModelState>> {
  const { name, directory, mountPoint, keys } = inputs;
  const id = `edgeseal:inference:Model#${name}`;
  // On import there is nothing but a name.
  if ((directory as string | undefined) === undefined)
    return {
      id,
      parts: {},
      parse: () => {
        throw new UnknownObservation(
          "where a model is can't be told from its name; declare it, and `pulumi up` takes what is there",
        );
      },
    };
  const paths = markedPaths(inputs);
  return {
    id,
    extraSeconds: (1 + inputs.keep) * readingSeconds(bytesOf(inputs)),
    parts: {
      volume: `if mountpoint -q ${quote(mountPoint)}; then echo mounted; else echo 'not mounted'; fi`,
      models: `mountpoint -q ${quote(mountPoint)} && cd -P -- ${quote(directory)} 2>/dev/null || exit 0
${judgeFunction(Object.keys(keys))}
for folder in [0-9a-f]*; do
  [ -d "$folder" ] && [ ! -L "$folder" ] && [ \${#folder} -eq 64 ] || continue
  judge "$folder" "$folder" || exit 1
  printf '%s %s %s %s\\n' "$folder" "$(stat -c %Y "$folder")" "$content" "$vouched"
done`,
      links: `cd -P -- ${quote(directory)} 2>/dev/null || exit 0
for link in current-*; do
  if [ -L "$link" ]; then printf '%s %s\\n' "\${link#current-}" "$(readlink "$link")"; fi
done`,
      use: `set -- ; for unit in ${unitPatterns}; do if [ -f "$unit" ]; then set -- "$@" "$unit"; fi; done
[ $# -eq 0 ] || { cat -- "$@" | { grep -oE '[0-9a-f]{64}' || :; } | sort -u; }`,
      leftovers: `for f in ${leftoverPatterns(inputs).join(" ")}; do if [ -e "$f" ] || [ -L "$f" ]; then printf '%s\\n' "$f"; fi; done`,
      keys: readFiles([`${modelKeyDirectory}/*`]),
      marks: `set --
for f in ${paths.map(quote).join(" ")}; do if [ -e "$f" ] || [ -L "$f" ]; then set -- "$@" "$f"; fi; done
[ $# -eq 0 ] || stat -c '%a %U:%G %F|%n' -- "$@"`,
    },
    parse: (parts) => ({ outcome: "present", state: parseModel(inputs, parts) }),
  };
}

/** Files and folders of which nobody but root may change a byte, nor what they are. */
export const markedPaths = (inputs: ModelInputs): readonly string[] => [
  "/etc/edgeseal",
  modelKeyDirectory,
  ...Object.keys(inputs.keys).map(modelKeyPath),
  ...directoriesBelow(inputs),
  modelFolder(inputs),
  ...modelParts.map((part) => `${modelFolder(inputs)}/${part}`),
];

function bytesOf({ statement }: ModelInputs): number {
  try {
    return unverifiedStatement(parseEnvelope(statement)).bytes;
  } catch (error) {
    // Its faults are for the check to tell.
    if (error instanceof StatementRefused) return 0;
    throw error;
  }
}

interface Judged {
  readonly digest: string;
  /** When it was put in place, or another took its place. */
  readonly changedAt: number;
  readonly verdict: string;
}

const linesOf = (text: string): readonly string[] => text.split("\n").filter((line) => line !== "");

function parseModel(inputs: ModelInputs, parts: Readonly<Record<string, PartOutput>>): ModelState {
  const judged = linesOf(outputOf(parts, "models")).map(judgedIn);
  const links = new Map(
    linesOf(outputOf(parts, "links")).map((line): [string, string] => {
      const at = line.indexOf(" ");
      return [line.slice(0, at), line.slice(at + 1)];
    }),
  );
  const current = links.get(inputs.name);
  const named = new Set(linesOf(outputOf(parts, "use")).map((hex) => `sha256:${hex}`));
  const former = judged.filter(({ digest }) => digest !== inputs.digest).sort(laterFirst);
  const keys = Object.fromEntries(
    [...parseFiles(outputOf(parts, "keys"))].map(([path, lines]): [string, string] => [
      path.replace(`${modelKeyDirectory}/`, "").replace(/\.pem$/, ""),
      keyDigest(lines.join("\n")),
    ]),
  );
  const wanted = judged.find(({ digest }) => digest === inputs.digest);
  return {
    volume: outputOf(parts, "volume").trim() === "mounted" ? "mounted" : "not mounted",
    digest: current === undefined ? "none" : /^[0-9a-f]{64}$/.test(current) ? `sha256:${current}` : current,
    model: wanted?.verdict ?? "missing",
    former: Object.fromEntries(former.map(({ digest, verdict }) => [digest, verdict])),
    // The one that is to be in place may be gone from its folder, and be served all the same.
    inUse: [inputs.digest, ...former.map(({ digest }) => digest)]
      .filter((digest) => named.has(digest))
      .sort(),
    surplus: former
      .slice(inputs.keep)
      .map(({ digest }) => digest)
      .filter((digest) => !named.has(digest))
      .sort(),
    leftovers: [...linesOf(outputOf(parts, "leftovers"))].sort(),
    otherModels: [...links.keys()].filter((name) => name !== inputs.name).sort(),
    keys,
    foreignKeys: foreignTo(inputs.keys, keys),
    files: Object.fromEntries(
      linesOf(outputOf(parts, "marks")).map((line): [string, string] => {
        const [, mode, owner, kind, path] = /^([0-7]+) (\S+) ([^|]+)\|(.+)$/.exec(line) ?? [];
        if (mode === undefined || owner === undefined || kind === undefined || path === undefined)
          throw new UnknownObservation(`unexpected answer of stat: '${line.slice(0, 120)}'`);
        return [path, marksOf(mode, owner, kind)];
      }),
    ),
  };
}

function judgedIn(line: string): Judged {
  const [, hex, changedAt, content, vouched] = /^([0-9a-f]{64}) (\d+) (\S+) (.+)$/.exec(line) ?? [];
  if (hex === undefined || content === undefined || vouched === undefined)
    throw new UnknownObservation(`unexpected judgement of a model: '${line.slice(0, 120)}'`);
  return { digest: `sha256:${hex}`, changedAt: Number(changedAt), verdict: verdictOf(content, vouched) };
}

export const verified = "verified";

function verdictOf(content: string, vouched: string): string {
  if (content === "missing") return "its content is missing";
  if (content === "unreadable") return "corrupted: its content can't be read to its end";
  if (content !== "right") return `corrupted: its content has the digest sha256:${content}`;
  if (vouched.startsWith("by ")) return verified;
  return statementVerdicts[vouched] ?? vouched;
}

/** What may be wrong with what vouches for a model whose content is right. */
export const statementVerdicts: Readonly<Record<string, string>> = {
  missing: "its statement is missing",
  unsigned: "its statement is signed by none of the keys that may sign",
  "for-another": "its statement is for another model",
};

/** What verifies is worth more than what does not, and the latest most. */
const laterFirst = (a: Judged, b: Judged): number =>
  Number(b.verdict === verified) - Number(a.verdict === verified) ||
  b.changedAt - a.changedAt ||
  (a.digest < b.digest ? -1 : 1);
