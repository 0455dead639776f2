import {
  comparable,
  plainProcess,
  withModelIn,
  withoutAppArmor,
  withoutHardening,
  withoutLimits,
  withoutSeccompProfile,
  type ServedUnit,
} from "./served-unit.ts";

/** One way to start the server. */
export interface Variant {
  readonly name: string;
  /** Text of its unit. */
  readonly unit: string;
}

/** What a node can be compared by. */
export interface Surroundings {
  /** Folder with a copy of the model in memory; `undefined` where there is no room for one. */
  readonly modelInMemory: string | undefined;
  /** Folder with the files of the image, as they are in podman's storage; `undefined` for an image of several layers. */
  readonly imageRoot: string | undefined;
}

/**
 * The server as it is served, then with one layer less each time, down to the plain process. What a layer costs is the difference to the line before.
 */
export function layersTakenAway(
  unit: ServedUnit,
  { modelInMemory, imageRoot }: Surroundings,
): readonly Variant[] {
  const variants: Variant[] = [{ name: "as served", unit: comparable(unit) }];
  const take = (name: string, away: (text: string) => string): void => {
    const last = variants.at(-1)?.unit ?? "";
    const next = away(last);
    // What was not there to begin with is no layer.
    if (next !== last) variants.push({ name, unit: next });
  };
  if (modelInMemory !== undefined)
    take("with the model in memory, not on its volume", (text) => withModelIn(text, modelInMemory));
  take("and without AppArmor", withoutAppArmor);
  take("and without the seccomp profile", withoutSeccompProfile);
  take("and without the unit's hardening", withoutHardening);
  take("and without limits", withoutLimits);
  if (imageRoot !== undefined) {
    const modelFolder = modelInMemory ?? unit.modelFolder;
    variants.push({ name: plainName, unit: plainProcess({ ...unit, modelFolder }, imageRoot) });
  }
  return variants;
}

export const plainName = "plain process";
