import { Type, type Static } from "typebox";
import { outputOf, UnknownObservation, type PartOutput, type Probe } from "../device/probe.ts";
import type { Observed } from "../resource.ts";
import type { AppArmorProfileInputs } from "./apparmor-profile-inputs.ts";
import { appArmorDocument, innerName, outerName } from "./apparmor-profile-rules.ts";
import { listUnits, parseUnits } from "./boot-units.ts";
import { byteOrder } from "./config-files.ts";
import { parseContainerProcesses, readContainerProcesses } from "./container-process.ts";
import { contentOf, parseMarks, readMarks, type ManagedFile } from "./managed-files.ts";
import { content, oneOf, texts, textsByName } from "./state-schema.ts";

export const appArmorPath = (name: string): string => `/etc/apparmor.d/edgeseal-${name}`;

export const appArmorFile = (inputs: AppArmorProfileInputs): ManagedFile => ({
  path: appArmorPath(inputs.name),
  mode: "0644",
  content: appArmorDocument(inputs),
});

/** Where apparmor_parser looks for a word on a profile beside its file: not to load it, to load it without force, and what somebody adds to it. */
export const overridePaths = (name: string): readonly string[] =>
  ["disable", "force-complain", "local"].flatMap((folder) =>
    [innerName(name), outerName(name)].map((profile) => `/etc/apparmor.d/${folder}/${profile}`),
  );

export const loadingUnit = "apparmor.service";

export const appArmorProfileState = Type.Object({
  kernel: oneOf(["on", "off"], "Whether AppArmor is a part of the running kernel."),
  modes: textsByName(
    "Both profiles as the kernel has them: `enforce`, `complain` (violations are logged and allowed), or `not loaded`. `edgeseal-NAME-podman` is the unit's, `edgeseal-NAME` that of all that its containers run.",
  ),
  loadedPolicy: oneOf(
    ["as written", "other", "not loaded", "no apparmor_parser"],
    "Whether what the kernel has loaded is what apparmor_parser makes of the file: by the SHA-256 of both.",
  ),
  atBoot: oneOf(
    ["loaded", "not loaded"],
    "Whether apparmor.service, which loads the files of /etc/apparmor.d before any service starts, is started at boot.",
  ),
  overrides: texts(
    "Files in `disable`, `force-complain` and `local` of /etc/apparmor.d with a name of these profiles: with the first the next boot does not load them, with the second it does not enforce them. Sorted.",
  ),
  otherDefinitions: texts(
    "Other files of /etc/apparmor.d that define a profile of these names: the one that is loaded last would count. Sorted.",
  ),
  containerLabel: Type.String({
    description:
      "What confines the first process of the container that runs as this service (/proc/PID/attr/current), or `no container runs`. Reported only: the container's own resource minds it.",
  }),
  content,
  files: textsByName("Mode, owner and digest of the file with the profiles, by path."),
});

export type AppArmorProfileState = Static<typeof appArmorProfileState>;

const securityfs = "/sys/kernel/security/apparmor";

/**
 * Shell that prints what the kernel has loaded of both profiles, as it was given it, in the order of their names, in which apparmor_parser writes them. From the cache of compiled profiles, as at a boot,
 * both came in one piece, which each of them then shows.
 */
export const printLoadedPolicy = (name: string): string => `set -- ${[innerName(name), outerName(name)]
  .map((each) => `${securityfs}/policy/profiles/${each}.*/raw_data`)
  .join(" ")}
if cmp -s -- "$1" "$2"; then shift; fi
cat -- "$@"`;

export function appArmorProfileProbe(inputs: AppArmorProfileInputs): Probe<Observed<AppArmorProfileState>> {
  const { name } = inputs;
  const path = appArmorPath(name);
  const both = `${innerName(name)}|${outerName(name)}`;
  return {
    id: `edgeseal:security:AppArmorProfile#${name}`,
    parts: {
      kernel: `f=/sys/module/apparmor/parameters/enabled; [ ! -e $f ] || cat $f`,
      modes: `f=${securityfs}/profiles; [ ! -e $f ] || grep -E '^(${both}) ' $f || [ $? -eq 1 ]`,
      loaded: `loaded() {
${printLoadedPolicy(name)}
}
if loaded >/dev/null 2>&1; then loaded | sha256sum; fi`,
      // The cache of compiled profiles could be older than the file, or somebody's.
      written: `command -v apparmor_parser >/dev/null || { echo none; exit 0; }
[ -f ${path} ] || exit 0
{ apparmor_parser --skip-kernel-load --skip-read-cache --stdout -- ${path} 2>/dev/null || echo failed; } | sha256sum`,
      atBoot: listUnits([loadingUnit]),
      overrides: `for f in ${overridePaths(name).join(" ")}; do if [ -e "$f" ] || [ -L "$f" ]; then echo "$f"; fi; done`,
      definitions: `set -- /etc/apparmor.d/*
[ -e "$1" ] || exit 0
grep -lE -d skip '^[[:space:]]*profile[[:space:]]+"?(${both})"?([[:space:]{(]|$)' -- "$@" || [ $? -eq 1 ]`,
      processes: readContainerProcesses(name),
      marks: readMarks([path]),
    },
    parse: (parts) => ({ outcome: "present", state: parseAppArmorProfile(parts, inputs) }),
  };
}

const linesOf = (output: string): string[] => output.split("\n").filter((line) => line !== "");

function parseAppArmorProfile(
  parts: Readonly<Record<string, PartOutput>>,
  inputs: AppArmorProfileInputs,
): AppArmorProfileState {
  const { name } = inputs;
  const on = outputOf(parts, "kernel").trim() === "Y";
  const modes = modesIn(outputOf(parts, "modes"), name);
  const [first] = parseContainerProcesses(outputOf(parts, "processes"));
  const files = parseMarks(outputOf(parts, "marks"));
  return {
    kernel: on ? "on" : "off",
    modes,
    loadedPolicy: policyIn(parts, Object.values(modes).includes("not loaded")),
    atBoot: parseUnits(outputOf(parts, "atBoot")).starting.includes(loadingUnit) ? "loaded" : "not loaded",
    overrides: linesOf(outputOf(parts, "overrides")).sort(byteOrder),
    otherDefinitions: linesOf(outputOf(parts, "definitions"))
      .filter((path) => path !== appArmorPath(name))
      .sort(byteOrder),
    containerLabel: first === undefined ? "no container runs" : (first.appArmorLabel ?? "unconfined"),
    // On import there is nothing but a name.
    content:
      (inputs.storage as string | undefined) === undefined
        ? "other"
        : contentOf([appArmorFile(inputs)], files),
    files,
  };
}

function modesIn(output: string, name: string): Record<string, string> {
  const found = new Map(
    linesOf(output).map((line): [string, string] => {
      const [, profile, mode] = /^(\S+) \(([a-z]+)\)$/.exec(line) ?? [];
      if (profile === undefined || mode === undefined)
        throw new UnknownObservation(`unexpected line in the kernel's list of profiles: '${line}'`);
      return [profile, mode];
    }),
  );
  const names = [outerName(name), innerName(name)];
  return Object.fromEntries(names.map((profile) => [profile, found.get(profile) ?? "not loaded"]));
}

function policyIn(
  parts: Readonly<Record<string, PartOutput>>,
  missing: boolean,
): AppArmorProfileState["loadedPolicy"] {
  const written = outputOf(parts, "written").trim();
  const loaded = outputOf(parts, "loaded").trim();
  if (written === "none") return "no apparmor_parser";
  if (missing) return "not loaded";
  if (loaded === "")
    throw new UnknownObservation(
      "the kernel does not tell which AppArmor policy it has loaded (CONFIG_SECURITY_APPARMOR_EXPORT_BINARY)",
    );
  return loaded === written ? "as written" : "other";
}
