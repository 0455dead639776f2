import { quote } from "../device/shell-quote.ts";
import { directory, file, remove, run, upload, type Step } from "../device/step.ts";
import { diffState, type Difference } from "../diff.ts";
import { PlanRefused } from "../resource.ts";
import { readArchive } from "./inference-container-archive.ts";
import { desiredConfinement } from "./inference-container-confinement.ts";
import {
  allUnits,
  imagesDirectory,
  managedFiles,
  recordsDirectory,
  unitPath,
} from "./inference-container-files.ts";
import { parseImage, type InferenceContainerInputs } from "./inference-container-inputs.ts";
import { isOnDemand } from "./inference-container-observation.ts";
import type { InferenceContainerState } from "./inference-container-state.ts";
import { inferenceUnit } from "./container-process.ts";
import {
  emptyHome,
  healthAddress,
  podman,
  podmanEnvironment,
  programDirectory,
  runtimeDirectoryOf,
  startProgram,
  unitFiles,
  userOf,
} from "./inference-container-unit.ts";
import { desiredMarks, differingFiles } from "./managed-files.ts";

const nologin = "/usr/sbin/nologin";
/** An image of some hundred MB over a slow uplink, or unpacked on a card. */
const pullSeconds = 1800;
/** Over systemd's own 90 s. */
const unitSeconds = 120;

/** Units that are there for as long as the service is, with the state that they must have. */
function desiredUnits(inputs: InferenceContainerInputs): Record<string, string> {
  return Object.fromEntries(
    Object.keys(unitFiles(inputs)).map((unit): [string, string] => [
      unit,
      isOnDemand(unit) ? "static" : "enabled, active",
    ]),
  );
}

/** The state that must hold. */
export function desiredContainer(inputs: InferenceContainerInputs): Partial<InferenceContainerState> {
  const { name, image, model, storage } = inputs;
  const user = userOf(name);
  return {
    health: "healthy",
    reason: "",
    image: parseImage(image)?.digest ?? image,
    model,
    confinement: desiredConfinement(inputs),
    account: { group: user, home: emptyHome, shell: nologin, password: "locked" },
    groups: [],
    groupMembers: [],
    subordinateIds: [],
    lingering: false,
    directories: { [emptyHome]: "0755 root:root", [storage]: `0700 ${user}:${user}` },
    files: desiredMarks(managedFiles(inputs)),
    unitOverrides: [],
    units: desiredUnits(inputs),
    foreignContainers: [],
    foreignProcesses: [],
  };
}

/**
 * Steps after which the service serves. What serves meanwhile does so until the new image is there; and again, when the new one does not answer.
 * @throws PlanRefused when the folders are on no volume, the model is not there, or the archive can't be used
 */
export function planContainer(
  inputs: InferenceContainerInputs,
  state: InferenceContainerState,
): readonly Step[] {
  const differs = diffState(desiredContainer(inputs), state);
  if (differs.length === 0) return [];
  requirePlaces(inputs, state);
  const concerns = concerning(differs);
  const needsImage = !state.images.includes(parseImage(inputs.image)?.digest ?? "");
  return [
    ...(needsImage ? uploads(inputs) : []),
    ...account(inputs, state, concerns),
    ...foreign(inputs, state),
    ...(needsImage ? [pull(inputs)] : []),
    ...units(inputs, state),
    ...start(inputs, concerns, state.health === "loading" && differs.length === 1),
  ];
}

type Concerns = (...properties: readonly (keyof InferenceContainerState)[]) => boolean;

const concerning =
  (differs: readonly Difference[]): Concerns =>
  (...properties) =>
    differs.some(({ path }) => (properties as readonly string[]).includes(path.replace(/[.[].*$/s, "")));

function requirePlaces(
  { model, modelDirectory }: InferenceContainerInputs,
  state: InferenceContainerState,
): void {
  const missing = Object.entries(state.volumes).filter(([, place]) => place === "not mounted");
  if (missing.length > 0)
    throw new PlanRefused(
      `${missing.map(([path]) => path).join(" and ")}: on no mounted volume${state.reason.startsWith("volume-") ? ` (${state.reason})` : ""}`,
      "the image and the model belong on an encrypted volume (storage:SealedVolume); mount it first",
    );
  if (!state.modelPresent)
    throw new PlanRefused(
      `the model ${model} is not in ${modelDirectory} on the node`,
      "declare it there (inference:Model)",
    );
}

// --- the account ---

function account(
  inputs: InferenceContainerInputs,
  state: InferenceContainerState,
  concerns: Concerns,
): readonly Step[] {
  const { name, storage } = inputs;
  const user = userOf(name);
  const wanted = desiredContainer(inputs);
  return [
    ...(state.directories[emptyHome] === wanted.directories?.[emptyHome]
      ? []
      : [
          directory({ title: `make ${programDirectory}`, path: programDirectory, mode: "0755" }),
          directory({
            title: `make ${emptyHome}, the home of services, in which nothing is`,
            path: emptyHome,
            mode: "0755",
          }),
        ]),
    ...(concerns("account")
      ? [
          run({
            title: `make the user ${user}, who can't log in`,
            script: `set -eu
getent group ${user} >/dev/null || groupadd --system ${user}
if getent passwd ${user} >/dev/null; then usermod --gid ${user} --home ${emptyHome} --shell ${nologin} --lock ${user}
else useradd --system --gid ${user} --home-dir ${emptyHome} --no-create-home --shell ${nologin} ${user}; fi`,
          }),
        ]
      : []),
    ...(concerns("groups", "groupMembers")
      ? [
          run({
            title: `take ${user} out of every other group, and everybody out of its own`,
            script: `set -eu
usermod --groups '' ${user}
gpasswd --members '' ${user}`,
          }),
        ]
      : []),
    ...(concerns("subordinateIds")
      ? [
          run({
            title: `take back the subordinate ids of ${user}`,
            script: `for f in /etc/subuid /etc/subgid; do [ ! -f "$f" ] || sed -i '/^${user}:/d' "$f" || exit 1; done`,
          }),
        ]
      : []),
    ...(concerns("lingering")
      ? [
          run({
            title: `have systemd keep no manager for ${user}`,
            script: `set -eu
loginctl disable-linger ${user} || rm -f /var/lib/systemd/linger/${user}
systemctl stop "user@$(id -u ${user}).service"`,
          }),
        ]
      : []),
    ...(state.directories[storage] === wanted.directories?.[storage]
      ? []
      : [
          run({
            title: `make ${storage}, the service's own`,
            // Never beside the volume: what belongs on it would be in the clear.
            script: `set -eu
umask 022
at=${quote(storage)}
while [ ! -d "$at" ]; do at=\${at%/*}; done
[ "$(stat -c %m -- "\${at:-/}")" != / ] || { echo "$at is on no mounted volume" >&2; exit 1; }
mkdir -p -- ${quote(storage)}
chown -R --no-dereference ${user}:${user} -- ${quote(storage)}
chmod 0700 -- ${quote(storage)}`,
            timeoutSeconds: 300,
          }),
        ]),
  ];
}

/** What others run as the service's user, or in its storage, ends: with the service, which is started anew. */
function foreign(
  { name, storage }: InferenceContainerInputs,
  state: InferenceContainerState,
): readonly Step[] {
  if (state.foreignContainers.length === 0 && state.foreignProcesses.length === 0) return [];
  const user = userOf(name);
  return [
    run({
      title: `end what ${user} runs beside its service, and remove its other containers`,
      script: `set -eu
systemctl stop ${inferenceUnit(name)} 2>/dev/null || :
uid=$(id -u ${user})
tries=0
while pkill -KILL -U "$uid"; do
  tries=$((tries + 1))
  [ "$tries" -lt 50 ] || { echo "processes of ${user} come back: see what starts them" >&2; exit 1; }
  sleep 0.1
done
${asService({ name, storage }, "remove", ["rm", "--all", "--force"])}`,
      timeoutSeconds: unitSeconds,
    }),
  ];
}

// --- the image ---

/** A command of podman's as the service's user, in a unit of its own, with which all that it started ends. */
function asService(
  inputs: Pick<InferenceContainerInputs, "name" | "storage">,
  purpose: string,
  words: readonly string[],
  scratch?: string,
): string {
  const { name, storage } = inputs;
  const user = userOf(name);
  const runtime = runtimeDirectoryOf(name);
  const environment = { ...podmanEnvironment(name), ...(scratch === undefined ? {} : { TMPDIR: scratch }) };
  const properties = [
    ...[
      `User=${user}`,
      `Group=${user}`,
      "NoNewPrivileges=yes",
      "CapabilityBoundingSet=",
      "PrivateDevices=yes",
    ],
    ...["ProtectSystem=strict", `ReadWritePaths=${storage} ${runtime}`, "ProtectHome=yes", "UMask=0077"],
  ];
  return [
    // Where the service runs, its own folder; podman asks for the same one every time.
    `[ -d ${runtime} ] || install -d -m 0710 -o ${user} -g ${user} ${runtime}`,
    [
      ...["systemd-run", "--quiet", "--wait", "--pipe", "--collect", `--unit=${user}-${purpose}`],
      ...properties.flatMap((each) => ["-p", quote(each)]),
      ...Object.entries(environment).flatMap(([key, value]) => ["-E", quote(`${key}=${value}`)]),
      ...["--", ...podman(inputs), ...words].map(quote),
    ].join(" "),
  ].join("\n");
}

/** Where an archive arrives: a folder that every node has, since uploads come before all else. */
const arrival = (digest: string): string => `/var/cache/edgeseal-image-${digest.slice("sha256:".length)}.tar`;

function uploads({ archive, image }: InferenceContainerInputs): readonly Step[] {
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

/** What podman says when the policy does not let an image in (container:ImagePolicy), and the mend. */
const refusals = `case $said in
*'signature was required'* | *'ignature'*) mend='have it signed by a key that the image policy of the node lists for it (edgeseal image sign)' ;;
*'rejected by policy'*) mend='allow its repository, or the folder of its archive, in the image policy of the node (imagePolicy)' ;;
*) mend='see that the node reaches the registry, and that the image is there by this digest' ;;
esac`;

/** Brings an image into the service's storage by its digest, under the node's policy, or not at all. */
function pull(inputs: InferenceContainerInputs): Step {
  const { image, archive, storage } = inputs;
  const { repository = "", digest = "", reference = image } = parseImage(image) ?? {};
  const hex = digest.slice("sha256:".length);
  const scratch = `${storage}/edgeseal-pull`;
  const folder = `${imagesDirectory}/${hex}`;
  const user = userOf(inputs.name);
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
  return run({
    title: `take the image ${reference}, if the node's policy lets it in`,
    script: `set -eu
umask 022
command -v podman >/dev/null || { echo 'podman is not installed; install it (apt-get install podman)' >&2; exit 1; }
${unpack}
install -d -m 0700 -o ${user} -g ${user} ${scratch}
pulled() {
  ${asService(inputs, "pull", ["pull", "--quiet", source], scratch)}
}
said=$(pulled 2>&1) || {
  rm -rf ${scratch}
  said=$(printf '%s' "$said" | grep -v 'level=' | tail -n 1)
  ${refusals}
  printf 'podman does not take %s: %s; %s\\n' ${quote(reference)} "$said" "$mend" >&2
  exit 1
}
rm -rf ${scratch}
id=$(printf '%s\\n' "$said" | grep -xE '[0-9a-f]{64}' | tail -n 1)
# So that the unit can name it by its digest, which is looked for among the images of that name.
${asService(inputs, "tag", ["tag", "IMAGE-ID", `${repository}:${hex}`]).replace("IMAGE-ID", '"$id"')}`,
    timeoutSeconds: pullSeconds,
  });
}

// --- units ---

function units(inputs: InferenceContainerInputs, state: InferenceContainerState): readonly Step[] {
  const wanted = unitFiles(inputs);
  const differing = differingFiles(managedFiles(inputs), state.files);
  const stale = allUnits(inputs.name).filter((unit) => !(unit in wanted) && unit in state.units);
  const desired = desiredUnits(inputs);
  const enablement = (text: string | undefined): string | undefined => text?.split(",")[0];
  const toEnable = Object.keys(wanted).filter(
    (unit) => !isOnDemand(unit) && enablement(state.units[unit]) !== enablement(desired[unit]),
  );
  const changed =
    differing.length > 0 ||
    state.unitOverrides.length > 0 ||
    stale.length > 0 ||
    Object.values(state.units).some((text) => text.includes("changed since"));
  const masked = Object.keys(wanted).filter((unit) => state.units[unit]?.startsWith("masked"));
  const sockets = Object.keys(wanted).filter(
    (unit) => unit.endsWith(".socket") && (changed || state.units[unit] !== desired[unit]),
  );
  return [
    ...state.unitOverrides.map((path) =>
      remove({ title: `remove ${path}, which changes a unit of edgeseal's`, path }),
    ),
    ...(stale.length === 0
      ? []
      : [
          run({
            title: `stop and remove ${stale.join(", ")}`,
            script: `set -eu
systemctl disable --now ${stale.filter((unit) => !isOnDemand(unit)).join(" ")} ${stale.filter(isOnDemand).join(" ")} 2>/dev/null || :
rm -f ${stale.map(unitPath).join(" ")}`,
            timeoutSeconds: unitSeconds,
          }),
        ]),
    ...(masked.length === 0
      ? []
      : [
          run({
            title: `unmask ${masked.join(", ")}`,
            script: `systemctl unmask ${masked.join(" ")} && systemctl unmask --runtime ${masked.join(" ")}`,
            timeoutSeconds: unitSeconds,
          }),
        ]),
    ...(differing.some(({ path }) => path.startsWith(`${programDirectory}/`))
      ? [directory({ title: `make ${programDirectory}`, path: programDirectory, mode: "0755" })]
      : []),
    ...differing.map(({ path, mode, content }) => file({ title: `write ${path}`, path, mode, content })),
    ...(toEnable.length === 0 && !changed && sockets.length === 0
      ? []
      : [
          run({
            title: `have ${toEnable.length === 0 ? "systemd read its units anew" : `${toEnable.join(" and ")} start at boot`}`,
            script: [
              "set -eu",
              "systemctl daemon-reload",
              ...(toEnable.length === 0 ? [] : [`systemctl enable ${toEnable.join(" ")}`]),
              ...sockets.flatMap((socket) => [
                `systemctl stop ${socket} ${socket.replace(/socket$/, "service")}`,
                `systemctl start ${socket}`,
              ]),
            ].join("\n"),
            timeoutSeconds: unitSeconds,
          }),
        ]),
  ];
}

/** Differences that a new start mends: of what runs, and of what it was started from. */
const ofTheStart = [
  ...(["health", "reason", "image", "model", "confinement", "account", "groups", "subordinateIds"] as const),
  ...(["lingering", "directories", "files", "unitOverrides", "units"] as const),
  ...(["foreignContainers", "foreignProcesses"] as const),
] as const;

/** @param loads It is as it should be, and reads its model: to start it anew would only take longer. */
function start(inputs: InferenceContainerInputs, concerns: Concerns, loads: boolean): readonly Step[] {
  if (!concerns(...ofTheStart)) return [];
  const { name, startTimeoutSeconds } = inputs;
  const { address, path, inNamespace } = healthAddress(inputs);
  const words = [name, String(startTimeoutSeconds), address, path, ...(inNamespace ? ["namespace"] : [])];
  const atMost = `(${startTimeoutSeconds} s at most)`;
  if (loads)
    return [
      run({
        title: `wait until ${inferenceUnit(name)}, which reads its model, answers ${atMost}`,
        script: [startProgram, "--wait", ...words].map(quote).join(" "),
        timeoutSeconds: startTimeoutSeconds + unitSeconds,
      }),
    ];
  const timers = Object.keys(unitFiles(inputs)).filter((unit) => unit.endsWith(".timer"));
  return [
    run({
      title: `start ${inferenceUnit(name)}, and wait until it answers ${atMost}`,
      script: `${[startProgram, ...words].map(quote).join(" ")} || exit 1
systemctl start ${timers.join(" ")}`,
      // Once more, for what served before, and for stopping both.
      timeoutSeconds: 2 * startTimeoutSeconds + unitSeconds,
    }),
  ];
}

// --- the way back ---

/** Steps that take the service away. Images and models stay, and what other services need. */
export function removeContainer(
  { name }: InferenceContainerInputs,
  state: InferenceContainerState,
): readonly Step[] {
  const user = userOf(name);
  const present = allUnits(name).filter((unit) => unit in state.units);
  return [
    ...(present.length === 0
      ? []
      : [
          run({
            title: `stop ${inferenceUnit(name)}, and have nothing start it`,
            script: `systemctl disable --now ${present.join(" ")}`,
            timeoutSeconds: unitSeconds,
          }),
        ]),
    ...state.unitOverrides.map((path) => remove({ title: `remove ${path}`, path })),
    ...present.map((unit) => remove({ title: `remove ${unit}`, path: unitPath(unit) })),
    run({
      title: `remove the user ${user}`,
      script: `set -eu
systemctl daemon-reload
rm -f ${recordsDirectory}/${inferenceUnit(name)} /run/edgeseal/inference/${name}
! getent passwd ${user} >/dev/null || userdel ${user}
! getent group ${user} >/dev/null || groupdel ${user}`,
    }),
  ];
}
