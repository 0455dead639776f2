import { posix } from "node:path";
import { preAuthenticationEncoding, statementPayloadType } from "../trust/model-statement.ts";
import { quote } from "../device/shell-quote.ts";
import { hexOf, type ModelInputs } from "./model-inputs.ts";

/*
 * Where a model and what vouches for it are on a node, and the shell that judges them there.
 */

/** Public keys that may sign models, root's alone to change: read by the judgement here, and before each start of an inference server. */
export const modelKeyDirectory = "/etc/edgeseal/model-keys";
export const modelKeyPath = (key: string): string => `${modelKeyDirectory}/${key}.pem`;

/** The three files of a model, in its folder. */
export const modelParts = ["model.gguf", "statement.pae", "statement.sig"] as const;

type Place = Pick<ModelInputs, "name" | "directory" | "mountPoint">;

export const modelFolder = (inputs: Pick<ModelInputs, "directory" | "digest">): string =>
  `${inputs.directory}/${hexOf(inputs)}`;

/** A link to the folder of the model that is in place: what tells which is the former one, and whose the directory is. */
export const currentLink = ({ name, directory }: Place): string => `${directory}/current-${name}`;

/** Where its content arrives: at the top of the volume, since the directory may have to be made. */
export const stagedContent = (inputs: ModelInputs): string =>
  `${inputs.mountPoint}/.edgeseal-model.${inputs.name}.${hexOf(inputs)}`;

/** Where it arrives encrypted to the node, and what it becomes there until it is whole. */
export const stagedSealed = (inputs: ModelInputs): string => `${stagedContent(inputs)}.sealed`;
export const stagedOpened = (inputs: ModelInputs): string => `${stagedContent(inputs)}.opened`;

/** Begins the names of folders that are being made or removed, in the directory. A name has no dot, so that no other model's begins so. */
export const unfinished = ({ name, directory }: Place): string => `${directory}/.${name}.`;

/** Patterns of what a run that was cut off may leave. */
export const leftoverPatterns = (inputs: Place): readonly string[] => [
  `${quote(`${inputs.mountPoint}/.edgeseal-model.${inputs.name}.`)}*`,
  // The partial file of an upload to one of the former.
  `${quote(`${inputs.mountPoint}/..edgeseal-model.${inputs.name}.`)}*.edgeseal-partial`,
  `${quote(unfinished(inputs))}*`,
];

/** The folders on the way from the mount point to the directory, the directory last. */
export function directoriesBelow({ mountPoint, directory }: Place): readonly string[] {
  const below = posix.relative(mountPoint, directory);
  const names = below === "" ? [] : below.split("/");
  return names.map((_, index) => posix.join(mountPoint, ...names.slice(0, index + 1)));
}

export const serviceFiles = "/etc/systemd/system/edgeseal-*.service";

/** Units, and those that an exchange that fails goes back to: a model that one of them names is in use. */
export const unitPatterns = [
  serviceFiles,
  "/etc/systemd/system/edgeseal-*.service.d/*.conf",
  "/var/lib/edgeseal/inference/edgeseal-*.service",
].join(" ");

const beginning = preAuthenticationEncoding(statementPayloadType, Buffer.alloc(0))
  .toString()
  .replace(/0 $/, "");
/** Canonical JSON has one way to write this, and a quote in a text has a backslash before it, so that no text of a statement can hold it. */
export const subjectBefore = `,"predicateType":"urn:edgeseal:model:v1","subject":[{"digest":{"sha256":"`;
export const subjectAfter = `"},"name":"`;

/**
 * Shell function `judge FOLDER HEX`: says in `content` whether the model there has this digest (`right`, `missing`, `unreadable` where the disk does not give all of it, or the digest that it has), and in `vouched` whether a key of the
 * list has signed that it should (`by KEY`, `missing`, `unsigned`, `for-another`). All with what is on the device.
 */
export const judgeFunction = (keys: readonly string[]): string => `
plain() { [ -f "$1" ] && [ ! -L "$1" ]; }
judge() {
  content=missing vouched=missing signer=
  if plain "$1/model.gguf"; then
    hashed=0
    content=$(sha256sum <"$1/model.gguf") || hashed=$?
    # That there is no such program, or that it was killed, tells nothing of the file.
    [ "$hashed" -lt 126 ] || return 1
    content=\${content%% *}
    [ "$hashed" -eq 0 ] || content=unreadable
    [ "$content" != "$2" ] || content=right
  fi
  command -v openssl >/dev/null || { echo 'there is no openssl, which verifies signatures: apt-get install openssl' >&2; return 1; }
  plain "$1/statement.pae" && plain "$1/statement.sig" || return 0
  for key in ${keys.join(" ")}; do
    plain ${modelKeyDirectory}/$key.pem || continue
    if openssl dgst -sha256 -verify ${modelKeyDirectory}/$key.pem -signature "$1/statement.sig" "$1/statement.pae" >/dev/null 2>&1; then signer=$key; break; fi
  done
  if [ -z "$signer" ]; then vouched=unsigned; return 0; fi
  said=
  IFS= read -r said <"$1/statement.pae" || :
  case $said in
    ${quote(beginning)}*${quote(subjectBefore)}"$2"${quote(subjectAfter)}*) vouched="by $signer" ;;
    *) vouched=for-another ;;
  esac
}`;
