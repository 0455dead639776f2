import { quote } from "../device/shell-quote.ts";
import { run, upload, type Step } from "../device/step.ts";
import { isOwnStorage } from "./inference-container-account.ts";
import { readArchive } from "./inference-container-archive.ts";
import { imagesDirectory } from "./inference-container-files.ts";
import { parseImage, referenceOf, type InferenceContainerInputs } from "./inference-container-inputs.ts";
import { asService } from "./inference-container-podman.ts";
import type { InferenceContainerState } from "./inference-container-state.ts";
import { inferenceUnit } from "./container-process.ts";
import { userOf } from "./inference-container-unit.ts";

/*
 * How an image comes into a service's storage, and what it leaves behind. What is half there (a power cut) is told by the name, which an image gets last.
 */

/** An image of some hundred MB over a slow uplink, or unpacked on a card. */
const pullSeconds = 1800;

/** Whether the unit would find its image: by its digest, among the images of its repository, in a storage that is believed. */
export const hasImage = (inputs: InferenceContainerInputs, state: InferenceContainerState): boolean =>
  isOwnStorage(inputs, state) && state.images.includes(referenceOf(inputs.image));

/** Where an archive arrives: a folder that every node has, since uploads come before all else. */
const arrival = (digest: string): string => `/var/cache/edgeseal-image-${digest.slice("sha256:".length)}.tar`;
const pullFolderOf = (storage: string): string => `${storage}/edgeseal-pull`;

/** Where a login to a registry is while an image is pulled, in memory. No service's name makes this path. */
const loginDirectory = "/run/edgeseal.logins";
const loginOf = (name: string): string => `${loginDirectory}/${name}.json`;

/** Shell that prints what a pull leaves behind that was cut off: archives, packed and unpacked, podman's own folder for it, and a login. */
export const readRemnants = ({ name, storage }: InferenceContainerInputs): string => {
  const hex = "[0-9a-f]".repeat(8);
  return `for f in ${imagesDirectory}/${hex}* /var/cache/edgeseal-image-*.tar ${pullFolderOf(storage)} ${loginOf(name)}; do if [ -e "$f" ]; then echo "$f"; fi; done`;
};

export function uploads({ archive, image }: InferenceContainerInputs): readonly Step[] {
  if (archive === undefined) return [];
  const digest = parseImage(image)?.digest ?? "";
  const { bytes, sha256 } = readArchive(archive);
  return [
    upload({
      title: `copy the image ${image} to the node`,
      source: archive,
      path: arrival(digest),
      bytes,
      sha256,
      mode: "0600",
    }),
  ];
}

/** What podman says when it is refused an image, by the registry or by the policy (container:ImagePolicy), and the mend. */
const refusals = ({ registryAuth }: InferenceContainerInputs): string => `case $said in
*'authentication required'* | *nauthorized* | *'access to the resource is denied'*) mend=${quote(
  registryAuth === undefined
    ? "the registry asks for a login: give registryAuth a name and a password that may pull it, or the node an archive"
    : "the registry does not take this login: see that the name and the password of registryAuth are right, and may pull this image",
)} ;;
*'signature was required'* | *'ignature'*) mend='have it signed by a key that the image policy of the node lists for it (edgeseal image sign)' ;;
*'rejected by policy'*) mend='allow its repository, or the folder of its archive, in the image policy of the node (imagePolicy)' ;;
*) mend='see that the node reaches the registry, and that the image is there by this digest' ;;
esac`;

/** Brings an image into the service's storage by its digest, under the node's policy, or not at all. */
export function pull(inputs: InferenceContainerInputs): Step {
  const { name, image, archive, storage, registryAuth } = inputs;
  const { repository = "", digest = "", reference = image } = parseImage(image) ?? {};
  const hex = digest.slice("sha256:".length);
  const scratch = pullFolderOf(storage);
  const folder = `${imagesDirectory}/${hex}`;
  const user = userOf(name);
  const login = loginOf(name);
  const source = archive === undefined ? `docker://${reference}` : `dir:${folder}`;
  const unpack =
    archive === undefined
      ? ""
      : `mkdir -p /var/lib/edgeseal && chmod go+x /var/lib/edgeseal
mkdir -p ${imagesDirectory}
rm -rf ${folder} ${folder}.new
mkdir ${folder}.new
tar --extract --no-same-owner --no-same-permissions --directory ${folder}.new --file ${arrival(digest)}
# An archive of an image is files and nothing else: no link that leads out of it.
[ -z "$(find ${folder}.new ! -type f ! -type d)" ] || { echo 'the archive holds something else than files' >&2; exit 1; }
chmod -R u=rwX,go=rX ${folder}.new
found=$(sha256sum <${folder}.new/manifest.json)
[ "\${found%% *}" = ${hex} ] || { echo "the archive holds the image sha256:\${found%% *}, not ${digest}; give the archive of this one, or its digest" >&2; exit 1; }
mv -T ${folder}.new ${folder}
rm -f ${arrival(digest)}`;
  // A file of the user's that podman runs as, and no credential of its unit (LoadCredential=): where the service runs, podman goes on in that one's mounts, in which there is none.
  // For this repository, so that no mirror gets it. What is substituted is a word of a built-in: it is in no process's arguments.
  const keepLogin =
    registryAuth === undefined
      ? ""
      : `trap 'rm -f ${login}' EXIT
trap 'exit 1' TERM
install -d -m 0711 ${loginDirectory}
(umask 077 && printf '{"auths":{"%s":{"auth":"%s"}}}\\n' ${repository} "$(base64 -w 0)" >${login})
chown ${user} ${login}`;
  return run({
    title: `take the image ${reference}, if the node's policy lets it in`,
    ...(registryAuth === undefined
      ? {}
      : {
          stdin: `${registryAuth.username}:${registryAuth.password}`,
          onlyToTpm: registryAuth.endorsementKeySha256,
        }),
    script: `set -eu
umask 022
${keepLogin}
${unpack}
# Without a name it came by a pull that was cut off, and what there is of it may not be on the disk.
${asService(inputs, "prune", ["image", "prune", "--force"])} >/dev/null
install -d -m 0700 -o ${user} -g ${user} ${scratch}
pulled() {
  ${asService(inputs, "pull", ["pull", "--quiet", ...(registryAuth === undefined ? [] : ["--authfile", login]), source], scratch)}
}
said=$(pulled 2>&1) || {
  rm -rf ${scratch} ${folder}
  said=$(printf '%s' "$said" | grep -v 'level=' | tail -n 1)
  ${refusals(inputs)}
  printf 'podman does not take %s: %s; %s\\n' ${quote(reference)} "$said" "$mend" >&2
  exit 1
}
id=$(printf '%s\\n' "$said" | grep -xE '[0-9a-f]{64}' | tail -n 1)
sync -f ${storage}
# So that the unit can name it by its digest, which is looked for among the images of that name. What has the name is on the disk.
${asService(inputs, "tag", ["tag", "IMAGE-ID", `${repository}:${hex}`]).replace("IMAGE-ID", '"$id"')}
rm -rf ${scratch} ${folder}`,
    timeoutSeconds: pullSeconds,
  });
}

/** Removes what the image that serves does not need. After the start: until then another one may have to serve again. */
export function removeLeftovers(
  inputs: InferenceContainerInputs,
  { leftovers }: InferenceContainerState,
): readonly Step[] {
  if (leftovers.length === 0) return [];
  const paths = leftovers.filter((each) => each.startsWith("/"));
  const commands = [
    ...(paths.length === 0 ? [] : [`rm -rf -- ${paths.map(quote).join(" ")}`]),
    ...(paths.length === leftovers.length
      ? []
      : [
          // What a container was made of stays, and only the one that serves is left.
          `systemctl is-active -q ${inferenceUnit(inputs.name)}
${asService(inputs, "prune", ["image", "prune", "--all", "--force"])} >/dev/null`,
        ]),
  ];
  return [
    run({
      title: `remove images and archives that ${userOf(inputs.name)} does not serve with`,
      script: ["set -eu", ...commands].join("\n"),
      timeoutSeconds: 600,
    }),
  ];
}
