import { quote } from "../device/shell-quote.ts";
import { directory, file, remove, run, type Step } from "../device/step.ts";
import { diffState } from "../diff.ts";
import { PlanRefused } from "../resource.ts";
import { baseName } from "./config-files.ts";
import {
  formerDirectory,
  formerPolicy,
  keyFiles,
  lookupDocument,
  policyDocument,
  policyFiles,
  registriesOf,
} from "./image-policy-files.ts";
import type { ImagePolicyInputs } from "./image-policy-inputs.ts";
import {
  keyDigests,
  lookupMeaning,
  marksOf,
  policyMeaning,
  type ImagePolicyState,
} from "./image-policy-observation.ts";

const directories = [
  policyFiles.directory,
  policyFiles.lookupDirectory,
  policyFiles.edgeseal,
  policyFiles.keyDirectory,
] as const;

const plainFile = marksOf("0644", "root:root", "regular file");
const plainDirectory = marksOf("0755", "root:root", "directory");

const json = (document: object): string => `${JSON.stringify(document, undefined, 2)}\n`;
const policyText = (inputs: ImagePolicyInputs): string => json(policyDocument(inputs));
/** Each in a line of its own, so that JSON, which has no comments, can stay one under a line that says whose it is. */
const lookupText = (inputs: ImagePolicyInputs): string =>
  `# Written by edgeseal (edgeseal:container:ImagePolicy).\n${json(lookupDocument(inputs))}`;

/** What has to be observed: read from what would be written, by the same functions. */
export function desiredPolicy(inputs: ImagePolicyInputs): Partial<ImagePolicyState> {
  const digests = keyDigests(keyFiles(inputs));
  const meaning = policyMeaning(policyText(inputs), digests);
  const files = [policyFiles.policy, policyFiles.lookup, ...Object.keys(digests)];
  return {
    ...meaning,
    signatureLookup: lookupMeaning(lookupText(inputs), meaning.rules),
    // What is in folders brings its signatures with it, wherever podman looks for others.
    ...(registriesOf(inputs).length === 0 ? {} : { lookupConflicts: [] }),
    userOverrides: {},
    foreignKeys: [],
    files: Object.fromEntries([
      ...directories.map((path) => [path, plainDirectory]),
      ...files.map((path) => [path, plainFile]),
    ]) as Record<string, string>,
  };
}

/**
 * Steps after which podman takes nothing but what is allowed, whoever runs it. The policy is written once the keys that it names are there.
 * @throws PlanRefused when nothing is left to do, and a file that is not edgeseal's says where signatures are; beside other steps the last one says so, and fails
 */
export function enforcePolicy(inputs: ImagePolicyInputs, observed: ImagePolicyState): readonly Step[] {
  const desired = desiredPolicy(inputs);
  const differs = diffState(desired, observed);
  const concerns = (property: keyof ImagePolicyState): boolean =>
    differs.some(
      ({ path }) => path === property || path.startsWith(`${property}.`) || path.startsWith(`${property}[`),
    );
  const wrong = (path: string): boolean => observed.files[path] !== desired.files?.[path];
  const conflict = concerns("lookupConflicts") ? conflictOf(observed.lookupConflicts) : undefined;
  if (conflict !== undefined && differs.every(({ path }) => path.startsWith("lookupConflicts")))
    throw conflict;
  const rulesDiffer = concerns("defaultRule") || concerns("rules");
  const writesPolicy = rulesDiffer || wrong(policyFiles.policy);
  const keys = keyFiles(inputs);
  // A rule names its keys by what is in their files, so that one which differs says that a file may.
  const keysToWrite = Object.entries(keys).filter(
    ([path]) => rulesDiffer || wrong(path) || observed.foreignKeys.includes(path),
  );
  const stale = Object.keys(observed.files).filter(
    (path) => path.startsWith(`${policyFiles.keyDirectory}/`) && !(path in keys),
  );
  return [
    ...directories
      .filter(wrong)
      .map((path) => directory({ title: `make ${path}, root's alone to change`, path, mode: "0755" })),
    ...keysToWrite.map(([path, content]) =>
      file({ title: `write the public key ${baseName(path)}`, path, mode: "0644", content }),
    ),
    ...(concerns("signatureLookup") || wrong(policyFiles.lookup)
      ? [
          file({
            title: "let podman look for signatures in the registries that are allowed",
            path: policyFiles.lookup,
            mode: "0644",
            content: lookupText(inputs),
          }),
        ]
      : []),
    ...(writesPolicy && observed.formerPolicy === "not kept" ? [keepFormer] : []),
    ...(writesPolicy
      ? [
          file({
            title: "let podman take no image but those that are allowed and signed",
            path: policyFiles.policy,
            mode: "0644",
            content: policyText(inputs),
          }),
        ]
      : []),
    ...stale.map((path) => remove({ title: `remove ${path}, a key that no image is signed with`, path })),
    ...Object.entries(observed.userOverrides).map(([path, user]) => setAside(path, user)),
    // Last: a policy that somebody loosened is not to stay so for the sake of another's file.
    ...(conflict === undefined
      ? []
      : [
          run({
            title: "see that no other file says where signatures are",
            script: `printf '%s\\n' ${quote(conflict.message)} >&2; exit 1`,
          }),
        ]),
  ];
}

const conflictOf = (files: readonly string[]): PlanRefused =>
  new PlanRefused(
    `${files.join(" and ")}: such files say where podman looks for signatures, and could keep it from finding those of the images that are allowed`,
    "take out what they say of registries, or remove them; what edgeseal needs is in its own file",
  );

/** Steps that put back the policy that was there before. What users had in its place stays aside: it is theirs. */
export function takePolicyBack(observed: ImagePolicyState): readonly Step[] {
  return [
    ...(observed.formerPolicy === "not kept" ? [] : [putFormerBack]),
    remove({ title: `remove ${policyFiles.lookup}`, path: policyFiles.lookup }),
    // With what a write that was cut off may have left in it.
    run({
      title: `remove ${policyFiles.keyDirectory}`,
      script: `rm -rf -- ${policyFiles.keyDirectory}`,
    }),
  ];
}

/** In one rename, so that a plan which was cut off leaves either all of it or none, and never takes edgeseal's own policy for the former one. */
const keepFormer = run({
  title: `keep the policy that was there before in ${formerDirectory}`,
  script: `set -eu
[ ! -e ${formerDirectory} ] || exit 0
rm -rf ${formerDirectory}.new
mkdir -p -m 0700 /var/lib/edgeseal
mkdir -m 0700 ${formerDirectory}.new
if [ -e ${policyFiles.policy} ] || [ -L ${policyFiles.policy} ]; then
  cp -P -p -- ${policyFiles.policy} ${formerDirectory}.new/policy.json
fi
sync -f ${formerDirectory}.new
mv -T -- ${formerDirectory}.new ${formerDirectory}`,
});

const putFormerBack = run({
  title: "put back the policy that was there before",
  script: `set -eu
rm -rf ${formerDirectory}.done
[ -d ${formerDirectory} ] || exit 0
if [ -e ${formerPolicy} ] || [ -L ${formerPolicy} ]; then
  cp -P -p -- ${formerPolicy} ${policyFiles.policy}.edgeseal-new
  mv -T -- ${policyFiles.policy}.edgeseal-new ${policyFiles.policy}
else
  rm -f -- ${policyFiles.policy}
fi
mv -T -- ${formerDirectory} ${formerDirectory}.done
rm -rf ${formerDirectory}.done`,
});

/** Nothing of a user's is deleted. As that user, since in a home root could be led by a link to move what is not the user's. */
function setAside(path: string, user: string): Step {
  const word = quote(path);
  return run({
    title: `set ${path} aside, which ${user} had podman read in the place of the system's`,
    script: `set -eu
exists() { [ -e ${word} ] || [ -L ${word} ]; }
exists || exit 0
uid=$(id -u -- ${quote(user)})
gid=$(id -g -- ${quote(user)})
setpriv --reuid="$uid" --regid="$gid" --clear-groups mv -T --backup=numbered -- ${word} ${quote(`${path}.set-aside-by-edgeseal`)} || :
if exists; then
  echo "${user.replaceAll(/[^A-Za-z0-9_.-]/g, "?")} can't rename it; see who put it there, and move it away by hand" >&2
  exit 1
fi`,
  });
}
