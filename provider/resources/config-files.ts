import { UnknownObservation } from "../device/probe.ts";

/*
 * Reading many small configuration files of a device in one fork, and working out which of their settings wins.
 *
 * What is judged is what the next boot will make of the files, so precedence is followed as systemd.syntax(7), sysctl.d(5) and their like define it:
 * a drop-in that somebody else's file overrides protects nothing.
 */

/** Lines of each file that exists, by absolute path, in the order in which they were asked for. A masked file (a link to /dev/null) has no lines. */
export type ConfigFiles = ReadonlyMap<string, readonly string[]>;

/** Where systemd and its like look, the directory that wins first. `/run` counts too: it is what is in effect until the next boot. */
export const configRoots = ["/etc", "/run", "/usr/local/lib", "/usr/lib"] as const;

/** What awk does with every file unless told otherwise. */
const everyLine = "{ emit() }";

/**
 * Shell that prints which of the files exist and their lines. Files come as paths or patterns.
 *
 * One `awk` reads all of them: a fork takes milliseconds on an emulated node. A file that exists and can't be read fails the fragment.
 * @param select awk rules that call `emit()` for each line wanted. It must not hold a single quote.
 */
export function readFiles(patterns: readonly string[], select: string = everyLine): string {
  for (const pattern of patterns) {
    if (!/^\/[A-Za-z0-9/._*?[\]@+-]+$/.test(pattern)) throw new TypeError(`not a file pattern: ${pattern}`);
  }
  if (select.includes("'")) throw new TypeError("awk rules must not hold a single quote");
  return [
    "set --",
    // `-c` lets links to /dev/null through: an empty file that hides another of its name.
    `for f in ${patterns.join(" ")}; do`,
    `  if [ -f "$f" ] || [ -c "$f" ]; then printf 'F %s\\n' "$f"; fi`,
    `  if [ -f "$f" ]; then set -- "$@" "$f"; fi`,
    "done",
    `[ $# -eq 0 ] || awk 'function emit() { print "L " FILENAME ":" $0 } ${select}' "$@"`,
  ].join("\n");
}

/**
 * Reads what `readFiles` printed.
 * @throws UnknownObservation for a line that is neither a file's name nor a line of one.
 */
export function parseFiles(output: string): ConfigFiles {
  const files = new Map<string, string[]>();
  for (const line of output.split("\n")) {
    if (line === "") continue;
    const rest = line.slice(2);
    if (line.startsWith("F ")) {
      if (!files.has(rest)) files.set(rest, []);
      continue;
    }
    // The longest name wins, should one file's name with a colon in it begin with another's.
    const path = line.startsWith("L ")
      ? [...files.keys()].filter((name) => rest.startsWith(`${name}:`)).sort((a, b) => b.length - a.length)[0]
      : undefined;
    if (path === undefined)
      throw new UnknownObservation(`unexpected line in a file listing: '${line.slice(0, 120)}'`);
    files.get(path)?.push(rest.slice(path.length + 1));
  }
  return files;
}

/** The one line of a file of the kernel's (in /proc or /sys), without white space around it; `undefined` when there is no such file. */
export function kernelValue(files: ConfigFiles, path: string): string | undefined {
  const lines = files.get(path);
  return lines === undefined ? undefined : (lines[0] ?? "").trim();
}

/** File name without its directory. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Byte order, as `sort` has it in the C locale and systemd for drop-ins. */
export function byteOrder(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * Drop-ins in the order in which they are read, the last one winning: sorted by name whatever their directory, and of two with one name only that of
 * the directory that comes first in `directories`.
 */
export function dropIns(files: ConfigFiles, directories: readonly string[]): readonly string[] {
  const byName = new Map<string, string>();
  for (const directory of directories) {
    for (const path of files.keys()) {
      const name = baseName(path);
      if (path !== `${directory}/${name}` || !name.endsWith(".conf") || byName.has(name)) continue;
      byName.set(name, path);
    }
  }
  return [...byName.keys()].sort(byteOrder).map((name) => byName.get(name) ?? "");
}

/** A setting as the files leave it. */
export interface Setting {
  readonly value: string;
  /** The file that had the last word. */
  readonly setBy: string;
}

export interface IniEntry {
  readonly section: string;
  readonly key: string;
  readonly value: string;
}

/** The assignments of a file in the syntax of systemd.syntax(7), in order. */
export function iniEntries(lines: readonly string[]): readonly IniEntry[] {
  const entries: IniEntry[] = [];
  let section = "";
  let carried = "";
  for (const raw of lines) {
    const line = raw.trim();
    // A comment between continued lines is skipped without ending them.
    if (line.startsWith("#") || line.startsWith(";")) continue;
    if (line.endsWith("\\")) {
      carried += `${line.slice(0, -1)} `;
      continue;
    }
    const whole = (carried + line).trim();
    carried = "";
    const heading = /^\[(.+)\]$/.exec(whole)?.[1];
    if (heading !== undefined) {
      section = heading;
      continue;
    }
    const equals = whole.indexOf("=");
    if (equals < 1) continue;
    entries.push({ section, key: whole.slice(0, equals).trim(), value: whole.slice(equals + 1).trim() });
  }
  return entries;
}

/** The files that make up one systemd-style configuration, e.g. `systemd/coredump.conf`, for `readFiles`. */
export function systemdConfigPatterns(name: string): readonly string[] {
  return configRoots.flatMap((root) => [`${root}/${name}`, `${root}/${name}.d/*.conf`]);
}

/** The files of one systemd-style configuration in the order in which they are read: the first main file there is, then the drop-ins. */
export function systemdConfigFiles(
  files: ConfigFiles,
  name: string,
  roots: readonly string[] = configRoots,
): readonly string[] {
  const main = roots.map((root) => `${root}/${name}`).find((path) => files.has(path));
  const rest = dropIns(
    files,
    roots.map((root) => `${root}/${name}.d`),
  );
  return main === undefined ? rest : [main, ...rest];
}

/** What a systemd-style configuration says of one key; `undefined` when nothing sets it or it was last set to nothing (which restores the default). */
export function systemdSetting(
  files: ConfigFiles,
  name: string,
  section: string,
  key: string,
): Setting | undefined {
  let setting: Setting | undefined;
  for (const path of systemdConfigFiles(files, name)) {
    for (const entry of iniEntries(files.get(path) ?? [])) {
      if (entry.section !== section || entry.key !== key) continue;
      setting = entry.value === "" ? undefined : { value: entry.value, setBy: path };
    }
  }
  return setting;
}

/** Directories of sysctl.d(5), the one that wins first. */
export const sysctlDirectories: readonly string[] = configRoots.map((root) => `${root}/sysctl.d`);

/** A kernel parameter as the files leave it; without a value where the last word on it takes back what was said before. */
export interface SysctlSetting {
  readonly value: string | undefined;
  readonly setBy: string;
}

/**
 * What the next boot sets a kernel parameter to, after sysctl.d(5); `undefined` when no file names it. Patterns are left out: systemd-sysctl lets them
 * set nothing that is also named in full.
 */
export function sysctlAtBoot(files: ConfigFiles, key: string): SysctlSetting | undefined {
  const wanted = sysctlFile(key);
  let setting: SysctlSetting | undefined;
  for (const path of dropIns(files, sysctlDirectories)) {
    for (const line of files.get(path) ?? []) {
      const [, dash, name, value] = /^\s*(-?)\s*([^\s#;=][^=]*?)\s*(?:=(.*))?$/.exec(line) ?? [];
      if (name === undefined || sysctlFile(name) !== wanted) continue;
      // `-key` alone takes back every assignment before it, whatever file that is in.
      if (value !== undefined || dash === "-") setting = { value: value?.trim(), setBy: path };
    }
  }
  return setting;
}

/** A key as systemd-sysctl reads it: the first separator decides which of the two spellings it is in; slashes that name nothing don't count. */
function sysctlFile(key: string): string {
  const dotted = /[./]/.exec(key)?.[0] === ".";
  const path = dotted ? key.replaceAll(/[./]/g, (each) => (each === "." ? "/" : ".")) : key;
  return path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/");
}
