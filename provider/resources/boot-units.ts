import { UnknownObservation } from "../device/probe.ts";
import { quote } from "../device/shell-quote.ts";
import { run, type RunStep } from "../device/step.ts";
import { baseName, byteOrder } from "./config-files.ts";

/*
 * Which units the next boot (or the next start of the target that wants them) would start, read from the unit directories themselves.
 *
 * One `find` instead of `systemctl list-unit-files`: it takes a fraction of the time, and needs no manager that answers.
 */

/** systemd's unit directories in the order of systemd.unit(5): of two files with one name the first counts. */
export const unitDirectories = [
  "/etc/systemd/system.control",
  "/run/systemd/system.control",
  "/run/systemd/transient",
  "/run/systemd/generator.early",
  "/etc/systemd/system",
  "/etc/systemd/system.attached",
  "/run/systemd/system",
  "/run/systemd/system.attached",
  "/run/systemd/generator",
  "/usr/local/lib/systemd/system",
  "/usr/lib/systemd/system",
  "/run/systemd/generator.late",
] as const;

/** Those that come before `/etc`: a unit file in one of them hides ours. */
export const directoriesBeforeEtc = unitDirectories.slice(0, unitDirectories.indexOf("/etc/systemd/system"));

/** Shell that prints every file and link with one of these names (shell patterns) in the unit directories and the `.wants` folders in them. */
export function listUnits(names: readonly string[]): string {
  const tests = names.map((name) => `-name ${quote(name)}`).join(" -o ");
  return [
    "set --",
    `for d in ${unitDirectories.join(" ")}; do if [ -d "$d" ]; then set -- "$@" "$d"; fi; done`,
    `if [ $# -eq 0 ]; then echo 'no systemd unit directory found' >&2; exit 1; fi`,
    // A reload of systemd rewrites the generator directories; what vanishes meanwhile is no error.
    `find "$@" -ignore_readdir_race -maxdepth 2 '(' ${tests} ')' -printf '%y\\t%s\\t%p\\t%l\\n'`,
  ].join("\n");
}

/** One file or link found by `listUnits`. */
interface Entry {
  readonly path: string;
  /** A link to /dev/null, or an empty file: systemd loads no unit of that name (systemd.unit(5), "masked"). */
  readonly null: boolean;
}

function parseEntry(line: string): Entry {
  const [type, size, path, target] = line.split("\t");
  if (type === undefined || size === undefined || path === undefined || target === undefined) {
    throw new UnknownObservation(`unexpected line in a list of units: '${line.slice(0, 120)}'`);
  }
  return { path, null: type === "l" ? target === "/dev/null" : type === "f" && size === "0" };
}

/** What `listUnits` found. */
export interface BootUnits {
  /** Units that something wants or requires, that exist, and that are not masked. Sorted. */
  readonly starting: readonly string[];
  /** Units masked in /etc. Sorted. */
  readonly masked: readonly string[];
}

/** Reads what `listUnits` printed. */
export function parseUnits(output: string): BootUnits {
  const entries = output
    .split("\n")
    .filter((line) => line !== "")
    .map(parseEntry);
  const byPath = new Map(entries.map((entry) => [entry.path, entry]));
  const inForce = (unit: string): Entry | undefined =>
    unitDirectories
      .map((directory) => byPath.get(`${directory}/${unit}`))
      .find((entry) => entry !== undefined);
  const wanted = entries
    .filter(({ path }) => /\.(wants|requires|upholds)\/[^/]+$/.test(path))
    .map(({ path }) => baseName(path));
  const masks = entries.filter(
    ({ path, null: nothing }) => nothing && /^\/etc\/systemd\/system\/[^/]+$/.test(path),
  );
  return {
    // A link whose unit is gone starts nothing.
    starting: [...new Set(wanted)].filter((unit) => inForce(unit)?.null === false).sort(byteOrder),
    masked: masks.map(({ path }) => baseName(path)).sort(byteOrder),
  };
}

/**
 * Keeps units from starting, in one step: systemd reloads itself for each call, which takes seconds on a busy board. A unit whose own file lies in /etc can't be masked
 * there and is disabled instead.
 * @param why what all of them do, in the plural: `collect dumps`
 * @param stop whether a running one is stopped too
 */
export function keepFromStarting(
  units: readonly string[],
  why: string,
  stop: (unit: string) => boolean,
): readonly RunStep[] {
  if (units.length === 0) return [];
  const stopped = units.filter(stop);
  const lines = [
    "set -eu",
    `set -- ${units.map(quote).join(" ")}`,
    "for unit; do",
    "  shift",
    `  if [ -e "/etc/systemd/system/$unit" ] && ! [ "/etc/systemd/system/$unit" -ef /dev/null ]; then systemctl disable -- "$unit"`,
    `  else set -- "$@" "$unit"; fi`,
    "done",
    `[ $# -eq 0 ] || systemctl mask -- "$@"`,
    ...(stopped.length === 0
      ? []
      : [
          `for unit in ${stopped.map(quote).join(" ")}; do`,
          `  if systemctl is-active --quiet -- "$unit"; then systemctl stop -- "$unit"; fi`,
          "done",
        ]),
  ];
  return [
    run({ title: `keep units from starting that ${why}: ${units.join(", ")}`, script: lines.join("\n") }),
  ];
}
