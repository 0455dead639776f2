import { quote } from "../device/shell-quote.ts";
import { debianPackage, directory, file, remove, run, type Step } from "../device/step.ts";
import { diffState, type Difference } from "../diff.ts";
import { PlanRefused } from "../resource.ts";
import {
  accountSteps,
  desiredAccount,
  disownStorage,
  endForeign,
  moveHome,
  removeAccount,
  requireOwnGroup,
  requireOwnUser,
  type Concerns,
} from "./inference-container-account.ts";
import { desiredConfinement } from "./inference-container-confinement.ts";
import { allUnits, managedFiles, recordOf, startedFrom, unitPath } from "./inference-container-files.ts";
import { hasImage, pull, removeLeftovers, uploads } from "./inference-container-image.ts";
import { parseImage, type InferenceContainerInputs } from "./inference-container-inputs.ts";
import { isOnDemand } from "./inference-container-observation.ts";
import { desiredMemory, requireMemory } from "./inference-container-memory.ts";
import { notTheVolume } from "./inference-container-places.ts";
import type { InferenceContainerState } from "./inference-container-state.ts";
import { inferenceUnit } from "./container-process.ts";
import {
  healthAddress,
  programDirectory,
  startProgram,
  unitFiles,
  unitSeconds,
} from "./inference-container-unit.ts";
import { desiredMarks, differingFiles } from "./managed-files.ts";

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
  const { image, model } = inputs;
  return {
    missingPackages: [],
    health: "healthy",
    reason: "",
    image: parseImage(image)?.digest ?? image,
    model,
    confinement: desiredConfinement(inputs),
    ...desiredAccount(inputs),
    files: desiredMarks(managedFiles(inputs)),
    unitOverrides: [],
    units: desiredUnits(inputs),
    lastGood: "this",
    ...desiredMemory(inputs),
    foreignContainers: [],
    foreignProcesses: [],
    leftovers: [],
  };
}

/**
 * Steps after which the service serves. What serves meanwhile does so until the new image is there; and again, when the new one does not answer.
 * @throws PlanRefused when the folders are on no volume, the model is not there, the archive can't be used, or what is amiss is not the service's alone: the node's memory, its user id, its group, a drop-in of all services
 */
export function planContainer(
  inputs: InferenceContainerInputs,
  state: InferenceContainerState,
): readonly Step[] {
  const differs = diffState(desiredContainer(inputs), state);
  if (differs.length === 0) return [];
  requireMemory(inputs, state);
  requirePlaces(inputs, state);
  requireOwnUser(inputs, state);
  requireOwnGroup(inputs, state);
  requireOwnOverrides(inputs, state);
  const concerns = concerning(differs);
  const needsImage = !hasImage(inputs, state);
  // It is as it should be, and reads its model, or was not waited for to its end: to start it anew would only take longer.
  const waits = differs.every(
    ({ path }) =>
      ["lastGood", "leftovers"].includes(baseOf(path)) || (path === "health" && state.health === "loading"),
  );
  return [
    ...(needsImage ? uploads(inputs) : []),
    ...state.missingPackages.map((name) =>
      debianPackage({ title: `install ${name}, which runs the container`, package: name, installed: true }),
    ),
    ...accountSteps(inputs, state, concerns),
    ...endForeign(inputs, state),
    ...(needsImage ? [pull(inputs)] : []),
    ...units(inputs, state),
    ...moveHome(inputs, state),
    ...start(inputs, concerns, waits),
    ...removeLeftovers(inputs, state),
  ];
}

/** The property of a state that a path of a difference is in. */
const baseOf = (path: string): string => path.replace(/[.[].*$/s, "");

const concerning =
  (differs: readonly Difference[]): Concerns =>
  (...properties) =>
    differs.some(({ path }) => (properties as readonly string[]).includes(baseOf(path)));

function requirePlaces(
  { model, modelDirectory }: InferenceContainerInputs,
  state: InferenceContainerState,
): void {
  const missing = Object.entries(state.volumes).filter(([, place]) => place === "not mounted");
  const others = Object.entries(state.volumes).filter(([, place]) => place.includes(notTheVolume));
  if (others.length > 0)
    throw new PlanRefused(
      others.map(([path, place]) => `${path}: ${place}`).join("; "),
      "see what is mounted there, and unmount it; the sealed volume is opened by a boot or by `systemctl restart edgeseal-volumes`",
    );
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

// --- units ---

/** Of the files that change a unit, those that are this service's: what lies in `UNIT.d`, or has a unit's name. */
const ownOverrides = ({ name }: InferenceContainerInputs, { unitOverrides }: InferenceContainerState) =>
  unitOverrides.filter((path) =>
    allUnits(name).some((unit) => path.includes(`/${unit}.d/`) || path.endsWith(`/${unit}`)),
  );

function requireOwnOverrides(inputs: InferenceContainerInputs, state: InferenceContainerState): void {
  const own = ownOverrides(inputs, state);
  const wider = state.unitOverrides.filter((path) => !own.includes(path));
  if (wider.length > 0)
    throw new PlanRefused(
      `${wider.join(" and ")}: ${wider.length > 1 ? "such drop-ins" : "such a drop-in"} for many units would change how ${inferenceUnit(inputs.name)} is confined as well`,
      "move it into the folders of the units that it is meant for (UNIT.d)",
    );
}

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
    ...ownOverrides(inputs, state).map((path) =>
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
  ...([
    "lastGood",
    "health",
    "reason",
    "image",
    "model",
    "confinement",
    "account",
    "groups",
    "subordinateIds",
  ] as const),
  ...(["lingering", "directories", "files", "unitOverrides", "units"] as const),
  ...(["foreignContainers", "foreignProcesses"] as const),
] as const;

/** @param waits It is started as it should be, and only its answer is waited for. */
function start(inputs: InferenceContainerInputs, concerns: Concerns, waits: boolean): readonly Step[] {
  if (!concerns(...ofTheStart)) return [];
  const { name, startTimeoutSeconds } = inputs;
  const { address, path, inNamespace } = healthAddress(inputs);
  const words = [name, String(startTimeoutSeconds), address, path, ...(inNamespace ? ["namespace"] : [])];
  const atMost = `(${startTimeoutSeconds} s at most)`;
  if (waits)
    return [
      run({
        title: `wait until ${inferenceUnit(name)} answers ${atMost}, and keep its unit as the one to go back to`,
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
  inputs: InferenceContainerInputs,
  state: InferenceContainerState,
): readonly Step[] {
  const { name } = inputs;
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
    ...ownOverrides(inputs, state).map((path) => remove({ title: `remove ${path}`, path })),
    ...present.map((unit) => remove({ title: `remove ${unit}`, path: unitPath(unit) })),
    ...disownStorage(inputs, state),
    run({
      title: `forget what ${inferenceUnit(name)} was started from`,
      script: `set -eu
systemctl daemon-reload
rm -f ${recordOf(name)} ${recordOf(name)}.asked /run/edgeseal/inference/${name} ${Object.values(startedFrom(name)).join(" ")}`,
    }),
    ...removeAccount(inputs, state),
  ];
}
