import { resolve } from "node:path";
import { quote } from "../device/shell-quote.ts";
import { directory, file, remove, run, upload, type Step } from "../device/step.ts";
import { diffState } from "../diff.ts";
import { PlanRefused } from "../resource.ts";
import { sealedManifest } from "../trust/sealed-manifest.ts";
import { keyDigests, marksOf } from "./image-policy-observation.ts";
import {
  currentLink,
  directoriesBelow,
  judgeFunction,
  modelFolder,
  modelKeyDirectory,
  modelKeyPath,
  modelParts,
  stagedContent,
  stagedOpened,
  stagedSealed,
  unfinished,
  unitPatterns,
} from "./model-files.ts";
import { onDevice } from "./managed-files.ts";
import { restartWhatServes } from "./container-restart.ts";
import { hexOf, signedStatement, type ModelInputs } from "./model-inputs.ts";
import {
  markedPaths,
  readingSeconds,
  statementVerdicts,
  verified,
  type ModelState,
} from "./model-observation.ts";

const etcEdgeseal = "/etc/edgeseal";

/** What has to be observed. */
export function desiredModel(inputs: ModelInputs): Partial<ModelState> {
  const folder = modelFolder(inputs);
  const marks = (path: string): string => {
    if (path === folder) return marksOf("0555", "root:root", "directory");
    if (path.startsWith(`${folder}/`)) return marksOf("0444", "root:root", "regular file");
    return path.endsWith(".pem")
      ? marksOf("0644", "root:root", "regular file")
      : marksOf("0755", "root:root", "directory");
  };
  return {
    volume: "mounted",
    digest: inputs.digest,
    model: verified,
    surplus: [],
    leftovers: [],
    otherModels: [],
    keys: keyDigests(inputs.keys),
    files: Object.fromEntries(markedPaths(inputs).map((path) => [path, marks(path)])),
  };
}

/**
 * Steps after which the model is in place: its content brought where it is not there, then judged by the device before its folder gets its name, then linked as the one that counts. Former ones
 * are removed last.
 * @throws PlanRefused when the volume is not mounted, when the content is not there and there is no file, or when the directory is another model's
 */
export function placeModel(inputs: ModelInputs, observed: ModelState): readonly Step[] {
  const desired = desiredModel(inputs);
  const differs = diffState(desired, observed);
  if (differs.length === 0) return [];
  requirePlace(inputs, observed);
  const wrong = (path: string): boolean => observed.files[path] !== desired.files?.[path];
  const { digest, mountPoint } = inputs;
  const folder = modelFolder(inputs);
  const needsContent =
    observed.model !== verified && !Object.values(statementVerdicts).includes(observed.model);
  const needsFolder =
    observed.model !== verified || [folder, ...modelParts.map((part) => `${folder}/${part}`)].some(wrong);
  const onVolume = `mountpoint -q ${quote(mountPoint)}`;
  const keyNames = Object.keys(inputs.keys);
  return [
    ...(needsContent ? bringContent(inputs, observed, onVolume) : []),
    ...[etcEdgeseal, modelKeyDirectory]
      .filter(wrong)
      .map((path) => directory({ title: `make ${path}, root's alone to change`, path, mode: "0755" })),
    ...Object.entries(inputs.keys)
      .filter(([key]) => observed.keys[key] !== desired.keys?.[key] || wrong(modelKeyPath(key)))
      .map(([key, pem]) =>
        file({
          title: `write the public key ${key}, which may sign models`,
          path: modelKeyPath(key),
          mode: "0644",
          content: `${pem.trim()}\n`,
        }),
      ),
    ...Object.keys(observed.keys)
      .filter((key) => !keyNames.includes(key))
      .map(removeKey),
    ...directoriesBelow(inputs)
      .filter(wrong)
      .map((path) =>
        directory({
          title: `make ${path}, root's alone to change`,
          precondition: onVolume,
          path,
          mode: "0755",
        }),
      ),
    ...(needsFolder ? [putInPlace(inputs, needsContent, onVolume)] : []),
    // It goes on with the former file, which has no name any more.
    ...(needsContent && observed.inUse.includes(digest)
      ? [restartWhatServes(inputs.name, hexOf(inputs))]
      : []),
    ...(observed.digest === digest ? [] : [makeCurrent(inputs, observed)]),
    ...observed.surplus.map((former) => removeFormer(inputs, former)),
    ...(observed.leftovers.length > 0
      ? [
          run({
            title: "remove what runs that were cut off have left of models",
            script: `rm -rf -- ${observed.leftovers.map(quote).join(" ")}`,
          }),
        ]
      : []),
  ];
}

/** Steps after which edgeseal says nothing of models on the node any more. The models are data, and stay. */
export function releaseModel(inputs: ModelInputs, observed: ModelState): readonly Step[] {
  return [
    ...(observed.digest === "none"
      ? []
      : [remove({ title: `remove ${currentLink(inputs)}`, path: currentLink(inputs) })]),
    // With what a write that was cut off may have left in it.
    ...(Object.keys(observed.keys).length === 0 && observed.files[modelKeyDirectory] === undefined
      ? []
      : [run({ title: `remove ${modelKeyDirectory}`, script: `rm -rf -- ${modelKeyDirectory}` })]),
    ...(observed.leftovers.length === 0
      ? []
      : [
          run({
            title: "remove what runs that were cut off have left of models",
            script: `rm -rf -- ${observed.leftovers.map(quote).join(" ")}`,
          }),
        ]),
  ];
}

function requirePlace({ directory: place, mountPoint, name }: ModelInputs, observed: ModelState): void {
  if (observed.volume === "not mounted")
    throw new PlanRefused(
      `nothing is mounted at ${mountPoint}, so the model ${name} would land on the plain root`,
      "see why the volume is locked (edgeseal:storage:SealedVolume), and run pulumi up once it is open",
    );
  if (observed.otherModels.length > 0)
    throw new PlanRefused(
      `${place} is the directory of ${observed.otherModels.join(" and ")}, whose models would count as former ones of ${name}`,
      `give ${name} a directory of its own; when it only has a new name, remove the link ${place}/current-${observed.otherModels[0] ?? ""}`,
    );
}

function bringContent(inputs: ModelInputs, observed: ModelState, onVolume: string): readonly Step[] {
  const { name, digest, file: source } = inputs;
  if (source === undefined)
    throw new PlanRefused(
      `the model ${name} (${digest}) is not on the node as it should be (${observed.model}), and there is no file to bring it from`,
      "give its `file` on this machine",
    );
  const send = {
    title: `send the model ${name}`,
    precondition: onVolume,
    source: resolve(source),
    mode: "0400",
  };
  const { bytes, sha256 } = signedStatement(inputs).statement;
  if (inputs.sealed === undefined) return [upload({ ...send, path: stagedContent(inputs), bytes, sha256 })];
  const { ciphertext, credential } = sealedManifest(inputs.sealed);
  return [
    upload({ ...send, title: `${send.title}, encrypted`, path: stagedSealed(inputs), ...ciphertext }),
    openSealed(inputs, credential, onVolume),
  ];
}

/** Decrypted on the volume, beside what arrived. What it is worth is judged after this, as of every model. */
function openSealed(inputs: ModelInputs, credential: string, onVolume: string): Step {
  const { bytes, sha256 } = signedStatement(inputs).statement;
  const [sealed, opened] = [stagedSealed(inputs), stagedOpened(inputs)].map(quote);
  return run({
    title: `decrypt the model ${inputs.name} with the key that the node's TPM gives`,
    precondition: `${onVolume} && [ -f ${sealed} ]`,
    stdin: `${credential}\n`,
    timeoutSeconds: 240 + 2 * readingSeconds(bytes),
    script: `set -eu
program=${quote(onDevice("open-sealed-model.py"))}
${["own-tpm", "challenge-tpm", "open-model"].map(onDevice).join("\n")}
open_model ${sealed} ${opened} ${bytes} ${sha256}
mv -fT -- ${opened} ${quote(stagedContent(inputs))}
rm -f -- ${sealed}`,
  });
}

function removeKey(key: string): Step {
  // What is no key file has its name whole.
  const paths = [modelKeyPath(key), `${modelKeyDirectory}/${key}`].map(quote).join(" ");
  return run({ title: `remove ${key} from the keys that may sign models`, script: `rm -rf -- ${paths}` });
}

/**
 * The device's own judgement, with its own copy of the keys, over the very files that are then renamed. A folder of that name which did not hold is kept until the new one has passed. Where its content holds, it
 * stays, and gets the files that vouch for it: what serves the model has the folder mounted.
 */
function putInPlace(inputs: ModelInputs, fromStaged: boolean, onVolume: string): Step {
  const { name, directory: place } = inputs;
  const hex = hexOf(inputs);
  const { signature, preAuthenticationEncoding, statement } = signedStatement(inputs);
  const staged = quote(stagedContent(inputs));
  const source = fromStaged ? staged : `${hex}/model.gguf`;
  const folder = quote(modelFolder(inputs));
  const rename = unfinished({ ...inputs }).slice(place.length + 1);
  return run({
    title: `verify the model ${name} and its signature, and put it in its place`,
    precondition: `${onVolume} && ${fromStaged ? `[ -f ${staged} ]` : `[ ! -L ${folder} ] && [ -f ${folder}/model.gguf ]`}`,
    stdin: `${preAuthenticationEncoding.toString("base64")}\n${signature.toString("base64")}\n`,
    timeoutSeconds: 120 + readingSeconds(statement.bytes),
    script: `set -eu
umask 022
fail() { printf '%s\\n' "$*" >&2; exit 1; }
${judgeFunction(Object.keys(inputs.keys))}
cd -P -- ${quote(place)}
new=./${rename}${hex}.new old=./${rename}${hex}.old
read -r pae
read -r sig
rm -rf -- "$new" "$old"
mkdir -m 0700 -- "$new"
printf '%s' "$pae" | base64 -d >"$new/statement.pae"
printf '%s' "$sig" | base64 -d >"$new/statement.sig"
ln -- ${source} "$new/model.gguf" || fail ${quote(`${place} is not on the volume itself, but on something that is mounted in it`)}
judge "$new" ${hex} || fail 'the model can not be verified'
if [ "$content" = unreadable ]; then rm -rf -- "$new"; fail "the content can't be read to its end: the disk may fail"; fi
if [ "$content" != right ]; then rm -rf -- "$new"; fail "refused: the content has the digest sha256:$content, not sha256:${hex}"; fi
case $vouched in
  'by '*) ;;
  unsigned) rm -rf -- "$new"; fail ${quote(`refused: the statement is signed by none of the keys that may sign (${Object.keys(inputs.keys).join(", ")})`)} ;;
  for-another) rm -rf -- "$new"; fail "refused: the statement that $signer has signed is for another model than sha256:${hex}" ;;
  *) fail 'the statement did not arrive' ;;
esac
chown -R root:root -- "$new"
chmod 0444 "$new"/*
chmod 0555 "$new"
sync "$new"/* "$new"
${
  fromStaged
    ? `if [ -e ${hex} ] || [ -L ${hex} ]; then mv -T -- ${hex} "$old"; fi
mv -T -- "$new" ${hex}
sync .
rm -rf -- "$old"
rm -f -- ${staged}`
    : `for part in statement.pae statement.sig; do
  [ ! -d ${hex}/$part ] || rm -rf -- ${hex}/$part
  mv -fT -- "$new/$part" ${hex}/$part
done
chown root:root ${hex}
chmod 0555 ${hex}
sync ${hex}
rm -rf -- "$new"`
}
`,
  });
}

/** In one rename. The former's folder is touched, so that the order in which they were in place can be told. */
function makeCurrent(inputs: ModelInputs, observed: ModelState): Step {
  const link = currentLink(inputs);
  const former = observed.digest.replace(/^sha256:/, "");
  const next = `${unfinished(inputs)}current.new`;
  return run({
    title: `let ${hexOf(inputs).slice(0, 12)} be the model ${inputs.name} that counts`,
    precondition: `[ -f ${quote(`${modelFolder(inputs)}/model.gguf`)} ]`,
    script: `set -eu
rm -f -- ${quote(next)}
ln -s ${hexOf(inputs)} ${quote(next)}
${/^[0-9a-f]{64}$/.test(former) ? `touch -c -- ${quote(`${inputs.directory}/${former}`)}` : ":"}
mv -fT -- ${quote(next)} ${quote(link)}
sync ${quote(inputs.directory)}`,
  });
}

/** Not while a unit names it: whoever declares one in the meantime keeps what it serves. */
function removeFormer(inputs: ModelInputs, digest: string): Step {
  const hex = digest.replace(/^sha256:/, "");
  const path = quote(`${inputs.directory}/${hex}`);
  const going = quote(`${unfinished(inputs)}${hex}.old`);
  return run({
    title: `remove the former model ${hex.slice(0, 12)}`,
    precondition: `! cat ${unitPatterns} 2>/dev/null | grep -q ${hex}`,
    timeoutSeconds: 120,
    script: `set -eu
rm -rf -- ${going}
[ ! -e ${path} ] || mv -T -- ${path} ${going}
rm -rf -- ${going}`,
  });
}
